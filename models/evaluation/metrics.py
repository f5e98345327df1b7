"""Figures of merit, each from plain arrays. Times are ns since 1970 UTC, lives hours; masks say which windows count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.records import BoolArray, FloatArray, Int64Array

NS_PER_HOUR = 3_600_000_000_000


@dataclass(frozen=True, kw_only=True)
class PointScores:
    """Point-wise detection: each 0 to 1."""

    precision: float
    recall: float
    f1: float


def point_scores(flagged: BoolArray, anomalous: BoolArray) -> PointScores:
    """Compare *flagged* with *anomalous* point by point, both shape ``(n,)``; a figure without cases is 0."""
    hits = float((flagged & anomalous).sum())
    precision = hits / max(float(flagged.sum()), 1.0)
    recall = hits / max(float(anomalous.sum()), 1.0)
    return PointScores(
        precision=precision, recall=recall, f1=2.0 * hits / max(float(flagged.sum() + anomalous.sum()), 1.0)
    )


def ranking_auc(scores: FloatArray, positive: BoolArray) -> float:
    """Return the chance, 0 to 1, that a positive scores above a negative (ties half); NaN without one of the two."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def alarm_onsets(flagged: BoolArray, on_delay_windows: int) -> BoolArray:
    """Return where *flagged*, in time order, has just been true *on_delay_windows* times in a row."""
    run = 0
    onsets = np.zeros(len(flagged), np.bool_)
    for number, flag in enumerate(flagged):
        run = run + 1 if flag else 0
        onsets[number] = run == on_delay_windows
    return onsets


def lead_hours(end_ns: Int64Array, raised: BoolArray, failed_ns: int, horizon_h: float) -> float | None:
    """Return how long before *failed_ns* the first warning inside the last *horizon_h* came; None when none did."""
    before = end_ns[raised & (end_ns <= failed_ns) & (end_ns > failed_ns - int(horizon_h * NS_PER_HOUR))]
    return float(failed_ns - before.min()) / NS_PER_HOUR if before.size else None


def confusion(truth: Int64Array, answer: Int64Array, classes: int) -> Int64Array:
    """Return counts ``(classes, classes)``: row the truth, column the answer."""
    return np.bincount(truth * classes + answer, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def macro_f1(counts: Int64Array) -> float:
    """Return the mean F1 over the classes that occur in truth or answer of *counts*, a confusion matrix."""
    hits = np.diag(counts).astype(np.float64)
    total = counts.sum(axis=0) + counts.sum(axis=1)
    occurs = total > 0
    return float(np.mean(2.0 * hits[occurs] / total[occurs])) if occurs.any() else float("nan")


def rmse(error: FloatArray) -> float:
    """Return the root mean square of *error*; NaN when there is none."""
    return float(np.sqrt(np.mean(error**2))) if error.size else float("nan")


def nasa_score(error: FloatArray) -> float:
    """Return the sum of ``exp(-e/13)-1`` for early and ``exp(e/10)-1`` for late answers; *error* is answer less truth.

    Source:
        A. Saxena, K. Goebel, D. Simon, N. Eklund, *Damage propagation modeling for aircraft engine
        run-to-failure simulation*, PHM08, 2008. Its unit is the cycle; it has no meaning for errors in other units.
    """
    late = np.clip(error, None, 500.0)
    return float(np.sum(np.where(error < 0, np.expm1(-error / 13.0), np.expm1(late / 10.0))))


def coverage(truth: FloatArray, low: FloatArray, high: FloatArray) -> float:
    """Return the share of *truth* that lies within ``[low, high]``; NaN when there is none."""
    return float(np.mean((truth >= low) & (truth <= high))) if truth.size else float("nan")


def mean_or_nan(values: Sequence[float]) -> float:
    """Return the mean of *values*, NaN when there are none."""
    return float(np.mean(values)) if values else float("nan")
