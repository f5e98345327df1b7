from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_service.training.dataset import TrainingData, TrainingError, baseline_of, build_table, know
from cloud_service.training.detection import DetectionSettings
from cloud_service.training.failure import FailureSettings, TreeForm
from cloud_service.training.job import TrainingOutcome, train_class
from cloud_service.training.labels import Failure, Horizons
from cloud_service.training.prognosis import PrognosisSettings
from cloud_service.training.specifications import TrainingSettings, settings_for, specification_for
from models.bundle.archive import unpack_verified
from models.bundle.golden import run_golden
from models.bundle.loaded import LoadedBundle
from models.export.components import DetectorModel, export_detector
from models.export.graph import ExportError
from models.export.parity import ParityError
from models.features.extraction import extract
from models.features.windower import Windower
from models.features.windows import Windows
from models.records import Channel, Observations, Stream, to_ns

START = datetime(2026, 3, 2, tzinfo=UTC)
CHANNELS = (
    Channel(name="load_pct", unit="%", low=0.0, high=120.0),
    Channel(name="bearing_temperature_c", unit="°C", low=-20.0, high=150.0),
    Channel(name="vibration_rms_mm_s", unit="mm/s", low=0.0, high=25.0),
)
LIVES_H = 200
SETTINGS = TrainingSettings(
    horizons=Horizons(fault_h=30.0, clear_h=60.0, life_cap_h=60.0),
    baseline_windows=48,
    detection=DetectionSettings(on_delay_windows=3, trees=20),
    failure=FailureSettings(forms=(TreeForm(name="few", rounds=15),), horizon_h=30.0),
    prognosis=PrognosisSettings(rounds=(20,), cap_h=60.0, cut_draws=1),
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
AT = datetime(2026, 4, 1, tzinfo=UTC)


def life(asset_id: str, mode: str | None) -> Observations:
    """Make a machine's record of eight days: it heats or shakes ever more in its last 50 hours if it has a *mode*."""
    rng = np.random.default_rng(sum(asset_id.encode()))
    hours = np.arange(0, LIVES_H, 1 / 6)
    worse = np.clip((hours - (LIVES_H - 50)) / 50, 0, 1)
    load = 60 + 20 * np.sin(hours / 4) + rng.normal(size=hours.size)
    temperature = 40 + 0.2 * load + 25 * worse * (mode == "overheating") + rng.normal(size=hours.size)
    vibration = 2 + 4 * worse * (mode == "imbalance") + 0.2 * rng.normal(size=hours.size)
    columns = np.column_stack([load, temperature, np.abs(vibration)])
    return Observations.of_values(
        tuple(Stream(asset_id, channel.name) for channel in CHANNELS),
        np.tile(np.arange(3, dtype=np.uint32), hours.size),
        np.repeat(to_ns(START) + (hours * 3600e9).astype(np.int64), 3),
        columns.ravel(),
        np.zeros(3 * hours.size, np.uint32),
    )


MODES = {f"fan-{number:02}": ("overheating", "imbalance", None)[number % 3] for number in range(12)}


def data(modes: dict[str, str | None]) -> TrainingData:
    ended = START + timedelta(hours=LIVES_H)
    return TrainingData(
        asset_class="fan",
        channels=CHANNELS,
        asset_ids=tuple(modes),
        observations_of=lambda asset_id: life(asset_id, MODES[asset_id]),
        failures=tuple(
            Failure(asset_id=asset_id, failed_at=ended, failure_mode=mode) for asset_id, mode in modes.items() if mode
        ),
    )


def train(
    given: TrainingData, live: LoadedBundle | None = None, version: int = 1, **changes: object
) -> TrainingOutcome:
    return train_class(given, replace(SETTINGS, **changes), live, version, KEY, trained_at=AT)  # type: ignore[arg-type]  # any setting


@pytest.fixture(scope="module")
def outcome() -> TrainingOutcome:
    return train(data(MODES))


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainingOutcome], LoadedBundle]:
    """Unpack an outcome's archive as a gateway does, and load it."""

    def unpacked(outcome: TrainingOutcome) -> LoadedBundle:
        folder: Path = tmp_path_factory.mktemp("bundle") / "v"
        unpack_verified(outcome.archive, KEY.public_key(), into=folder, now=AT)
        run_golden(folder)
        return LoadedBundle.load(folder)

    return unpacked


def test_a_first_training_ends_in_a_signed_bundle_that_a_gateway_accepts(
    outcome: TrainingOutcome, load: Callable[[TrainingOutcome], LoadedBundle]
) -> None:
    bundle = load(outcome)
    assert outcome.decision.released
    assert bundle.manifest == outcome.manifest
    assert bundle.manifest.failure_modes == ("normal", "imbalance", "overheating")
    assert "unclassified" in bundle.manifest.actions
    assert bundle.classifier is not None
    # Nobody said that these records begin with the machines' lives.
    assert bundle.life is None
    assert bundle.life_cut is not None


def test_held_out_faults_are_found_named_and_timed(outcome: TrainingOutcome) -> None:
    held_out = set(outcome.manifest.lineage.held_out_assets)
    assert held_out.isdisjoint(outcome.manifest.lineage.trained_on_assets)
    assert {"imbalance", "overheating"} <= {MODES[asset_id] for asset_id in held_out}
    assert outcome.metrics["event_recall"] == 1.0
    assert outcome.metrics["named_share"] == 1.0
    assert outcome.metrics["false_alarms_per_asset_day"] < 0.2
    assert outcome.metrics["life_rmse_below_cap_h"] < 15.0


def test_the_same_data_and_seed_give_the_same_bytes(outcome: TrainingOutcome) -> None:
    assert train(data(MODES)).archive == outcome.archive


def test_without_failures_only_the_detector_ships(load: Callable[[TrainingOutcome], LoadedBundle]) -> None:
    """A class of which nothing has failed yet is watched all the same."""
    bundle = load(train(data({asset_id: None for asset_id, mode in MODES.items() if mode is None})))
    assert bundle.classifier is None
    assert bundle.life_cut is None
    assert bundle.manifest.failure_modes == ()


def test_an_equal_candidate_replaces_what_is_live(
    outcome: TrainingOutcome, load: Callable[[TrainingOutcome], LoadedBundle]
) -> None:
    second = train(data(MODES), load(outcome), version=2)
    assert second.decision.released
    assert second.live_metrics == pytest.approx(outcome.metrics)
    assert second.manifest.lineage.replaces_version == 1


def test_a_worse_candidate_is_not_released(
    outcome: TrainingOutcome, load: Callable[[TrainingOutcome], LoadedBundle]
) -> None:
    """Control of the quality gate: one tree in the dark is no match for what is live."""
    worse = train(
        data(MODES),
        load(outcome),
        2,
        detection=DetectionSettings(on_delay_windows=3, members=("forest",), trees=1, rows_per_tree=4),
        prognosis=PrognosisSettings(rounds=(1,), cap_h=60.0, cut_draws=1),
    )
    assert not worse.decision.released
    assert any("worse than" in reason for reason in worse.decision.reasons)


def test_a_graph_that_answers_otherwise_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parity gate stands between the models and the bundle, not beside them."""
    monkeypatch.setattr("cloud_service.training.detection.export_detector", _other_detector)
    with pytest.raises(ParityError, match="detector"):
        train(data(MODES))


def _other_detector(model: DetectorModel, *, inputs: int) -> bytes:
    """Export a detector that takes other windows for ordinary."""
    moved = tuple((replace(screen, centre=screen.centre + 0.5), member) for screen, member in model.members)
    return export_detector(replace(model, members=moved), inputs=inputs)


def test_what_was_fitted_for_the_live_release_is_kept(
    outcome: TrainingOutcome, load: Callable[[TrainingOutcome], LoadedBundle]
) -> None:
    """Otherwise every release would make gateways forget the lives of their machines."""
    live = load(outcome)
    fewer = {asset_id: mode for asset_id, mode in MODES.items() if asset_id != "fan-11"}
    second = train(data(fewer), live, version=2)
    assert second.bundle.specification == live.specification
    assert second.manifest.feature_hash == live.manifest.feature_hash


def test_training_sees_the_features_a_gateway_computes() -> None:
    """Control against drift: the table holds what the windower and the extraction of a gateway give, bit by bit."""
    given = data({"fan-01": "imbalance"})
    table = build_table(given, specification_for("fan", CHANNELS), lambda _share: None)
    recording = life("fan-01", "imbalance")
    windower = Windower(table.spec)
    windows = Windows.concatenate(
        [
            windower.push(recording.take(np.arange(start, min(start + 97, len(recording)))))
            for start in range(0, len(recording), 97)
        ]
    )
    np.testing.assert_array_equal(table.end_ns, windows.end_ns)
    np.testing.assert_array_equal(table.features, extract(table.spec, windows))
    np.testing.assert_array_equal(table.good_share, windows.good_share)


def test_an_asset_nobody_wrote_about_teaches_by_its_commissioning_alone() -> None:
    """What came after may be a fault on its way; taking it for healthy would hide the next one."""
    given = replace(data({"fan-01": "imbalance", "fan-02": None}), unlabelled=frozenset({"fan-02"}))
    table = build_table(given, specification_for("fan", CHANNELS), lambda _share: None)
    known = know(table, given, SETTINGS)
    own = known.mode[table.asset == 1]
    assert (own[: SETTINGS.baseline_windows] == 0).all()
    assert (own[SETTINGS.baseline_windows :] == -1).all()


def test_a_class_can_be_the_measure_where_assets_come_unknown() -> None:
    given = data({"fan-01": "imbalance", "fan-02": None})
    table = build_table(given, specification_for("fan", CHANNELS), lambda _share: None)
    known = know(table, given, SETTINGS)
    assert set(baseline_of(table, known, SETTINGS).centre) == {"fan-01", "fan-02"}
    assert not baseline_of(table, known, replace(SETTINGS, baseline_scope="class")).centre


def test_windows_with_few_good_values_teach_nothing() -> None:
    """Control of quality: the same record, its values bad for two days, loses the labels of these two days."""
    given = data({"fan-02": None})
    recording = life("fan-02", None)
    bad = recording.source_time // 86_400_000_000_000 - to_ns(START) // 86_400_000_000_000
    status = np.where((bad == 1) | (bad == 2), np.uint32(0x808C0000), np.uint32(0)).astype(np.uint32)
    holed = replace(given, observations_of=lambda _asset_id: replace(recording, status=status))
    spec = specification_for("fan", CHANNELS)
    healthy, fewer = (
        int((know(build_table(one, spec, lambda _share: None), one, SETTINGS).mode == 0).sum())
        for one in (given, holed)
    )
    assert 45 <= healthy - fewer <= 51


def test_live_models_with_other_windows_are_compared_on_their_own(
    load: Callable[[TrainingOutcome], LoadedBundle],
) -> None:
    spec = specification_for("fan", CHANNELS)
    first = train_class(data(MODES), SETTINGS, None, 1, KEY, spec=replace(spec, window_s=3 * 3600.0), trained_at=AT)
    second = train(data(MODES), load(first), version=2)
    assert second.live_metrics is not None
    assert second.live_metrics == pytest.approx(first.metrics)


def test_the_lakes_order_of_rows_does_not_count(outcome: TrainingOutcome) -> None:
    def shuffled(asset_id: str) -> Observations:
        rows = life(asset_id, MODES[asset_id])
        turned = replace(rows, streams=rows.streams[::-1], stream=np.uint32(2) - rows.stream)
        return turned.take(np.random.default_rng(3).permutation(len(rows)))

    again = train(replace(data(MODES), observations_of=shuffled))
    assert again.manifest.lineage.lake_digest == outcome.manifest.lineage.lake_digest
    assert again.archive == outcome.archive


def test_what_cannot_be_learnt_from_is_said_as_such() -> None:
    """Channels without a value, and a failure that is written down as none: it would be learnt as good health."""

    def mute(asset_id: str) -> Observations:
        recording = life(asset_id, None)
        return replace(recording, value=np.full(len(recording), np.nan))

    one: dict[str, str | None] = {"fan-01": "imbalance"}
    with pytest.raises(TrainingError, match=r"no commissioning window of any asset.*nothing is trained"):
        train(replace(data(one), observations_of=mute))
    with pytest.raises(TrainingError, match="a failure of fan-01 is recorded as 'normal'"):
        train(data({"fan-01": "normal"}))


def test_a_bundle_that_no_gateway_would_take_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here golden vectors of more bytes than are read."""
    monkeypatch.setattr("models.bundle.golden.MAX_BYTES", 1000)

    with pytest.raises(ExportError, match="no gateway would take the bundle: golden vectors of"):
        train(data({"fan-02": None}))


def test_nothing_to_train_from_is_said() -> None:
    given = replace(data(MODES), observations_of=lambda _asset_id: Observations.empty())
    with pytest.raises(TrainingError, match="fan: no whole window"):
        train(given)


@pytest.mark.parametrize("asset_class", ["centrifugal_pump", "turbofan", "pump_rig"])
def test_each_class_has_windows_and_settings(asset_class: str) -> None:
    assert specification_for(asset_class, CHANNELS).asset_class == asset_class
    assert settings_for(asset_class).horizons.fault_h <= settings_for(asset_class).horizons.clear_h
