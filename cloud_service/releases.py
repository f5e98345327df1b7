"""From the lake to the gateways: train a class and register the outcome; roll a version out and note how it went."""

from __future__ import annotations

import hashlib
import math
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_service.errors import ArchiveUnreadable, RegistryError, TrainingFailed
from cloud_service.fleet import assets, maintenance
from cloud_service.lake.lake import Lake
from cloud_service.pki import Pki
from cloud_service.registry.registry import BundleStatus, BundleVersion, Registry
from cloud_service.requests.failures import ask_around_failures, missing_data
from cloud_service.requests.waiting import wait_for
from cloud_service.store import Store
from models.bundle.archive import MAX_MANIFEST_BYTES, unpack_verified
from models.bundle.contents import MANIFEST, decode_manifest
from models.bundle.errors import BundleError
from models.bundle.loaded import LoadedBundle
from models.bundle.manifest import Manifest
from models.evaluation.gate import Decision
from models.records import AssetDescription, Channel, Observations

if TYPE_CHECKING:
    from cloud_service.rollout import HostOutcome, RolloutReport
    from cloud_service.training.dataset import TrainingData
    from cloud_service.training.job import TrainingOutcome

log = structlog.get_logger()

Progress = Callable[[str, float], None]
# Every file of the lake holds many assets: reading several at once costs hardly more than reading one.
_ASSETS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training came to, as it is registered and told.

    ``requested`` counts the requests for raw data around failures that it made; ``missing`` says what of such data had
    not come when it trained.
    """

    asset_class: str
    version: int
    status: BundleStatus
    released: bool
    reasons: tuple[str, ...]
    held_out: Mapping[str, float]
    live_version: int | None
    live_held_out: Mapping[str, float] | None
    compared_on: tuple[str, ...]
    archive: Path | None
    requested: int = 0
    missing: tuple[str, ...] = ()


class AssetReader:
    """Reads the lake asset by asset, some at a time, for whoever asks in the order of *asset_ids*."""

    def __init__(self, lake: Lake, asset_ids: Sequence[str]) -> None:
        self._lake = lake
        self._asset_ids = list(asset_ids)
        self._read: list[str] = []
        self._observations = Observations.empty()

    def __call__(self, asset_id: str) -> Observations:
        """Return all observations of *asset_id*."""
        if asset_id not in self._read:
            place = self._asset_ids.index(asset_id)
            self._read = self._asset_ids[place : place + _ASSETS_AT_ONCE]
            self._observations = self._lake.observations(self._read)
        own = np.array([stream.asset_id == asset_id for stream in self._observations.streams], np.bool_)
        return self._observations.take(own[self._observations.stream]) if own.any() else Observations.empty()


def train_and_register(
    asset_class: str,
    *,
    store: Store,
    lake: Lake,
    registry: Registry,
    pki: Pki,
    progress: Progress,
    wait_for_data: bool = False,
    recurrent_unit: bool = False,
) -> Trained:
    """Train the models of *asset_class* on all that is in the lake, and register what came of it.

    Before, gateways are asked for what they kept back from before the failures that maintenance wrote down. What has
    not come then is told, in the outcome and on the model card; with *wait_for_data* it is waited for. With
    *recurrent_unit* the life models are joined by one, where whole histories are known and it makes them better.

    A bundle that passes the gate is released; one that does not is registered as refused, with the reasons. Where the
    live bundle cannot be run by this software (its features changed), nothing can be compared: the new one stays a
    candidate until somebody releases it by hand.

    Raises:
        TrainingFailed: If there is nothing to train from, or a recurrent unit is asked for and JAX is not installed.
    """
    from cloud_service.training.dataset import TrainingError  # noqa: PLC0415 - extra `train`, needed here alone
    from cloud_service.training.gru import GruSettings, SequenceExtraMissing, load_jax  # noqa: PLC0415 - the same
    from cloud_service.training.job import train_class  # noqa: PLC0415 - the same
    from cloud_service.training.specifications import settings_for  # noqa: PLC0415 - the same
    from models.export.graph import ExportError  # noqa: PLC0415 - the same
    from models.export.parity import ParityError  # noqa: PLC0415 - the same

    settings = settings_for(asset_class)
    if recurrent_unit:
        try:
            load_jax()
        except SequenceExtraMissing as error:
            raise TrainingFailed(f"{asset_class}: {error}; nothing was trained") from error
        settings = replace(settings, prognosis=replace(settings.prognosis, gru=GruSettings()))
    before = timedelta(hours=settings.horizons.fault_h)
    requested, missing = _raw_data(asset_class, store, before, progress, wait=wait_for_data)
    data = _training_data(asset_class, store, lake)
    live, version = registry.live(asset_class), registry.next_version(asset_class)
    key = serialization.load_pem_private_key(pki.signing_key.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    loaded, incomparable = _load(live, pki) if live else (None, "")
    try:
        outcome = train_class(data, settings, loaded, version, key, progress=progress, missing=missing)
    except TrainingError as error:
        raise TrainingFailed(str(error)) from error
    except (ParityError, ExportError) as error:
        reasons: tuple[str, ...] = (f"the models cannot be exported as they were trained: {error}",)
        trained = _registered(registry, asset_class, version, live, None, BundleStatus.REFUSED, reasons)
    else:
        status, reasons = _verdict(outcome.decision, incomparable)
        trained = _registered(registry, asset_class, version, live, outcome, status, reasons)
    return replace(trained, requested=requested, missing=missing)


def _raw_data(
    asset_class: str, store: Store, before: timedelta, progress: Progress, *, wait: bool
) -> tuple[int, tuple[str, ...]]:
    """Ask for what was kept back *before* the failures of the class; return how often, and what has not come."""
    with store.writing() as session:
        asset_ids = [description.asset_id for description in assets.assets(session, asset_class)]
        wanted = ask_around_failures(session, maintenance.records(session, asset_ids), before)
    if wait and wanted.request_ids:
        wait_for(store, wanted.request_ids, lambda done, of: progress("raw data", done / max(of, 1)))
    with store.reading() as session:
        return wanted.asked, missing_data(session, wanted)


def roll_out_version(
    *,
    registry: Registry,
    archive: Path,
    inventory: Path,
    private_data_dir: Path,
    watch_options: Mapping[str, int],
    tell: Callable[[str], None],
) -> RolloutReport:
    """Roll *archive* out, and move its version in the registry by how it went; an unregistered one moves nothing.

    Raises:
        ArchiveUnreadable: If there is no manifest in it.
        RolloutError: If Ansible cannot run on *inventory*.
    """
    from cloud_service.rollout import Watch, roll_out  # noqa: PLC0415 - extra `deploy`, needed here alone

    manifest = _manifest_of(archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    registered = [v for v in registry.versions(manifest.asset_class) if v.archive_sha256 == digest]
    report = roll_out(
        archive=archive,
        manifest=manifest,
        inventory=inventory,
        private_data_dir=private_data_dir,
        digest=digest,
        watch=replace(Watch(), **watch_options),
        on_event=lambda event: tell(f"{event.host}: {event.step}: {event.status}"),
    )
    for version in registered:
        _note_rollout(registry, version, report)
    return report


def archive_to_roll_out(registry: Registry, asset_class: str, version: int | None) -> Path:
    """Return the archive of *version*, or of the newest that was released, or raise RegistryError."""
    chosen = registry.version(asset_class, version) if version is not None else registry.released(asset_class)
    if chosen is None:
        raise RegistryError(f"{asset_class} has no released version; nothing is rolled out")
    if chosen.status not in {BundleStatus.RELEASED, BundleStatus.LIVE, BundleStatus.WITHDRAWN}:
        raise RegistryError(f"{asset_class} version {chosen.version} is {chosen.status}; nothing is rolled out")
    assert chosen.archive is not None, "a released version always has an archive"
    return chosen.archive


def _training_data(asset_class: str, store: Store, lake: Lake) -> TrainingData:
    from cloud_service.training.dataset import TrainingData  # noqa: PLC0415 - extra `train`
    from cloud_service.training.labels import Failure  # noqa: PLC0415 - the same

    with store.reading() as session:
        described = assets.assets(session, asset_class)
        records = maintenance.records(session, [description.asset_id for description in described])
    if not described:
        raise TrainingFailed(f"no gateway has described an asset of class {asset_class}; nothing is trained")
    asset_ids = tuple(description.asset_id for description in described)
    noted = {record.asset_id for record in records}
    return TrainingData(
        asset_class=asset_class,
        channels=_common_channels(described),
        asset_ids=asset_ids,
        observations_of=AssetReader(lake, asset_ids),
        failures=tuple(
            Failure(
                asset_id=record.asset_id,
                failed_at=record.failed_at,
                failure_mode=record.failure_mode,
                in_service_again=record.in_service_again,
            )
            for record in records
        ),
        # Of an asset that maintenance never wrote about nobody knows whether it is well. Where that is all of them,
        # they are taken for well: there is nothing else to learn what is ordinary from.
        unlabelled=frozenset(asset_ids) - noted if noted else frozenset(),
    )


def _common_channels(described: Sequence[AssetDescription]) -> tuple[Channel, ...]:
    """Return the channels that every asset of a class has, in the same unit and at the same rate.

    A range that the server does not tell is told as 0 to 0: nothing is scaled by it.
    """
    shared = set.intersection(*({_measure(channel) for channel in one.channels} for one in described))
    return tuple(
        channel if math.isfinite(channel.low) and math.isfinite(channel.high) else replace(channel, low=0.0, high=0.0)
        for channel in described[0].channels
        if _measure(channel) in shared
    )


def _measure(channel: Channel) -> tuple[str, str, float]:
    return channel.name, channel.unit, channel.sample_rate_hz


def _load(live: BundleVersion, pki: Pki) -> tuple[LoadedBundle | None, str]:
    """Return the live bundle, or why it cannot be run here."""
    assert live.archive is not None, "a live version always has an archive"
    with tempfile.TemporaryDirectory(prefix="wearsight-live-") as folder:
        try:
            # Past its not-after it may still be live, and is what a candidate has to be as good as.
            unpack_verified(live.archive, pki.signing_public_key.read_bytes(), into=Path(folder), now=live.created_at)
            return LoadedBundle.load(Path(folder)), ""
        except BundleError as error:
            return None, f"cannot be compared with live version {live.version} ({error}); release it by hand"


def _verdict(decision: Decision, incomparable: str) -> tuple[BundleStatus, tuple[str, ...]]:
    if incomparable:
        return BundleStatus.CANDIDATE, (incomparable,)
    return BundleStatus.RELEASED if decision.released else BundleStatus.REFUSED, decision.reasons


def _registered(
    registry: Registry,
    asset_class: str,
    version: int,
    live: BundleVersion | None,
    outcome: TrainingOutcome | None,
    status: BundleStatus,
    reasons: tuple[str, ...],
) -> Trained:
    registered = registry.register(
        asset_class,
        version,
        archive=outcome.archive if outcome else None,
        status=status,
        metrics=_finite(outcome.metrics) if outcome else {},
        reason="; ".join(reasons),
    )
    log.info("training ended", asset_class=asset_class, version=version, status=registered.status, reasons=reasons)
    return Trained(
        asset_class=asset_class,
        version=version,
        status=registered.status,
        released=status == BundleStatus.RELEASED,
        reasons=reasons,
        held_out=registered.metrics,
        live_version=live.version if live else None,
        live_held_out=_finite(outcome.live_metrics) if outcome and outcome.live_metrics else None,
        compared_on=outcome.compared_on if outcome else (),
        archive=registered.archive,
    )


def _note_rollout(registry: Registry, version: BundleVersion, report: RolloutReport) -> None:
    """Make a version live that is live on every host, and refuse one that a gateway would not keep."""
    if report.succeeded:
        registry.move(version.asset_class, version.version, BundleStatus.LIVE, "rolled out to every gateway")
        return
    bad = [f"{host}: {_told(outcome)}" for host, outcome in report.hosts.items() if outcome.status in _VERDICTS]
    if bad and version.status == BundleStatus.RELEASED:
        registry.move(version.asset_class, version.version, BundleStatus.REFUSED, "; ".join(bad))


# How a gateway says that it is the bundle that is not good.
_VERDICTS = ("refused", "rolled_back")


def _told(outcome: HostOutcome) -> str:
    return f"{outcome.status.value.replace('_', ' ')} ({outcome.reason})"


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def _manifest_of(archive: Path) -> Manifest:
    """Return what *archive* says it is. Whether that is true is for the gateway to find out, and it does."""
    try:
        with tarfile.open(archive, "r:") as tar:
            file = tar.extractfile(MANIFEST)
            if file is None:
                raise ArchiveUnreadable(f"{archive} has no {MANIFEST}; nothing is rolled out")
            return decode_manifest(file.read(MAX_MANIFEST_BYTES))
    except (OSError, KeyError, tarfile.TarError, BundleError) as error:
        raise ArchiveUnreadable(f"{archive} is no bundle ({error}); nothing is rolled out") from error
