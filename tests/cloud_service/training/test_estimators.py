from dataclasses import replace

import numpy as np
import pytest

from cloud_service.training.estimators import (
    BoostingSettings,
    ForestSettings,
    cross_scores,
    fit_classifier,
    fit_life,
    fit_limits,
)
from models.evaluation.metrics import alarm_onsets, coverage
from models.records import Float32Array

BRIEF = BoostingSettings(rounds=30)
EAGER = BoostingSettings(rounds=80, leaves=16, rows_per_leaf=5, inputs_share=1.0)


@pytest.fixture(scope="module")
def healthy() -> Float32Array:
    return np.random.default_rng(1).normal(size=(1200, 5)).astype(np.float32)


def test_limits_keep_the_budget_of_false_alarms(healthy: Float32Array) -> None:
    scores = cross_scores(healthy, np.arange(1200) // 600, ForestSettings(trees=25), seed=1)
    breaks = np.arange(1200) % 300 == 0

    limits = fit_limits(scores, breaks, step_h=1.0, on_delay_windows=1, false_alarms_per_asset_day=0.2)

    alarms = alarm_onsets(scores >= limits.warning, 1).sum()
    assert 0 < alarms <= 0.2 * 1200 / 24
    assert limits.alarm > limits.warning


def test_a_larger_budget_gives_a_lower_limit() -> None:
    scores = np.random.default_rng(2).random(2000)
    breaks = np.zeros(2000, np.bool_)
    strict, loose = (
        fit_limits(scores, breaks, step_h=1.0, on_delay_windows=2, false_alarms_per_asset_day=budget)
        for budget in (0.02, 0.5)
    )
    assert loose.warning < strict.warning


def test_cross_scores_come_from_a_forest_that_has_not_seen_the_fold(healthy: Float32Array) -> None:
    """Control: what is scored by its own forest looks more ordinary than it is."""
    shifted = healthy.copy()
    shifted[:600] += 8.0
    fold = np.arange(1200) // 600

    apart = cross_scores(shifted, fold, ForestSettings(trees=25), seed=1)
    together = cross_scores(shifted, np.zeros(1200, np.int64), ForestSettings(trees=25), seed=1)

    assert apart.mean() > together.mean() + 0.1


def test_a_rare_mode_is_still_told(healthy: Float32Array) -> None:
    mode = np.zeros(1200, np.int64)
    mode[::40] = 1
    rows = healthy.copy()
    rows[::40, 2] += 6.0
    booster = fit_classifier(rows, mode, 2, BRIEF, seed=1)
    told = np.asarray(booster.predict(rows)).argmax(axis=1)
    assert (told[::40] == 1).mean() > 0.9


def test_the_widened_interval_covers_lives_it_has_not_seen() -> None:
    """Control: without the widening it covers far fewer than the eight of ten it speaks of."""
    rng = np.random.default_rng(4)
    life = np.repeat(np.arange(40), 80)
    hours = np.tile(np.arange(80.0)[::-1], 40)
    shift = rng.normal(scale=12.0, size=40)[life]
    name = rng.normal(size=40)[life]
    rows = np.column_stack([hours + shift, name]).astype(np.float32)
    seen = life < 12

    model = fit_life(rows[seen], hours[seen], life[seen], EAGER, margin_h=20.0, seed=1)
    covered, bare = (
        coverage(hours[~seen], told[:, 0], told[:, 2])
        for told in (one.predict(rows[~seen]) for one in (model, replace(model, widening=0.0)))
    )

    assert covered > 0.7 > bare


def test_the_seed_repeats(healthy: Float32Array) -> None:
    mode = (healthy[:, 0] > 0).astype(np.int64)
    first, second = (fit_classifier(healthy, mode, 2, BRIEF, seed=3).predict(healthy) for _ in range(2))
    np.testing.assert_array_equal(first, second)
