"""A segment holds what its pages held, and bytes from outside either are one or are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import segment as codec
from models.records import Observations, Page, Results
from models.segment import Segment, SegmentError, decode_segment, encode_segment
from tests import strategies

contents = st.lists(strategies.observations() | strategies.results, min_size=1, max_size=5)


def pages_of(items: Sequence[Observations | Results], first: int = 7) -> list[Page]:
    """Return pages that hold *items*, with seq numbers from *first*."""
    return [
        Page(gateway_id="gw-1", epoch="e0", seq=seq, committed_time=0, content=item)
        for seq, item in enumerate(items, first)
    ]


def rows_of_page(segment: Segment, seq: int) -> Observations:
    """Return the rows of one page, as a segment keeps them: by stream, in their order."""
    return segment.observations.take(segment.seq == seq)


def by_stream(rows: Observations) -> Observations:
    """Return *rows* sorted by the names of their streams, in their order inside each."""
    places = {stream: place for place, stream in enumerate(sorted(rows.streams))}
    keys = np.array([places[stream] for stream in rows.streams], np.int64)[rows.stream]
    return rows.take(np.argsort(keys, kind="stable"))


@given(items=contents)
def test_every_page_comes_back(items: list[Observations | Results]) -> None:
    """Each row with its page, in its order inside its stream; each page of results with its seq."""
    segment = decode_segment(encode_segment(pages_of(items)))
    assert (segment.gateway_id, segment.epoch) == ("gw-1", "e0")
    assert (segment.first_seq, segment.last_seq) == (7, 6 + len(items))
    assert (np.diff(segment.observations.stream.astype(np.int64)) >= 0).all()
    for page in pages_of(items):
        if isinstance(page.content, Observations):
            assert strategies.same(by_stream(rows_of_page(segment, page.seq)), by_stream(page.content))
        else:
            assert (page.seq, page.content) in segment.results


def test_long_streams_come_back() -> None:
    """Columns longer than one block of values, of streams of unlike length."""
    items = [strategies.make_observations(streams=3, rows=rows) for rows in (1, 200, 63, 65)]
    segment = decode_segment(encode_segment(pages_of(items)))
    for page, item in zip(pages_of(items), items, strict=True):
        assert strategies.same(by_stream(rows_of_page(segment, page.seq)), by_stream(item))


@given(items=contents)
def test_the_same_pages_give_the_same_bytes(items: list[Observations | Results]) -> None:
    """A segment that is made again after a crash has the digest it had."""
    assert encode_segment(pages_of(items)) == encode_segment(pages_of(items))


@given(items=contents, place=st.integers(0), change=st.integers(1, 255))
def test_a_changed_byte_is_refused(items: list[Observations | Results], place: int, change: int) -> None:
    data = bytearray(encode_segment(pages_of(items)))
    data[place % len(data)] ^= change
    with pytest.raises(SegmentError):
        decode_segment(bytes(data))


@given(items=contents, place=st.integers(0), change=st.integers(1, 255), cut=st.integers(0, 30))
def test_a_forged_body_decodes_or_is_refused(
    items: list[Observations | Results], place: int, change: int, cut: int
) -> None:
    """With its digest made right again, a changed body still ends in SegmentError or in columns that fit together."""
    data = encode_segment(pages_of(items))
    body = bytearray(data[codec._BODY :])
    body[place % len(body)] ^= change
    try:
        segment = decode_segment(sealed(bytes(body[: len(body) - cut])))
    except SegmentError:
        return
    rows = segment.observations
    assert len(segment.seq) == len(rows) == len(rows.value) == len(rows.status) == len(rows.waveforms())


def test_without_the_digest_a_changed_value_would_pass() -> None:
    """The control: the check of the digest is what refuses a change that still decodes."""
    body = encode_segment(pages_of([strategies.make_event("normal")]))[codec._BODY :]
    forged = decode_segment(sealed(body.replace(b"normal", b"broken")))
    assert forged.results[0][1].events[0].message == "broken"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows_per_stream", (codec.MAX_ROWS + 1,)),
        ("rows_per_stream", (2**62, 2**62, 2**62)),
        ("rows_per_stream", (-1,)),
        ("samples", codec.MAX_SAMPLES + 1),
        ("samples", -1),
        ("first_seq", 0),
        ("last_seq", 0),
        ("last_seq", 2**62),
        ("values", ((codec.MAX_ROWS, b""),)),
        ("seq", b""),
        ("source_time", b"\x00" * 100),
    ],
)
def test_a_lying_head_is_refused_before_memory_is_taken(field: str, value: object) -> None:
    body = msgspec.msgpack.decode(encode_segment(pages_of([strategies.make_observations(streams=1)]))[codec._BODY :])
    body[field] = value
    with mock.patch.object(np, "empty", side_effect=limited_empty), pytest.raises(SegmentError):
        decode_segment(sealed(msgspec.msgpack.encode(body)))


def limited_empty(count: int, dtype: object = np.float64, _empty: object = np.empty) -> object:
    """Stand in for numpy.empty and fail the test when a head may choose the size."""
    assert count <= codec.MAX_SAMPLES
    return _empty(count, dtype)  # type: ignore[operator]  # NumPy's own


def test_bytes_above_the_limit_are_refused() -> None:
    with pytest.raises(SegmentError, match="above the limit"):
        decode_segment(bytes(codec.MAX_SEGMENT_BYTES + 1))


def test_pages_with_a_hole_make_no_segment() -> None:
    items = [strategies.make_event("one"), strategies.make_event("two"), strategies.make_event("three")]
    pages = pages_of(items)
    with pytest.raises(SegmentError, match="hole"):
        encode_segment([pages[0], pages[2]])
    with pytest.raises(SegmentError, match="at least one page"):
        encode_segment([])


def sealed(body: bytes) -> bytes:
    """Return *body* as a segment whose digest is right."""
    return codec._MAGIC + hashlib.sha256(body).digest() + body
