"""Columns come back as they were, and none makes memory grow by what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.records import Int64Array
from models.segment_columns import pack_by_stream, pack_integers, unpack_by_stream, unpack_integers

WIDE = st.integers(-(2**63), 2**63 - 1)
CLOSE = st.integers(-3, 3)


@given(column=arrays.arrays(np.int64, st.integers(0, 300), elements=st.one_of(WIDE, CLOSE)))
def test_integers_come_back(column: Int64Array) -> None:
    assert np.array_equal(unpack_integers(pack_integers(column), len(column), np.int64), column)


@pytest.mark.parametrize("runs", [1, 2, 50])
def test_runs_are_written_as_runs(runs: int) -> None:
    """As the quality of a channel mostly is."""
    column = np.repeat(np.arange(runs, dtype=np.uint32) % 2 * 0x80000000, 1000).astype(np.uint32)
    data = pack_integers(column)
    assert len(data) < 80
    assert np.array_equal(unpack_integers(data, len(column), np.uint32), column)


@pytest.mark.parametrize("count", [0, 1, 299, 301, 10**6])
@pytest.mark.parametrize("distinct", [2, 300], ids=["runs", "pcodec"])
def test_a_column_of_another_length_is_refused(count: int, distinct: int) -> None:
    data = pack_integers(np.sort(np.arange(300, dtype=np.int64) % distinct))
    with pytest.raises((ValueError, RuntimeError)):
        unpack_integers(data, count, np.int64)


@given(
    counts=st.lists(st.integers(1, 5), max_size=8),
    neighbours=st.booleans(),
    elements=st.sampled_from([WIDE, CLOSE]),
    data=st.data(),
)
def test_columns_of_streams_come_back(
    *, counts: list[int], neighbours: bool, elements: st.SearchStrategy[int], data: st.DataObject
) -> None:
    column = data.draw(arrays.arrays(np.int64, sum(counts), elements=elements))
    rows = np.array(counts, np.int64)
    assert np.array_equal(unpack_by_stream(pack_by_stream(column, rows, near=neighbours), rows, np.int64), column)


def test_what_streams_share_is_written_once() -> None:
    """The same times a hundred times take hardly more than once; times a little apart, as much as they are apart."""
    chance = np.random.default_rng(5)
    rows = np.full(100, 600, np.int64)
    once = np.cumsum(chance.normal(10**9, 3 * 10**6, 600).astype(np.int64))
    same = np.tile(once, 100)
    apart = same + chance.integers(0, 256, 60_000) * 100  # up to 25 µs, in steps as OPC UA has them
    assert size_of(same, rows) < size_of(once, rows[:1]) + 100
    assert size_of(apart, rows) < 1.3 * len(apart)
    assert np.array_equal(unpack_by_stream(pack_by_stream(apart, rows, near=True), rows, np.int64), apart)
    assert sum(map(len, pack_by_stream(apart, rows))) > 2 * size_of(apart, rows)  # the control: without neighbours


def size_of(column: Int64Array, rows: Int64Array) -> int:
    """Return what a column takes when neighbours are looked at."""
    return sum(map(len, pack_by_stream(column, rows, near=True)))


def test_streams_of_unlike_length_share_nothing() -> None:
    """Whoever says they do is refused."""
    rows = np.array([2, 2], np.int64)
    data = pack_by_stream(np.array([1, 2, 1, 2], np.int64), rows)
    with pytest.raises(ValueError, match="unlike length"):
        unpack_by_stream(data, np.array([3, 1], np.int64), np.int64)
    with pytest.raises(ValueError, match="no known way"):
        unpack_by_stream((pack_integers(np.array([1, 0], np.uint32)), *data[1:]), rows, np.int64)
