"""From labelled inputs to proven graphs: fit, export, and hold the graph against its trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cloud_service.training.dataset import TrainingError
from cloud_service.training.estimators import (
    Limits,
    cross_scores,
    fit_classifier,
    fit_forest,
    fit_life,
    fit_limits,
)
from cloud_service.training.specifications import TrainingSettings
from models.export.graph import without_missing
from models.export.isolation_forest import export_isolation_forest, reference_scores
from models.export.isolation_forest import thresholds_of as splits_of_forest
from models.export.lightgbm import export_classifier, export_quantiles
from models.export.lightgbm import thresholds_of as splits_of_booster
from models.export.parity import Parity, check_parity, gate_rows
from models.records import Float32Array, FloatArray, Int64Array

_FOLDS = 2
_S_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What the models learn from, row by window, by asset and time.

    Attributes:
        modes: ``normal``, then the failure modes that occur.
        inputs: The models' inputs, shape ``(n, i)``.
        mode: Place in ``modes``, -1 not known, shape ``(n,)``.
        life_h: Hours to failure, NaN not known, shape ``(n,)``.
        event: The failure that ended the life, shape ``(n,)``.
        asset: Number of the asset, shape ``(n,)``.
        end_ns: End of the window, shape ``(n,)``.
        step_s: Seconds from one window to the next.
    """

    modes: tuple[str, ...]
    inputs: Float32Array
    mode: Int64Array
    life_h: FloatArray
    event: Int64Array
    asset: Int64Array
    end_ns: Int64Array
    step_s: float


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """The exported models, with what the manifest says of them; no classifier and no life model without failures."""

    modes: tuple[str, ...]
    limits: Limits
    detector: bytes
    classifier: bytes | None
    life: bytes | None
    parity: tuple[Parity, ...]


def fit_graphs(lesson: Lesson, settings: TrainingSettings, tell: Callable[[float], None]) -> Graphs:
    """Fit, export and prove the models.

    Raises:
        TrainingError: If no window is known to be healthy.
        ParityError: If a graph does not answer as its trainer.
        ExportError: If a model has no ONNX form.
    """
    detector, limits, proofs = _detector(lesson, settings)
    tell(0.3)
    classifier = life = None
    if len(np.unique(lesson.event[lesson.event >= 0])) >= settings.least_lives:
        classifier, proof = _classifier(lesson, settings)
        proofs.append(proof)
        tell(0.6)
        life, proof = _life(lesson, settings)
        proofs.append(proof)
    tell(1.0)
    return Graphs(
        modes=lesson.modes, limits=limits, detector=detector, classifier=classifier, life=life, parity=tuple(proofs)
    )


def _detector(lesson: Lesson, settings: TrainingSettings) -> tuple[bytes, Limits, list[Parity]]:
    healthy = lesson.mode == 0
    if not healthy.any():
        raise TrainingError("no window of a training asset is known to be healthy; nothing is trained")
    # The window's own deviations, the first third of the inputs: a fresh context scatters more than an old one, and
    # would look like a fault.
    own = lesson.inputs.shape[1] // 3
    rows = without_missing(lesson.inputs[healthy, :own])
    asset, end_ns = lesson.asset[healthy], lesson.end_ns[healthy]
    fold = np.unique(asset, return_inverse=True)[1] % _FOLDS
    scores = cross_scores(rows, fold, settings.forest, settings.seed)
    gap = np.diff(end_ns, prepend=end_ns[0]) > 1.5e9 * lesson.step_s
    limits = fit_limits(
        scores,
        gap | (np.diff(asset, prepend=asset[0] - 1) != 0),
        step_h=lesson.step_s / _S_PER_HOUR,
        on_delay_windows=settings.on_delay_windows,
        false_alarms_per_asset_day=settings.false_alarms_per_asset_day,
    )
    forest = fit_forest(rows, settings.forest, settings.seed)
    graph = export_isolation_forest(forest, inputs=lesson.inputs.shape[1])
    asked = gate_rows(lesson.inputs, splits_of_forest(forest), seed=settings.seed)
    proof = check_parity("detector", graph, lambda given: reference_scores(forest, given[:, :own]), asked)
    return graph, limits, [proof]


def _classifier(lesson: Lesson, settings: TrainingSettings) -> tuple[bytes, Parity]:
    told = lesson.mode >= 0
    rows = without_missing(lesson.inputs[told])
    booster = fit_classifier(rows, lesson.mode[told], len(lesson.modes), settings.classifier, settings.seed)
    graph = export_classifier(booster)
    asked = gate_rows(lesson.inputs, splits_of_booster(booster), seed=settings.seed)
    proof = check_parity(
        "classifier",
        graph,
        lambda given: np.asarray(booster.predict(given)),
        asked,
        decide=lambda answers: answers.argmax(axis=1),
    )
    return graph, proof


def _life(lesson: Lesson, settings: TrainingSettings) -> tuple[bytes, Parity]:
    told = np.isfinite(lesson.life_h)
    rows = without_missing(lesson.inputs[told])
    model = fit_life(
        rows,
        lesson.life_h[told],
        lesson.event[told],
        settings.life,
        margin_h=settings.life_margin_h,
        seed=settings.seed,
    )
    graph = export_quantiles(
        model.boosters,
        reach=(-model.widening, 0.0, model.widening),
        margin=model.margin_h,
        highest=model.highest_h,
    )
    splits = [split for booster in model.boosters for split in splits_of_booster(booster)]
    return graph, check_parity("life", graph, model.predict, gate_rows(lesson.inputs, splits, seed=settings.seed))
