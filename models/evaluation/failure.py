"""Figures of merit of failure probabilities, each from plain arrays of shape ``(n,)``."""

from __future__ import annotations

import numpy as np

from models.records import BoolArray, FloatArray, Int64Array


def average_precision(probability: FloatArray, failed: BoolArray) -> float:
    """Return the area under precision over recall, as a sum of steps; NaN when nothing failed."""
    precision, recall = precision_recall_steps(probability, failed)
    return float((np.diff(recall, prepend=0.0) * precision).sum()) if failed.any() else float("nan")


def precision_recall_steps(probability: FloatArray, failed: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Return precision and recall at each threshold that makes a difference, by falling threshold."""
    order = np.argsort(-probability, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(probability[order]) < 0.0, True)) if len(order) else order
    right = np.cumsum(failed[order])[ends].astype(np.float64)
    return right / (ends + 1.0), right / max(float(failed.sum()), 1.0)


def brier(probability: FloatArray, failed: BoolArray) -> float:
    """Return the mean squared difference between probability and what came true.

    Source:
        G. W. Brier, *Verification of forecasts expressed in terms of probability*, 1950.
    """
    return float(np.mean((probability - failed) ** 2)) if len(failed) else float("nan")


def reliability(
    probability: FloatArray, failed: BoolArray, bins: int = 10
) -> tuple[FloatArray, FloatArray, Int64Array]:
    """Return mean probability, share that failed, and rows, of each bin of equal width that has a row."""
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    promised = np.bincount(place, weights=probability, minlength=bins)[filled] / count[filled]
    observed = np.bincount(place, weights=failed.astype(np.float64), minlength=bins)[filled] / count[filled]
    return promised, observed, count[filled].astype(np.int64)


def calibration_error(probability: FloatArray, failed: BoolArray, bins: int = 10) -> float:
    """Return the expected calibration error: how far promised and observed lie apart, over bins, weighed by rows.

    Source:
        M. P. Naeini, G. F. Cooper, M. Hauskrecht, *Obtaining well calibrated probabilities using Bayesian binning*,
        AAAI 2015.
    """
    if not len(failed):
        return float("nan")
    promised, observed, count = reliability(probability, failed, bins)
    return float((np.abs(promised - observed) * count).sum() / count.sum())


def matthews(told: BoolArray, failed: BoolArray) -> float:
    """Return Matthews' correlation of what was told with what failed, -1 to 1; 0 where one of them never varies."""
    hits, false = float((told & failed).sum()), float((told & ~failed).sum())
    missed, rest = float((~told & failed).sum()), float((~told & ~failed).sum())
    whole = (hits + false) * (hits + missed) * (rest + false) * (rest + missed)
    return (hits * rest - false * missed) / float(np.sqrt(whole)) if whole > 0.0 else 0.0
