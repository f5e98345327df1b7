"""Folds, calibration and thresholds, on cases one can count."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_service.training.foretelling import best_threshold, calibration, folds_of
from models.records import BoolArray, FloatArray


def test_folds_keep_groups_together_and_deal_modes_out() -> None:
    """Every fold has groups of every mode."""
    group = np.repeat(np.arange(24), 60)
    late = np.tile(np.arange(60) >= 45, 24)
    hits = np.column_stack([late & (group % 3 == mode) for mode in range(2)])
    fold = folds_of(group, hits, 4, seed=2)
    assert all(len(np.unique(fold[group == own])) == 1 for own in range(24))
    for mode in range(2):
        groups = [len(np.unique(group[(fold == own) & hits[:, mode]])) for own in range(4)]
        assert min(groups) == max(groups) == 2
    assert (folds_of(group, hits, 4, seed=3) != fold).any()


def _chance(size: int = 4000) -> tuple[FloatArray, BoolArray]:
    rng = np.random.default_rng(5)
    chance = rng.random(size)
    return chance, rng.random(size) < chance


def test_calibration_makes_log_odds_of_scores() -> None:
    """Scores that are twice the log odds less one are read so; scores that say nothing give the mean."""
    chance, hit = _chance()
    slope, offset = calibration(2.0 * np.log(chance / (1.0 - chance)) - 1.0, hit)
    assert (slope, offset) == pytest.approx((0.5, 0.5), abs=0.06)
    assert calibration(-chance, hit)[0] == 0.0


def test_the_threshold_nearest_to_one_half_is_taken_of_those_as_good() -> None:
    """A gap around one half gives one half; elsewhere the middle of the gap in log odds."""
    hit = np.array([False, False, True, True]).repeat(20)
    assert best_threshold(np.array([0.1, 0.2, 0.8, 0.9]).repeat(20), hit) == 0.5
    assert best_threshold(np.array([0.01, 0.02, 0.2, 0.3]).repeat(20), hit) == pytest.approx(0.0667, abs=1e-3)


def test_nothing_is_told_that_gains_nothing() -> None:
    """Of rows that something else tells anyway, and of luck below the least that counts."""
    hit = np.array([True, True, False, False])
    assert best_threshold(np.array([0.9, 0.8, 0.1, 0.1]), hit, otherwise=hit) == np.inf
    assert best_threshold(np.array([0.9, 0.8, 0.1, 0.1]), hit, least_hits=3.0) == np.inf
