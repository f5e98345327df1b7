"""Fitting a release's models to one asset, on the gateway, from windows that somebody confirmed to be healthy.

Two things are moved, both within the release's own bounds. The asset's centre, so that what is ordinary for it counts
as ordinary; and by what its score is divided, so that an asset that scatters more or less than its class is flagged as
rarely as the class is. Scales, members and limits stay. An adaptation is of one asset and one release. It says when it
was made, of which windows, and who confirmed them; and without it every answer is as before, to the last bit.

Windows on the way into a fault must not become the new ordinary: where they wander, or are out of normal even around
their own centre, nothing is adapted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import msgspec
import numpy as np

from models.detection.detection import Detection
from models.features.baseline import Baseline, ByRegime, ordinary
from models.features.names import feature_names
from models.features.regimes import regimes_of
from models.features.specification import FeatureSpecification
from models.records import UNDECODABLE, FloatArray, Int64Array

MAX_ASSETS: Final = 10_000
MAX_BYTES: Final = 64 * 2**20
MAX_NAME: Final = 200
MAX_INTEGER: Final = 2**63 - 1
# Fewer windows of a regime do not say where its centre is.
LEAST_OF_REGIME: Final = 10
# How far the medians of the first and the last third of the windows may lie apart, in scales and in decades.
MOST_WANDERING: Final = 1.5
MOST_RISE: Final = 1.0
MOST_FLAGGED: Final = 0.1
_USUAL: Final = 0.95
_STRETCHES: Final = 4
_TINY: Final = 1e-12


class AdaptationError(ValueError):
    """Nothing is adapted: why, for the person who asked. The asset is judged as before."""


@dataclass(frozen=True, kw_only=True)
class HealthyEvidence:
    """Windows of one asset that somebody confirmed to be healthy.

    Attributes:
        asset_id: Whose they are.
        features: Raw features, by time, shape ``(n, f)``.
        end_ns: Ends of the windows, ascending, shape ``(n,)``.
        confirmed_by: Who says so.
        confirmed_at: When, aware.
    """

    asset_id: str
    features: FloatArray
    end_ns: Int64Array
    confirmed_by: str
    confirmed_at: datetime


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How the models of one release are fitted to one asset.

    Attributes:
        asset_id: The asset.
        asset_class: Its class.
        bundle_version: The release this is for; it counts with no other.
        feature_hash: Of the release's features.
        shift: Of the asset's centre, in the class's scales, a row a regime, a number a feature.
        factor: What the asset's score is divided by, above 0.
        windows: How many windows it was made of.
        first_end_ns: End of the first of them, ns since 1970 UTC.
        last_end_ns: End of the last.
        confirmed_by: Who confirmed that they were healthy.
        confirmed_at: When, aware.

    Raises:
        AdaptationError: If a name is none, a time has no zone, or a number is out of range.
    """

    asset_id: str
    asset_class: str
    bundle_version: int
    feature_hash: str
    shift: ByRegime
    factor: float
    windows: int
    first_end_ns: int
    last_end_ns: int
    confirmed_by: str
    confirmed_at: datetime

    def __post_init__(self) -> None:
        names = (self.asset_id, self.asset_class, self.feature_hash, self.confirmed_by)
        if not all(name.strip() and name.isprintable() and len(name) <= MAX_NAME for name in names):
            raise AdaptationError(
                f"asset, class, features, and who confirmed the windows are 1 to {MAX_NAME} printable characters each"
            )
        if self.confirmed_at.tzinfo is None:
            raise AdaptationError("when it was confirmed has no time zone")
        numbers = (self.factor, *(number for row in self.shift for number in row))
        if not all(math.isfinite(number) for number in numbers) or self.factor <= 0.0 or not self.shift:
            raise AdaptationError("a shift or factor is out of range")
        if (
            not 1 <= self.windows <= MAX_INTEGER
            or not -MAX_INTEGER <= self.first_end_ns <= self.last_end_ns <= MAX_INTEGER
        ):
            raise AdaptationError("windows or their ends are out of range")


@dataclass(frozen=True, kw_only=True)
class Release:
    """What of a release an adaptation is made of: see ``LoadedBundle`` and its manifest."""

    asset_class: str
    version: int
    feature_hash: str
    specification: FeatureSpecification
    baseline: Baseline
    detection: Detection
    warning: float


def adapt(release: Release, evidence: HealthyEvidence, scored: Callable[[Baseline], FloatArray]) -> Adaptation:
    """Return how the release's models are to be fitted to the asset of *evidence*.

    Args:
        release: As the bundle says, without any adaptation.
        evidence: What was confirmed.
        scored: Says what `combine` tells of the evidence's windows, shape ``(n,)``, under a baseline.

    Raises:
        AdaptationError: If there are too few windows, they wander like a fault, or are out of normal around a centre
            of their own.
    """
    bounds = release.detection.adaptation
    who = f"{release.asset_class}/{evidence.asset_id}"
    if len(evidence.end_ns) < bounds.least_windows:
        raise AdaptationError(
            f"{who}: {len(evidence.end_ns)} confirmed windows, {bounds.least_windows} are needed; nothing is adapted"
        )
    centre, scale = ordinary(
        release.specification, evidence.features, [evidence.asset_id] * len(evidence.features), release.baseline
    )
    deviations = (evidence.features - centre) / scale
    _check_wandering(who, release, deviations)
    try:
        adaptation = Adaptation(
            asset_id=evidence.asset_id,
            asset_class=release.asset_class,
            bundle_version=release.version,
            feature_hash=release.feature_hash,
            shift=_shift(release, evidence, deviations),
            factor=1.0,
            windows=len(evidence.end_ns),
            first_end_ns=int(evidence.end_ns[0]),
            last_end_ns=int(evidence.end_ns[-1]),
            confirmed_by=evidence.confirmed_by,
            confirmed_at=evidence.confirmed_at,
        )
    except AdaptationError as error:
        raise AdaptationError(f"{who}: {error}; nothing is adapted") from error
    scores = scored(adapted_baseline(adaptation, release.baseline))
    return replace(adaptation, factor=_factor(who, release, scores[np.isfinite(scores)]))


def _check_wandering(who: str, release: Release, deviations: FloatArray) -> None:
    """Refuse windows of which a feature ends elsewhere than it began, further than healthy windows may."""
    wandering = np.array([_moved(column[np.isfinite(column)]) for column in deviations.T])
    worst = int(np.argmax(wandering))
    if wandering[worst] > MOST_WANDERING:
        raise AdaptationError(
            f"{who}: {feature_names(release.specification)[worst]} moved by {wandering[worst]:.1f} scales over these "
            f"windows, {MOST_WANDERING:g} is what may be called healthy; nothing is adapted"
        )


def _moved(known: FloatArray) -> float:
    """Return how far the median of the last third of *known* lies from that of the first; 0 of fewer than three."""
    first, _, last = np.array_split(known, 3)
    return float(abs(np.median(last) - np.median(first))) if len(last) else 0.0


def _medians(rows: FloatArray) -> FloatArray:
    """Return the median of each column over what is known of it, NaN where nothing is."""
    known = np.isfinite(rows).any(axis=0)
    medians = np.full(rows.shape[1], np.nan)
    medians[known] = np.nanmedian(rows[:, known], axis=0)
    return medians


def _shift(release: Release, evidence: HealthyEvidence, deviations: FloatArray) -> ByRegime:
    """Return where the deviations of each regime that was seen enough surely lie, within the bound; else 0."""
    regime = regimes_of(release.specification, evidence.features)
    most = release.detection.adaptation.largest_shift
    rows = []
    for number in range(release.specification.regimes.count):
        inside = deviations[regime == number]
        moved = _surely(inside) if len(inside) >= LEAST_OF_REGIME else np.zeros(deviations.shape[1])
        rows.append(tuple(np.clip(moved, -most, most).tolist()))
    return tuple(rows)


def _surely(rows: FloatArray) -> FloatArray:
    """Return the median of each column of *rows*, drawn to 0 as far as it may be chance.

    Windows are much like their neighbours, so what chance does is told by how far the medians of stretches of time lie
    apart; as stretches are like their neighbours too, twice their squared error is taken. A column of which a stretch
    knows nothing is 0.
    """
    medians = _medians(rows)
    stretches = np.stack([_medians(part) for part in np.array_split(rows, _STRETCHES)])
    chance = 2.0 * stretches.var(axis=0, ddof=1) / _STRETCHES
    sure = np.maximum(1.0 - chance / np.maximum(medians**2, _TINY), 0.0)
    return np.asarray(np.nan_to_num(medians * sure, nan=0.0), np.float64)


def _factor(who: str, release: Release, scores: FloatArray) -> float:
    """Return by what the asset's scores around its own centre exceed the class's, drawn to 1 where they are few."""
    bounds = release.detection.adaptation
    if len(scores) < bounds.least_windows:
        raise AdaptationError(f"{who}: {len(scores)} of these windows have a score; nothing is adapted")
    first, _, last = (float(np.median(part)) for part in np.array_split(scores, 3))
    if last - first > MOST_RISE:
        raise AdaptationError(
            f"{who}: the score rose by {last - first:.1f} over these windows, as on the way into a fault; "
            "nothing is adapted"
        )
    flagged = float((scores >= release.warning * bounds.largest_factor).mean())
    if flagged > MOST_FLAGGED:
        raise AdaptationError(
            f"{who}: {flagged:.0%} of these windows are out of normal even around their own centre; nothing is adapted"
        )
    own = max(float(np.quantile(scores, _USUAL)), 1e-6) / release.detection.usual
    weight = len(scores) / (len(scores) + 2.0 * bounds.least_windows)
    return float(np.clip(own**weight, 1.0 / bounds.largest_factor, bounds.largest_factor))


def adapted_baseline(adaptation: Adaptation, baseline: Baseline) -> Baseline:
    """Return *baseline* with the asset's centre moved; those of all other assets, and the scales, are the same."""
    centre = np.array(baseline.centre_of(adaptation.asset_id)) + np.array(adaptation.shift) * baseline.scales
    return replace(baseline, centre={**baseline.centre, adaptation.asset_id: tuple(map(tuple, centre.tolist()))})


def adapted_scores(adaptations: Adaptations, asset_ids: list[str], scores: FloatArray) -> FloatArray:
    """Return *scores*, shape ``(n,)``, each divided by its asset's factor; those of other assets to the last bit."""
    if not adaptations.of:
        return scores
    factors = np.array([adaptations.of[name].factor if name in adaptations.of else 1.0 for name in asset_ids])
    return np.where(factors == 1.0, scores, scores / factors)


@dataclass(frozen=True, kw_only=True)
class Adaptations:
    """All adaptations of one gateway and asset class, by asset."""

    of: Mapping[str, Adaptation] = field(default_factory=dict)

    def with_(self, adaptation: Adaptation) -> Adaptations:
        """Return these with *adaptation* in the place of the asset's former one.

        Raises:
            AdaptationError: If there are too many assets.
        """
        joint = {**self.of, adaptation.asset_id: adaptation}
        if len(joint) > MAX_ASSETS:
            raise AdaptationError(f"{len(joint)} assets are more than {MAX_ASSETS}; nothing is adapted")
        return Adaptations(of=joint)

    def without(self, asset_id: str) -> Adaptations:
        """Return these without that of *asset_id*: it is judged as the release says, as if there had never been one."""
        return Adaptations(of={name: one for name, one in self.of.items() if name != asset_id})

    def for_release(self, release: Release) -> Adaptations:
        """Return those that were made for *release* and lie within its bounds; the others count for nothing."""
        return Adaptations(of={name: one for name, one in self.of.items() if _fits(one, release)})

    def baseline(self, baseline: Baseline) -> Baseline:
        """Return *baseline* with every adapted asset's centre moved."""
        for one in self.of.values():
            baseline = adapted_baseline(one, baseline)
        return baseline


def _fits(one: Adaptation, release: Release) -> bool:
    bounds = release.detection.adaptation
    shape = (release.specification.regimes.count, len(feature_names(release.specification)))
    return (
        (one.asset_class, one.bundle_version, one.feature_hash)
        == (release.asset_class, release.version, release.feature_hash)
        and {(len(one.shift), len(row)) for row in one.shift} == {shape}
        and float(np.abs(np.array(one.shift)).max(initial=0.0)) <= bounds.largest_shift
        and 1.0 / bounds.largest_factor - 1e-9 <= one.factor <= bounds.largest_factor + 1e-9
    )


def encode_adaptations(adaptations: Adaptations) -> bytes:
    """Return the adaptations as a file's bytes."""
    return msgspec.json.encode(list(adaptations.of.values()), order="sorted")


def decode_adaptations(data: bytes) -> Adaptations:
    """Return the adaptations in a file.

    Raises:
        AdaptationError: If it is too long, does not decode, or holds an asset twice.
    """
    if len(data) > MAX_BYTES:
        raise AdaptationError(f"{len(data)} bytes are more than {MAX_BYTES}; assets are judged without adaptation")
    try:
        told = msgspec.json.decode(data, type=list[Adaptation])
    except UNDECODABLE as error:  # also what an adaptation refuses
        raise AdaptationError(f"does not decode ({error}); assets are judged without adaptation") from error
    if len(told) > MAX_ASSETS or len({one.asset_id for one in told}) != len(told):
        raise AdaptationError("holds too many assets, or one twice; assets are judged without adaptation")
    return Adaptations(of={one.asset_id: one for one in told})
