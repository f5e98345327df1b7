"""Quantiles around predicted lives hold for lives that they were not measured on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cloud_service.training.conformal import (
    LEVELS,
    Calibration,
    covered,
    fit_levels,
    fit_offsets,
    fit_spread,
    life_weights,
)
from models.prognosis.prognoses import Prognoses, Variant, quantiles
from models.records import FloatArray, Int64Array

CAP = 100.0


def errors_of(lives: int, seed: int) -> tuple[FloatArray, FloatArray, Int64Array]:
    """Return predictions, lives and the life of each window; errors are of whole lives and grow with what is left."""
    rng = np.random.default_rng(seed)
    life = np.repeat(np.arange(lives), 60)
    truth = np.tile(np.linspace(1.0, 80.0, 60), lives)
    error = 0.15 * truth * (rng.normal(size=lives)[life] + 0.5 * rng.normal(size=len(life)))
    return np.clip(truth + error, 0.0, CAP), truth, life


def told(predicted: FloatArray, fitted: tuple[FloatArray, FloatArray, Int64Array]) -> FloatArray:
    offsets = fit_offsets(*fitted, cap_h=CAP)
    variant = Variant(weights={"trees": 1.0}, offsets=offsets, least_windows=1)
    return quantiles(Prognoses(cap_h=CAP, whole=variant), variant, predicted, np.full(len(predicted), 50))


def test_eight_in_ten_lives_not_seen_lie_between() -> None:
    """Over many draws of lives, the share that is promised holds within 3 %, early and late in a life."""
    shares, early = [], []
    for seed in range(12):
        around = told(errors_of(50, 100 + seed)[0], errors_of(60, seed))
        _, truth, life = errors_of(50, 100 + seed)
        shares.append(covered(around, truth, life_weights(life)))
        late = truth > 50.0
        early.append(covered(around[late], truth[late], life_weights(life[late])))

    assert np.mean(shares) == pytest.approx(0.8, abs=0.03)
    assert np.mean(early) == pytest.approx(0.8, abs=0.04)


def test_offsets_grow_where_errors_do() -> None:
    """Near the failure a life is told more closely than far from it."""
    around = told(np.array([5.0, 70.0]), errors_of(60, 1))

    assert around[1, 2] - around[1, 0] > 3.0 * (around[0, 2] - around[0, 0])


def test_each_life_counts_the_same() -> None:
    """A life of a thousand windows weighs no more than one of ten."""
    life = np.repeat([0, 1], [1000, 10])

    assert life_weights(life)[life == 0].sum() == pytest.approx(0.5)


def test_few_lives_make_wide_quantiles() -> None:
    """The next life may err more than the worst of five: the worst is what is told."""
    predicted, truth, life = errors_of(5, 3)
    around = told(predicted, (predicted, truth, life))

    assert covered(around, truth, life_weights(life)) > 0.9


def test_errors_shrink_as_more_is_known() -> None:
    """The spread falls with the known windows, and never rises."""
    rng = np.random.default_rng(2)
    known = np.tile(np.arange(1, 101), 40)
    life = np.repeat(np.arange(40), 100)
    errors = rng.normal(size=len(known)) * (5.0 + 40.0 / known)

    windows, spread = fit_spread(errors, life, known)

    assert list(windows) == sorted(set(windows))
    assert spread[0] > 2.0 * spread[-1]
    assert (np.diff(spread) <= 0.0).all()


def test_one_number_of_known_windows_is_a_spread_too() -> None:
    """With nothing to compare there is nothing to scale."""
    assert fit_spread(np.ones(4), np.arange(4), np.full(4, 7)) == ((7,), (1.0,))


def test_a_few_errors_among_none_do_not_spread_without_end() -> None:
    """Where eight in ten lives are told to the hour, the size of the others' errors has bounds still."""
    known = np.arange(1, 101)

    assert fit_spread(np.where(known < 15, 3.0, 0.0), known // 10, known)[1][0] == pytest.approx(5.0)


def test_numbers_of_known_windows_ascend_also_where_there_are_few() -> None:
    """A mean of equal numbers may come out a last bit below them, and is still that number."""
    known = np.repeat([2, 3, 4, 5], [7, 11, 3, 9])
    life = np.arange(len(known)) % 7

    windows, _ = fit_spread(np.ones(len(known)), life, known)

    assert all(low < high for low, high in pairwise(windows))


def test_the_upper_level_sinks_until_the_interval_holds_what_it_says() -> None:
    """Where the cap keeps lives inside, P90 gives way and P10 does not; where nothing is to be done, neither."""
    assert fit_levels(lambda _: (0.81, 0.79)) == (LEVELS, 0.81)

    (low, high), coverage = fit_levels(lambda levels: (0.05 + levels[1] - levels[0], 0.8))
    assert low == 0.1
    assert high == pytest.approx(0.88)
    assert coverage == pytest.approx(0.83)

    assert fit_levels(lambda _: (0.99, float("nan")))[0] == (0.1, 0.8)


def test_levels_move_outward_where_lives_lie_outside() -> None:
    """With too little between P10 and P90 both give way, within what levels can be."""
    (low, high), coverage = fit_levels(lambda levels: (levels[1] - levels[0] - 0.07, 0.8))

    assert coverage >= 0.77 - 1e-9
    assert low == pytest.approx(1.0 - high)
    assert fit_levels(lambda _: (0.1, 0.1))[0] == pytest.approx((0.01, 0.99))


def test_lives_below_the_cap_do_not_pay_for_the_healthy_ones() -> None:
    """Where nearly all lives are at the cap, the P90 sinks only as long as it holds for those that are not."""
    (low, high), coverage = fit_levels(lambda levels: (0.95, levels[1] - levels[0] - 0.015))

    assert low == 0.1
    assert high == pytest.approx(0.89)
    assert coverage == 0.95


def test_the_interval_holds_where_errors_change_with_what_is_told() -> None:
    """A narrow range of predictions with errors of its own has an interval of its own."""
    rng = np.random.default_rng(5)
    life = np.repeat(np.arange(60), 60)
    predicted = np.tile(np.linspace(0.5, 99.5, 60), 60)
    odd = (predicted > 60.0) & (predicted < 70.0)
    truth = predicted + rng.normal(size=len(life)) * np.where(odd, 8.0, 1.0)

    around = told(predicted, (predicted, np.clip(truth, 0.0, CAP), life))

    inside = (truth >= around[:, 0]) & (truth <= around[:, 2])
    assert inside[odd].mean() == pytest.approx(0.8, abs=0.06)


def test_coverage_is_told_of_all_lives_and_of_those_below_the_cap() -> None:
    """Lives at the cap lie below a P90 that is the cap; without lives below it there is no share of them."""
    predicted, truth, life = errors_of(30, 4)
    levels, fold = (0.1, 0.9), life % 3

    def shares(truth: FloatArray) -> tuple[float, float]:
        known = np.full(len(life), 5)
        judge = Calibration(told_h=predicted, life_h=truth, life=life, known=known, cap_h=40.0, spreads=False)
        return judge.cross_coverage(fold, levels)

    every, below = shares(np.minimum(truth, 40.0))
    assert below == pytest.approx(0.8, abs=0.06)
    assert every > below
    assert np.isnan(shares(np.full(len(life), 40.0))[1])


def test_what_is_known_is_judged_among_like_predictions() -> None:
    """Where windows with a long past are near the failure, their small errors come from that, not from the past."""
    rng = np.random.default_rng(6)
    life = np.repeat(np.arange(40), 50)
    known = np.tile(np.arange(10, 60), 40)
    predicted = np.where(rng.random(len(life)) < known / 60.0, 10.0, 50.0) + rng.random(len(life))
    truth = predicted * (1.0 + 0.2 * rng.normal(size=len(life)))
    judge = Calibration(told_h=predicted, life_h=truth, life=life, known=known, cap_h=CAP, spreads=True)

    variant = judge.variant(np.ones(len(life), np.bool_), LEVELS)

    assert min(variant.spread) > 0.8
