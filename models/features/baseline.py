"""How far a feature is from what is ordinary for its asset and regime, in multiples of how its class scatters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import msgspec
import numpy as np

from models.features.names import columns, feature_names
from models.features.regimes import regimes_of
from models.features.specification import FeatureError, FeatureSpecification
from models.records import UNDECODABLE, Float32Array, FloatArray, Int64Array

MAX_DEVIATION = 50.0
# Fewer windows than this do not say what is ordinary for an asset in a regime, nor how much a regime scatters.
LEAST_WINDOWS = 3
LEAST_WINDOWS_OF_SCALE = 10
# A scale is never finer than this share of the channel's range, or than this number for a feature without unit:
# what hardly varied in healthy windows must not turn the last bit of a transmitter into a fault.
_FINEST_SHARE_OF_RANGE = 1e-4
_FINEST_NUMBER = 1e-3
# Root mean square of a standard normal variable without its largest tenth in magnitude.
_TRIMMED_SHARE = 0.1
_TRIMMED_TO_SIGMA = 0.7888

ByRegime = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What is ordinary: for each regime a number for each feature. NaN where no asset had a value.

    Attributes:
        centre: Median of each known asset's commissioning windows, by asset.
        class_centre: Median over these assets; for assets that are not known.
        class_scale: Robust standard deviation around their own centres, above 0.
    """

    centre: dict[str, ByRegime]
    class_centre: ByRegime
    class_scale: ByRegime

    def centre_of(self, asset_id: str) -> ByRegime:
        """Return the asset's own centres by regime, or the class's."""
        return self.centre.get(asset_id, self.class_centre)

    @cached_property
    def centres(self) -> FloatArray:
        """The class's centres and those of each asset, shape ``(1 + assets, regimes, f)``; see `places_of`."""
        return np.array([self.class_centre, *self.centre.values()], np.float64)

    @cached_property
    def scales(self) -> FloatArray:
        """The scales, shape ``(regimes, f)``."""
        return np.array(self.class_scale, np.float64)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {asset_id: place for place, asset_id in enumerate(self.centre, 1)}

    def places_of(self, asset_ids: Sequence[str]) -> Int64Array:
        """Return the row of `centres` for each of *asset_ids*; an asset that is not known has the class's."""
        places = self._places
        return np.array([places.get(asset_id, 0) for asset_id in asset_ids], np.int64)


def fit_baseline(
    spec: FeatureSpecification,
    features_by_asset: Mapping[str, FloatArray],
    commissioning_windows: int,
    scope: Literal["asset", "class"] = "asset",
) -> Baseline:
    """Return the baseline of a class.

    Where an asset has fewer than three windows of a regime, the class's centre of the regime is its own; where the
    class has fewer, its centre and scale over all regimes count. A regime of fewer than ten windows has the scale of
    all, each around its own centre.

    Args:
        spec: Of the features; its regimes are those of the baseline.
        features_by_asset: Healthy windows of each asset, in time order, shape ``(n_windows, n_features)``.
        commissioning_windows: How many of the first windows of each asset count.
        scope: ``asset``: each is compared with itself. ``class``: all are compared with the class, which is what
            assets need that no training has met.

    Raises:
        FeatureError: If no asset has a window.
    """
    first = {
        asset_id: features[:commissioning_windows] for asset_id, features in features_by_asset.items() if len(features)
    }
    if not first:
        raise FeatureError(f"{spec.asset_class}: no commissioning window of any asset; there is no baseline")
    rows = np.concatenate(list(first.values()))
    asset = np.repeat(np.arange(len(first)), [len(features) for features in first.values()])
    regime, count = regimes_of(spec, rows), spec.regimes.count
    known = regime >= 0
    everything = np.zeros(len(rows), np.int64)
    overall, _ = _medians(rows, everything, 1)
    of_regime, regime_windows = _medians(rows[known], regime[known], count)
    shared = np.where(regime_windows >= LEAST_WINDOWS, of_regime, overall)
    own = np.empty((0, count, rows.shape[1]))
    if scope == "asset":
        medians, windows = _medians(rows[known], asset[known] * count + regime[known], len(first) * count)
        own = np.where(windows >= LEAST_WINDOWS, medians, np.nan).reshape(len(first), count, -1)
        middle, assets = _medians(own.reshape(-1, rows.shape[1]), np.tile(np.arange(count), len(first)), count)
        shared = np.where(assets > 0, middle, shared)
        own = np.where(np.isnan(own), shared, own)
    around = (own[asset, regime] if scope == "asset" else shared[regime])[known]
    return Baseline(
        centre={asset_id: _tuples(centre) for asset_id, centre in zip(first, own, strict=False)},
        class_centre=_tuples(shared),
        class_scale=_tuples(_scales(spec, rows, overall, np.abs(rows[known] - around), regime[known])),
    )


def ordinary(
    spec: FeatureSpecification, features: FloatArray, asset_ids: Sequence[str], baseline: Baseline
) -> tuple[FloatArray, FloatArray]:
    """Return centre and scale of each number in *features*, both of its shape; NaN where the regime is not known.

    Args:
        spec: Says the regimes.
        features: Shape ``(n, f)``.
        asset_ids: The asset of each row.
        baseline: Its class's.
    """
    regime = regimes_of(spec, features)
    known = (regime >= 0)[:, None]
    centre = baseline.centres[baseline.places_of(asset_ids), regime]
    return np.where(known, centre, np.nan), np.where(known, baseline.scales[regime], np.nan)


def deviations(
    spec: FeatureSpecification, features: FloatArray, asset_ids: Sequence[str], baseline: Baseline
) -> Float32Array:
    """Return (feature - centre) / scale, shape ``(n, f)``, clipped to ±50; NaN stays NaN.

    It is computed in double precision and told in single, which is what models take.

    Args:
        spec: Says the regimes.
        features: Shape ``(n, f)``.
        asset_ids: The asset of each row.
        baseline: Its class's.
    """
    centre, scale = ordinary(spec, features, asset_ids, baseline)
    return deviation(features, centre, scale)


def deviation(features: FloatArray, centre: FloatArray, scale: FloatArray) -> Float32Array:
    """Return (feature - centre) / scale, within ±50 and in single precision; shapes are broadcast, NaN stays NaN."""
    with np.errstate(over="ignore"):
        return clipped((features - centre) / scale)


def clipped(scaled: FloatArray) -> Float32Array:
    """Return *scaled* within ±50 and in single precision."""
    return np.clip(scaled, -MAX_DEVIATION, MAX_DEVIATION).astype(np.float32)


def encode_baseline(baseline: Baseline) -> bytes:
    """Return ``baselines.json``; a number that is not known is null."""
    return msgspec.json.encode(baseline, order="sorted")


def decode_baseline(data: bytes, spec: FeatureSpecification) -> Baseline:
    """Return the baseline in *data*.

    Raises:
        FeatureError: If it does not decode, or has not one finite number (or null) for each regime and feature.
    """
    try:
        told = msgspec.json.decode(data, type=_Told)
    except UNDECODABLE as error:
        raise FeatureError(f"{spec.asset_class}: baseline does not decode ({error})") from error
    tables = (told.class_centre, told.class_scale, *told.centre.values())
    width, count = len(feature_names(spec)), spec.regimes.count
    if {len(table) for table in tables} != {count} or {len(row) for table in tables for row in table} != {width}:
        raise FeatureError(
            f"{spec.asset_class}: baseline does not have {width} numbers in {count} regimes for each asset"
        )
    if any(scale is not None and scale <= 0.0 for row in told.class_scale for scale in row):
        raise FeatureError(f"{spec.asset_class}: baseline has a scale of 0 or below")
    baseline = Baseline(
        centre={asset_id: _numbers(table) for asset_id, table in told.centre.items()},
        class_centre=_numbers(told.class_centre),
        class_scale=_numbers(told.class_scale),
    )
    if np.isinf(baseline.centres).any() or np.isinf(baseline.scales).any():
        raise FeatureError(f"{spec.asset_class}: baseline has a number that is not finite")
    return baseline


_ToldTable = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Told:
    centre: dict[str, _ToldTable]
    class_centre: _ToldTable
    class_scale: _ToldTable


def _numbers(table: _ToldTable) -> ByRegime:
    return tuple(tuple(math.nan if value is None else value for value in row) for row in table)


def _tuples(table: FloatArray) -> ByRegime:
    return tuple(map(tuple, table.tolist()))


def _medians(rows: FloatArray, group: Int64Array, groups: int) -> tuple[FloatArray, FloatArray]:
    """Return the median of each column in each group without its NaN, and of how many it is, ``(groups, f)`` both."""
    medians, counts = np.full((groups, rows.shape[1]), np.nan), np.zeros((groups, rows.shape[1]))
    starts = np.cumsum(np.bincount(group, minlength=groups)) - np.bincount(group, minlength=groups)
    for place, column in enumerate(rows.T):
        ordered = column[np.lexsort((column, group))]  # NaN comes last in each group
        number = np.bincount(group[~np.isnan(column)], minlength=groups)
        filled = number > 0
        low, high = (starts + (number - 1) // 2)[filled], (starts + number // 2)[filled]
        medians[filled, place] = ordered[low] / 2.0 + ordered[high] / 2.0
        counts[:, place] = number
    return medians, counts


def _scales(
    spec: FeatureSpecification, rows: FloatArray, overall: FloatArray, away: FloatArray, regime: Int64Array
) -> FloatArray:
    """Return the scale of each regime and feature; *away* are distances from centres of rows whose regime is known."""
    of_regime, windows = _spreads(away, regime, spec.regimes.count)
    of_all, _ = _spreads(away, np.zeros(len(away), np.int64), 1)
    wide, _ = _spreads(np.abs(rows - overall), np.zeros(len(rows), np.int64), 1)
    spread = np.where(windows >= LEAST_WINDOWS_OF_SCALE, of_regime, of_all)
    spread = np.where((windows < LEAST_WINDOWS) | np.isnan(spread), wide, spread)
    return np.maximum(spread, _finest(spec, overall))


def _spreads(away: FloatArray, group: Int64Array, groups: int) -> tuple[FloatArray, FloatArray]:
    """Return the robust standard deviation of each column in each group, and of how many it is, ``(groups, f)`` both.

    The root mean square of the distances without the largest tenth of them, as large as a normal distribution's
    standard deviation would be. A median would do for what varies smoothly, but jumps between the few levels that many
    transmitters have.
    """
    spreads, counts = np.full((groups, away.shape[1]), np.nan), np.zeros((groups, away.shape[1]))
    rows = np.bincount(group, minlength=groups)
    starts = np.cumsum(rows) - rows
    for place, column in enumerate(away.T):
        ordered = column[np.lexsort((column, group))]  # NaN comes last in each group
        number = np.bincount(group[~np.isnan(column)], minlength=groups)
        within = np.arange(len(ordered)) - np.repeat(starts, rows)
        kept = number - (_TRIMMED_SHARE * number).astype(np.int64)
        square = np.where(within < np.repeat(kept, rows), ordered, 0.0) ** 2
        sums = np.bincount(np.sort(group), weights=square, minlength=groups)
        filled = number > 0
        spreads[filled, place] = np.sqrt(sums[filled] / kept[filled]) / _TRIMMED_TO_SIGMA
        counts[:, place] = number
    return spreads, counts


def _finest(spec: FeatureSpecification, overall: FloatArray) -> FloatArray:
    """Return the least scale of each feature; a quantity of two channels has neither's range, but its own size."""
    channels = [spec.channels[column.channel] for column in columns(spec)]
    ranges = np.array([abs(channel.high - channel.low) for channel in channels])
    with_unit = np.array([column.unit != "1" for column in columns(spec)])
    finest = np.where(with_unit, ranges * _FINEST_SHARE_OF_RANGE, _FINEST_NUMBER)
    derived = slice(len(finest) - len(spec.derived) - len(spec.residuals), len(finest) - len(spec.residuals))
    finest[derived] = _FINEST_SHARE_OF_RANGE * np.abs(np.nan_to_num(overall[0, derived]))
    return np.maximum(finest, 1e-12)
