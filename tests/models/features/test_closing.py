"""All assets at once close the windows that one row after the other would."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import closing, standing, windower
from models.features.closing import clock, lower_bound
from models.features.specification import FeatureSpecification
from models.features.standing import NEVER
from models.features.windower import Windower
from models.features.windows import Windows
from models.records import Channel, Observations, Stream
from tests.models.features.slow_windower import SlowWindower, contents, plain

SECOND_NS = 1_000_000_000


def specification(channels: int, steps: int, late_s: float) -> FeatureSpecification:
    return FeatureSpecification(
        asset_class="test_pump",
        channels=tuple(Channel(name=f"c{number}", unit="", low=0.0, high=1.0) for number in range(channels)),
        window_s=5.0 * steps,
        step_s=5.0,
        late_s=late_s,
    )


@st.composite
def logs(draw: st.DrawFn, channels: int) -> Observations:
    """Rows of some assets in an order that time hardly follows: late, doubled, far ahead, silent, stopped, bad."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    assets, rows = draw(st.integers(1, 4)), draw(st.integers(1, 200))
    streams = tuple(Stream(f"a-{(3 * asset) % assets}", f"c{n}") for asset in range(assets) for n in range(channels))
    stream = rng.integers(0, len(streams), rows)
    time = np.sort(rng.integers(0, draw(st.sampled_from([30, 120])) * SECOND_NS, rows))
    if draw(st.booleans()):
        time = time // (4 * SECOND_NS) * 4 * SECOND_NS  # many of one time
    time[time > 60 * SECOND_NS] += draw(st.sampled_from([0, 1000])) * SECOND_NS  # a stop
    time = np.where(rng.random(rows) < 0.1, time - rng.integers(0, 30 * SECOND_NS, rows), time)
    time = np.where(rng.random(rows) < draw(st.sampled_from([0.0, 0.01])), time + 500 * SECOND_NS, time)
    if draw(st.booleans()):
        kept = stream % channels != 0  # a silent channel
        stream, time = stream[kept], time[kept]
    behind = draw(st.sampled_from([0.0, 3.0, 60.0]))
    order = np.argsort(np.arange(len(time)) + rng.uniform(0, behind + 1e-9, len(time)), kind="stable")
    value = np.where(rng.random(len(time)) < 0.1, np.inf, rng.normal(size=len(time)))
    status = np.where(rng.random(len(time)) < 0.1, 0x80000000, 0).astype(np.uint32)
    return Observations.of_values(streams, stream.astype(np.uint32), time, value, status).take(order)


def cut(observations: Observations, places: Sequence[int]) -> list[Observations]:
    bounds = [0, *sorted(place % (len(observations) + 1) for place in places), len(observations)]
    return [observations.take(np.arange(low, high)) for low, high in itertools.pairwise(bounds)]


@settings(max_examples=120, deadline=None)
@given(
    data=st.data(),
    channels=st.integers(1, 4),
    steps=st.sampled_from([1, 2, 3]),
    late_s=st.sampled_from([0.0, 5.0, 20.0]),
    cuts=st.lists(st.integers(0, 1000), max_size=8),
    restart=st.booleans(),
)
def test_pages_cut_anywhere_give_what_row_after_row_gives(
    data: st.DataObject, channels: int, steps: int, late_s: float, cuts: list[int], *, restart: bool
) -> None:
    """The same windows with the same rows, the same count of late ones, at once, in pages and after restarts."""
    spec = specification(channels, steps, late_s)
    observations = data.draw(logs(channels))
    slow = SlowWindower(spec)
    slow.push(observations)
    whole = Windower(spec)
    at_once = whole.push(observations)

    paged, made = Windower(spec), [Windows.empty(spec)]
    for page in cut(observations, cuts):
        made.append(paged.push(page))
        if restart:
            state = paged.state()
            paged = Windower(spec)
            paged.restore(state)

    assert sorted(plain(at_once)) == sorted(slow.windows)
    assert contents(Windows.concatenate(made)) == contents(at_once)
    assert whole.counters.late_rows == slow.late_rows
    assert paged.counters == whole.counters
    order = list(zip(at_once.end_ns.tolist(), at_once.asset_id_of_rows, strict=True))
    assert order == sorted(order)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), cuts=st.lists(st.integers(0, 1000), max_size=8), most=st.sampled_from([3, 12, 40]))
def test_only_the_newest_rows_of_an_asset_are_looked_at(data: st.DataObject, cuts: list[int], most: int) -> None:
    """What is given up is a function of the log alone, too, and is counted; what is kept is bounded."""
    spec = specification(2, 2, 20.0)
    observations = data.draw(logs(2))
    slow = SlowWindower(spec, most_rows=most)
    slow.push(observations)
    with pytest.MonkeyPatch.context() as patch:
        for module in (closing, standing, windower):
            patch.setattr(module, "MAX_ASSET_ROWS", most)
        patch.setattr(windower, "_SLACK_ROWS", 2)
        patch.setattr(windower, "_MAX_INBOX_ROWS", 5)
        whole, paged, made = Windower(spec), Windower(spec), [Windows.empty(spec)]
        at_once = whole.push(observations)
        made += [paged.push(page) for page in cut(observations, cuts)]
        assert len(paged._store.rows()) <= 4 * (most + 2) + 5

        assert sorted(plain(at_once)) == sorted(slow.windows)
        assert contents(Windows.concatenate(made)) == contents(at_once)
        assert paged.counters == whole.counters


def test_rows_given_up_are_counted() -> None:
    """Control for the above: one channel talks alone, nothing closes, and all but the newest rows are given up."""
    spec = specification(3, 1, 20.0)
    log = Observations.of_values(
        (Stream("a-1", "c0"),),
        np.zeros(100, np.uint32),
        np.arange(100) * SECOND_NS,
        np.zeros(100),
        np.zeros(100, np.uint32),
    )
    with pytest.MonkeyPatch.context() as patch:
        for module in (closing, standing, windower):
            patch.setattr(module, "MAX_ASSET_ROWS", 30)
        crowded = Windower(spec)

        assert not len(crowded.push(log))
        assert crowded.counters.dropped_rows == 70


def test_a_row_that_is_late_for_one_window_is_in_the_next() -> None:
    """Windows of 10 s each 5 s: a value of second 7 that comes when 0 to 10 has closed is in 5 to 15 alone."""
    spec = specification(1, 2, 0.0)
    times = np.array([0, 2, 6, 11, 7, 14, 16]) * SECOND_NS
    log = Observations.of_values(
        (Stream("a-1", "c0"),), np.zeros(7, np.uint32), times, np.arange(7.0), np.zeros(7, np.uint32)
    )
    windower = Windower(spec)

    told = plain(windower.push(log))

    values = {end // SECOND_NS: [value for _, value, _ in rows[0]] for _, _, end, rows in told}
    assert values == {10: [0.0, 1.0, 2.0], 15: [2.0, 4.0, 3.0, 5.0]}
    assert windower.counters.late_rows == 1


@pytest.mark.parametrize(
    ("newest", "expected"),
    [([5, 9, 7], 5), ([NEVER, 9, 7], 3), ([NEVER, 9, NEVER], NEVER), ([0, 100, 200], 96)],
)
def test_the_clock_is_the_slowest_channel_or_what_two_are_ahead_of(newest: list[int], expected: int) -> None:
    assert clock(np.array([newest]), 4).tolist() == [expected]


@given(
    values=st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5),
    wanted=st.lists(st.integers(-1, 10), min_size=1, max_size=4),
)
def test_lower_bounds_are_those_of_each_stretch(values: list[list[int]], wanted: list[int]) -> None:
    ends = np.cumsum([len(one) for one in values])
    starts = ends - [len(one) for one in values]
    joint = np.array([value for one in values for value in sorted(one)], np.int64)

    found = lower_bound(joint, np.array(wanted)[:, None], starts, ends)

    alone = [
        [start + np.searchsorted(sorted(one), w) for one, start in zip(values, starts, strict=True)] for w in wanted
    ]
    assert found.tolist() == np.array(alone).tolist()
