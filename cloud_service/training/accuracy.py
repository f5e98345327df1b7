"""What instruments can tell: a smaller difference than their accuracy is no evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.features.baseline import Baseline
from models.features.names import columns, feature_names, input_names, mean_columns
from models.features.specification import FeatureSpecification
from models.records import FloatArray


def with_accuracy(spec: FeatureSpecification, baseline: Baseline, features: FloatArray, share: float) -> Baseline:
    """Return *baseline* with no scale finer than what the instruments can tell.

    An instrument is right to a share of its reading, and what it tells in steps may not scatter at all by its median:
    a scale is at least *share* of the channel's usual reading, and a quarter of the standard deviation.

    Args:
        spec: Of the features.
        baseline: As fitted.
        features: Healthy windows, shape ``(n, f)``.
        share: Of a reading; a common transmitter is of class 0.5, right to 0.005.
    """
    with np.errstate(invalid="ignore"):
        spread = np.nanstd(features, axis=0) / 4.0 if len(features) else np.zeros(features.shape[1])
    least = np.fmax(share * np.abs(_readings(spec, baseline)), np.nan_to_num(spread))
    return replace(baseline, class_scale=tuple(map(tuple, np.fmax(baseline.scales, least).tolist())))


def least_strays(spec: FeatureSpecification, baseline: Baseline, share: float) -> FloatArray:
    """Return what each of the models' inputs strays at least when instruments are right to *share* of their reading.

    In the units of the inputs, shape ``(i,)``; 0 for counts of windows and hours.
    """
    own = np.fmin.reduce(share * np.abs(_readings(spec, baseline)) / baseline.scales)  # a channel without a value: NaN
    places = {name: place for place, name in enumerate(feature_names(spec))}
    found = [places.get(name.partition(":")[0], -1) for name in input_names(spec)]
    return np.array([np.nan_to_num(own[place]) if place >= 0 else 0.0 for place in found])


def _readings(spec: FeatureSpecification, baseline: Baseline) -> FloatArray:
    """Return the usual reading of each feature's channel, in the feature's unit, shape ``(regimes, f)``; 0 if none."""
    means = mean_columns(spec)
    places = [
        means.get(spec.channels[column.channel].name, place)
        if column.unit == spec.channels[column.channel].unit
        else -1
        for place, column in enumerate(columns(spec))
    ]
    usual = np.concatenate([np.array(baseline.class_centre), np.zeros((spec.regimes.count, 1))], axis=1)
    return np.asarray(np.nan_to_num(usual[:, places]), np.float64)
