"""Fitting the life models: trees, heads on kernels, where asked a recurrent unit; for whole and for cut histories.

All that is chosen is chosen by cross-validation over assets: fold models say what they would have told of assets that
they have not learnt from. By that the number of trees, the ridge of the heads and the weights of the blend are set
(least squares without negative weights), and the quantiles around it. The models themselves are then fitted to all
assets.

The variant for cut histories learns from the same windows as a gateway sees them that was put in in the midst of a
life: see ``lesson.Lesson.cut``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cloud_service.training.conformal import Calibration, fit_levels, life_weights, root_mean_square
from cloud_service.training.gru import Gru, GruSettings, train_gru
from cloud_service.training.lesson import Lesson
from cloud_service.training.life_parts import FittedPrognosis, FittedVariant, VariantReport, export_prognosis
from cloud_service.training.sequence import kernel_features
from models.export.graph import without_missing
from models.features.names import sequence_columns
from models.features.specification import History
from models.prognosis.prognoses import LARGEST_WEIGHT, MAX_LIFE_H, Member, Prognoses
from models.records import BoolArray, Float32Array, FloatArray, Int64Array
from models.sequence.heads import Head, HeadStatistics

THREADS: Final = 1
_LEAST_ROWS: Final = 50
_BINS: Final = 63
_GRU_ROWS: Final = 20_000
# With fewer windows a recurrent unit learns the machines by heart.
_LEAST_GRU_ROWS: Final = 500
# Members that weigh less than this in a blend cost more than they bring.
_LEAST_WEIGHT: Final = 0.05
_KNOWN: Final = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120)
_USUAL_FACTOR: Final = 1.5


@dataclass(frozen=True, kw_only=True)
class PrognosisSettings:
    """How life models are fitted.

    Attributes:
        rounds: Numbers of trees of which the best is taken.
        leaves: Of a tree.
        rate: Learning rate.
        rows_per_leaf: Windows that a leaf has at least; fewer where there are few windows.
        inputs_share: Share of the inputs that a tree looks at.
        rows_share: Share of the windows that a tree learns from.
        ridges: Of the heads, of which the best is taken.
        folds: Of assets; as many as there are assets where those are fewer.
        least_lives: Lives that ended in a failure below which there is no life model.
        cap_h: Longest life that is told; None: the longest that was seen.
        cut_draws: How many times the windows are cut at random for the trees of the variant for cut histories.
        cut_windows: Shortest and longest stretch of a cut history; None: by the specification's longest look back.
        most_rows: Windows that a variant learns from; of more, every second, third... is taken.
        gru: Of a recurrent unit for whole histories (extra ``sequence``); None: there is none. Of fewer windows than
            20,000 it sees fewer batches, by the root of their number.
        least_windows: Known windows below which there is no prognosis, or the shortest look back where that is less.
        largest_rise: See ``models.prognosis.prognoses.Prognoses``; None: lives are told as they come.
    """

    rounds: tuple[int, ...] = (60, 120, 180, 240)
    leaves: int = 16
    rate: float = 0.05
    rows_per_leaf: int = 100
    inputs_share: float = 0.4
    rows_share: float = 0.5
    ridges: tuple[float, ...] = (300.0, 1000.0, 3000.0, 10000.0)
    folds: int = 5
    least_lives: int = 3
    cap_h: float | None = None
    cut_draws: int = 2
    cut_windows: tuple[int, int] | None = None
    most_rows: int = 60_000
    gru: GruSettings | None = None
    least_windows: int = 10
    largest_rise: float | None = None


def fit_prognosis(
    lesson: Lesson,
    settings: PrognosisSettings,
    seed: int,
    *,
    kernels: bytes | None = None,
    tell: Callable[[float], None] = lambda _share: None,
) -> FittedPrognosis | None:
    """Fit, choose, calibrate, export and prove the life models.

    Args:
        lesson: Windows of training assets; those whose ``life_h`` is known are learnt from.
        settings: How.
        seed: Of folds, cuts and trees.
        kernels: The bundle's ``kernels.onnx``; None: no heads.
        tell: Called with the share, 0 to 1, that is done.

    Returns:
        None where fewer lives than ``least_lives`` ended in a failure, or were watched long enough to say any.

    Raises:
        ParityError: If a graph does not answer as its trainer.
        SequenceExtraMissing: If a recurrent unit is asked for and JAX is not installed.
    """
    known = np.isfinite(lesson.life_h) & (lesson.event >= 0) & np.isfinite(lesson.prepared.features).any(axis=1)
    if len(np.unique(lesson.event[known])) < settings.least_lives or known.sum() < _LEAST_ROWS:
        return None
    cap_h = min(settings.cap_h or float(lesson.life_h[known].max()), MAX_LIFE_H)
    if cap_h <= 0.0:
        return None
    from_start = known & lesson.prepared.whole
    whole = _Rows.of(
        lesson, _every(from_start, settings.most_rows), _folds(lesson, from_start, settings.folds, seed), cap_h
    )
    tell(0.1)
    fitted: dict[str, FittedVariant] = {}
    # With fewer windows than the shortest look back the inputs say hardly more than the newest of them.
    least = min((*lesson.spec.history.rolling, settings.least_windows))
    if (variant := _fit(whole, settings, seed, kernels, settings.gru, least=least, spreads=False)) is not None:
        fitted["whole"] = variant
    tell(0.4)
    fold = _folds(lesson, known, settings.folds, seed)
    shortest, longest = settings.cut_windows or _cut_windows(lesson.spec.history)
    cuts = []
    for draw in range(settings.cut_draws):
        # Sequences are large, and one draw gives the heads enough.
        cut = lesson.cut(seed * 1000 + draw, shortest=shortest, longest=longest, sequences=draw == 0)
        rows = _every(known, settings.most_rows // settings.cut_draws, first=draw)
        cuts.append(_Rows.of(cut, rows, fold, cap_h))
    tell(0.5)
    # A recurrent unit without the start of a life adds nothing to trees and heads that is worth its training.
    variant = _fit(_Rows.joined(cuts), settings, seed, kernels, None, least=least, spreads=True)
    if variant is not None:
        fitted["cut"] = variant
    if not fitted:
        return None
    tell(0.9)
    prognosis = Prognoses(
        cap_h=cap_h, largest_rise=settings.largest_rise, **{name: one.variant for name, one in fitted.items()}
    )
    return export_prognosis(fitted, prognosis, seed, kernels)


def history_for(windows_of_a_life: float, *, of: tuple[str, ...] = (), sequences: bool = True) -> History:
    """Return how far back life models look where a life has about so many windows.

    The lengths are shares of a life; those that were tried (a twentieth, a fifth, three tenths) are those of
    C-MAPSS's training engines. On a gateway they cost time and memory, so long lives do not make them ever longer.

    Args:
        windows_of_a_life: From start or repair to failure.
        of: Endings of the features that have a history; empty: all.
        sequences: Whether there are sequences.
    """
    lengths = [(0.05, 20), (0.2, 60), (0.3, 120)]
    rolling = tuple(sorted({int(np.clip(round(share * windows_of_a_life), 2, most)) for share, most in lengths}))
    return History(
        rolling=rolling,
        statistics=("mean", "trend"),
        of=of,
        since_start=True,
        first_windows=int(np.clip(round(0.1 * windows_of_a_life), 2, 50)),
        cycles=True,
        sequence_windows=int(np.clip(round(0.15 * windows_of_a_life), 7, 30)) if sequences else 0,
    )


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Windows to learn from: what models are given, the capped life, whose life it is, and its fold.

    Of the channels of sequences the first ``levels`` are deviations, the others means since the life's start.
    """

    inputs: Float32Array
    sequences: Float32Array | None
    levels: int
    life_h: FloatArray
    life: Int64Array
    fold: Int64Array
    windows_known: Int64Array

    @classmethod
    def of(cls, lesson: Lesson, chosen: NDArray[np.intp], fold: Int64Array, cap_h: float) -> _Rows:
        prepared = lesson.prepared
        return cls(
            inputs=without_missing(prepared.inputs[chosen]),
            sequences=None if prepared.sequences is None else prepared.sequences[chosen],
            levels=len(sequence_columns(lesson.spec)),
            life_h=np.minimum(lesson.life_h[chosen], cap_h),
            life=lesson.event[chosen],
            fold=fold[chosen],
            windows_known=prepared.windows_known[chosen],
        )

    @classmethod
    def joined(cls, parts: Sequence[_Rows]) -> _Rows:
        """Return the rows of all *parts*; only the first has sequences, and its rows come first."""
        return cls(
            inputs=np.concatenate([part.inputs for part in parts]),
            sequences=parts[0].sequences,
            levels=parts[0].levels,
            life_h=np.concatenate([part.life_h for part in parts]),
            life=np.concatenate([part.life for part in parts]),
            fold=np.concatenate([part.fold for part in parts]),
            windows_known=np.concatenate([part.windows_known for part in parts]),
        )

    @property
    def with_sequences(self) -> int:
        """How many rows, from the first, have a sequence."""
        return 0 if self.sequences is None else len(self.sequences)


def _fit(
    rows: _Rows,
    settings: PrognosisSettings,
    seed: int,
    kernels: bytes | None,
    gru: GruSettings | None,
    *,
    least: int,
    spreads: bool,
) -> FittedVariant | None:
    """Return models of *rows*, blended and calibrated by what fold models say of lives they have not learnt from.

    None where fewer than the least lives are there, or have as many known windows as a prognosis asks.

    Args:
        rows: To learn from.
        settings: How.
        seed: Of the trees.
        kernels: Of the heads, or None.
        gru: Of the recurrent unit, or None.
        least: Known windows that are asked at least.
        spreads: Whether the quantiles depend on how many windows are known; with whole histories that is the age.
    """
    if not _enough(rows.life, rows.fold, settings.least_lives):
        return None
    told: dict[Member, FloatArray] = {}
    booster, trees, told["trees"] = _fit_trees(rows, settings, seed)
    head, statistics, ridge = None, None, float("nan")
    # The blend is judged where all members have an answer.
    judged = np.arange(len(rows.life_h))
    if kernels is not None and rows.sequences is not None:
        head, statistics, ridge, told["kernels"] = _fit_head(rows, settings, kernels)
        judged = np.arange(rows.with_sequences)
    unit = None
    if gru is not None and rows.with_sequences >= _LEAST_GRU_ROWS:
        unit, told["gru"] = _fit_gru(rows, gru, seed)
        judged = np.arange(rows.with_sequences)
    known = rows.windows_known[judged]
    least = _least_windows(told["trees"][judged] - rows.life_h[judged], rows.life[judged], known, least)
    judged = judged[known >= least]
    if not _enough(rows.life[judged], rows.fold[judged], settings.least_lives):
        return None
    answers = {member: answer[judged] for member, answer in told.items()}
    life_h, life, known = rows.life_h[judged], rows.life[judged], rows.windows_known[judged]
    each = life_weights(life)
    weights = _blend_weights(answers, life_h, each)
    cap_h = float(rows.life_h.max())
    told_h = np.clip(np.sum([weight * answers[member] for member, weight in weights.items()], axis=0), 0.0, cap_h)
    judge = Calibration(told_h=told_h, life_h=life_h, life=life, known=known, cap_h=cap_h, spreads=spreads)
    levels, held = fit_levels(lambda levels: judge.cross_coverage(rows.fold[judged], levels))
    variant = replace(judge.variant(np.ones(len(life), np.bool_), levels), weights=weights, least_windows=least)
    report = VariantReport(
        trees=trees,
        ridge=ridge,
        weights=weights,
        rmse_h={name: root_mean_square(np.clip(answer, 0.0, cap_h) - life_h, each) for name, answer in answers.items()}
        | {"blend": root_mean_square(told_h - life_h, each)},
        levels=levels,
        coverage=held,
        least_windows=least,
        lives=len(np.unique(life)),
        rows=len(rows.life_h),
    )
    return FittedVariant(
        booster=booster,
        head=head,
        statistics=statistics,
        unit=unit,
        variant=variant,
        report=report,
        inputs=rows.inputs,
        sequences=rows.sequences,
    )


def _fit_trees(rows: _Rows, settings: PrognosisSettings, seed: int) -> tuple[lgb.Booster, int, FloatArray]:
    """Return the booster, its number of trees, and what fold boosters of as many trees say of the folds left out."""
    parameters = {
        "objective": "regression",
        "learning_rate": settings.rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": max(min(settings.rows_per_leaf, len(rows.life_h) // (8 * settings.leaves)), 5),
        "feature_fraction": settings.inputs_share,
        "bagging_fraction": settings.rows_share,
        "bagging_freq": 1,
        "num_threads": THREADS,
        "deterministic": True,
        "force_col_wise": True,
        "max_bin": _BINS,
        "seed": seed,
        "verbosity": -1,
    }
    data = lgb.Dataset(rows.inputs, rows.life_h, params=parameters, free_raw_data=False).construct()
    told = np.empty((len(settings.rounds), len(rows.life_h)))
    for own in np.unique(rows.fold):
        inside = rows.fold == own
        booster = lgb.train(parameters, data.subset(np.flatnonzero(~inside).tolist()), max(settings.rounds))
        for place, rounds in enumerate(settings.rounds):
            told[place, inside] = booster.predict(rows.inputs[inside], num_iteration=rounds)
    each = life_weights(rows.life)
    errors = [root_mean_square(answer - rows.life_h, each) for answer in told]
    best = int(np.argmin(errors))
    return lgb.train(parameters, data, settings.rounds[best]), settings.rounds[best], told[best]


def _fit_head(
    rows: _Rows, settings: PrognosisSettings, kernels: bytes
) -> tuple[Head, HeadStatistics, float, FloatArray]:
    """Return the head, its statistics, its ridge, and what heads of the other folds say of the rows with sequences.

    Every sum is over a fold; what a head of the other folds needs is the sum of their sums.
    """
    if rows.sequences is None:
        raise TypeError("rows without sequences have no kernels")
    life_h, fold = rows.life_h[: rows.with_sequences], rows.fold[: rows.with_sequences]
    features = kernel_features(kernels, rows.sequences)
    by_fold = {int(own): HeadStatistics.of(features[fold == own], life_h[fold == own]) for own in np.unique(fold)}
    total = sum(by_fold.values(), start=HeadStatistics.empty(features.shape[1], 1))
    told = np.empty((len(settings.ridges), len(life_h)))
    for own, statistics in by_fold.items():
        for place, ridge in enumerate(settings.ridges):
            told[place, fold == own] = (total - statistics).solve(ridge).predict(features[fold == own])[:, 0]
    each = life_weights(rows.life[: rows.with_sequences])
    best = int(np.argmin([root_mean_square(answer - life_h, each) for answer in told]))
    return total.solve(settings.ridges[best]), total, settings.ridges[best], told[best]


def _fit_gru(rows: _Rows, settings: GruSettings, seed: int) -> tuple[Gru, FloatArray]:
    """Return the unit, and what units of the other folds say of the rows with sequences."""
    if rows.sequences is None:
        raise TypeError("rows without sequences have nothing to read")
    life_h, fold = rows.life_h[: rows.with_sequences], rows.fold[: rows.with_sequences]
    steps = round(settings.steps * min(np.sqrt(len(life_h) / _GRU_ROWS), 1.0))
    settings = replace(settings, steps=steps)
    told = np.empty(len(life_h))
    for own in np.unique(fold):
        inside = fold == own
        unit = train_gru(rows.sequences[~inside], life_h[~inside], settings, seed, levels=rows.levels)
        told[inside] = unit.predict(rows.sequences[inside])[:, 0]
    return train_gru(rows.sequences, life_h, settings, seed, levels=rows.levels), told


def _enough(life: Int64Array, fold: Int64Array, least: int) -> bool:
    """Return whether there are *least* lives or more, and others of other folds to judge them by."""
    return len(np.unique(life)) >= least and len(np.unique(fold)) > 1


def _blend_weights(answers: Mapping[Member, FloatArray], life_h: FloatArray, each: FloatArray) -> dict[Member, float]:
    """Return the weights with the least squared error, none negative; members that hardly count are left out."""
    members = list(answers)
    root = np.sqrt(each)
    while members:
        weights, _ = nnls(np.stack([answers[member] for member in members], axis=1) * root[:, None], life_h * root)
        kept = [member for member, weight in zip(members, weights, strict=True) if weight >= _LEAST_WEIGHT]
        if kept == members:
            return {member: min(float(weight), LARGEST_WEIGHT) for member, weight in zip(members, weights, strict=True)}
        members = kept
    return {min(answers, key=lambda member: root_mean_square(answers[member] - life_h, each)): 1.0}


def _least_windows(error_h: FloatArray, life: Int64Array, windows_known: Int64Array, least: int) -> int:
    """Return from how many known windows on, *least* or more, errors are at most half larger than on the whole."""
    each = life_weights(life)
    usual = root_mean_square(error_h, each)
    for low, high in pairwise([least, *(known for known in _KNOWN if known > least), np.iinfo(np.int64).max]):
        own = (windows_known >= low) & (windows_known < high)
        if own.any() and root_mean_square(error_h[own], each[own]) <= _USUAL_FACTOR * usual:
            return int(low)
    return least


def _every(known: BoolArray, most: int, *, first: int = 0) -> NDArray[np.intp]:
    """Return the *known* rows, or every second, third... from *first* on, so that they are hardly over *most*."""
    rows = np.flatnonzero(known)
    step = max(round(len(rows) / most), 1)
    return rows[first % step :: step]


def _folds(lesson: Lesson, known: BoolArray, most: int, seed: int) -> Int64Array:
    """Return the fold of each *known* window, shape ``(n,)``: by asset, or by life where only few assets failed."""
    by_asset = len(np.unique(lesson.asset[known])) >= min(most, 3)
    group = lesson.asset if by_asset else lesson.event
    groups = np.unique(group[known])
    fold_of = np.full(int(groups.max(initial=0)) + 1, -1, np.int64)
    fold_of[np.random.default_rng(seed).permutation(groups)] = np.arange(len(groups)) % min(most, max(len(groups), 1))
    fold = np.full(len(lesson), -1, np.int64)
    fold[known] = fold_of[group[known]]
    return fold


def _cut_windows(history: History) -> tuple[int, int]:
    """Return the shortest and longest stretch of cut histories, by how far back the inputs look."""
    longest = max((*history.rolling, history.sequence_windows, history.first_windows, 6))
    return max(longest // 3, 2), 2 * longest
