"""Conformal calibration: where P10, P50 and P90 lie around a predicted life, measured on lives not learnt from.

A predicted life near the cap is wrong in one direction only, one near the failure hardly at all, and in between errors
are widest. So the offsets depend on the prediction: around each of some knots the errors of predictions nearby are
ranked, and the quantiles of the errors are the offsets. Windows of one life are no independent cases: each life counts
the same around a knot, and the ranks are those of lives (the next rank outward, as the life to come is one more).

Where one life in ten or more reaches the cap, the P90 is the cap: it says "this long or longer", no life lies above it,
and nine in ten lie between P10 and P90. Where there is much of that, the two would hold more than the eight lives in
ten that they stand for. So the level of the P90 is lowered until, over lives not learnt from, they hold what they say
within 3 %; but not so far that they hold less of the lives below the cap alone, or machines that wear would pay for the
many that are healthy. Between the two bounds lies the share of any machines of which no more are healthy than of those
learnt from. The P10 stays what maintenance goes by: nine in ten live longer, whatever is predicted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from models.prognosis.prognoses import Offsets, Prognoses, Variant, quantiles
from models.records import BoolArray, FloatArray, Int64Array

LEVELS: Final = (0.1, 0.9)
TOLERATED: Final = 0.03
_STEP: Final = 0.01
_LOWEST_P90: Final = 0.8
# With fewer and wider ones lives were missed where predictions near the cap turn into it, by cross-validation.
_KNOTS: Final = 20
# Of the cap: between knots that are nearer the last digits of a prediction would be told apart.
_APART_SHARE: Final = 0.02
_LEAST_LIVES: Final = 8
_NEARBY_SHARE: Final = 0.06
_SPREAD_KNOTS: Final = 8
_SMALLEST_SPREAD: Final = 0.2
_LARGEST_SPREAD: Final = 5.0
_ROUNDING: Final = 1e-6


def fit_offsets(
    predicted_h: FloatArray,
    life_h: FloatArray,
    life: Int64Array,
    *,
    cap_h: float,
    levels: tuple[float, float] = LEVELS,
    spread: FloatArray | None = None,
) -> Offsets:
    """Return the offsets under which *life_h* lies below P10 and above P90 as often as *levels* say, by the prediction.

    Args:
        predicted_h: Of windows, by models that have not learnt from their lives, 0 to *cap_h*, shape ``(n,)``.
        life_h: What was true, held to *cap_h*, shape ``(n,)``.
        life: The life that each window is of, shape ``(n,)``.
        cap_h: Longest life that is told.
        levels: Of P10 and P90.
        spread: What the offsets of each window will be multiplied by, above 0, shape ``(n,)``; None: 1.
    """
    each = life_weights(life)
    errors = (life_h - predicted_h) / (1.0 if spread is None else spread)
    knots = _knots(predicted_h, each, apart=_APART_SHARE * cap_h)
    rows = []
    for knot in knots:
        near = np.argsort(np.abs(predicted_h - knot), kind="stable")
        near = near[: _enough(each[near], life[near])]
        rows.append(_offsets(errors[near], each[near], levels, lives=len(np.unique(life[near]))))
    low, high = np.array(rows).T
    # The blend is told as it is: it is what has the smallest error.
    return Offsets(
        life_h=tuple(knots.tolist()),
        p10_h=tuple(np.clip(low, -cap_h, 0.0).tolist()),
        p50_h=(0.0,) * len(knots),
        p90_h=tuple(np.clip(high, 0.0, cap_h).tolist()),
    )


def fit_spread(
    errors: FloatArray, life: Int64Array, windows_known: Int64Array
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return numbers of known windows, and the size of the errors there as a multiple of their usual size.

    The size is what eight in ten errors keep to. It never grows with what is known: what seems so is chance, or the end
    of long lives.

    Args:
        errors: Of windows, by models that have not learnt from their lives, as multiples of how far P10 and P90 lie
            apart around such predictions, shape ``(n,)``.
        life: The life that each window is of, shape ``(n,)``.
        windows_known: How many windows of its life are known at each, shape ``(n,)``.
    """
    each = life_weights(life)
    sizes, share = np.abs(errors), LEVELS[1] - LEVELS[0]
    usual = max(_at_rank(sizes, each, share), 1e-9)
    bounds = np.unique(np.quantile(windows_known, np.linspace(0.0, 1.0, _SPREAD_KNOTS + 1)).astype(np.int64))
    known, spread = [], []
    for low, high in pairwise([*bounds[:-1].tolist(), int(bounds[-1]) + 1] if len(bounds) > 1 else [1, 2**62]):
        own = (windows_known >= low) & (windows_known < high)
        if own.any():
            known.append(max(int(np.average(windows_known[own], weights=each[own]) + _ROUNDING), 1))
            spread.append(_at_rank(sizes[own], each[own], share) / usual)
    falling = np.clip(np.minimum.accumulate(spread), _SMALLEST_SPREAD, _LARGEST_SPREAD)
    return tuple(known), tuple(falling.tolist())


def root_mean_square(errors: FloatArray, weights: FloatArray) -> float:
    """Return the root of the weighted mean of the squares of *errors*, both shape ``(n,)``."""
    return float(np.sqrt(np.average(errors**2, weights=weights)))


def fit_levels(
    coverage_of: Callable[[tuple[float, float]], tuple[float, float]],
) -> tuple[tuple[float, float], float]:
    """Return the levels of P10 and P90, and their coverage: within 3 % of what they stand for where that can be.

    With too much between them the P90 is lowered, to 0.8 at least, as long as the lives below the cap, and all of them,
    stay within 3 % too. With too little both move outward.

    Args:
        coverage_of: The share of lives not learnt from between P10 and P90 of given levels: of all, and of those below
            the cap (NaN: there are none).
    """
    low, high = LEVELS
    wanted = high - low
    coverage, _ = coverage_of(LEVELS)
    while coverage > wanted + TOLERATED and high > _LOWEST_P90 + _STEP / 2:
        lowered = round(high - _STEP, 3)
        lesser, below_cap = coverage_of((low, lowered))
        if min(lesser, np.nan_to_num(below_cap, nan=lesser)) < wanted - TOLERATED:
            return (low, high), coverage
        high, coverage = lowered, lesser
    while coverage < wanted - TOLERATED and low > _STEP * 1.5:
        low, high = round(low - _STEP, 3), round(high + _STEP, 3)
        coverage, _ = coverage_of((low, high))
    return (low, high), coverage


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was told of windows whose lives had not been learnt from, and what was true."""

    told_h: FloatArray
    life_h: FloatArray
    life: Int64Array
    known: Int64Array
    cap_h: float
    spreads: bool

    def variant(self, rows: BoolArray, levels: tuple[float, float]) -> Variant:
        """Return a variant with the offsets that *rows* ask for at *levels* of P10 and P90."""
        told_h, life_h, life, known = self.told_h[rows], self.life_h[rows], self.life[rows], self.known[rows]
        windows: tuple[int, ...] = (1,)
        spread: tuple[float, ...] = (1.0,)
        if self.spreads:
            usual = fit_offsets(told_h, life_h, life, cap_h=self.cap_h)
            apart_h = np.interp(told_h, usual.life_h, np.subtract(usual.p90_h, usual.p10_h))
            windows, spread = fit_spread((told_h - life_h) / np.maximum(apart_h, _ROUNDING * self.cap_h), life, known)
        by = np.interp(known, windows, spread)
        offsets = fit_offsets(told_h, life_h, life, cap_h=self.cap_h, levels=levels, spread=by)
        return Variant(weights={"trees": 1.0}, offsets=offsets, least_windows=1, known_windows=windows, spread=spread)

    def cross_coverage(self, fold: Int64Array, levels: tuple[float, float]) -> tuple[float, float]:
        """Return the share of lives between P10 and P90 when the offsets are always those of the other folds' lives.

        The second share is that of the lives below the cap alone, NaN where there are none.
        """
        around = np.empty((len(self.told_h), 3))
        for own in np.unique(fold):
            inside = fold == own
            variant = self.variant(~inside, levels)
            around[inside] = quantiles(
                Prognoses(cap_h=self.cap_h, whole=variant), variant, self.told_h[inside], self.known[inside]
            )
        each, below = life_weights(self.life), self.life_h < self.cap_h
        return covered(around, self.life_h, each), covered(around[below], self.life_h[below], each[below])


def life_weights(life: Int64Array) -> FloatArray:
    """Return weights by which each life counts the same, with sum 1, shape ``(n,)``."""
    _, place, counts = np.unique(life, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (counts[place] * len(counts)), np.float64)


def covered(quantiles_h: FloatArray, life_h: FloatArray, weights: FloatArray) -> float:
    """Return the share of lives between P10 and P90, both included, of *quantiles_h* ``(n, 3)``; NaN of no lives."""
    inside: BoolArray = (life_h >= quantiles_h[:, 0]) & (life_h <= quantiles_h[:, 2])
    return float((inside * weights).sum() / weights.sum()) if len(weights) else float("nan")


def _knots(predicted_h: FloatArray, weights: FloatArray, *, apart: float) -> FloatArray:
    """Return predictions, spread evenly over the predictions that there are, at least *apart*."""
    order = np.argsort(predicted_h, kind="stable")
    reached = np.cumsum(weights[order])
    shares = np.linspace(0.5, _KNOTS - 0.5, _KNOTS) / _KNOTS * reached[-1]
    knots = predicted_h[order][np.minimum(np.searchsorted(reached, shares), len(order) - 1)]
    kept = [float(predicted_h.min())]
    for knot in (*knots.tolist(), float(predicted_h.max())):
        if knot > kept[-1] + apart:
            kept.append(knot)
    return np.array(kept)


def _enough(weights: FloatArray, life: Int64Array) -> int:
    """Return how many of the nearest windows are looked at: a share of all, and of some lives at least."""
    count = int(np.searchsorted(np.cumsum(weights), _NEARBY_SHARE)) + 1
    _, firsts = np.unique(life, return_index=True)
    firsts = np.sort(firsts)
    return max(count, int(firsts[min(_LEAST_LIVES, len(firsts)) - 1]) + 1)


def _offsets(
    errors: FloatArray, weights: FloatArray, levels: tuple[float, float], *, lives: int
) -> tuple[float, float]:
    """Return the errors at the ranks of P10 and P90 for one life more than these."""
    low = levels[0] * (lives + 1) / lives - 1.0 / lives
    high = levels[1] * (lives + 1) / lives
    return _at_rank(errors, weights, low), _at_rank(errors, weights, high)


def _at_rank(values: FloatArray, weights: FloatArray, share: float) -> float:
    """Return the least of *values* up to which *share* of the weight lies; the outermost beyond 0 and 1."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order[min(int(np.searchsorted(reached, max(share, 0.0))), len(order) - 1)]])
