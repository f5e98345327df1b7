"""Fitting the three models on matrices: detector, classifier, life. Every fit repeats by its seed.

Inputs are float32 rows without NaN (``models.export.graph.without_missing``), as the exported graphs see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightgbm as lgb
import numpy as np
from sklearn.ensemble import IsolationForest

from models.evaluation.metrics import alarm_onsets
from models.export.isolation_forest import reference_scores
from models.records import BoolArray, Float32Array, FloatArray, Int64Array

QUANTILES = (0.1, 0.5, 0.9)
# A class is small, its threads would mostly wait for each other, and classes are trained side by side.
THREADS = 1
_HOURS_PER_DAY = 24.0
_SPREAD = 0.1
_FOLDS = 3


@dataclass(frozen=True, kw_only=True)
class ForestSettings:
    """An isolation forest: number of *trees*, rows of each, and the share of inputs each tree may look at."""

    trees: int = 100
    rows_per_tree: int = 1024
    inputs_share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class BoostingSettings:
    """A boosted model: *rounds* of trees with *leaves*, learning *rate*, least rows a leaf, share of inputs a tree."""

    rounds: int = 60
    leaves: int = 6
    rate: float = 0.1
    rows_per_leaf: int = 30
    inputs_share: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Detector outputs from which a window is in zone warning and in zone alarm."""

    warning: float
    alarm: float


@dataclass(frozen=True, kw_only=True)
class LifeModel:
    """One booster a quantile, and the *widening* that conformal calibration asks of the interval.

    The interval told is ``[p10 - widening * (p50 + margin_h), p90 + widening * (p50 + margin_h)]``, all held to 0 and
    *highest_h*.
    """

    boosters: tuple[lgb.Booster, ...]
    widening: float
    margin_h: float
    highest_h: float

    def predict(self, rows: Float32Array) -> FloatArray:
        """Return P10, P50, P90 in hours, shape ``(n, 3)``; they may cross."""
        raw = np.column_stack([np.asarray(booster.predict(rows), np.float64) for booster in self.boosters])
        reach = self.widening * (raw[:, 1] + self.margin_h)
        return np.clip(np.column_stack([raw[:, 0] - reach, raw[:, 1], raw[:, 2] + reach]), 0.0, self.highest_h)


def fit_forest(rows: Float32Array, settings: ForestSettings, seed: int) -> IsolationForest:
    """Fit an isolation forest to healthy *rows* ``(n, f)``."""
    forest = IsolationForest(
        n_estimators=settings.trees,
        max_samples=min(settings.rows_per_tree, len(rows)),
        max_features=settings.inputs_share,
        n_jobs=1,
        random_state=seed,
    )
    return forest.fit(rows)


def cross_scores(rows: Float32Array, fold: Int64Array, settings: ForestSettings, seed: int) -> FloatArray:
    """Return the score of each row by a forest that has not seen its *fold*, shape ``(n,)``."""
    scores = np.empty(len(rows), np.float64)
    for own in np.unique(fold):
        inside = fold == own
        others = rows[~inside] if (~inside).any() else rows
        scores[inside] = reference_scores(fit_forest(others, settings, seed), rows[inside])
    return scores


def fit_limits(
    scores: FloatArray, breaks: BoolArray, *, step_h: float, on_delay_windows: int, false_alarms_per_asset_day: float
) -> Limits:
    """Return the lowest warning limit that stays within the budget of false alarms on healthy windows.

    Args:
        scores: Of healthy windows, shape ``(n,)``, by asset and time; by a detector that has not seen them.
        breaks: Where a new run of adjacent windows starts, shape ``(n,)``.
        step_h: Hours from one window to the next.
        on_delay_windows: Windows in a row above the limit that make one alarm.
        false_alarms_per_asset_day: The budget.
    """
    allowed = false_alarms_per_asset_day * len(scores) * step_h / _HOURS_PER_DAY
    runs = np.split(np.arange(len(scores)), np.flatnonzero(breaks)[1:] if breaks[0] else np.flatnonzero(breaks))
    warning = float(scores.max())
    for limit in np.quantile(scores, np.linspace(0.999, 0.8, 200)):
        alarms = sum(int(alarm_onsets(scores[run] >= limit, on_delay_windows).sum()) for run in runs)
        if alarms > allowed:
            break
        warning = float(limit)
    # A third of the way further out than the warning lies from the ordinary window.
    return Limits(warning=warning, alarm=warning + (warning - float(np.median(scores))) / 3.0)


def fit_classifier(
    rows: Float32Array, mode: Int64Array, classes: int, settings: BoostingSettings, seed: int
) -> lgb.Booster:
    """Fit a multiclass booster to *rows* ``(n, f)`` with *mode* ``(n,)`` from 0 to *classes* - 1.

    Rare modes weigh more: each class's weight falls with the square root of its rows.
    """
    counts = np.bincount(mode, minlength=classes)
    weight = np.sqrt(len(mode) / (classes * np.maximum(counts, 1)))[mode]
    return _boost({"objective": "multiclass", "num_class": classes}, rows, mode, settings, seed, weight)


def fit_life(
    rows: Float32Array, life_h: FloatArray, life: Int64Array, settings: BoostingSettings, *, margin_h: float, seed: int
) -> LifeModel:
    """Fit one booster a quantile to *life_h* ``(n,)`` and calibrate the interval on whole lives.

    Args:
        rows: Shape ``(n, f)``.
        life_h: Hours left, shape ``(n,)``.
        life: Which life each row is of, shape ``(n,)``. Each third of the lives is told by a fit that has not seen
            it, to measure how far the interval must be widened; the fit that is released sees all lives.
        settings: Of the boosters.
        margin_h: Hours of widening that do not depend on the life told.
        seed: Of the draws.
    """
    # Lives at the cap are all the same number, and so would be all gradients of a quantile fit that starts there:
    # it would never split. A spread above the cap parts them; what is told is held to the cap.
    cap = float(life_h.max())
    capped = life_h >= cap
    spread = np.where(capped, cap * (1.0 + _SPREAD * np.random.default_rng(seed).random(len(life_h))), life_h)
    fold = np.unique(life, return_inverse=True)[1] % _FOLDS
    model = LifeModel(boosters=(), widening=0.0, margin_h=margin_h, highest_h=cap)
    told = np.full((len(rows), len(QUANTILES)), np.nan)
    for own in np.unique(fold) if fold.any() else ():
        inside = fold == own
        trial = replace(model, boosters=_quantiles(rows[~inside], spread[~inside], settings, seed))
        told[inside] = trial.predict(rows[inside])
    asked = ~capped & np.isfinite(told[:, 1])
    widening = _widening(told[asked], life_h[asked], margin_h) if asked.any() else 0.0
    return replace(model, boosters=_quantiles(rows, spread, settings, seed), widening=widening)


def _widening(told: FloatArray, life_h: FloatArray, margin_h: float) -> float:
    """Return the cross-conformal widening, relative to P50 plus the margin.

    Source:
        Y. Romano, E. Patterson, E. J. Candès, *Conformalized Quantile Regression*, NeurIPS 2019.
    """
    outside = np.maximum(told[:, 0] - life_h, life_h - told[:, 2]) / (told[:, 1] + margin_h)
    return max(float(np.quantile(outside, QUANTILES[-1] - QUANTILES[0])), 0.0)


def _quantiles(
    rows: Float32Array, life_h: FloatArray, settings: BoostingSettings, seed: int
) -> tuple[lgb.Booster, ...]:
    return tuple(
        _boost({"objective": "quantile", "alpha": quantile}, rows, life_h, settings, seed) for quantile in QUANTILES
    )


def _boost(
    objective: dict[str, Any],
    rows: Float32Array,
    target: Sequence[float] | FloatArray | Int64Array,
    settings: BoostingSettings,
    seed: int,
    weight: FloatArray | None = None,
) -> lgb.Booster:
    parameters = objective | {
        "num_leaves": settings.leaves,
        "learning_rate": settings.rate,
        "min_data_in_leaf": max(1, min(settings.rows_per_leaf, len(rows) // 20)),
        "feature_fraction": settings.inputs_share,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "max_bin": 63,
        "num_threads": THREADS,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
    }
    data = lgb.Dataset(np.ascontiguousarray(rows), np.ascontiguousarray(target), weight=weight, params=parameters)
    return lgb.train(parameters, data, settings.rounds)
