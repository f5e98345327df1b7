"""The job on public recordings; the figures are printed with ``pytest -s`` and held to what was reached."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_service.training.dataset import TrainingData
from cloud_service.training.job import TrainingOutcome, train_class
from cloud_service.training.labels import Failure
from cloud_service.training.prognosis import PrognosisSettings
from cloud_service.training.specifications import settings_for
from models.bundle.archive import unpack_verified
from models.bundle.loaded import LoadedBundle
from models.bundle.scored import score
from models.datasets import cmapss, skab
from models.evaluation.metrics import coverage, nasa_score, point_scores, rmse
from models.features.history import Histories
from models.features.windower import windows_of
from models.records import Basis, Channel, FloatArray, Int64Array, Observations, Stream, from_ns, to_ns

DATA = Path(os.environ.get("WEARSIGHT_DATA", Path(__file__).parents[4] / "shared" / "data"))
HOUR_NS = 3_600_000_000_000
START_NS = to_ns(datetime(2026, 1, 1, tzinfo=UTC))
KEY = Ed25519PrivateKey.generate()
LIFE_CAP = 125.0
COMMISSIONING_ROWS = 400
# A third of the trees, and fewer ways to choose from: what the class's own reach is measured by the whole protocol.
QUICK = PrognosisSettings(rounds=(80,), rate=0.12, cut_draws=1, folds=3, ridges=(10000.0,), cap_h=LIFE_CAP)

pytestmark = [pytest.mark.data, pytest.mark.slow]


def folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"data set {name} is not in {DATA} (set WEARSIGHT_DATA)")
    return DATA / name


def recording(asset_id: str, channels: tuple[Channel, ...], time_ns: Int64Array, values: FloatArray) -> Observations:
    return Observations.of_values(
        tuple(Stream(asset_id, channel.name) for channel in channels),
        np.tile(np.arange(len(channels), dtype=np.uint32), len(values)),
        np.repeat(time_ns, len(channels)),
        values.ravel(),
        np.zeros(values.size, np.uint32),
    )


def loaded(outcome: TrainingOutcome, into: Path) -> LoadedBundle:
    unpack_verified(outcome.archive, KEY.public_key(), into=into / "bundle")
    return LoadedBundle.load(into / "bundle")


@pytest.mark.timeout(300)
def test_cmapss_fd001_test_engines_are_told_within_12_cycles(tmp_path: Path) -> None:
    """Test engines are unknown to the training, and every engine's record runs through the gateway's own lines."""
    subset = cmapss.read_subset(folder("cmapss"), "FD001")

    def record(kind: str, engine: cmapss.Engine) -> tuple[str, Observations]:
        times = START_NS + np.arange(len(engine.values), dtype=np.int64) * HOUR_NS
        asset_id = f"engine-{kind}-{engine.unit:03d}"
        return asset_id, recording(asset_id, cmapss.CHANNELS, times, engine.values)

    training = dict(record("tr", engine) for engine in subset.train)
    data = TrainingData(
        asset_class="turbofan",
        channels=cmapss.CHANNELS,
        asset_ids=tuple(training),
        observations_of=training.__getitem__,
        failures=tuple(
            Failure(
                asset_id=asset_id,
                failed_at=from_ns(int(rows.source_time[-1])),
                failure_mode="hpc_degradation",
            )
            for asset_id, rows in training.items()
        ),
    )
    began = time.perf_counter()
    outcome = train_class(data, replace(settings_for("turbofan"), prognosis=QUICK), None, 1, KEY)
    seconds = time.perf_counter() - began
    bundle = loaded(outcome, tmp_path)

    life: list[FloatArray] = []
    for engine in subset.test:
        asset_id, rows = record("te", engine)
        windows = windows_of(bundle.specification, rows, [asset_id])
        histories = Histories(bundle.specification)
        histories.begin_life(asset_id, int(rows.source_time[0]))
        told = score(bundle, histories, windows).life
        assert told is not None
        assert set(told.basis) <= {Basis.WHOLE_HISTORY, Basis.NOT_ENOUGH_DATA}
        # No later row closes the window that ends with the last cycle; the one before told its life till now.
        life.append(told.life_s[-1] / 3600.0 - (int(rows.source_time[-1]) - int(windows.end_ns[-1])) / HOUR_NS)
    low, middle, high = np.array(life).T
    truth = np.minimum(subset.rul.astype(np.float64), LIFE_CAP)
    error = middle - truth
    print(  # noqa: T201 - the figure is what this test is for
        f"FD001: RMSE {rmse(error):.2f} cycles, score {nasa_score(error):.0f}, P10-P90 holds "
        f"{coverage(truth, low, high):.2f}, trained in {seconds:.1f} s; held out: {outcome.metrics}"
    )
    assert rmse(error) < 12.0


def test_skab_faults_are_found_from_each_rigs_commissioning_alone(tmp_path: Path) -> None:
    """The detector learns from the rows before any fault; rows after them are judged point by point."""
    rigs = {f"rig-{one.group}-{one.name}": one for one in skab.read_experiments(folder("skab"))}

    def record(asset_id: str, rows: int | None) -> Observations:
        experiment = rigs[asset_id]
        return recording(asset_id, skab.CHANNELS, experiment.time_ns[:rows], experiment.values[:rows])

    data = TrainingData(
        asset_class="pump_rig",
        channels=skab.CHANNELS,
        asset_ids=tuple(rigs),
        observations_of=lambda asset_id: record(asset_id, COMMISSIONING_ROWS),
    )
    bundle = loaded(train_class(data, settings_for("pump_rig"), None, 1, KEY), tmp_path)

    flagged, labelled = [], []
    for asset_id, experiment in rigs.items():
        if experiment.group == "anomaly-free":
            continue
        windows = windows_of(bundle.specification, record(asset_id, None), [asset_id])
        output = score(bundle, Histories(bundle.specification), windows).detector_output
        # A row is judged by the first window that ends after it, the last rows by the last window.
        ends = windows.end_ns
        place = np.searchsorted(ends, experiment.time_ns[COMMISSIONING_ROWS:], side="right")
        flagged.append((output >= bundle.manifest.thresholds.warning)[np.minimum(place, len(ends) - 1)])
        labelled.append(experiment.anomaly[COMMISSIONING_ROWS:])
    scores = point_scores(np.concatenate(flagged), np.concatenate(labelled))
    print(f"SKAB: {scores} over {len(flagged)} experiments, {sum(map(len, labelled))} rows")  # noqa: T201 - the figure
    assert bundle.classifier is None
    assert scores.f1 > 0.7
