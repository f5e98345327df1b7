"""Limits under a budget of false alarms: counted where alarms are many, told by the tail where they are few."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cloud_service.training.budget import AlarmLimits, fit_alarm_limits
from models.evaluation.metrics import alarm_onsets
from models.records import FloatArray

RNG = np.random.default_rng(11)


def limits(
    scores: FloatArray, budget: float, *, on_delay: int = 1, runs: int = 1, confidence: float | None = None
) -> AlarmLimits:
    """Return limits of hourly windows of *runs* assets."""
    breaks = np.zeros(len(scores), np.bool_)
    breaks[:: -(-len(scores) // runs)] = True
    return fit_alarm_limits(
        scores,
        breaks,
        step_h=1.0,
        on_delay_windows=on_delay,
        false_alarms_per_asset_day=budget,
        tail_confidence=confidence,
    )


@pytest.mark.parametrize("budget", [0.05, 0.2])
def test_alarms_are_counted_where_the_budget_allows_several(budget: float) -> None:
    """On as many windows again the alarms stay about the budget, and on those learnt from below it."""
    scores, later = RNG.exponential(size=20_000), RNG.exponential(size=20_000)
    told = limits(scores, budget)
    allowed = budget * len(scores) / 24.0

    assert told.method == "counted"
    assert alarm_onsets(scores >= told.warning, 1).sum() <= allowed
    assert alarm_onsets(later >= told.warning, 1).sum() == pytest.approx(allowed, rel=0.5)


def test_what_was_not_counted_is_said() -> None:
    """A card says how little the healthy time told of the budget; where alarms were counted there is nothing to say."""
    scores = RNG.exponential(size=2400)

    assert limits(scores, 0.1).doubt == ""
    assert limits(scores, 0.003).doubt.startswith("The budget allows 0.3 false alarms in the healthy time")


def test_an_exponential_tail_is_told_from_few_windows() -> None:
    """A budget far below one alarm in the healthy windows: the limit lies where the tail says, not at the maximum."""
    draws = [limits(np.random.default_rng(seed).exponential(size=2000), 0.0024) for seed in range(20)]

    assert np.mean([one.method == "exponential" for one in draws]) > 0.8
    # One window in ten thousand: minus the logarithm of that.
    assert np.median([one.warning for one in draws]) == pytest.approx(-np.log(1e-4), rel=0.1)


def in_spells(seed: int, count: int) -> FloatArray:
    """Return scores that stay alike for hours: an exponential of a sum that forgets a fifth each window."""
    draws, found = np.random.default_rng(seed).normal(size=count), np.empty(count)
    level = 0.0
    for place, draw in enumerate(draws):
        found[place] = level = 0.8 * level + 0.6 * draw
    return np.asarray(-np.log1p(-np.clip([0.5 * math.erfc(-one / math.sqrt(2.0)) for one in found], 0.0, 1.0 - 1e-12)))


def test_a_careful_limit_keeps_to_the_budget_that_a_likely_one_passes_as_often_as_not() -> None:
    """Twenty days of windows in spells, forty times: of the careful limits nine in ten are within the budget."""
    budget, later = 0.01, in_spells(999, 40_000)

    def passed(confidence: float | None) -> float:
        """Return the share of trainings whose limit costs more than the budget."""
        told = [limits(in_spells(seed, 480), budget, confidence=confidence) for seed in range(40)]
        assert {one.method for one in told} <= {"exponential", "generalised_pareto"}
        counted = [alarm_onsets(later >= one.warning, 1).sum() for one in told]
        return float(np.mean(np.array(counted) > budget * len(later) / 24.0))

    assert passed(None) > 0.3
    assert passed(0.9) < 0.15


def test_a_heavy_tail_is_told_as_one() -> None:
    """Where the largest score cannot be of an exponential tail, a heavier one is fitted: further out."""
    scores = RNG.pareto(1.5, size=4000)
    told = limits(scores, 0.0024)

    assert told.method == "generalised_pareto"
    assert (
        told.warning > np.quantile(scores, 0.9) + np.log(1000.0) * scores[scores > np.quantile(scores, 0.9)].std() / 9
    )


def test_a_handful_of_windows_gets_a_limit_beyond_the_largest() -> None:
    """There is no tail to tell of; no window that was seen is out of normal."""
    scores = RNG.exponential(size=30)
    told = limits(scores, 0.001)

    assert told.method == "largest"
    assert told.warning > scores.max()
    assert limits(np.ones(100), 0.001).warning > 1.0


def test_an_alarm_that_must_last_gets_a_lower_limit() -> None:
    """With three windows in a row asked, single ones may stand out further."""
    scores = RNG.exponential(size=20_000)

    assert limits(scores, 0.01, on_delay=3).warning < limits(scores, 0.01).warning
    assert limits(scores[:2000], 0.001, on_delay=3).warning < limits(scores[:2000], 0.001).warning


def test_windows_of_different_assets_are_not_in_a_row() -> None:
    """Two windows that stand beside each other in the table, of two assets, make no alarm of two windows."""
    scores = np.zeros(400)
    scores[[99, 100, 299, 300]] = 10.0

    assert limits(scores, 0.06, on_delay=2, runs=4).warning <= limits(scores, 0.06, on_delay=2, runs=1).warning
    assert limits(scores, 0.06, on_delay=2, runs=4).warning < 10.0


@pytest.mark.parametrize("size", [20, 400, 20_000])
def test_the_alarm_limit_lies_beyond_the_warning_limit(size: int) -> None:
    told = limits(RNG.exponential(size=size), 0.003)

    assert told.alarm > told.warning


def test_no_healthy_score_lies_on_a_limit() -> None:
    """One float32 digit must never decide what a window learnt from is."""
    scores = np.repeat(np.arange(100.0), 100)
    told = limits(scores, 0.5)

    assert np.abs(scores - told.warning).min() > 1e-6 * told.warning


def test_windows_that_never_stand_in_a_row_have_a_limit_all_the_same() -> None:
    """Where no run is as long as an alarm takes, as with a window a day, each window counts as one."""
    scores = RNG.exponential(size=50)

    assert limits(scores, 0.003, on_delay=3, runs=50) == limits(scores, 0.003)


def test_a_machine_that_is_always_the_same_is_not_always_in_alarm() -> None:
    """Where healthy windows all have one score, a single alarm without an end would be within the budget."""
    told = limits(np.ones(5000), 1.0, on_delay=3)

    assert told.method == "counted"
    assert told.warning > 1.0
