"""The table a class is learnt from: features of every window, by the very lines the gateway runs, with their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cloud_service.training.labels import LEFT_OUT, NORMAL, Failure, label
from cloud_service.training.lesson import Lesson
from cloud_service.training.specifications import TrainingSettings
from models.features.baseline import Baseline, fit_baseline
from models.features.extraction import extract
from models.features.fitting import fit_specification
from models.features.residuals import with_physics
from models.features.specification import FeatureSpecification, Regimes
from models.features.windower import windows_of
from models.features.windows import Windows, good_shares, typical_counts
from models.records import BoolArray, Channel, FloatArray, Int64Array, Observations, to_ns
from models.scoring import Prepared, prepare_table


class TrainingError(ValueError):
    """There is nothing to train from; no release is made."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a class is learnt from.

    Attributes:
        asset_class: The class.
        channels: Its channels.
        asset_ids: Its assets.
        observations_of: Gives the observations of one asset, in any order.
        failures: The class's maintenance records.
        unlabelled: Assets of which nobody knows whether they are well later on: only their first windows, those of
            their baseline, are taken for healthy.
    """

    asset_class: str
    channels: tuple[Channel, ...]
    asset_ids: tuple[str, ...]
    observations_of: Callable[[str], Observations]
    failures: tuple[Failure, ...] = ()
    unlabelled: frozenset[str] = frozenset()

    def failures_of(self, asset_id: str) -> tuple[Failure, ...]:
        """Return the failures of one asset, in time order."""
        own = (failure for failure in self.failures if failure.asset_id == asset_id)
        return tuple(sorted(own, key=lambda failure: failure.failed_at))

    def mode_of(self, asset_id: str) -> str | None:
        """Return the mode of an asset's first failure, None where it had none: later ones do not move an asset."""
        own = self.failures_of(asset_id)
        return own[0].failure_mode if own else None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Windows of a class, by asset and time.

    Attributes:
        spec: Of the features.
        asset_ids: The assets that have windows.
        asset: Index into ``asset_ids``, shape ``(n,)``.
        start_ns: Starts, shape ``(n,)``.
        end_ns: Ends, shape ``(n,)``.
        good_share: Share of good observations, 0 to 1, shape ``(n,)``.
        features: Shape ``(n, f)``.
        samples: A few whole windows of each asset, by asset and time.
        observations: How many observations the windows were made of.
        digest: SHA-256 over these observations.
    """

    spec: FeatureSpecification
    asset_ids: tuple[str, ...]
    asset: Int64Array
    start_ns: Int64Array
    end_ns: Int64Array
    good_share: FloatArray
    features: FloatArray
    samples: Windows = field(repr=False)
    observations: int
    digest: str

    def __len__(self) -> int:
        return len(self.end_ns)

    def rows_of(self, asset_ids: Sequence[str] | frozenset[str]) -> BoolArray:
        """Return which rows are of one of *asset_ids*."""
        wanted = [number for number, asset_id in enumerate(self.asset_ids) if asset_id in asset_ids]
        return np.isin(self.asset, wanted)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the windows of a table, shape ``(n,)`` each; see ``labels.Labels``.

    ``event`` numbers the failures over all assets here. ``modes`` names the labels, ``normal`` first. ``life`` numbers
    the lives, rising: a machine that is in service again after a failure begins another. ``whole`` says whether a
    window's life is known from its start.
    """

    modes: tuple[str, ...]
    mode: Int64Array
    life_h: FloatArray
    event: Int64Array
    life: Int64Array
    whole: BoolArray
    failures: tuple[Failure, ...]


def build_table(data: TrainingData, spec: FeatureSpecification, tell: Callable[[float], None]) -> Table:
    """Return the table of *data*, with the specification completed by what a whole window of this class has.

    Args:
        data: Whose windows.
        spec: Of the windows.
        tell: Called with the share, 0 to 1, that is done.

    Raises:
        TrainingError: If there is not one whole window.
    """
    features: list[FloatArray] = []
    counts: list[Int64Array] = []
    goods: list[Int64Array] = []
    ends: list[Int64Array] = []
    assets: list[str] = []
    samples: list[Windows] = []
    seen = hashlib.sha256()
    observations = 0
    for number, asset_id in enumerate(data.asset_ids):
        recording = data.observations_of(asset_id)
        observations += len(recording)
        _digest(seen, asset_id, recording)
        if len(windows := windows_of(spec, recording, [asset_id])):
            assets.append(asset_id)
            features.append(extract(spec, windows))
            counts.append(windows.counts)
            goods.append(windows.good_counts)
            ends.append(windows.end_ns)
            samples.append(_telling(windows))
        tell((number + 1) / len(data.asset_ids))
    if not assets:
        raise TrainingError(f"{data.asset_class}: no whole window in {observations} observations; nothing is trained")
    expected = typical_counts(np.concatenate(counts))
    end_ns = np.concatenate(ends)
    return Table(
        spec=replace(spec, expected_counts=expected),
        asset_ids=tuple(assets),
        asset=np.repeat(np.arange(len(assets)), [len(part) for part in ends]),
        start_ns=end_ns - spec.window_ns,
        end_ns=end_ns,
        good_share=good_shares(np.concatenate(goods), np.concatenate(counts), expected),
        features=np.concatenate(features),
        samples=Windows.concatenate(samples),
        observations=observations,
        digest=seen.hexdigest(),
    )


def know(table: Table, data: TrainingData, settings: TrainingSettings) -> Known:
    """Return what the maintenance records say of the windows of *table*; with too few good values, nothing."""
    failures = tuple(failure for asset_id in table.asset_ids for failure in data.failures_of(asset_id))
    modes = (NORMAL, *sorted({failure.failure_mode for failure in failures}))
    mode = np.full(len(table), LEFT_OUT, np.int64)
    life_h = np.full(len(table), np.nan)
    event = np.full(len(table), -1, np.int64)
    lives = np.zeros(len(table), np.int64)
    before = 0
    poor = table.good_share < settings.minimum_good_share
    for number, asset_id in enumerate(table.asset_ids):
        own = data.failures_of(asset_id)
        rows = table.asset == number
        if asset_id in data.unlabelled:
            mode[np.flatnonzero(rows & ~poor)[: settings.baseline_windows]] = 0
        else:
            told = label(table.start_ns[rows], table.end_ns[rows], own, modes, settings.horizons)
            mode[rows], life_h[rows] = told.mode, told.life_h
            event[rows] = np.where(told.event >= 0, told.event + before, -1)
        lives[rows] = np.searchsorted(_beginnings(own), table.start_ns[rows], side="right")
        before += len(own)
    mode[poor] = LEFT_OUT
    life_h[poor] = np.nan
    begins = (np.diff(table.asset, prepend=-1) != 0) | (np.diff(lives, prepend=-1) != 0)
    return Known(
        modes=modes,
        mode=mode,
        life_h=life_h,
        event=event,
        life=np.cumsum(begins) - 1,
        whole=(lives > 0) | settings.records_from_start,
        failures=failures,
    )


def _beginnings(failures: Sequence[Failure]) -> Int64Array:
    """Return when lives after these *failures* of one asset, by time, begin."""
    return np.array(
        [to_ns(failure.in_service_again) for failure in failures if failure.in_service_again is not None], np.int64
    )


def with_fitted(
    table: Table, known: Known, learnt_from: BoolArray, live: FeatureSpecification | None, seed: int
) -> Table:
    """Return *table* with its specification completed: regimes, residuals and counts, and the features that need them.

    Args:
        table: As `build_table` made it.
        known: Of its windows.
        learnt_from: Windows that may be learnt from, shape ``(n,)``; of these the healthy ones are looked at.
        live: The live release's specification. What was fitted for it is kept where it asks for the same, so that
            what gateways remember of their machines stays valid.
        seed: Of the draws in which regimes are looked for.
    """
    spec = table.spec
    if live is not None and unfitted(live) == unfitted(spec):
        spec = live
    spec = fit_specification(spec, table.features[learnt_from & (known.mode == 0)], seed)
    return replace(table, spec=spec, features=with_physics(spec, table.features))


def unfitted(spec: FeatureSpecification) -> FeatureSpecification:
    """Return *spec* without what was learnt from data."""
    return replace(
        spec,
        expected_counts=(),
        regimes=Regimes(channels=spec.regimes.channels),
        residuals=tuple(replace(residual, coefficients=()) for residual in spec.residuals),
    )


def lesson_of(table: Table, known: Known, baseline: Baseline) -> Lesson:
    """Return what all windows of *table* teach."""
    return Lesson(
        spec=table.spec,
        baseline=baseline,
        modes=known.modes,
        asset_ids=table.asset_ids,
        asset=table.asset,
        end_ns=table.end_ns,
        good_share=table.good_share,
        life=known.life,
        event=known.event,
        mode=known.mode,
        life_h=known.life_h,
        prepared=prepared_of(table, known, table.spec, baseline),
    )


def baseline_of(table: Table, known: Known, settings: TrainingSettings) -> Baseline:
    """Return what is ordinary: for each asset its first windows in good health; for the class, or for it alone."""
    by_asset = {
        asset_id: table.features[(known.mode == 0) & (table.asset == number)]
        for number, asset_id in enumerate(table.asset_ids)
    }
    return fit_baseline(table.spec, by_asset, settings.baseline_windows, settings.baseline_scope)


def prepared_of(table: Table, known: Known, spec: FeatureSpecification, baseline: Baseline) -> Prepared:
    """Return what models take of the windows of *table*, as a gateway with *baseline* that saw each life begin."""
    _, firsts = np.unique(known.life, return_index=True)
    names = [table.asset_ids[place] for place in table.asset[firsts].tolist()]
    return prepare_table(spec, baseline, names, known.life, table.end_ns, table.features, whole=known.whole)


def _telling(windows: Windows) -> Windows:
    """Return the first, the last and the most holed of one asset's *windows*, by time, for golden vectors."""
    return windows.take(np.unique([0, int(windows.good_share.argmin()), len(windows) - 1]))


def _digest(seen: hashlib._Hash, asset_id: str, recording: Observations) -> None:
    """Add one asset's observations, by channel and time: neither the order of rows nor of streams counts."""
    names = [stream.channel for stream in recording.streams]
    place = np.argsort(np.argsort(np.array(names), kind="stable"), kind="stable")
    channel = place[recording.stream] if len(recording) else np.empty(0, np.int64)
    order = np.lexsort((recording.source_time, channel))
    ordered = recording.take(order)
    seen.update(f"{asset_id} {len(recording)} {' '.join(sorted(names))}".encode())
    for column in (channel[order], ordered.source_time, ordered.value, ordered.status, ordered.samples):
        seen.update(np.ascontiguousarray(column).tobytes())
