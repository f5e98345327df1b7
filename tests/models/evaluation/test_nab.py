"""The score of the Numenta Anomaly Benchmark, on change points and on labelled windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from models.evaluation.nab import Alarmed, NabScore, alarm_starts, changepoint_score, changepoint_windows, window_score

S = 1_000_000_000


def of(alarms: list[float], start: list[float], end: list[float]) -> Alarmed:
    """Return one file, told in seconds."""
    alarm_ns, start_ns, end_ns = (np.array([round(one * S) for one in told], np.int64) for told in (alarms, start, end))
    return Alarmed(alarm_ns=alarm_ns, start_ns=start_ns, end_ns=end_ns)


@pytest.mark.parametrize("score", [changepoint_score, window_score])
def test_an_alarm_at_each_start_is_perfect_and_none_is_nothing(score: Callable[[Sequence[Alarmed]], NabScore]) -> None:
    """The scale runs from no alarm at all, 0, to an alarm at each window's start and nowhere else, 100."""
    start, end = [100.0, 300.0], [160.0, 360.0]

    assert score([of(start, start, end)]).standard == pytest.approx(100.0)
    assert score([of([], start, end)]).standard == 0.0
    assert score([of([], start, end)]).missed == 2


def test_a_change_told_half_a_window_late_counts_half() -> None:
    """The curve of a change point runs through the mean of a hit and a false alarm in the middle of the window."""
    score = changepoint_score([of([130.0], [100.0], [160.0])])

    assert score.standard == pytest.approx(100.0 * ((1.0 - 0.11) / 2.0 + 1.0) / 2.0, abs=0.2)
    assert (score.missed, score.false_alarms) == (0, 0)


def test_alarms_outside_all_windows_cost_by_profile() -> None:
    """A false alarm costs 0.11, or 0.22 where false alarms are disliked; a miss counts for more where misses are."""
    score = changepoint_score([of([50.0, 100.0], [100.0, 300.0], [160.0, 360.0])])

    assert score.standard == pytest.approx(100.0 * (1.0 - 1.0 - 0.11 + 2.0) / 4.0)
    assert score.low_fp == pytest.approx(100.0 * (1.0 - 1.0 - 0.22 + 2.0) / 4.0)
    assert score.low_fn == pytest.approx(100.0 * (1.0 - 2.0 - 0.11 + 4.0) / 6.0)


def test_only_the_first_alarm_in_a_window_counts() -> None:
    """Alarms that follow inside the window neither gain nor cost."""
    once = changepoint_score([of([110.0], [100.0], [160.0])])

    assert changepoint_score([of([110.0, 111.0, 159.0], [100.0], [160.0])]) == once


def test_a_false_alarm_soon_after_a_window_costs_less_than_a_late_one() -> None:
    """Behind a labelled window the cost grows with the distance; ahead of the first it is whole at once."""
    start, end = [100.0], [200.0]
    soon, late, before = (window_score([of(sorted([100.0, at]), start, end)]).standard for at in (205.0, 450.0, 50.0))

    assert soon > late
    assert late == pytest.approx(before, abs=0.01)


def test_windows_of_change_points_do_not_overlap() -> None:
    """The later window of two that meet begins where the earlier one ends; it may be empty, and is then missed."""
    start, end = changepoint_windows(np.array([10, 40, 41, 500]) * S, 60.0)

    assert (start // S).tolist() == [10, 70, 100, 500]
    assert (end // S).tolist() == [70, 100, 101, 560]


def test_nothing_is_scored_without_windows() -> None:
    """Files without a label have no score: no number is made up for them."""
    with pytest.raises(ValueError, match="nothing to score"):
        changepoint_score([of([1.0], [], [])])


def test_an_alarm_is_told_once_in_its_dead_time() -> None:
    """A flag that stays starts an alarm again only after the dead time."""
    time_ns = np.arange(10) * S

    assert (alarm_starts(np.ones(10, np.bool_), time_ns, 4.0) // S).tolist() == [0, 4, 8]
    assert alarm_starts(np.zeros(10, np.bool_), time_ns, 4.0).size == 0
