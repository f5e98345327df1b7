"""What goes into a page comes out of it, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.page import PageError, decode_content, encode_content
from models.records import Observations, Results
from tests import strategies


@given(content=strategies.observations())
def test_observations_come_back(content: Observations) -> None:
    """Every row, bit by bit, and the table of streams as it was."""
    back = decode_content(encode_content(content))
    assert isinstance(back, Observations)
    assert back.streams == content.streams
    assert strategies.same(back, content)


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


@pytest.mark.parametrize("data", [b"", b"X", b"O", b"R", b"O\xff\xff\xff\xff", b"R\xc1"])
def test_bytes_that_are_no_page_are_refused(data: bytes) -> None:
    with pytest.raises(PageError):
        decode_content(data)
