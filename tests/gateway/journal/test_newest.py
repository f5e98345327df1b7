"""Repeats are found without a loop, and exactly as a loop would find them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.newest import Newest
from models.records import Observations, Stream

rows = st.tuples(
    st.integers(0, 2), st.integers(-2, 3), st.sampled_from([0.0, -0.0, 1.0, np.nan]), st.sampled_from([0, 1])
)


def batch_of(these: list[tuple[int, int, float, int]]) -> Observations:
    """Return observations of (stream, time, value, status)."""
    columns = list(zip(*these, strict=True))
    return Observations.of_values(
        tuple(Stream("a", str(place)) for place in range(3)),
        np.array(columns[0], np.uint32),
        np.array(columns[1], np.int64),
        np.array(columns[2], np.float64),
        np.array(columns[3], np.uint32),
    )


def by_loop(batch: Observations, newest: dict[int, tuple[int, bytes, int]]) -> list[bool]:
    """Say row by row whether it is new, and take it over; the rule as it reads."""
    new = []
    for stream, time, value, status in zip(batch.stream, batch.source_time, batch.value, batch.status, strict=True):
        row = (int(time), value.tobytes(), int(status))
        new.append(newest.get(int(stream)) != row)
        if int(stream) not in newest or time >= newest[int(stream)][0]:
            newest[int(stream)] = row
    return new


batches_of_rows = st.lists(st.lists(rows, min_size=1, max_size=8), max_size=4)
in_time = batches_of_rows.map(lambda batches: [sorted(batch, key=lambda row: row[1]) for batch in batches])


@given(batches=batches_of_rows | in_time, restart=st.booleans())
def test_repeats_are_those_a_loop_finds(batches: list[list[tuple[int, int, float, int]]], restart: bool) -> None:  # noqa: FBT001 - drawn
    """Any order of streams and times, repeats inside a batch and between batches, with a restart in between or not."""
    newest, expected = Newest(), dict[int, tuple[int, bytes, int]]()
    for these in batches:
        batch = batch_of(these)
        new, change = newest.examine(batch)
        assert new.tolist() == by_loop(batch, expected)
        newest.apply(change)
        if restart:
            newest = Newest.from_bytes(newest.to_bytes())
    for place in range(3):
        assert newest.source_time(Stream("a", str(place))) == expected.get(place, (None,))[0]


def test_rows_in_time_need_no_sorting_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server sends takes the short way, repeats among it too; a late row does not."""
    newest = Newest()
    newest.apply(newest.examine(batch_of([(0, 1, 1.0, 0), (1, 1, 1.0, 0)]))[1])
    monkeypatch.setattr("gateway.journal.newest._newest_so_far", None)
    forward = batch_of([(1, 1, 1.0, 0), (0, 1, 1.0, 0), (1, 2, 1.0, 0), (0, 2, 1.0, 0), (1, 2, 1.0, 0), (1, 2, 2.0, 0)])
    assert newest.examine(forward)[0].tolist() == [False, False, True, True, False, True]
    with pytest.raises(TypeError):
        newest.examine(batch_of([(0, 0, 1.0, 0)]))


def test_more_streams_than_two_bytes_count() -> None:
    """Beyond 65,536 streams a row still stands beside its own stream's."""
    count = 2**16 + 2
    streams = tuple(Stream("a", str(place)) for place in range(count))
    backwards = np.arange(count, dtype=np.uint32)[::-1]
    times = np.ones(count, np.int64)
    batch = Observations.of_values(streams, backwards, times, np.zeros(count), np.zeros(count, np.uint32))
    newest = Newest()
    new, change = newest.examine(batch)
    assert new.all()
    newest.apply(change)
    assert not newest.examine(batch)[0].any()
