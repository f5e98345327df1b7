"""What goes into a page comes out of it, and nothing else does."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.page import PageError, decode_content, encode_content
from models.records import Observations, Results, Stream
from tests import strategies


@given(content=strategies.observations())
def test_observations_come_back(content: Observations) -> None:
    """Every row, bit by bit."""
    back = decode_content(encode_content(content))
    assert isinstance(back, Observations)
    assert strategies.same(back, content)


@given(
    start=st.integers(-(2**63), 2**63 - 1),
    step=st.sampled_from([1, 100, 1_000_000, 10**9]),
    counts=st.lists(st.integers(0, 2**8) | st.integers(0, 2**17) | st.integers(0, 2**34), min_size=1, max_size=12),
)
def test_times_come_back_in_any_step(start: int, step: int, counts: list[int]) -> None:
    """Near and far apart, at the ends of what 64 bits hold, in steps that fit and in steps that do not."""
    times = np.array([min(start + step * count, 2**63 - 1) for count in counts], np.int64)
    zeros = np.zeros(len(times), np.uint32)
    content = Observations.of_values((Stream("a", "b"),), zeros, times, np.zeros(len(times)), zeros)
    back = decode_content(encode_content(content))
    assert isinstance(back, Observations)
    assert back.source_time.tolist() == times.tolist()


def test_what_rows_share_is_written_once() -> None:
    """A thousand good values of one second and single precision take little more than their four bytes each."""
    content = strategies.make_observations(streams=100, rows=10)
    assert len(encode_content(content)) < 1000 * (4 + 1 + 2) + 700


def test_pages_of_one_source_share_their_table() -> None:
    """The same table in page after page is unpacked once, and is the same object."""
    one, other = (strategies.make_observations(first_value=value) for value in (1.0, 2.0))
    first, second = (decode_content(encode_content(content)) for content in (one, other))
    assert isinstance(first, Observations)
    assert isinstance(second, Observations)
    assert first.streams == one.streams
    assert first.streams is second.streams


def test_few_rows_of_many_streams_name_only_theirs() -> None:
    """A late row of one stream does not carry the names of all."""
    content = strategies.make_observations(streams=100, rows=1).take(np.array([70, 7, 70]))
    back = decode_content(encode_content(content))
    assert isinstance(back, Observations)
    assert len(back.streams) == 2
    assert strategies.same(back, content)


def encoded_plainly(content: Observations) -> bytes:
    """The bytes of a page as gateways wrote them at first; their journals are still read."""
    head = msgspec.msgpack.encode({"streams": content.streams, "rows": len(content), "samples": content.samples.size})
    columns: list[NDArray[Any]] = [content.stream, content.source_time, content.value, content.status]
    columns += [content.sample_count, content.samples] if content.samples.size else []
    return b"".join((b"O", len(head).to_bytes(4, "little"), head, *(column.tobytes() for column in columns)))


@given(content=strategies.observations())
def test_plain_pages_come_back(content: Observations) -> None:
    """A journal that was written before columns were narrowed is read as ever."""
    back = decode_content(encoded_plainly(content))
    assert isinstance(back, Observations)
    assert back.streams == content.streams
    assert strategies.same(back, content)


def test_a_page_of_more_rows_than_bytes_is_refused() -> None:
    """Columns that are written once prove nothing: without values behind them no row is made."""
    whole = {"dtype": "", "start": 0, "step": 0}
    columns = dict.fromkeys(("stream", "source_time", "status", "sample_count"), whole)
    table = zlib.compress(msgspec.msgpack.encode([("a", "b")]))
    head = msgspec.msgpack.encode({"table_bytes": len(table), "rows": 10**15, "samples": 0, "value": "<f4", **columns})
    with pytest.raises(PageError):
        decode_content(b"P" + len(head).to_bytes(4, "little") + head + table)


def test_a_table_that_swells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacking stops at the limit."""
    monkeypatch.setattr("models.page._MAX_TABLE_BYTES", 1000)
    content = strategies.make_observations(asset_id="a" * 2000)
    with pytest.raises(PageError, match="cut or too long"):
        decode_content(encode_content(content))


@given(content=strategies.results)
def test_results_come_back(content: Results) -> None:
    assert decode_content(encode_content(content)) == content


@given(content=strategies.observations(), cut=st.integers(1, 40))
def test_a_cut_page_is_refused(content: Observations, cut: int) -> None:
    data = encode_content(content)
    with pytest.raises(PageError):
        decode_content(data[: max(len(data) - cut, 0)])


@given(content=strategies.observations(), more=st.binary(min_size=1, max_size=8))
def test_bytes_left_over_are_refused(content: Observations, more: bytes) -> None:
    with pytest.raises(PageError):
        decode_content(encode_content(content) + more)


@given(content=strategies.observations() | strategies.results, place=st.integers(0), change=st.integers(1, 255))
def test_a_changed_page_decodes_or_is_refused(content: Observations | Results, place: int, change: int) -> None:
    """A damaged page never ends in anything but PageError; what decodes is whole."""
    data = bytearray(encode_content(content))
    data[place % len(data)] ^= change
    try:
        back = decode_content(bytes(data))
    except PageError:
        return
    if isinstance(back, Observations):
        assert len(back.waveforms()) == len(back.source_time)
        assert all(back.streams[stream] for stream in back.stream)


@pytest.mark.parametrize("data", [b"", b"X", b"O", b"R", b"O\xff\xff\xff\xff", b"P", b"P\xff\xff\xff\xff", b"R\xc1"])
def test_bytes_that_are_no_page_are_refused(data: bytes) -> None:
    with pytest.raises(PageError):
        decode_content(data)
