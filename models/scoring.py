"""From windows to what the models say of them: the lines that gateway and training share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.bundle.loaded import LoadedBundle
from models.detection.detector import detect
from models.failure.classifier import classify
from models.features.baseline import Baseline, deviations
from models.features.context import Context
from models.features.extraction import extract
from models.features.specification import FeatureSpecification
from models.features.windows import Window
from models.prognosis.life import predict_life
from models.records import Float32Array, FloatArray


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the models are given, row by window.

    Attributes:
        features: Shape ``(n, f)``; NaN where a channel has no good value.
        deviations: Shape ``(n, f)``.
        inputs: Shape ``(n, 3 f)``.
    """

    features: FloatArray
    deviations: Float32Array
    inputs: Float32Array


@dataclass(frozen=True, kw_only=True)
class Scored(Prepared):
    """What the models say, row by window.

    Attributes:
        detector_output: Shape ``(n,)``.
        probabilities: Shape ``(n, modes)``, or None without a classifier.
        life_s: P10, P50, P90 in seconds, shape ``(n, 3)``, or None without a life model.
    """

    detector_output: FloatArray
    probabilities: FloatArray | None
    life_s: FloatArray | None


def prepare(spec: FeatureSpecification, baseline: Baseline, context: Context, windows: Sequence[Window]) -> Prepared:
    """Return the models' inputs for *windows*, which must come by end for each asset; *context* remembers them."""
    features = extract(spec, windows)
    asset_ids = [window.asset_id for window in windows]
    rows = deviations(features, asset_ids, baseline)
    ends = np.array([window.end_ns for window in windows], np.int64)
    return Prepared(features=features, deviations=rows, inputs=context.inputs(asset_ids, ends, rows))


def score(bundle: LoadedBundle, context: Context, windows: Sequence[Window]) -> Scored:
    """Return what *bundle* says of *windows*, which must come by end for each asset; *context* remembers them."""
    prepared = prepare(bundle.specification, bundle.baseline, context, windows)
    return Scored(
        features=prepared.features,
        deviations=prepared.deviations,
        inputs=prepared.inputs,
        detector_output=detect(bundle, prepared.inputs),
        probabilities=classify(bundle, prepared.inputs),
        life_s=predict_life(bundle, prepared.inputs),
    )
