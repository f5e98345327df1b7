"""Learning which failure mode a window is on its way to: a booster a mode, calibrated, with limits, on unseen groups.

A mode is learnt against everything else, since modes do not exclude each other. All that is chosen (the form of the
trees, calibration, thresholds, importance) is chosen by answers to rows of groups (assets, or rows where rows are
independent) that the fit had not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from cloud_service.training.foretelling import GUESS, calibration, folds_of, row_thresholds
from cloud_service.training.lesson import Lesson
from cloud_service.training.split_gaps import in_the_middle
from cloud_service.training.tree_forms import LEAST_HESSIAN, WIDE, TreeForm, tree_parameters
from models.export.failure import export_failure, probabilities_of
from models.export.graph import without_missing
from models.export.lightgbm import thresholds_of
from models.failure.modes import FailureModes
from models.records import BoolArray, Float32Array, FloatArray, Int64Array

BAND: Final = (0.05, 0.95)
_ROWS_EXPLAINED: Final = 400
_ERRORS_APART: Final = 2.0
_LEAST: Final = 1e-9

__all__ = [
    "FailureLesson",
    "FailureSettings",
    "FittedFailure",
    "TreeForm",
    "failure_lesson",
    "fit_failure",
    "fit_modes",
]


@dataclass(frozen=True, kw_only=True)
class FailureSettings:
    """How failure modes are learnt.

    Attributes:
        forms: The forms of trees that are tried, the preferred first: each mode takes the first of which Brier's score
            on unseen groups is the least, or more by no more than two standard errors over groups.
        folds: Of the groups.
        rows_at_most: Rows that a fit learns from; of healthy ones every so many is taken, with as much more weight.
        horizon_h: Within how many hours a failure is foretold; 0 where rows are independent.
    """

    forms: tuple[TreeForm, ...] = (WIDE,)
    folds: int = 4
    rows_at_most: int = 16_000
    horizon_h: float = 24.0


@dataclass(frozen=True, kw_only=True)
class FailureLesson:
    """What failure modes are learnt from, row by row; all of it is known.

    Attributes:
        names: The failure modes.
        inputs: Shape ``(n, inputs)``; may hold NaN.
        hits: Whether a row is on its way to each mode, shape ``(n, modes)``.
        group: Rows of one group are seen together or not at all, shape ``(n,)``.
        slow: Inputs that hardly change within a group (age, make, hours since a repair), shape ``(inputs,)``; None:
            there are none.
    """

    names: tuple[str, ...]
    inputs: Float32Array
    hits: BoolArray
    group: Int64Array
    slow: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.group)

    def take(self, rows: BoolArray | NDArray[np.intp]) -> FailureLesson:
        """Return the given *rows*."""
        return replace(self, inputs=self.inputs[rows], hits=self.hits[rows], group=self.group[rows])


@dataclass(frozen=True, kw_only=True)
class FittedFailure:
    """A fitted classifier of failure modes.

    Attributes:
        modes: How its probabilities are read.
        forms: Of each mode's trees, by name.
        boosters: One a mode.
        slope: Of the calibration: log odds are slope * raw score + offset.
        offset: The same.
        unseen: Log odds of the lesson's rows by fits that had not seen their group, shape ``(n, modes)``; NaN where
            there were none.
        notes: Sentences: what could not be learnt or chosen as it should, and what was done instead.
    """

    modes: FailureModes
    forms: tuple[str, ...]
    boosters: tuple[lgb.Booster, ...] = field(repr=False)
    slope: FloatArray
    offset: FloatArray
    unseen: FloatArray = field(repr=False)
    notes: tuple[str, ...] = ()

    def raw(self, inputs: Float32Array) -> FloatArray:
        """Return each booster's raw score, shape ``(n, modes)``; NaN counts as 0."""
        rows = without_missing(inputs)
        return np.column_stack(
            [np.asarray(booster.predict(rows, raw_score=True), np.float64) for booster in self.boosters]
        )

    def probabilities(self, inputs: Float32Array) -> FloatArray:
        """Return the probabilities of none and of each mode, shape ``(n, 1 + modes)``, as the exported graph must."""
        return probabilities_of(self.raw(inputs) * self.slope + self.offset)

    def unseen_probabilities(self) -> FloatArray:
        """Return the same for the lesson's rows by fits that had not seen them; NaN where there were none."""
        return probabilities_of(self.unseen)

    def contributions(self, inputs: Float32Array, mode: Int64Array) -> FloatArray:
        """Return how much each input adds to the raw score of a mode, shape ``(n, inputs + 1)``; the last is the rest.

        A row adds up to the raw score of its mode (SHAP values of the trees).

        Args:
            inputs: Shape ``(n, inputs)``.
            mode: Which of ``modes.names`` each row is asked about, shape ``(n,)``.

        Source:
            S. M. Lundberg et al., *From local explanations to global understanding with explainable AI for
            trees*, Nature Machine Intelligence 2 (2020) 56-67.
        """
        rows = without_missing(inputs)
        told = np.zeros((len(rows), rows.shape[1] + 1))
        for number in np.unique(mode).tolist():
            own = np.flatnonzero(mode == number)
            told[own] = np.asarray(self.boosters[number].predict(rows[own], pred_contrib=True), np.float64)
        return told

    def export(self) -> bytes:
        """Return the classifier with its calibration as an ONNX graph."""
        return export_failure(self.boosters, self.slope.tolist(), self.offset.tolist())

    def splits(self) -> list[tuple[int, float]]:
        """Return each split of the trees as ``(input, threshold)``, for the parity gate."""
        return [split for booster in self.boosters for split in thresholds_of(booster)]

    def with_thresholds(self, thresholds: Sequence[float]) -> FittedFailure:
        """Return the same with other *thresholds*."""
        return replace(self, modes=replace(self.modes, thresholds=tuple(float(limit) for limit in thresholds)))


def fit_failure(lesson: Lesson, settings: FailureSettings, seed: int) -> FittedFailure | None:
    """Fit the failure modes of *lesson*, None where it has none; windows of which nobody knows are left out.

    Args:
        lesson: Windows of training assets.
        settings: How.
        seed: Of the draws.
    """
    learnt = failure_lesson(lesson)
    return fit_modes(learnt, settings, seed) if learnt.names else None


def failure_lesson(lesson: Lesson) -> FailureLesson:
    """Return what *lesson* tells of failure modes, asset by asset."""
    known = lesson.mode >= 0
    return FailureLesson(
        names=lesson.modes[1:],
        inputs=lesson.prepared.inputs[known],
        hits=lesson.mode[known, None] == np.arange(1, len(lesson.modes)),
        group=lesson.asset[known],
    )


def fit_modes(lesson: FailureLesson, settings: FailureSettings, seed: int) -> FittedFailure:
    """Fit a booster a mode; choose its form, calibration and thresholds by answers to groups it had not seen.

    A mode that is known from one group alone cannot be tried on another: it is neither calibrated nor does its
    threshold follow from anything, which the notes say.

    Args:
        lesson: With at least one mode.
        settings: How.
        seed: Of the draws.
    """
    fold = folds_of(lesson.group, lesson.hits, settings.folds, seed)
    trials = [_Trial.of(lesson, fold, form, settings, seed) for form in settings.forms]
    modes = range(len(lesson.names))
    best = [_preferred(trials, mode, lesson.group) for mode in modes]
    boosters: dict[int, lgb.Booster] = {}
    for form in dict.fromkeys(trial.form for trial in best):
        boosters |= _boosters(lesson, form, settings, seed, [mode for mode in modes if best[mode].form is form])
    everything = FittedFailure(
        modes=FailureModes(
            names=lesson.names,
            horizon_h=settings.horizon_h,
            thresholds=(GUESS,) * len(lesson.names),
            importance=tuple(best[mode].importance[mode] for mode in modes),
            band_low=_band(lesson, BAND[0]),
            band_high=_band(lesson, BAND[1]),
        ),
        forms=tuple(trial.form.name for trial in best),
        boosters=tuple(boosters[mode] for mode in modes),
        slope=np.array([best[mode].slope[mode] for mode in modes]),
        offset=np.array([best[mode].offset[mode] for mode in modes]),
        unseen=np.column_stack([best[mode].log_odds[:, mode] for mode in modes]),
        notes=tuple(
            f"{name} is known of one asset or case alone: not calibrated, and its threshold is a guess"
            for name, tried in zip(lesson.names, best[0].tried, strict=True)
            if not tried
        ),
    )
    limits = row_thresholds(everything.unseen_probabilities(), lesson.hits)
    return everything.with_thresholds(np.where(best[0].tried, limits, GUESS).tolist())


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A form of trees, tried on groups that the fits had not seen; ``tried`` is False for modes of one group alone.

    ``loss`` is the squared error of the probability (Brier's score) of each row and mode, shape ``(n, modes)``.
    """

    form: TreeForm
    slope: FloatArray
    offset: FloatArray
    log_odds: FloatArray
    loss: FloatArray
    importance: tuple[tuple[float, ...], ...]
    tried: BoolArray

    @classmethod
    def of(
        cls, lesson: FailureLesson, fold: Int64Array, form: TreeForm, settings: FailureSettings, seed: int
    ) -> _Trial:
        modes = len(lesson.names)
        tried = np.array([len(np.unique(fold[lesson.hits[:, mode]])) > 1 for mode in range(modes)])
        raw = np.zeros(lesson.hits.shape)
        magnitude = np.zeros((modes, lesson.inputs.shape[1]))
        rows = without_missing(lesson.inputs)
        for own in np.unique(fold).tolist() if tried.any() else ():
            inside = np.flatnonzero(fold == own)
            boosters = _boosters(lesson.take(fold != own), form, settings, seed, np.flatnonzero(tried).tolist())
            for mode, booster in boosters.items():
                raw[inside, mode] = np.asarray(booster.predict(rows[inside], raw_score=True))
                asked = _explained(inside, lesson.hits[inside, mode])
                told = np.asarray(booster.predict(rows[asked], pred_contrib=True))[:, :-1]
                magnitude[mode] += np.abs(told).sum(axis=0)
        prior = lesson.hits.mean(axis=0)
        slope, offset = np.zeros(modes), np.log((prior + _LEAST) / (1.0 - prior + _LEAST))
        for mode in np.flatnonzero(tried).tolist():
            slope[mode], offset[mode] = calibration(raw[:, mode], lesson.hits[:, mode])
        log_odds = raw * slope + offset
        loss = (1.0 / (1.0 + np.exp(-np.clip(log_odds, -700.0, 700.0))) - lesson.hits) ** 2
        whole = magnitude.sum(axis=1, keepdims=True)
        share = np.divide(magnitude, whole, out=np.zeros_like(magnitude), where=whole > 0.0)
        return cls(
            form=form,
            slope=np.where(tried, slope, 1.0),
            offset=np.where(tried, offset, 0.0),
            log_odds=log_odds,
            loss=loss,
            importance=tuple(map(tuple, np.round(share, 9).tolist())),
            tried=tried,
        )


def _preferred(trials: Sequence[_Trial], mode: int, group: Int64Array) -> _Trial:
    """Return the first of *trials* whose loss is the least or cannot be told from it.

    Losses are told apart by two standard errors of their difference within groups. A difference of one single group
    is one standard error, whatever its size.
    """
    least = min(trials, key=lambda trial: float(trial.loss[:, mode].mean()))
    of_row = np.unique(group, return_inverse=True)[1]
    for trial in trials:
        more = np.bincount(of_row, weights=trial.loss[:, mode] - least.loss[:, mode])
        error = float(more.std() * np.sqrt(len(more)))
        if more.sum() <= _ERRORS_APART * error:
            return trial
    return least


def _boosters(
    lesson: FailureLesson, form: TreeForm, settings: FailureSettings, seed: int, modes: Sequence[int]
) -> dict[int, lgb.Booster]:
    """Return a booster for each of *modes*."""
    chosen, weight = _drawn(lesson.hits, settings.rows_at_most)
    rows, hits = without_missing(lesson.inputs[chosen]), lesson.hits[chosen]
    if not form.with_slow and lesson.slow is not None:
        rows[:, lesson.slow] = 0.0
    parameters = tree_parameters(form, seed)
    data = lgb.Dataset(np.ascontiguousarray(rows), params=parameters, free_raw_data=False).construct()
    boosters: dict[int, lgb.Booster] = {}
    for mode in modes:
        hit = hits[:, mode]
        own, whole = float(weight[hit].sum()), float(weight.sum())
        grown = {
            "min_data_in_leaf": max(1, min(form.rows_per_leaf, int(hit.sum()) // 2)),
            "min_sum_hessian_in_leaf": max(
                form.share_per_leaf * own * (own / whole) * (1.0 - own / whole), LEAST_HESSIAN
            ),
        }
        data.set_label(hit.astype(np.float64)).set_weight(weight)
        boosters[mode] = in_the_middle(lgb.train(parameters | grown, data, form.rounds), rows)
    return boosters


def _drawn(hits: BoolArray, at_most: int) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the rows that are learnt from, and what each weighs: every so many of either kind."""
    some = hits.any(axis=1)
    weight = np.zeros(len(hits))
    room = at_most - min(int(some.sum()), at_most // 2)
    for rows, most in ((np.flatnonzero(some), max(at_most // 2, 1)), (np.flatnonzero(~some), max(room, 1))):
        every = -(-len(rows) // most) or 1
        weight[rows[::every]] = every
    chosen = np.flatnonzero(weight)
    return chosen, weight[chosen]


def _explained(rows: NDArray[np.intp], hit: BoolArray) -> NDArray[np.intp]:
    """Return which *rows* are asked for contributions: those of the mode and as many others, a few hundred at most."""
    picked = [own[:: max(1, len(own) // _ROWS_EXPLAINED)] for own in (rows[hit], rows[~hit])]
    others = picked[1][:: max(1, len(picked[1]) // max(len(picked[0]), 1))]
    return np.concatenate([picked[0], others])


def _band(lesson: FailureLesson, quantile: float) -> tuple[float, ...]:
    """Return that quantile of each input over healthy rows; NaN where none has any."""
    rows = lesson.inputs[~lesson.hits.any(axis=1)]
    known = np.isfinite(rows)
    filled = np.where(known.any(axis=0), rows, 0.0) if len(rows) else np.zeros((1, rows.shape[1]))
    told = np.nanquantile(filled.astype(np.float64), quantile, axis=0)
    return tuple(np.where(known.any(axis=0), told, np.nan).tolist())
