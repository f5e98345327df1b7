"""From a lesson to the models of a bundle: detector, failure modes and remaining life, exported and proven."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from cloud_service.training.accuracy import least_strays
from cloud_service.training.budget import AlarmLimits
from cloud_service.training.dataset import TrainingError
from cloud_service.training.detection import HealthyWindows, fit_detection
from cloud_service.training.failure import fit_failure
from cloud_service.training.lesson import Lesson
from cloud_service.training.prognosis import fit_prognosis
from cloud_service.training.sequence import make_kernels
from cloud_service.training.specifications import TrainingSettings
from models.bundle.contents import CLASSIFIER, DETECTION, DETECTOR, FAILURE, FORECAST_HEAD, HEADS, KERNELS, STATISTICS
from models.detection.detection import SEQUENCE, encode_detection
from models.export.graph import ExportError
from models.export.parity import Parity, ParityError, check_parity, gate_rows
from models.failure.modes import encode_failure_modes, foretold
from models.features.names import input_names, sequence_columns
from models.records import FloatArray, Int64Array
from models.sequence.encoding import encode_heads, encode_statistics
from models.sequence.heads import Head, HeadStatistics


@dataclass(frozen=True, kw_only=True)
class FittedModels:
    """The models of a class.

    Attributes:
        modes: ``normal``, then the failure modes that the classifier tells; empty without a classifier.
        limits: Of the detector.
        parts: Files of the bundle by name: the models, and how they are read.
        splits: Of the trees as trained, as ``(input, threshold)``; golden vectors ask beside them.
        parity: How closely the graphs answered as their trainers.
        notes: Sentences for the model card: what could not be learnt as it should.
    """

    modes: tuple[str, ...]
    limits: AlarmLimits
    parts: Mapping[str, bytes] = field(repr=False)
    splits: tuple[tuple[int, float], ...] = field(repr=False)
    parity: tuple[Parity, ...]
    notes: tuple[str, ...] = ()


def fit_models(lesson: Lesson, settings: TrainingSettings, tell: Callable[[float], None]) -> FittedModels:
    """Fit, export and prove the models that *lesson* has enough for; a detector always.

    Raises:
        TrainingError: If too few windows are known to be healthy.
        ParityError: If a graph does not answer as its trainer.
        ExportError: If a model has no ONNX form.
    """
    try:
        healthy = _healthy(lesson, settings)
        kernels = _kernels(lesson, settings)
        detection = fit_detection(healthy, settings.detection, settings.seed, kernels=kernels)
    except (ParityError, ExportError):
        raise
    except ValueError as error:
        raise TrainingError(f"{lesson.spec.asset_class}: {error}") from error
    tell(0.3)
    parts = {DETECTOR: detection.graph, DETECTION: encode_detection(detection.detection)}
    heads: dict[str, Head] = {}
    statistics: dict[str, HeadStatistics] = {}
    if detection.head is not None and detection.statistics is not None:
        heads[FORECAST_HEAD], statistics[FORECAST_HEAD] = detection.head, detection.statistics
    splits = list(detection.model.splits)
    parity = [detection.parity]
    modes: tuple[str, ...] = ()
    notes: tuple[str, ...] = (detection.limits.doubt,) if detection.limits.doubt else ()
    if len(np.unique(lesson.event[lesson.event >= 0])) >= settings.least_lives:
        failure = fit_failure(lesson, settings.failure, settings.seed)
        tell(0.5)
        if failure is not None:
            modes, notes = ("normal", *failure.modes.names), (*notes, *failure.notes)
            parts |= {CLASSIFIER: failure.export(), FAILURE: encode_failure_modes(failure.modes)}
            splits += failure.splits()
            told = gate_rows(lesson.prepared.inputs, failure.splits(), seed=settings.seed)

            def decide(probabilities: FloatArray) -> Int64Array:
                return np.asarray(foretold(failure.modes, probabilities), np.int64)

            parity.append(check_parity("classifier", parts[CLASSIFIER], failure.probabilities, told, decide=decide))
        prognosis = fit_prognosis(
            lesson,
            settings.prognosis,
            settings.seed,
            kernels=kernels,
            tell=lambda share: tell(0.5 + 0.5 * share),
        )
        if prognosis is not None:
            parts |= prognosis.parts
            parity += prognosis.proofs
            heads |= prognosis.heads
            statistics |= prognosis.statistics
    if heads and kernels is not None:
        parts |= {KERNELS: kernels, HEADS: encode_heads(heads), STATISTICS: encode_statistics(statistics)}
    tell(1.0)
    return FittedModels(
        modes=modes, limits=detection.limits, parts=parts, splits=tuple(splits), parity=tuple(parity), notes=notes
    )


def _healthy(lesson: Lesson, settings: TrainingSettings) -> HealthyWindows:
    healthy = lesson.mode == 0
    if not healthy.any():
        raise TrainingError("no window of a training asset is known to be healthy; nothing is trained")
    sequences = lesson.prepared.sequences
    return HealthyWindows(
        names=input_names(lesson.spec),
        inputs=lesson.prepared.inputs[healthy],
        asset=lesson.asset[healthy],
        end_ns=lesson.end_ns[healthy],
        step_s=lesson.spec.step_s,
        least_stray=least_strays(lesson.spec, lesson.baseline, settings.accuracy),
        sequences=sequences[healthy] if sequences is not None and SEQUENCE in settings.detection.members else None,
        forecast=len(sequence_columns(lesson.spec)),
        whole=lesson.prepared.windows_known[healthy] >= lesson.spec.history.sequence_windows,
    )


def _kernels(lesson: Lesson, settings: TrainingSettings) -> bytes | None:
    """Return the random kernels that heads are on, None where there are no sequences.

    They are drawn to what lives look like that ended in a failure, or where there are none, to good health.
    """
    if lesson.prepared.sequences is None or not settings.kernels:
        return None
    known = np.isfinite(lesson.life_h)
    drawn_to = lesson.prepared.sequences[known if known.any() else lesson.mode == 0]
    return make_kernels(drawn_to.shape[1], drawn_to.shape[2], settings.kernels, settings.seed, drawn_to)
