"""Repeats are found without a loop, and exactly as a loop would find them."""

from __future__ import annotations

import numpy as np
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


@given(batches=st.lists(st.lists(rows, min_size=1, max_size=8), max_size=4), restart=st.booleans())
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
