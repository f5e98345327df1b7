"""How far a feature is from what is ordinary for its asset, in multiples of what is ordinary for its class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from models.features.names import feature_channels, feature_names, feature_units
from models.features.specification import FeatureError, FeatureSpecification
from models.records import Float32Array, FloatArray

MAX_DEVIATION = 50.0
# A scale is never finer than this share of the channel's range, or than this number for a feature without unit:
# what hardly varied in healthy windows must not turn the last bit of a transmitter into a fault.
_FINEST_SHARE_OF_RANGE = 1e-4
_FINEST_NUMBER = 1e-3
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What is ordinary, feature by feature.

    Attributes:
        centre: Median of each known asset's commissioning windows, by asset.
        class_centre: Median over these assets; for assets that are not known.
        class_scale: Robust standard deviation around their own centres, above 0. NaN where no asset had a value.
    """

    centre: dict[str, tuple[float, ...]]
    class_centre: tuple[float, ...]
    class_scale: tuple[float, ...]

    def centre_of(self, asset_id: str) -> tuple[float, ...]:
        """Return the asset's own centre, or the class's."""
        return self.centre.get(asset_id, self.class_centre)


def fit_baseline(
    spec: FeatureSpecification, features_by_asset: Mapping[str, FloatArray], commissioning_windows: int
) -> Baseline:
    """Return the baseline of a class.

    Args:
        spec: Of the features.
        features_by_asset: Healthy windows of each asset, in time order, shape ``(n_windows, n_features)``.
        commissioning_windows: How many of the first windows of each asset count.

    Raises:
        FeatureError: If no asset has a window.
    """
    first = {
        asset_id: features[:commissioning_windows] for asset_id, features in features_by_asset.items() if len(features)
    }
    if not first:
        raise FeatureError(f"{spec.asset_class}: no commissioning window of any asset; there is no baseline")
    own = np.stack([_median(features) for features in first.values()])
    class_centre = _median(own)
    own = np.where(np.isnan(own), class_centre, own)
    spread = np.concatenate([features - centre for features, centre in zip(first.values(), own, strict=True)])
    scale = np.maximum(_median(np.abs(spread)) * _MAD_TO_SIGMA, _finest(spec))
    return Baseline(
        centre={asset_id: tuple(row) for asset_id, row in zip(first, own.tolist(), strict=True)},
        class_centre=tuple(class_centre.tolist()),
        class_scale=tuple(np.where(np.isnan(class_centre), np.nan, scale).tolist()),
    )


def deviations(features: FloatArray, asset_ids: Sequence[str], baseline: Baseline) -> Float32Array:
    """Return (feature - centre) / scale, shape ``(n, f)``, clipped to ±50; NaN stays NaN.

    Args:
        features: Shape ``(n, f)``.
        asset_ids: The asset of each row.
        baseline: Its class's.
    """
    if not len(features):
        return np.empty(features.shape, np.float32)
    centres = np.array([baseline.centre_of(asset_id) for asset_id in asset_ids], np.float64)
    scaled = (features - centres) / np.array(baseline.class_scale, np.float64)
    return np.clip(scaled, -MAX_DEVIATION, MAX_DEVIATION).astype(np.float32)


def encode_baseline(baseline: Baseline) -> bytes:
    """Return ``baselines.json``; a number that is not known is null."""
    return msgspec.json.encode(baseline, order="sorted")


def decode_baseline(data: bytes, spec: FeatureSpecification) -> Baseline:
    """Return the baseline in *data*.

    Raises:
        FeatureError: If it does not decode, or has not one finite number (or null) for each feature.
    """
    try:
        told = msgspec.json.decode(data, type=_Told)
    except msgspec.DecodeError as error:
        raise FeatureError(f"{spec.asset_class}: baseline does not decode ({error})") from error
    width = len(feature_names(spec))
    if {width} != {len(row) for row in (told.class_centre, told.class_scale, *told.centre.values())}:
        raise FeatureError(f"{spec.asset_class}: baseline does not have {width} numbers for each asset")
    if any(scale is not None and scale <= 0.0 for scale in told.class_scale):
        raise FeatureError(f"{spec.asset_class}: baseline has a scale of 0 or below")
    return Baseline(
        centre={asset_id: _numbers(row) for asset_id, row in told.centre.items()},
        class_centre=_numbers(told.class_centre),
        class_scale=_numbers(told.class_scale),
    )


@dataclass(frozen=True, kw_only=True)
class _Told:
    centre: dict[str, tuple[float | None, ...]]
    class_centre: tuple[float | None, ...]
    class_scale: tuple[float | None, ...]


def _numbers(row: tuple[float | None, ...]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else value for value in row)


def _median(rows: FloatArray) -> FloatArray:
    """Return the median of each column without its NaN, NaN where there is nothing else."""
    present = ~np.isnan(rows)
    filled = np.where(present.any(axis=0), rows, 0.0)
    return np.where(present.any(axis=0), np.nanmedian(filled, axis=0), np.nan)


def _finest(spec: FeatureSpecification) -> FloatArray:
    ranges = [spec.channels[number].high - spec.channels[number].low for number in feature_channels(spec)]
    with_unit = np.array([unit != "1" for unit in feature_units(spec)])
    return np.maximum(np.where(with_unit, np.abs(ranges) * _FINEST_SHARE_OF_RANGE, _FINEST_NUMBER), 1e-12)
