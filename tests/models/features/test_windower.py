"""Windows are a function of the log alone: pages, restarts and late rows change nothing that is closed."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.extraction import extract
from models.features.specification import FeatureSpecification
from models.features.windower import Windower, windows_of
from models.features.windows import Windows
from models.records import Observations, Stream
from tests.models.features.slow_windower import contents

Recording = Callable[..., Observations]
HOUR_NS = 3_600_000_000_000


def pages(observations: Observations, cuts: Iterable[int]) -> list[Observations]:
    bounds = [0, *sorted(cut % (len(observations) + 1) for cut in cuts), len(observations)]
    return [observations.take(np.arange(first, last)) for first, last in pairwise(bounds)]


def same(ours: Windows, theirs: Windows) -> bool:
    """Return whether both hold the same windows of each asset, bit by bit."""
    return contents(ours) == contents(theirs)


def of_asset(windows: Windows, asset_id: str) -> Windows:
    return windows.take(np.array([name == asset_id for name in windows.asset_id_of_rows], np.bool_))


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    seed=st.integers(0, 50),
    shuffle_rows=st.sampled_from([0, 10, 80]),
    restart=st.booleans(),
)
def test_pages_and_restarts_make_no_difference(
    spec: FeatureSpecification, recording: Recording, cuts: list[int], seed: int, shuffle_rows: int, *, restart: bool
) -> None:
    """Rows in the same order, late ones among them, give the same windows however they are cut, with restarts too."""
    observations = recording(seed=seed, bad_share=0.1, shuffle_rows=shuffle_rows)
    whole = Windower(spec)
    expected = whole.push(observations)

    windower, made = Windower(spec), []
    for page in pages(observations, cuts):
        made.append(windower.push(page))
        if restart:
            state = windower.state()
            windower = Windower(spec)
            windower.restore(state)

    assert len(expected)
    assert same(Windows.concatenate(made), expected)
    assert windower.counters == whole.counters


def test_losing_the_state_would_show(spec: FeatureSpecification, recording: Recording) -> None:
    """Control for the above: a restart that forgets gives other windows."""
    observations = recording()
    first, second = pages(observations, [len(observations) // 2])

    forgetful = Windows.concatenate([Windower(spec).push(first), Windower(spec).push(second)])

    assert not same(forgetful, Windower(spec).push(observations))


def test_windows_end_at_steps_and_hold_what_lies_inside(spec: FeatureSpecification, recording: Recording) -> None:
    windows = windows_of(spec, recording(hours=6), ["a-1"])

    assert (windows.end_ns - windows.start_ns).tolist() == [2 * HOUR_NS] * 4
    assert (windows.end_ns % HOUR_NS == 0).all()
    assert windows.counts.tolist() == [[12, 12, 12, 2]] * 4
    assert (windows.good_share == 1.0).all()
    for channel in windows.channels:
        for first, last, start, end in zip(channel.first, channel.last, windows.start_ns, windows.end_ns, strict=True):
            time = channel.time[first:last]
            assert ((time >= start) & (time < end)).all()
            assert (np.diff(time) > 0).all()


def test_a_silent_channel_is_not_waited_for_longer_than_late_s(
    spec: FeatureSpecification, recording: Recording
) -> None:
    """The windows come without it, later, and say so by their share of good observations."""
    observations = recording(hours=8)
    flow = [number for number, stream in enumerate(observations.streams) if stream.channel == "flow_m3_h"]
    silent = observations.take(~np.isin(observations.stream, flow))

    windows = windows_of(spec, silent, ["a-1"])

    assert 0 < len(windows) < len(windows_of(spec, observations, ["a-1"]))
    assert (windows.good_share == 0.75).all()


def test_a_clock_far_ahead_on_one_channel_closes_nothing(spec: FeatureSpecification, recording: Recording) -> None:
    """Control: the same row on two channels closes everything, and what follows is late."""
    observations = recording(hours=8)
    times = observations.source_time.copy()
    ahead = np.flatnonzero(observations.stream < 2)[:2]
    times[ahead[0]] = times[-1] + 10_000 * HOUR_NS
    one = Windower(spec).push(replace(observations, source_time=times))
    times[ahead[1]] = times[ahead[0]]
    two = Windower(spec).push(replace(observations, source_time=times))

    assert len(of_asset(one, "a-1")) >= 5
    assert len(of_asset(two, "a-1")) < 5


def test_a_late_row_counts_for_open_windows_only(spec: FeatureSpecification, recording: Recording) -> None:
    observations = recording(hours=6)
    late = next(row for row in range(len(observations)) if observations.source_time[row] % HOUR_NS == HOUR_NS // 2)
    order = np.delete(np.arange(len(observations)), late)
    windower = Windower(spec)
    windower.push(observations.take(order))
    before = windower.counters

    assert not len(windower.push(observations.take(np.array([late]))))
    assert windower.counters.late_rows == before.late_rows + 1


def test_other_assets_channels_and_times_are_left_alone(spec: FeatureSpecification, recording: Recording) -> None:
    observations = recording()
    strange = Observations.of_values(
        (Stream("a-1", "unknown"), Stream("a-1", "flow_m3_h"), Stream("other", "flow_m3_h")),
        np.array([0, 1, 2], np.uint32),
        np.array([0, -(2**62), 0], np.int64),
        np.zeros(3),
        np.zeros(3, np.uint32),
    )

    with_strange = windows_of(spec, Observations.concatenate([strange, observations]), ["a-1", "a-2"])

    assert same(with_strange, windows_of(spec, observations))


@pytest.mark.parametrize("gap_hours", [1, 30, 400_000])
def test_a_gap_makes_no_windows_without_observations(
    spec: FeatureSpecification, recording: Recording, gap_hours: int
) -> None:
    """A stop of decades costs no more than one of hours."""
    before, after = recording(hours=4), recording(hours=4)
    after = replace(after, source_time=after.source_time + (4 + gap_hours) * HOUR_NS)

    windows = Windower(spec, ["a-1"]).push(Observations.concatenate([before, after]))

    assert len(windows) == 7
    assert windows.counts.any(axis=1).all()


def test_windows_do_not_write_into_the_log(spec: FeatureSpecification, recording: Recording) -> None:
    """Pages come read-only from the journal."""
    observations = recording()
    for name in ("stream", "source_time", "value", "status", "sample_count", "samples"):
        getattr(observations, name).flags.writeable = False

    assert extract(spec, windows_of(spec, observations)).shape[0] > 0
