"""What a class's settings ask for is in its bundle, and counts on a gateway."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_service.training.dataset import TrainingData, TrainingError
from cloud_service.training.detection import DetectionSettings
from cloud_service.training.job import TrainingOutcome, train_class
from cloud_service.training.labels import Horizons
from cloud_service.training.specifications import TrainingSettings
from gateway.condition_monitoring.class_blocks import ClassBlocks
from models.bundle.archive import unpack_verified
from models.bundle.contents import FORECAST_HEAD, MODEL_CARD
from models.bundle.golden import run_golden
from models.bundle.loaded import LoadedBundle, load_statistics
from models.features.specification import FeatureSpecification, History
from models.records import Channel, Observations, Stream, Zone

HOUR_NS = 3_600_000_000_000
HOURS = 160
SPEC = FeatureSpecification(
    asset_class="press",
    channels=(
        Channel(name="stroke", unit="mm", low=-10.0, high=10.0),
        Channel(name="force", unit="kN", low=-10.0, high=10.0),
    ),
    window_s=3600.0,
    step_s=3600.0,
    late_s=0.0,
    statistics=("mean",),
    history=History(sequence_windows=12),
)
SETTINGS = TrainingSettings(
    horizons=Horizons(fault_h=1.0, clear_h=2.0, life_cap_h=2.0),
    baseline_windows=100,
    detection=DetectionSettings(members=("largest", "sequence"), combination="max", on_delay_windows=1),
    kernels=100,
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
AT = datetime(2026, 4, 1, tzinfo=UTC)


def press(asset_id: str, *, broken_from: int = HOURS) -> Observations:
    """Return a machine that swings once in nine hours; when its rhythm breaks, each value is one it had before."""
    hours = np.arange(HOURS)
    phase = sum(asset_id.encode()) + np.where(hours < broken_from, hours, hours * 4) * 2.0 * np.pi / 9.0
    noise = np.random.default_rng(sum(asset_id.encode())).normal(size=(HOURS, 2)) * 0.05
    values = np.column_stack([np.sin(phase), np.cos(phase)]) + noise
    return Observations.of_values(
        tuple(Stream(asset_id, channel.name) for channel in SPEC.channels),
        np.tile(np.arange(2, dtype=np.uint32), HOURS),
        np.repeat((hours + 500_000) * HOUR_NS + HOUR_NS // 2, 2),
        values.ravel(),
        np.zeros(2 * HOURS, np.uint32),
    )


def train(settings: TrainingSettings, spec: FeatureSpecification = SPEC) -> TrainingOutcome:
    data = TrainingData(
        asset_class="press", channels=SPEC.channels, asset_ids=("p1", "p2", "p3", "p4", "p5"), observations_of=press
    )
    return train_class(data, settings, None, 1, KEY, spec=spec, trained_at=AT)


def test_a_detector_of_what_the_sequence_model_did_not_foresee_is_trained_and_counts_on_a_gateway(
    tmp_path: Path,
) -> None:
    """A rhythm that breaks is out of normal there, though no value is; until then the machine is as foreseen."""
    outcome = train(SETTINGS)
    unpack_verified(outcome.archive, KEY.public_key(), into=tmp_path / "v", now=AT)
    run_golden(tmp_path / "v")
    bundle = LoadedBundle.load(tmp_path / "v")
    assert [member.name for member in bundle.detection.members] == ["largest", "sequence"]
    assert "too few to be counted: the warning limit" in (tmp_path / "v" / MODEL_CARD).read_text()
    assert set(load_statistics(tmp_path / "v", bundle.manifest)) == {FORECAST_HEAD}

    blocks = ClassBlocks(gateway_id="gw-1", bundle=bundle, asset_ids=("p1",), contexts={}, described={})
    zones = [state.zone for state in blocks.results(press("p1", broken_from=120)).states]
    assert zones[:120] == [Zone.NORMAL] * 120
    assert zones[120:].count(Zone.NORMAL) < 5


def test_that_member_needs_features_with_sequences() -> None:
    """Nothing is trained without it in silence."""
    with pytest.raises(TrainingError, match="'sequence' needs features with sequences"):
        train(SETTINGS, replace(SPEC, history=History()))
