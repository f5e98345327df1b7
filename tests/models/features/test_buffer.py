"""Rows are kept and taken out asset by asset, in the order they came at each place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import buffer
from models.features.buffer import Rows, RowStore, ranges, stable_order

CHANNELS = 3


def rows_at(places: list[int], first_number: int) -> Rows:
    """Return rows at *places* that carry a running number as time and value, and as samples at the last channel."""
    number = np.arange(first_number, first_number + len(places))
    count = np.where(np.array(places, np.int64) % CHANNELS == CHANNELS - 1, 2, 0)
    return Rows(
        place=np.array(places, np.int32),
        number=number,
        time=number,
        value=number.astype(np.float64),
        good=number % 2 == 0,
        sample_first=np.cumsum(count) - count,
        sample_count=count,
        samples=np.repeat(number, count).astype(np.float32),
    )


def told(rows: Rows) -> list[tuple[int, int, tuple[float, ...]]]:
    """Return place, number and samples of each row."""
    counts = rows.sample_count if rows.sample_count.size else np.zeros(len(rows), np.int64)
    firsts = rows.sample_first if rows.sample_first.size else counts
    columns = zip(rows.place.tolist(), rows.number.tolist(), firsts.tolist(), counts.tolist(), strict=True)
    return [(place, number, tuple(rows.samples[at : at + size].tolist())) for place, number, at, size in columns]


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.lists(st.integers(0, 4 * CHANNELS - 1), max_size=30), st.sets(st.integers(0, 3), max_size=3)),
        max_size=15,
    ),
    largest=st.sampled_from([5, 40, 10_000]),
)
def test_a_store_gives_back_what_it_was_given(steps: list[tuple[list[int], set[int]]], largest: int) -> None:
    """Once each, channel by channel and asset by asset as asked for, while parts are merged and cleared."""
    store, kept, number = RowStore(CHANNELS), list[tuple[int, int, tuple[float, ...]]](), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffer, "_MAX_PART_ROWS", largest)
        for places, taken in steps:
            store.add(rows_at(places, number))
            kept += told(rows_at(places, number))
            number += len(places)
            assets = sorted(taken, reverse=True)

            found, bounds = store.take_out(np.array(assets, np.int64))

            expected = [
                [one for one in kept if one[0] == asset * CHANNELS + channel]
                for channel in range(CHANNELS)
                for asset in assets
            ]
            assert told(found) == [one for part in expected for one in part]
            assert np.diff(bounds).tolist() == [len(part) for part in expected]
            kept = [one for one in kept if one[0] // CHANNELS not in taken]
            assert sorted(told(store.rows())) == sorted(kept)


def test_a_store_of_many_pages_has_few_parts() -> None:
    store = RowStore(CHANNELS)
    for page in range(500):
        store.add(rows_at([0, 4, 8] * 5, page * 15))

    assert len(store._parts) < 12
    assert len(store.rows()) == 7500


@given(keys=st.lists(st.sampled_from([0, 1, 65_535, 65_536, 65_537, 2**31 - 1]), max_size=40))
def test_sorting_sixteen_bits_at_a_time_is_sorting(keys: list[int]) -> None:
    order = stable_order(np.array(keys, np.int32))

    assert order.tolist() == np.argsort(np.array(keys, np.int64), kind="stable").tolist()


def test_ranges_follow_one_another() -> None:
    assert ranges(np.array([5, 9, 2]), np.array([2, 0, 3])).tolist() == [5, 6, 2, 3, 4]
    assert ranges(np.array([], np.int64), np.array([], np.int64)).tolist() == []
