"""From raw scores to decisions, chosen by answers to groups a fit had not seen: folds, calibration, thresholds."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.records import BoolArray, FloatArray, Int64Array

GUESS: Final = 0.5
"""The threshold of a mode that could not be tried."""
_NEWTON_STEPS: Final = 50
_LEAST: Final = 1e-9


def folds_of(group: Int64Array, hits: BoolArray, folds: int, seed: int) -> Int64Array:
    """Return the fold of each row, shape ``(n,)``: groups stay together, and each mode's groups are dealt out evenly.

    Args:
        group: Shape ``(n,)``.
        hits: Shape ``(n, modes)``; a group counts by the rarest mode it has.
        folds: How many, 2 or more.
        seed: Of the dealing.
    """
    groups, of_row = np.unique(group, return_inverse=True)
    has = np.zeros((len(groups), hits.shape[1]), np.bool_)
    np.logical_or.at(has, of_row, hits)
    rarity = np.argsort(np.argsort(has.sum(axis=0), kind="stable"), kind="stable")
    kind = np.where(has, rarity, hits.shape[1]).min(axis=1, initial=hits.shape[1])
    order = np.random.default_rng(seed).permutation(len(groups))
    dealt = np.empty(len(groups), np.int64)
    dealt[order[np.argsort(kind[order], kind="stable")]] = np.arange(len(groups)) % folds
    return dealt[of_row]


def calibration(raw: FloatArray, hit: BoolArray) -> tuple[float, float]:
    """Return slope (not below 0) and offset that make log odds of raw scores.

    Args:
        raw: Scores of rows the fit had not seen, shape ``(n,)``.
        hit: What came true, shape ``(n,)``.

    Source:
        J. Platt, *Probabilistic outputs for support vector machines*, 1999, with its targets that leave room for what
        few cases do not show; solved by Newton's method with a halved step where it would not descend.
    """
    positives, negatives = float(hit.sum()), float((~hit).sum())
    target = np.where(hit, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    columns = np.column_stack([raw, np.ones(len(raw))])
    answer = np.array([0.0, np.log((positives + 1.0) / (negatives + 1.0))])

    def loss(at: FloatArray) -> float:
        odds = columns @ at
        return float((np.logaddexp(0.0, odds) - target * odds).sum())

    for _ in range(_NEWTON_STEPS):
        odds = columns @ answer
        chance = 1.0 / (1.0 + np.exp(-odds))
        gradient = columns.T @ (chance - target)
        curvature = (columns * (chance * (1.0 - chance))[:, None]).T @ columns + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        before, length = loss(answer), 1.0
        while loss(answer - length * step) > before and length > 1e-6:
            length /= 2.0
        answer = answer - length * step
        if np.abs(length * step).max() < 1e-8:
            break
    if answer[0] < 0.0:
        return 0.0, float(np.log((positives + 1.0) / (negatives + 1.0)))
    return float(answer[0]), float(answer[1])


def row_thresholds(probabilities: FloatArray, hits: BoolArray) -> tuple[float, ...]:
    """Return for each mode the threshold of the best F1 over rows, 0.5 where the probabilities are not known.

    Args:
        probabilities: Of none and of each mode, shape ``(n, 1 + modes)``.
        hits: Shape ``(n, modes)``.
    """
    asked = np.isfinite(probabilities).all(axis=1)
    return tuple(
        best_threshold(probabilities[asked, 1 + mode], hits[asked, mode]) if hits[asked, mode].any() else GUESS
        for mode in range(hits.shape[1])
    )


def best_threshold(
    probability: FloatArray, hit: BoolArray, otherwise: BoolArray | None = None, *, least_hits: float = 0.0
) -> float:
    """Return the threshold of the best F1; of those around it as good but for one hit, the nearest to one half.

    One hit is luck; calibrated probabilities part at one half.

    Args:
        probability: Shape ``(n,)``.
        hit: What is to be told, shape ``(n,)``.
        otherwise: Rows that are told by something else anyway, shape ``(n,)``.
        least_hits: F1 must gain by more than so many hits are of all, or nothing more is told.

    Returns:
        A number above 0 and below 1; infinite where no threshold is better than telling nothing more.
    """
    told = np.zeros(len(hit), np.bool_) if otherwise is None else otherwise
    order = np.argsort(-probability, kind="stable")
    more = ~told[order]
    right = (told & hit).sum() + np.cumsum(more & hit[order])
    f1 = 2.0 * right / (told.sum() + np.cumsum(more) + hit.sum())
    before = 2.0 * (told & hit).sum() / max(told.sum() + hit.sum(), 1)
    ordered = probability[order]
    ends = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True))
    if f1[ends].max() <= before + least_hits / max(hit.sum(), 1):
        return np.inf
    good = f1[ends] >= f1[ends].max() - 1.0 / max(hit.sum(), 1)
    best = int(f1[ends].argmax())
    first, last = best, best
    while first > 0 and good[first - 1]:
        first -= 1
    while last + 1 < len(ends) and good[last + 1]:
        last += 1
    # Any number from just above the next row's probability to the first row's gives answers as good.
    return _between(float(np.append(ordered, 0.0)[ends[last] + 1]), float(ordered[ends[first]]))


def _between(low: float, high: float) -> float:
    """Return one half where it lies above *low* and up to *high*, else the middle of the two in log odds."""
    if low < 0.5 <= high:
        return 0.5
    odds = np.log(np.clip([low, high], _LEAST, 1.0 - _LEAST) / (1.0 - np.clip([low, high], _LEAST, 1.0 - _LEAST)))
    return float(np.clip(1.0 / (1.0 + np.exp(-odds.mean())), np.nextafter(low, 1.0), high))
