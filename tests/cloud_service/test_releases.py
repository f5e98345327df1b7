from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from cloud_service.config import IngestConfig
from cloud_service.errors import TrainingFailed
from cloud_service.fleet import gateways, maintenance
from cloud_service.lake.lake import Lake
from cloud_service.pipeline import Intake
from cloud_service.pki import Identity, Pki
from cloud_service.registry.registry import BundleStatus, Registry
from cloud_service.releases import (
    AssetReader,
    Trained,
    _common_channels,
    _note_rollout,
    _training_data,
    archive_to_roll_out,
    train_and_register,
)
from cloud_service.rollout import HostOutcome, HostStatus, RolloutReport
from cloud_service.store import Store
from cloud_service.training.specifications import specification_for
from demo.plant.fleet import archive_assets
from demo.plant.simulator import simulate
from models.bundle.archive import unpack_verified
from models.bundle.errors import FeatureHashMismatch
from models.bundle.loaded import LoadedBundle
from models.features.hashing import feature_hash
from models.records import AssetDescription, Channel, Observations, Page, Results, Stream, from_ns
from models.segment import decode_segment, encode_segment, segment_digest

CLASS = "centrifugal_pump"
EPOCH = "ab12cd34"
LIVES = 12


@dataclass(frozen=True)
class Site:
    """A cloud without listeners."""

    store: Store
    lake: Lake
    registry: Registry
    pki: Pki
    intake: Intake

    def put(self, seq: int, *contents: Observations | Results) -> None:
        """Store one segment that begins with page *seq*."""
        pages = [
            Page(gateway_id="gw-1", epoch=EPOCH, seq=seq + place, committed_time=0, content=content)
            for place, content in enumerate(contents)
        ]
        data = encode_segment(pages)
        self.intake.store_segment(decode_segment(data), segment_digest(data))

    def note(self, asset_id: str, failed_at: datetime, mode: str, again: datetime | None = None) -> None:
        """Write a failure down."""
        record = maintenance.MaintenanceRecord(
            asset_id=asset_id, failed_at=failed_at, failure_mode=mode, in_service_again=again
        )
        with self.store.writing() as session:
            maintenance.add_record(session, record)

    def train(self, *, recurrent_unit: bool = False) -> Trained:
        """Train the class on what is there."""
        return train_and_register(
            CLASS,
            store=self.store,
            lake=self.lake,
            registry=self.registry,
            pki=self.pki,
            progress=lambda *_: None,
            recurrent_unit=recurrent_unit,
        )


def make_site(folder: Path) -> Site:
    store = Store(folder / "cloud.sqlite")
    with store.writing() as session:
        gateways.enroll(session, Identity(gateway_id="gw-1", certificate_sha256="00"))
    pki = Pki(folder / "pki")
    pki.create(["localhost"])
    return Site(
        store=store,
        lake=Lake(folder / "lake", store),
        registry=Registry(folder / "registry", store),
        pki=pki,
        intake=Intake(store, folder / "lake", IngestConfig()),
    )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def archive_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A cloud that got the demo's earlier records of pumps."""
    made = make_site(tmp_path_factory.mktemp("archive"))
    for number, life in enumerate(archive_assets(CLASS, LIVES, seed=3)):
        asset = life.asset
        description = AssetDescription(asset_id=asset.asset_id, asset_class=CLASS, channels=tuple(asset.channels))
        made.put(2 * number + 1, Results(assets=(description,)), simulate(asset, life.start, life.end))
        for fault in asset.faults:
            made.note(asset.asset_id, from_ns(fault.failure), fault.mode, from_ns(fault.repaired))
    yield made
    made.store.close()


def plain(asset_id: str, value: float) -> Observations:
    return Observations.of_values(
        (Stream(asset_id, "speed_rpm"),),
        np.zeros(1, np.uint32),
        np.array([5], np.int64),
        np.array([value]),
        np.zeros(1, np.uint32),
    )


def described(asset_id: str, *channels: str) -> Results:
    found = tuple(Channel(name=name, unit="", low=0.0, high=1.0) for name in channels)
    return Results(assets=(AssetDescription(asset_id=asset_id, asset_class=CLASS, channels=found),))


def test_assets_are_read_in_lots_and_given_one_by_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets its own rows, and the lake is asked once for a lot."""
    names = [f"pump-{number:02d}" for number in range(6)]
    site.put(1, *(plain(name, float(number)) for number, name in enumerate(names)))
    asked: list[list[str]] = []
    read = site.lake.observations

    def count(asset_ids: list[str]) -> Observations:
        asked.append(asset_ids)
        return read(asset_ids)

    monkeypatch.setattr(site.lake, "observations", count)
    monkeypatch.setattr("cloud_service.releases._ASSETS_AT_ONCE", 4)
    reader = AssetReader(site.lake, names)
    assert [reader(name).value.tolist() for name in names] == [[float(number)] for number in range(6)]
    assert asked == [names[:4], names[4:]]


def test_an_asset_that_maintenance_never_wrote_about_teaches_nothing(site: Site) -> None:
    """Nobody knows whether it is well; where nobody wrote about any, all are taken for well."""
    site.put(1, described("pump-01", "speed_rpm", "load_pct"), described("pump-02", "load_pct"))
    assert _training_data(CLASS, site.store, site.lake).unlabelled == frozenset()
    site.note("pump-01", datetime(2026, 3, 5, tzinfo=UTC), "seal_leak")
    data = _training_data(CLASS, site.store, site.lake)
    assert data.unlabelled == {"pump-02"}
    assert [channel.name for channel in data.channels] == ["load_pct"]
    assert [failure.asset_id for failure in data.failures] == ["pump-01"]


def test_without_observations_there_is_no_training(site: Site) -> None:
    """No version is used up."""
    site.put(1, described("pump-01", "speed_rpm"))
    with pytest.raises(TrainingFailed, match=CLASS):
        site.train()
    assert site.registry.versions() == []


def test_without_jax_a_recurrent_unit_is_refused_before_anything_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the extra; no version is used up."""
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(TrainingFailed, match=r"wearsight\[sequence\]"):
        site.train(recurrent_unit=True)
    assert site.registry.versions() == []


def report(version: int, *statuses: HostStatus) -> RolloutReport:
    hosts = {f"gw-{n}": HostOutcome(status=status, reason="why", seconds=1.0) for n, status in enumerate(statuses)}
    return RolloutReport(asset_class=CLASS, version=version, hosts=hosts)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((HostStatus.OK, HostStatus.OK), BundleStatus.LIVE),
        ((HostStatus.REFUSED, HostStatus.SKIPPED), BundleStatus.REFUSED),
        ((HostStatus.ROLLED_BACK, HostStatus.SKIPPED), BundleStatus.REFUSED),
        ((HostStatus.UNREACHABLE, HostStatus.SKIPPED), BundleStatus.RELEASED),
        ((HostStatus.OK, HostStatus.UNREACHABLE), BundleStatus.RELEASED),
    ],
)
def test_a_rollout_moves_its_version(site: Site, statuses: tuple[HostStatus, ...], expected: BundleStatus) -> None:
    """Live only where every gateway keeps it; refused where one would not; else it can be tried again."""
    version = site.registry.register(
        CLASS, 1, archive=b"tar", status=BundleStatus.RELEASED, metrics={}, reason="gate passed"
    )
    _note_rollout(site.registry, version, report(1, *statuses))
    assert site.registry.version(CLASS, 1).status == expected


@pytest.mark.slow
def test_what_arrived_becomes_a_signed_release(archive_site: Site, tmp_path: Path) -> None:
    """Trained on the lake, signed with the fleet's key, registered as released, and offered to the rollout."""
    trained = archive_site.train()
    assert (trained.version, trained.status) == (1, BundleStatus.RELEASED)
    archive = archive_to_roll_out(archive_site.registry, CLASS, None)
    manifest = unpack_verified(archive, archive_site.pki.signing_public_key.read_bytes(), into=tmp_path / "bundle")
    assert (manifest.asset_class, manifest.version) == (CLASS, 1)
    assert set(manifest.lineage.held_out_assets).isdisjoint(manifest.lineage.trained_on_assets)

    archive_site.registry.move(CLASS, 1, BundleStatus.LIVE)
    again = archive_site.train()
    assert (again.version, again.live_version) == (2, 1)
    assert again.live_held_out is not None
    assert set(again.compared_on) <= set(manifest.lineage.held_out_assets)


@pytest.mark.slow
def test_what_cannot_be_compared_waits_for_a_hand(archive_site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live bundle of other features: the new one is a candidate, not a release."""
    if archive_site.registry.live(CLASS) is None:
        archive_site.registry.move(CLASS, archive_site.train().version, BundleStatus.LIVE)

    def mismatch(_: Path) -> LoadedBundle:
        raise FeatureHashMismatch("other features")

    monkeypatch.setattr("cloud_service.releases.LoadedBundle.load", mismatch)
    trained = archive_site.train()
    assert trained.status == BundleStatus.CANDIDATE
    assert not trained.released
    assert "by hand" in trained.reasons[0]


def test_channels_in_other_units_are_no_common_channels() -> None:
    """What one machine tells in bar and another in psi is not one quantity; a range that is not told is told as 0."""
    unranged = Channel(name="flow", unit="l/min", low=-math.inf, high=math.inf)
    pressure = Channel(name="pressure", unit="bar", low=0.0, high=10.0)
    one, other = (
        AssetDescription(asset_id=asset_id, asset_class="pump", channels=(unranged, replace(pressure, unit=unit)))
        for asset_id, unit in (("a", "bar"), ("b", "psi"))
    )

    assert _common_channels([one, other]) == (replace(unranged, low=0.0, high=0.0),)
    assert _common_channels([one, one]) == (replace(unranged, low=0.0, high=0.0), pressure)
    assert feature_hash(specification_for("pump", _common_channels([one, one])))
