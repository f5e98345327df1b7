"""What the evaluations of failure modes have in common: asking as a gateway asks, and what is drawn of the answers."""

from __future__ import annotations

from typing import Final

import numpy as np

from cloud_service.evaluate.outcome import Calibration, PrecisionRecall
from cloud_service.training.failure import FittedFailure
from models.bundle.model import Model
from models.evaluation.failure import precision_recall_steps, reliability
from models.evaluation.metrics import point_scores
from models.failure.contribution import by_channel, reference_contributions
from models.failure.modes import decode_failure_modes, encode_failure_modes
from models.features.names import input_names
from models.features.specification import FeatureSpecification
from models.records import BoolArray, Float32Array, FloatArray

_CURVE_POINTS: Final = 400
_EXPLAINED: Final = 500


def asked_as_a_gateway(spec: FeatureSpecification, fitted: FittedFailure, inputs: Float32Array) -> FloatArray:
    """Return the probabilities of none and of each mode, shape ``(n, 1 + modes)``, by the exported graph."""
    model = Model("classifier.onnx", fitted.export(), shape=(len(input_names(spec)),), columns=1 + len(fitted.boosters))
    return model(inputs)


def agreement(
    spec: FeatureSpecification,
    fitted: FittedFailure,
    inputs: Float32Array,
    probabilities: FloatArray,
    told: BoolArray,
) -> BoolArray:
    """Return for up to 500 rows with a failure told whether gateway and trees name the same channel first.

    Args:
        spec: Of the inputs.
        fitted: Asked for what the trees say.
        inputs: Shape ``(n, inputs)``.
        probabilities: Shape ``(n, 1 + modes)``.
        told: Which modes are told of each row, shape ``(n, modes)``; the likeliest of them is explained.
    """
    rows = np.flatnonzero(told.any(axis=1))
    rows = rows[:: max(1, -(-len(rows) // _EXPLAINED))]
    mode = np.where(told[rows], probabilities[rows, 1:], -1.0).argmax(axis=1).astype(np.int64)
    stored = decode_failure_modes(encode_failure_modes(fitted.modes), spec)
    _, near = by_channel(spec, reference_contributions(stored, inputs[rows], mode))
    _, exact = by_channel(spec, fitted.contributions(inputs[rows], mode)[:, :-1])
    return np.asarray(near.argmax(axis=1) == exact.argmax(axis=1), np.bool_)


def precision_recall(probability: FloatArray, failed: BoolArray, told: BoolArray) -> PrecisionRecall:
    """Return the curve over all thresholds of *probability*, and the point at which *told* lies."""
    precision, recall = precision_recall_steps(probability, failed)
    chosen = point_scores(told, failed)
    drawn = np.unique(np.linspace(0, len(precision) - 1, min(_CURVE_POINTS, len(precision))).astype(np.int64))
    return PrecisionRecall(
        precision=precision[drawn],
        recall=recall[drawn],
        chosen_precision=chosen.precision,
        chosen_recall=chosen.recall,
    )


def calibration_of(probability: FloatArray, failed: BoolArray) -> Calibration:
    """Return promised against observed failures, in ten bins."""
    promised, observed, count = reliability(probability, failed)
    return Calibration(promised=promised, observed=observed, count=count)
