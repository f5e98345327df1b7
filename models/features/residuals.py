"""Physics: quantities of two channels, and what a channel has that others do not explain.

Both are computed of the means of a window, so that channels with different sampling meet. Where one of the means is
missing, so is the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from models.features.names import columns, mean_columns
from models.features.specification import Derived, FeatureSpecification, Residual
from models.records import BoolArray, FloatArray

# With fewer windows for each coefficient, a polynomial would follow their noise.
_WINDOWS_PER_TERM = 5
_LARGEST = 1e100


def with_physics(spec: FeatureSpecification, features: FloatArray) -> FloatArray:
    """Return *features* with its derived quantities and residuals computed from its means.

    Args:
        spec: Residuals without coefficients give NaN.
        features: Shape ``(n, f)``; a copy is made where there is something to compute.
    """
    added = len(spec.derived) + len(spec.residuals)
    if not added:
        return features
    means = {name: features[:, place] for name, place in mean_columns(spec).items()}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        physics = [_derived(one, means) for one in spec.derived]
        physics += [_residual(one, means) for one in spec.residuals]
    computed = features.copy()
    computed[:, -added:] = np.stack(physics, axis=1)
    computed[~np.isfinite(computed)] = np.nan
    return computed


def fit_residuals(spec: FeatureSpecification, features: FloatArray) -> FeatureSpecification:
    """Return *spec* with the coefficients of its residuals; those it has are kept.

    Least squares over standardised predictors, of windows as `fit_rows` says. A predictor that does not vary explains
    nothing and gets 0; with fewer than five windows a coefficient only the constant is fitted; without any window there
    is no coefficient.

    Args:
        spec: Whose residuals.
        features: Of healthy windows, shape ``(n, f)``.
    """
    fitted = tuple(
        one if one.coefficients else replace(one, coefficients=_fitted(one, spec, features)) for one in spec.residuals
    )
    return replace(spec, residuals=fitted)


def fit_rows(spec: FeatureSpecification, features: FloatArray, channels: Sequence[str]) -> BoolArray:
    """Return which rows have the means of all *channels*, and none beyond its `feature_limits`, shape ``(n,)``.

    One wild value that a transmitter called good would decide a fit. Where less than half of the rows are within, the
    ranges are wrong, and all rows that have the means count.
    """
    places = [mean_columns(spec)[name] for name in channels]
    means = np.abs(features[:, places])
    known, within = np.isfinite(means).all(axis=1), (means <= feature_limits(spec)[places]).all(axis=1)
    return np.asarray(within if 2 * np.count_nonzero(within) >= np.count_nonzero(known) else known, np.bool_)


@lru_cache(maxsize=64)
def feature_limits(spec: FeatureSpecification) -> FloatArray:
    """Return how large, either side of 0, a feature counts in sums over a life, shape ``(f,)``.

    Twice what its channels' ranges allow: one wild value that a transmitter called good must not weigh on the mean of
    a machine's whole life. Where that says nothing (numbers without unit, ratios, channels without a range) 1e100.
    """
    reach = {
        channel.name: max(abs(channel.low), abs(channel.high)) + abs(channel.high - channel.low)
        if channel.high > channel.low
        else _LARGEST
        for channel in spec.channels
    }
    physics = [_reach(one, reach) for one in spec.derived] + [reach[one.target] for one in spec.residuals]
    told = columns(spec)
    limits = []
    for column in told[: len(told) - len(physics)]:
        channel = spec.channels[column.channel]
        a_unit = 1.0 if column.unit == channel.unit else 3600.0 / spec.window_s  # or else a slope by the hour
        limits.append(reach[channel.name] * a_unit if column.in_channel_unit else _LARGEST)
    return np.minimum(2.0 * np.array([*limits, *physics]), _LARGEST)


def _reach(one: Derived, reach: dict[str, float]) -> float:
    first, second = reach[one.first], reach[one.second]
    by_kind = {"product": first * second, "difference": first + second, "ratio": _LARGEST}
    return abs(one.factor) * by_kind[one.kind]


def _derived(one: Derived, means: dict[str, FloatArray]) -> FloatArray:
    first, second = means[one.first], means[one.second]
    if one.kind == "product":
        return one.factor * first * second
    if one.kind == "difference":
        return one.factor * (first - second)
    return np.asarray(one.factor * first / np.where(second == 0.0, np.nan, second), np.float64)


def _residual(one: Residual, means: dict[str, FloatArray]) -> FloatArray:
    target = means[one.target]
    if not one.coefficients:
        return np.full(len(target), np.nan)
    explained = np.zeros(len(target))
    for coefficient, term in zip(one.coefficients, _terms(one, means), strict=True):
        explained = explained + coefficient * term
    return target - explained


def _terms(one: Residual, means: dict[str, FloatArray]) -> list[FloatArray]:
    """Return 1, p, q, p², q², pq, as far as the polynomial has them."""
    predictors = [means[name] for name in one.predictors]
    terms = [np.ones(len(predictors[0])), *predictors]
    if one.degree == 2:
        terms += [predictor**2 for predictor in predictors]
        terms += [predictors[0] * predictors[1]] if len(predictors) == 2 else []
    return terms


def _fitted(one: Residual, spec: FeatureSpecification, features: FloatArray) -> tuple[float, ...]:
    means = {name: features[:, place] for name, place in mean_columns(spec).items()}
    known = fit_rows(spec, features, (one.target, *one.predictors))
    if not known.any():
        return ()
    target = means[one.target][known]
    terms = np.stack(_terms(one, {name: mean[known] for name, mean in means.items()})[1:], axis=1)
    centre, spread = terms.mean(axis=0), terms.std(axis=0)
    varies = spread > 1e-9 * np.abs(centre)
    if len(target) < _WINDOWS_PER_TERM * one.terms:
        varies[:] = False
    standard = np.where(varies, (terms - centre) / np.where(varies, spread, 1.0), 0.0)
    slopes = np.linalg.lstsq(standard, target - target.mean(), rcond=1e-9)[0]
    slopes = np.where(varies, slopes / np.where(varies, spread, 1.0), 0.0)
    return (float(target.mean() - slopes @ centre), *slopes.tolist())
