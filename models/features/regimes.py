"""Operating regimes: which of a machine's ways of running a window belongs to.

Settings come in clusters (load points, products, flight conditions), and what is ordinary differs between them more
than a fault makes it differ within one. A regime is the cluster whose centre is nearest.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.features.names import mean_columns
from models.features.residuals import fit_rows
from models.features.specification import FeatureSpecification, Regimes
from models.records import FloatArray, Int64Array

UNKNOWN_REGIME = -1
# Clusters tried, rows they are looked for in, and draws of first centres for each number.
_MOST = 16
_ROWS = 3000
_DRAWS = 4
_ROUNDS = 50
# Evenly spread settings reach a silhouette of 0.71 with two clusters and less with more: what is above has gaps.
_LEAST_SILHOUETTE = 0.8
_LEAST_SHARE = 0.01
_LEAST_WINDOWS = 10
# A setting that varies by less of its channel's range is constant.
_CONSTANT_SHARE_OF_RANGE = 0.01


def settings_of(spec: FeatureSpecification, features: FloatArray) -> FloatArray:
    """Return the settings of each row of *features*, shape ``(n, settings)``; NaN where one has no good value."""
    means = mean_columns(spec)
    return features[:, [means[name] for name in spec.regimes.channels]]


def regimes_of(spec: FeatureSpecification, features: FloatArray) -> Int64Array:
    """Return the regime of each row of *features*, shape ``(n,)``: 0 where there is but one.

    The nearest centre by the settings that are known; `UNKNOWN_REGIME` where none is. Of two equally near the first.
    """
    count = spec.regimes.count
    if count == 1:
        return np.zeros(len(features), np.int64)
    distance = _distances(settings_of(spec, features), spec.regimes)
    known = np.isfinite(settings_of(spec, features)).any(axis=1)
    return np.where(known, distance.argmin(axis=1), UNKNOWN_REGIME).astype(np.int64)


def fit_regimes(spec: FeatureSpecification, features: FloatArray, seed: int) -> FeatureSpecification:
    """Return *spec* with the regimes that the settings in *features* fall into; those it has are kept.

    k-means++ for each number of clusters up to 16. Clusters of less than a hundredth of the windows are left out:
    they are outliers or passages, which then belong to the regime they are nearest to; so do windows with a setting
    that no channel of its range has (`residuals.fit_rows`). The number is that with the
    largest mean silhouette (distance to the own centre against the next), when that shows gaps between the clusters;
    else there is one regime. So there is where settings vary by less than a hundredth of their range.

    Args:
        spec: Whose ``regimes.channels`` are looked at.
        features: Of any windows, shape ``(n, f)``.
        seed: Of the draws; the same seed and rows give the same regimes.

    Source:
        D. Arthur, S. Vassilvitskii, *k-means++: the advantages of careful seeding*, SODA 2007; P. Rousseeuw,
        *Silhouettes*, J. Comput. Appl. Math. 20 (1987) 53-65, in its form with distances to centres.
    """
    if not spec.regimes.channels or spec.regimes.centres:
        return spec
    settings = settings_of(spec, features)
    settings = settings[fit_rows(spec, features, spec.regimes.channels)]
    spans = {channel.name: abs(channel.high - channel.low) for channel in spec.channels}
    ranges = np.array([spans[name] for name in spec.regimes.channels])
    spread = settings.std(axis=0) if len(settings) else np.zeros(len(ranges))
    varies = spread > np.maximum(_CONSTANT_SHARE_OF_RANGE * ranges, 1e-12)
    centres = _centres(settings[:, varies] / spread[varies], np.random.default_rng(seed)) if varies.any() else None
    if centres is None:
        return spec
    middle = np.tile(np.median(settings, axis=0), (len(centres), 1))
    middle[:, varies] = centres * spread[varies]
    # What does not vary must not decide: there its whole range is one scale.
    scales = np.where(varies, spread, np.maximum(ranges, 1.0))
    return replace(
        spec,
        regimes=replace(
            spec.regimes,
            centres=tuple(map(tuple, middle[np.lexsort(middle.T[::-1])].tolist())),
            scales=tuple(scales.tolist()),
        ),
    )


def _distances(settings: FloatArray, regimes: Regimes) -> FloatArray:
    """Return the mean squared distance over known settings from each row to each centre, shape ``(n, regimes)``."""
    scales = np.array(regimes.scales)
    columns = []
    for centre in regimes.centres:
        total, number = np.zeros(len(settings)), np.zeros(len(settings))
        for place, (middle, scale) in enumerate(zip(centre, scales, strict=True)):
            with np.errstate(over="ignore"):
                away = (settings[:, place] - middle) / scale
                total += np.where(np.isnan(away), 0.0, away * away)
            number += ~np.isnan(away)
        columns.append(total / np.maximum(number, 1.0))
    return np.stack(columns, axis=1)


def _centres(points: FloatArray, rng: np.random.Generator) -> FloatArray | None:
    """Return the centres of the clusters that *points*, with about one spread an axis, fall into; None for one."""
    few = points if len(points) <= _ROWS else points[np.sort(rng.choice(len(points), _ROWS, replace=False))]
    least = max(_LEAST_WINDOWS * len(few) // max(len(points), 1), round(_LEAST_SHARE * len(few)), 2)
    best, best_silhouette = None, _LEAST_SILHOUETTE
    for count in range(2, min(_MOST, len(np.unique(few, axis=0))) + 1):
        centres = _clusters(few, count, rng)
        members = np.bincount(_squared(few, centres).argmin(axis=1), minlength=count)
        centres = centres[members >= least]
        if len(centres) < 2:
            continue
        if (silhouette := _silhouette(few, centres)) > best_silhouette + 1e-3:
            best, best_silhouette = centres, silhouette
    return None if best is None else _settled(points, best)


def _clusters(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Return the best of a few runs of k-means++."""
    runs = [_settled(points, _first_centres(points, count, rng)) for _ in range(_DRAWS)]
    return min(runs, key=lambda centres: float(_squared(points, centres).min(axis=1).sum()))


def _first_centres(points: FloatArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Return *count* of *points*, each drawn by its squared distance from those before it."""
    chosen = [points[rng.integers(len(points))]]
    nearest = _squared(points, np.stack(chosen))[:, 0]
    for _ in range(1, count):
        total = nearest.sum()
        draw = rng.choice(len(points), p=nearest / total) if total > 0.0 else rng.integers(len(points))
        chosen.append(points[draw])
        nearest = np.minimum(nearest, _squared(points, points[draw][None])[:, 0])
    return np.stack(chosen)


def _settled(points: FloatArray, centres: FloatArray) -> FloatArray:
    """Return *centres* moved to the means of what is nearest to them until they stay (Lloyd)."""
    for _ in range(_ROUNDS):
        nearest = _squared(points, centres).argmin(axis=1)
        members = np.bincount(nearest, minlength=len(centres))
        sums = np.stack([np.bincount(nearest, weights=column, minlength=len(centres)) for column in points.T], axis=1)
        moved = np.where(members[:, None] > 0, sums / np.maximum(members, 1)[:, None], centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _silhouette(points: FloatArray, centres: FloatArray) -> float:
    """Return the mean, over points, of 1 less the distance to the nearest centre over that to the next."""
    near = np.sqrt(np.partition(_squared(points, centres), 1, axis=1)[:, :2])
    return float(np.mean(1.0 - near[:, 0] / np.maximum(near[:, 1], 1e-300)))


def _squared(points: FloatArray, centres: FloatArray) -> FloatArray:
    """Return the squared distance of each point to each centre, shape ``(n, centres)``."""
    return np.asarray(((points[:, None, :] - centres[None]) ** 2).sum(axis=2), np.float64)
