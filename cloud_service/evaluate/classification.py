"""Independent rows, of which some failed: k folds, drawn by group and balanced by failure mode.

Each fold is judged by a classifier that has learnt from the others. Columns that say why a row failed are labels of the
failure modes, never inputs: each mode is learnt by itself, against all other rows. Beside the channels the models are
given what pairs of them make physically: differences of one unit, products of two, power of torque and speed. What is
chosen (the form of the trees, calibration, thresholds) is chosen by a cross-validation inside the learnt folds.

A row counts as failed when the probability of any mode reaches that mode's threshold. Thresholds are those of the best
F1 of failed rows inside the learnt folds; a mode that does not help there is never told. The exported graph gives every
answer that is judged, and its decisions are compared with the trainer's, row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.evaluate.foretelling import agreement, asked_as_a_gateway, calibration_of, precision_recall
from cloud_service.evaluate.outcome import Figure, Outcome, Parity, Progress, over_seeds
from cloud_service.training.failure import FailureLesson, FailureSettings, FittedFailure, fit_modes
from cloud_service.training.foretelling import best_threshold, folds_of
from cloud_service.training.quantities import centred_at_limits, quantities_of
from cloud_service.training.tree_forms import BROAD, FINE
from models.datasets.tasks import CYCLE_ZERO_NS, Classification
from models.evaluation.failure import average_precision, brier, calibration_error, matthews
from models.evaluation.metrics import point_scores
from models.failure.modes import foretold
from models.features.baseline import Baseline, fit_baseline
from models.features.extraction import extract
from models.features.specification import FeatureSpecification
from models.features.windows import windows_of_table
from models.records import BoolArray, Float32Array, FloatArray, Int64Array
from models.scoring import prepare_table

UNNAMED: Final = "unnamed"
# Failures without a mode are learnt as a mode of their own when they are more than so many of all.
_UNNAMED_SHARE: Final = 0.05
_ROUNDS: Final = 2
# What a mode must gain in F1, in failed rows, to be told: less is luck with the rows at hand.
_LEAST_HITS: Final = 1.5
_CYCLE_S: Final = 3600.0


@dataclass(frozen=True, kw_only=True)
class ClassificationSettings:
    """What is not learnt, but chosen beforehand.

    Attributes:
        failure: How modes are learnt.
        quantities: Whether pairs of channels are looked at.
        at_limits: Whether inputs are centred where failed rows part from others; see ``centred_at_limits``.
    """

    failure: FailureSettings = field(
        default_factory=lambda: FailureSettings(forms=(FINE, BROAD), folds=8, horizon_h=0.0, rows_at_most=100_000)
    )
    quantities: bool = True
    at_limits: bool = True


@dataclass(frozen=True, kw_only=True)
class JudgedRows:
    """What the models say of rows they have not learnt from, row by row.

    Attributes:
        probability: Of having failed by any mode, shape ``(n,)``.
        failed: Whether a mode is told, shape ``(n,)``.
        forms: The form of trees that was chosen in each fold for each mode.
        thresholds: Of each mode in each fold; infinite: never told.
        moved: How many decisions of the exported graph differ from the trainer's.
        difference: The largest difference between their probabilities.
        agreed: For each decision, whether gateway and trees name the same channel first.
    """

    probability: FloatArray
    failed: BoolArray
    forms: tuple[tuple[str, ...], ...]
    thresholds: tuple[tuple[float, ...], ...]
    moved: int
    difference: float
    agreed: BoolArray


def evaluate_classification(
    dataset: Classification,
    *,
    seeds: Sequence[int],
    progress: Progress,
    settings: ClassificationSettings | None = None,
) -> Outcome:
    """Return how well failed rows are told.

    Args:
        dataset: Rows with their labels.
        seeds: Each is a whole evaluation, with folds of its own.
        progress: Told how far it is.
        settings: None: as the protocol says.
    """
    settings = settings or ClassificationSettings()
    figures: dict[int, dict[str, float]] = {}
    judged: dict[int, JudgedRows] = {}
    for number, seed in enumerate(seeds):
        judged[seed] = _judge(dataset, settings, seed, _shares(progress, number, len(seeds)))
        figures[seed] = _figures(dataset, judged[seed])
    mean, spread = over_seeds(figures)
    return Outcome(
        dataset=dataset.name,
        task="classification",
        protocol=_protocol(dataset, settings, judged),
        metrics=mean,
        spread=spread,
        seeds=figures,
        parity=Parity(
            windows=sum(len(one.failed) for one in judged.values()),
            decisions_changed=sum(one.moved for one in judged.values()),
            largest_difference=max(one.difference for one in judged.values()),
        ),
        figures=_plots(dataset, judged[seeds[0]]),
        limits=_limits(dataset, judged[seeds[0]]),
    )


def _shares(progress: Progress, number: int, seeds: int) -> Callable[[float], None]:
    return lambda share: progress("folds", (number + share) / seeds)


def _judge(
    dataset: Classification, settings: ClassificationSettings, seed: int, tell: Callable[[float], None]
) -> JudgedRows:
    """Return what is said of each row by models that have not seen its fold."""
    names, hits = modes_of(dataset)
    table = _Table.of(dataset, settings)
    fold = folds_of(dataset.group, np.column_stack([hits, dataset.target]), dataset.folds, seed)
    probability, failed = np.full(len(fold), np.nan), np.zeros(len(fold), np.bool_)
    parts: list[_Fold] = []
    for own in range(dataset.folds):
        tell(own / dataset.folds)
        learnt = np.flatnonzero(fold != own)
        baseline = table.baseline(learnt, dataset.target, hits, settings, seed)
        lesson = FailureLesson(
            names=names, inputs=table.inputs(baseline, learnt), hits=hits[learnt], group=dataset.group[learnt]
        )
        fitted = fit_modes(lesson, settings.failure, seed)
        fitted = fitted.with_thresholds(joint_thresholds(fitted, dataset.target[learnt]))
        judged = np.flatnonzero(fold == own)
        answers = _Fold.of(table.spec, fitted, table.inputs(baseline, judged))
        probability[judged], failed[judged] = answers.probability, answers.failed
        parts.append(answers)
    return JudgedRows(
        probability=probability,
        failed=failed,
        forms=tuple(part.forms for part in parts),
        thresholds=tuple(part.thresholds for part in parts),
        moved=sum(part.moved for part in parts),
        difference=max(part.difference for part in parts),
        agreed=np.concatenate([part.agreed for part in parts]),
    )


def modes_of(dataset: Classification) -> tuple[tuple[str, ...], BoolArray]:
    """Return what is learnt: the failure modes and which row has which, shape ``(n, modes)``.

    Without modes, or where many failures have none, there is one more: failures without a mode.
    """
    unnamed = dataset.target & ~dataset.mode.any(axis=1)
    seen = np.asarray(dataset.mode.any(axis=0))
    names = tuple(name for name, some in zip(dataset.modes, seen, strict=True) if some)
    if unnamed.sum() <= _UNNAMED_SHARE * dataset.target.sum():
        return names, dataset.mode[:, seen]
    return (*names, UNNAMED), np.column_stack([dataset.mode[:, seen], unnamed])


def joint_thresholds(fitted: FittedFailure, failed: BoolArray) -> tuple[float, ...]:
    """Return the modes' thresholds with which together they tell *failed* rows of the lesson best, by F1.

    One after the other, given the others', the most telling mode first; twice.

    Args:
        fitted: With the answers to rows its fits had not seen.
        failed: Which of these rows failed, shape ``(n,)``.
    """
    probabilities = fitted.unseen_probabilities()[:, 1:]
    limits = np.full(probabilities.shape[1], np.inf)
    order = np.argsort([-average_precision(column, failed) for column in probabilities.T], kind="stable")
    for _ in range(_ROUNDS):
        for mode in order.tolist():
            limits[mode] = np.inf
            limits[mode] = best_threshold(
                probabilities[:, mode],
                failed,
                np.asarray((probabilities >= limits).any(axis=1)),
                least_hits=_LEAST_HITS,
            )
    return tuple(limits.tolist())


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The rows as windows of one cycle each, every row an asset of its own: raw features, shape ``(n, f)``."""

    spec: FeatureSpecification
    ends: Int64Array
    features: FloatArray

    @classmethod
    def of(cls, dataset: Classification, settings: ClassificationSettings) -> _Table:
        measured = [one for one, levels in zip(dataset.channels, dataset.levels, strict=True) if not levels]
        spec = FeatureSpecification(
            asset_class="rows",
            channels=dataset.channels,
            window_s=_CYCLE_S,
            step_s=_CYCLE_S,
            late_s=_CYCLE_S,
            statistics=("mean",),
            derived=quantities_of(measured) if settings.quantities else (),
        )
        ends = np.full(len(dataset.values), CYCLE_ZERO_NS, np.int64)
        rows = np.arange(len(dataset.values))
        windows = windows_of_table(spec, dataset.row_ids, rows, ends, dataset.values)
        return cls(spec=spec, ends=ends, features=extract(spec, windows))

    def baseline(
        self,
        learnt: NDArray[np.intp],
        failed: BoolArray,
        hits: BoolArray,
        settings: ClassificationSettings,
        seed: int,
    ) -> Baseline:
        """Return what is ordinary in the rows that are learnt from."""
        healthy = self.features[learnt[~failed[learnt]]]
        baseline = fit_baseline(self.spec, {"": healthy}, len(healthy), scope="class")
        return (
            centred_at_limits(baseline, self.features[learnt], hits[learnt], seed) if settings.at_limits else baseline
        )

    def inputs(self, baseline: Baseline, rows: NDArray[np.intp]) -> Float32Array:
        """Return what models are given of *rows*."""
        names = [""] * len(rows)
        return prepare_table(
            self.spec, baseline, names, np.arange(len(rows)), self.ends[rows], self.features[rows]
        ).inputs


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """What one fold's models say of its rows; see `JudgedRows`."""

    probability: FloatArray
    failed: BoolArray
    forms: tuple[str, ...]
    thresholds: tuple[float, ...]
    moved: int
    difference: float
    agreed: BoolArray

    @classmethod
    def of(cls, spec: FeatureSpecification, fitted: FittedFailure, inputs: Float32Array) -> _Fold:
        answer = asked_as_a_gateway(spec, fitted, inputs)
        told = foretold(fitted.modes, answer)
        wanted = fitted.probabilities(inputs)
        return cls(
            probability=1.0 - answer[:, 0],
            failed=np.asarray(told.any(axis=1)),
            forms=fitted.forms,
            thresholds=fitted.modes.thresholds,
            moved=int((told != foretold(fitted.modes, wanted)).any(axis=1).sum()),
            difference=float(np.abs(answer - wanted).max()),
            agreed=agreement(spec, fitted, inputs, answer, told),
        )


def _figures(dataset: Classification, judged: JudgedRows) -> dict[str, float]:
    scores = point_scores(judged.failed, dataset.target)
    told = {
        "f1": scores.f1,
        "precision": scores.precision,
        "recall": scores.recall,
        "mcc": matthews(judged.failed, dataset.target),
        "pr_auc": average_precision(judged.probability, dataset.target),
        "brier": brier(judged.probability, dataset.target),
        "calibration_error": calibration_error(judged.probability, dataset.target),
        "explanation_agreement": float(judged.agreed.mean()) if len(judged.agreed) else float("nan"),
    }
    for place, mode in enumerate(dataset.modes):
        own = dataset.mode[:, place] & dataset.target
        if own.any():
            told[f"recall_{mode}"] = float(judged.failed[own].mean())
    return told


def _protocol(
    dataset: Classification, settings: ClassificationSettings, judged: Mapping[int, JudgedRows]
) -> dict[str, object]:
    names, _ = modes_of(dataset)
    return {
        "split": f"{dataset.folds} folds by group, balanced by failure mode, from the seed",
        "groups": len(np.unique(dataset.group)),
        "seeds": list(judged),
        "selection": "form of trees, calibration and thresholds inside the learnt folds, by cross-validation",
        "forms_tried": [form.name for form in settings.failure.forms],
        "forms_chosen": {
            name: dict(Counter(forms[place] for one in judged.values() for forms in one.forms))
            for place, name in enumerate(names)
        },
        "modes_learnt": list(names),
        "folds_in_which_a_mode_is_told": {
            name: sum(bool(np.isfinite(limits[place])) for one in judged.values() for limits in one.thresholds)
            for place, name in enumerate(names)
        },
        "quantities": settings.quantities,
        "inputs_centred_at_limits": settings.at_limits,
    }


def _plots(dataset: Classification, judged: JudgedRows) -> dict[str, Figure]:
    return {
        "precision-recall": precision_recall(judged.probability, dataset.target, judged.failed),
        "calibration": calibration_of(judged.probability, dataset.target),
    }


def _limits(dataset: Classification, judged: JudgedRows) -> tuple[str, ...]:
    names, _ = modes_of(dataset)
    silent = [
        name for place, name in enumerate(names) if not any(np.isfinite(limits[place]) for limits in judged.thresholds)
    ]
    return (f"Failures by {', '.join(silent)} are not told: nothing measured announces them.",) if silent else ()
