"""Learning which failure mode a window is on its way to: a booster a mode, calibrated, with limits, on unseen groups.

A mode is learnt against everything else, since modes do not exclude each other. All that is chosen (the form of the
trees, calibration, thresholds, importance) is chosen by answers to rows of groups (assets, or rows where rows are
independent) that the fit had not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from cloud_service.training.lesson import Lesson
from cloud_service.training.split_gaps import in_the_middle
from models.export.failure import export_failure, probabilities_of
from models.export.graph import without_missing
from models.export.lightgbm import thresholds_of
from models.failure.modes import FailureModes
from models.records import BoolArray, Float32Array, FloatArray, Int64Array

THREADS: Final = 1
BAND: Final = (0.05, 0.95)
_ROWS_EXPLAINED = 400
_NEWTON_STEPS = 50
_LEAST = 1e-9
_LEAST_HESSIAN = 1e-3


@dataclass(frozen=True, kw_only=True)
class TreeForm:
    """How the trees of a booster grow.

    Attributes:
        name: For reports.
        rounds: Trees of each mode.
        leaves: Of each tree.
        rate: Of learning.
        rows_per_leaf: At least so many rows in a leaf.
        share_per_leaf: A leaf holds at least so much of what all rows of the mode weigh at the start, 0 to 1. A high
            share keeps a leaf from being one event of many alike windows.
        bins: Into which each input is cut at most.
        rows_per_bin: At least so many rows in a bin; 1: every value is told apart.
        inputs_share: Of the inputs that a tree may look at.
        l2: Penalty on leaf values.
        with_slow: Whether inputs that tell groups apart more than windows are looked at; see `FailureLesson.slow`.
    """

    name: str
    rounds: int = 40
    leaves: int = 6
    rate: float = 0.1
    rows_per_leaf: int = 20
    share_per_leaf: float = 0.4
    bins: int = 255
    rows_per_bin: int = 3
    inputs_share: float = 1.0
    l2: float = 1.0
    with_slow: bool = True


BROAD: Final = TreeForm(name="broad")
"""For failures that announce themselves over many windows: no leaf is a single event."""

FINE: Final = replace(BROAD, name="fine", rounds=30, bins=20_000, rows_per_bin=1)
"""For failures where a limit is passed: every value is told apart."""

MOVING: Final = replace(BROAD, name="moving", with_slow=False)
"""For few assets: their age, make and time since a repair say which of them it is, rather than how it is."""


@dataclass(frozen=True, kw_only=True)
class FailureSettings:
    """How failure modes are learnt.

    Attributes:
        forms: The forms of trees that are tried, the preferred first: each mode takes the first of which the log loss
            on unseen groups is the least, or more by no more than its standard error over groups.
        folds: Of the groups.
        rows_at_most: Rows that a fit learns from; of healthy ones every so many is taken, with as much more weight.
        balance: 0: rows of a rare mode weigh as any other; 1: as much as all others together; between: by powers.
        horizon_h: Within how many hours a failure is foretold; 0 where rows are independent.
    """

    forms: tuple[TreeForm, ...] = (BROAD,)
    folds: int = 4
    rows_at_most: int = 16_000
    balance: float = 0.0
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
            thresholds=(0.5,) * len(lesson.names),
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
    return everything.with_thresholds(row_thresholds(everything.unseen_probabilities(), lesson.hits))


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


def row_thresholds(probabilities: FloatArray, hits: BoolArray) -> tuple[float, ...]:
    """Return for each mode the threshold of the best F1 over rows, 0.5 where the probabilities are not known.

    Args:
        probabilities: Of none and of each mode, shape ``(n, 1 + modes)``.
        hits: Shape ``(n, modes)``.
    """
    asked = np.isfinite(probabilities).all(axis=1)
    return tuple(
        best_threshold(probabilities[asked, 1 + mode], hits[asked, mode]) if hits[asked, mode].any() else 0.5
        for mode in range(hits.shape[1])
    )


def best_threshold(
    probability: FloatArray, hit: BoolArray, otherwise: BoolArray | None = None, *, least_hits: float = 0.0
) -> float:
    """Return the threshold of the best F1; of those that are as good but for half a hit, the nearest to one half.

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
    good = f1[ends] >= f1[ends].max() - 0.5 / max(hit.sum(), 1)
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


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A form of trees, tried on groups that the fits had not seen; ``tried`` is False for modes of one group alone.

    ``loss`` is the log loss of each row and mode, shape ``(n, modes)``.
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
        loss = np.logaddexp(0.0, np.where(lesson.hits, -log_odds, log_odds))
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

    Source:
        L. Breiman, J. Friedman, R. Olshen, C. Stone, *Classification and Regression Trees*, 1984 (the rule of one
        standard error), on differences within groups.
    """
    least = min(trials, key=lambda trial: float(trial.loss[:, mode].mean()))
    of_row = np.unique(group, return_inverse=True)[1]
    for trial in trials:
        more = np.bincount(of_row, weights=trial.loss[:, mode] - least.loss[:, mode])
        error = float(more.std() * np.sqrt(len(more)))
        if more.sum() <= error:
            return trial
    return least


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
        balanced = np.where(hit, weight * _balance(weight, hit, settings.balance), weight)
        share = float(balanced[hit].sum() / balanced.sum())
        grown = {
            "min_data_in_leaf": max(1, min(form.rows_per_leaf, int(hit.sum()) // 2)),
            "min_sum_hessian_in_leaf": max(
                form.share_per_leaf * float(balanced[hit].sum()) * share * (1.0 - share), _LEAST_HESSIAN
            ),
        }
        data.set_label(hit.astype(np.float64)).set_weight(balanced)
        boosters[mode] = in_the_middle(lgb.train(parameters | grown, data, form.rounds), rows)
    return boosters


def tree_parameters(form: TreeForm, seed: int) -> dict[str, Any]:
    """Return LightGBM's parameters of *form*, but for the least of a leaf that depends on the rows."""
    return {
        "objective": "binary",
        "num_leaves": form.leaves,
        "learning_rate": form.rate,
        "min_data_in_leaf": form.rows_per_leaf,
        "min_sum_hessian_in_leaf": _LEAST_HESSIAN,
        "max_bin": form.bins,
        "min_data_in_bin": form.rows_per_bin,
        "feature_fraction": form.inputs_share,
        "lambda_l2": form.l2,
        "feature_pre_filter": False,
        "num_threads": THREADS,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
    }


def _balance(weight: FloatArray, hit: BoolArray, power: float) -> float:
    """Return by how much more a row of the mode weighs."""
    own = float(weight[hit].sum())
    return (float(weight.sum() - own) / own) ** power if own > 0.0 else 1.0


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
