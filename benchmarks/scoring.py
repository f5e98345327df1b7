"""What a window costs in each model of a bundle: ``python -m benchmarks.scoring [--json]``.

Models are trained on C-MAPSS FD001's training engines where the data set is, else on made-up lives, packed into a
bundle, and asked as a gateway asks them: windows as prepared, one by one and by the hundred, on one thread. Counted is
CPU time, the best of several turns, with all that is read from a graph's answers. Beside it stands the trainer's own
prediction (LightGBM, scikit-learn, NumPy), and beside the graph alone the one that the general converter makes of the
same model by its defaults, in the same runtime. Then what a bundle takes to load, and in memory.

Of the detector the general converter is given the isolation forest alone (its default operator set is refused; it is
asked for 15 and ``ai.onnx.ml`` 3): it makes no graph of the other members, so ours does more there. A sequence model
has no other converter; it stands beside its aim, and the recurrent unit (where JAX is) beside JAX's own prediction. How
long the unit was trained changes no time, so it is trained for one step.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import lightgbm as lgb
import numpy as np
import onnxruntime as ort
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import ModelProto
from onnxmltools.convert import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx

from benchmarks.lives import LIFE_CAP_H, Lives, read_lives
from benchmarks.measurement import Measurement, compared, tell
from cloud_service.training.compression import parts_of, us_per_row
from cloud_service.training.detection import DetectionSettings, FittedDetection, HealthyWindows, fit_detection
from cloud_service.training.failure import FailureLesson, FailureSettings, FittedFailure, fit_modes
from cloud_service.training.gru import Gru, GruSettings, export_gru, train_gru
from cloud_service.training.sequence import kernel_features, make_kernels
from models.bundle.archive import pack, unpack_verified
from models.bundle.contents import (
    BASELINES,
    CLASSIFIER,
    DETECTION,
    DETECTOR,
    FAILURE,
    FEATURES,
    GRU,
    HEADS,
    KERNELS,
    LIFE,
    PROGNOSIS,
    STATISTICS,
    digest,
    encode_specification,
)
from models.bundle.loaded import LoadedBundle
from models.bundle.manifest import SCHEMA_VERSION, Lineage, Manifest, Thresholds
from models.bundle.scored import score_prepared
from models.detection.detection import encode_detection
from models.detection.detector import detect
from models.export.components import Forest
from models.export.graph import IR_VERSION, OPSET, without_missing
from models.export.lightgbm import export_life
from models.failure.classifier import classify
from models.failure.modes import encode_failure_modes
from models.features.baseline import encode_baseline
from models.features.hashing import feature_hash
from models.features.names import feature_names, input_names, sequence_names
from models.prognosis.life import predict_life
from models.prognosis.prognoses import Offsets, Prognoses, Variant, encode_prognoses
from models.records import BoolArray, Float32Array, FloatArray
from models.scoring import Prepared
from models.sequence.encoding import encode_heads, encode_statistics
from models.sequence.heads import HeadStatistics

BATCHES = (1, 100)
KERNELS_COUNT, LIFE_TREES = 1000, 240
SEQUENCE_HEAD, RIDGE = "life", 1000.0
AIM_TOGETHER_US, AIM_SEQUENCE_US = 20.0, 80.0
BUNDLES = 8
TRAINER, CONVERTER = "the trainer's own prediction", "the general converter's default graph"
_MIB = 2**20

_OFFSETS = Offsets(life_h=(0.0, 60.0, 125.0), p10_h=(-5.0, -20.0, -30.0), p50_h=(0.0,) * 3, p90_h=(5.0, 20.0, 0.0))
_PROGNOSES = Prognoses(cap_h=LIFE_CAP_H, whole=Variant(weights={"trees": 1.0}, offsets=_OFFSETS, least_windows=1))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What was trained, as its trainers hold it, and the parts of the bundle of it."""

    lives: Lives
    detection: FittedDetection
    failure: FittedFailure
    life: lgb.Booster
    unit: Gru | None
    parts: dict[str, bytes]
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One model as it may be asked.

    Attributes:
        name: Which.
        ours: As a gateway asks it: prepared windows in, what is read from the graph's answers out.
        graph: The graph of that alone, from rows to answers.
        trainer: The trainer's own prediction.
        converted: The graph that the general converter makes.
    """

    name: str
    ours: Callable[[Prepared], object]
    graph: Callable[[Float32Array], object]
    trainer: Callable[[Float32Array], object]
    converted: Callable[[Float32Array], object]


def train(lives: Lives) -> Trained:
    """Return models of the sizes that a class gets."""
    rows = ~lives.held_out
    prepared, life_h, asset = lives.prepared.take(rows), lives.life_h[rows], lives.asset[rows]
    detection = _detection(lives, rows & lives.healthy)
    close = life_h < 24.0
    failure = fit_modes(
        FailureLesson(
            names=("one", "two", "three"),
            inputs=prepared.inputs,
            hits=np.stack([close & (asset % 3 == mode) for mode in range(3)], axis=1),
            group=asset,
        ),
        FailureSettings(),
        seed=1,
    )
    life = _life(prepared.inputs, life_h)
    sequences, told = lesson_of_kernels(prepared, life_h)
    kernels, sums = _kernels(sequences, told)
    unit = train_gru(sequences, told, GruSettings(steps=1), 1) if find_spec("jax") else None
    parts = {
        FEATURES: encode_specification(lives.spec),
        BASELINES: encode_baseline(lives.baseline),
        DETECTOR: detection.graph,
        DETECTION: encode_detection(detection.detection),
        CLASSIFIER: failure.export(),
        FAILURE: encode_failure_modes(failure.modes),
        LIFE: export_life(life),
        PROGNOSIS: encode_prognoses(_PROGNOSES),
        KERNELS: kernels,
        HEADS: encode_heads({SEQUENCE_HEAD: sums.solve(RIDGE)}),
        STATISTICS: encode_statistics({SEQUENCE_HEAD: sums}),
    }
    if unit is not None:
        parts[GRU] = export_gru(unit, *sequences.shape[1:])
    return Trained(
        lives=lives,
        detection=detection,
        failure=failure,
        life=life,
        unit=unit,
        parts=parts,
        manifest=_manifest(lives, detection, ("normal", *failure.modes.names)),
    )


def _detection(lives: Lives, rows: BoolArray) -> FittedDetection:
    names = input_names(lives.spec)
    healthy = HealthyWindows(
        names=names,
        inputs=lives.prepared.inputs[rows],
        asset=lives.asset[rows],
        end_ns=lives.end_ns[rows],
        step_s=lives.spec.step_s,
        least_stray=np.zeros(len(names)),
    )
    return fit_detection(healthy, DetectionSettings(), seed=1)


def _life(rows: Float32Array, life_h: FloatArray) -> lgb.Booster:
    settings = {
        "objective": "regression",
        "num_leaves": 16,
        "learning_rate": 0.05,
        "num_threads": 1,
        "deterministic": True,
        "seed": 1,
        "verbosity": -1,
    }
    return lgb.train(settings, lgb.Dataset(without_missing(rows), life_h, params=settings), LIFE_TREES)


def _kernels(sequences: Float32Array, told: FloatArray) -> tuple[bytes, HeadStatistics]:
    _, channels, windows = sequences.shape
    kernels = make_kernels(channels, windows, KERNELS_COUNT, 1, sequences)
    return kernels, HeadStatistics.of(kernel_features(kernels, sequences), told)


def lesson_of_kernels(prepared: Prepared, life_h: FloatArray) -> tuple[Float32Array, FloatArray]:
    """Return what a head learns from: some sequences ``(n, C, L)`` and their lives in hours ``(n,)``."""
    assert prepared.sequences is not None
    some = np.sort(np.random.default_rng(1).choice(len(life_h), min(len(life_h), 12_000), replace=False))
    return np.ascontiguousarray(prepared.sequences[some]), life_h[some]


def asked(trained: Trained, bundle: LoadedBundle) -> list[Asked]:
    """Return the tabular models of *bundle* as they are asked."""
    inputs = len(input_names(trained.lives.spec))
    forest = next(member.forest for _, member in trained.detection.model.members if isinstance(member, Forest))
    screen = next(screen for screen, member in trained.detection.model.members if isinstance(member, Forest))
    plain = to_onnx(forest, np.zeros((1, len(screen.columns)), np.float32), target_opset=OPSET)
    trees = _session(plain)
    assert bundle.classifier is not None
    assert bundle.life is not None
    return [
        Asked(
            name="detector",
            ours=lambda prepared: detect(bundle, prepared),
            graph=bundle.detector,
            trainer=trained.detection.model,
            converted=lambda rows: trees(screen(without_missing(rows))),
        ),
        Asked(
            name="classifier",
            ours=lambda prepared: classify(bundle, prepared),
            graph=bundle.classifier,
            trainer=trained.failure.probabilities,
            converted=_all([_converted(booster, inputs) for booster in trained.failure.boosters]),
        ),
        Asked(
            name="tree prognoser",
            ours=lambda prepared: predict_life(bundle, prepared),
            graph=bundle.life,
            trainer=partial(trained.life.predict, num_threads=1),
            converted=_converted(trained.life, inputs),
        ),
    ]


def measurements() -> list[Measurement]:
    """Return what each model costs beside the others, what they cost together, and what a bundle costs."""
    trained = train(read_lives())
    with tempfile.TemporaryDirectory() as folder:
        unpacked = _unpacked(trained, Path(folder) / "bundle")
        bundle = LoadedBundle.load(unpacked)
        prepared = trained.lives.prepared.take(trained.lives.held_out)
        return [
            *_of_models(asked(trained, bundle), prepared, trained.lives.source),
            *_of_sequences(bundle, trained.unit, prepared, trained.lives.source),
            *_of_loading(unpacked, trained.lives.source),
        ]


def _of_models(models: Sequence[Asked], prepared: Prepared, source: str) -> list[Measurement]:
    found = []
    for batch in BATCHES:
        together = 0.0
        rows = parts_of(prepared.inputs, batch)
        windows = [prepared.take(slice(place * batch, (place + 1) * batch)) for place in range(len(rows))]
        for model in models:
            ours = us_per_row(model.ours, windows, batch)
            together += ours
            theirs = us_per_row(model.trainer, rows, batch)
            found.append(_beside(f"{model.name}, {batch} at a time, {source}", ours, theirs, TRAINER))
            graph, converted = (us_per_row(one, rows, batch) for one in (model.graph, model.converted))
            found.append(_beside(f"{model.name}'s graph, {batch} at a time, {source}", graph, converted, CONVERTER))
        title = f"detector, classifier and tree prognoser together, {batch} at a time, {source}"
        if batch == BATCHES[-1]:
            found.append(_beside(title, together, AIM_TOGETHER_US, "the aim"))
    return found


def _of_sequences(bundle: LoadedBundle, unit: Gru | None, prepared: Prepared, source: str) -> list[Measurement]:
    assert bundle.kernels is not None
    assert prepared.sequences is not None
    kernels, head = bundle.kernels, bundle.heads[SEQUENCE_HEAD]
    name = f"sequence model ({KERNELS_COUNT} kernels and a head)"
    found = []
    for batch in BATCHES:
        rows = parts_of(prepared.sequences, batch)
        ours = us_per_row(lambda rows: head.predict(kernels(rows)), rows, batch)
        found.append(_beside(f"{name}, {batch} at a time, {source}", ours, AIM_SEQUENCE_US, "the aim"))
        if unit is not None and bundle.gru is not None:
            ours, theirs = us_per_row(bundle.gru, rows, batch), us_per_row(unit.predict, rows, batch)
            title = f"recurrent unit of width {unit.r.shape[1]}, {batch} at a time, {source}"
            found += [_beside(title, ours, theirs, TRAINER), _beside(title, ours, AIM_SEQUENCE_US, "the aim")]
    return found


def _of_loading(folder: Path, source: str) -> list[Measurement]:
    """Return what a bundle takes to load and to hold, each beside the same for its bytes alone."""
    command = [sys.executable, "-m", "benchmarks.scoring", "--hold", str(folder)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return [
        compared(
            f"a bundle from disk to ready, digests checked, {source} (lower is better)",
            told["load_ms"],
            told["read_ms"],
            "reading its files and taking their digests",
            "ms",
        ),
        compared(
            f"memory of a live bundle, each of {BUNDLES}, asked by the hundred, {source} (lower is better)",
            told["memory_mib"],
            size / _MIB,
            "its files",
            "MiB",
        ),
    ]


def hold(folder: Path) -> dict[str, float]:
    """Load the bundle in *folder* several times, keep and ask all, and return what one took."""
    LoadedBundle.load(folder)  # what the first one brings in is the process's, not the bundle's
    begin = time.process_time()
    for path in folder.iterdir():
        digest(path.read_bytes())
    read_ms = 1e3 * (time.process_time() - begin)
    before = _resident_bytes()
    begin = time.process_time()
    bundles = [LoadedBundle.load(folder) for _ in range(BUNDLES)]
    load_ms = 1e3 * (time.process_time() - begin) / BUNDLES
    for bundle in bundles:
        score_prepared(bundle, _nothing(bundle, BATCHES[-1]))
    memory_mib = (_resident_bytes() - before) / BUNDLES / _MIB
    return {"read_ms": read_ms, "load_ms": load_ms, "memory_mib": memory_mib}


def _nothing(bundle: LoadedBundle, rows: int) -> Prepared:
    spec = bundle.specification
    inputs = np.zeros((rows, len(input_names(spec))), np.float32)
    return Prepared(
        features=np.zeros((rows, len(feature_names(spec)))),
        deviations=inputs[:, : len(feature_names(spec))],
        inputs=inputs,
        sequences=np.zeros((rows, len(sequence_names(spec)), spec.history.sequence_windows), np.float32),
        windows_known=np.full(rows, 1000),
        whole=np.ones(rows, np.bool_),
    )


def _resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _beside(measure: str, ours: float, reference: float, name: str) -> Measurement:
    return compared(f"{measure} (lower is better)", ours, reference, name, "µs/window")


def _all(askers: Sequence[Callable[[Float32Array], object]]) -> Callable[[Float32Array], object]:
    return lambda rows: [ask(rows) for ask in askers]


def _converted(booster: lgb.Booster, inputs: int) -> Callable[[Float32Array], object]:
    return _session(convert_lightgbm(booster, initial_types=[("input", FloatTensorType([None, inputs]))]))


def _session(model: ModelProto) -> Callable[[Float32Array], object]:
    """Return what asks the graph that a converter made; but for the file's version it stays as it was made."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model.ir_version = min(model.ir_version, IR_VERSION)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rows: session.run(None, {name: rows})


def _unpacked(trained: Trained, folder: Path) -> Path:
    key = Ed25519PrivateKey.generate()
    unpack_verified(pack(trained.parts, trained.manifest, key), key.public_key(), into=folder)
    return folder


def _manifest(lives: Lives, detection: FittedDetection, modes: tuple[str, ...]) -> Manifest:
    now = datetime.now(UTC)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        asset_class=lives.spec.asset_class,
        version=1,
        channels=lives.spec.channels,
        feature_hash=feature_hash(lives.spec),
        thresholds=Thresholds(
            warning=detection.limits.warning,
            alarm=detection.limits.alarm,
            minimum_good_share=0.6,
            on_delay_windows=3,
            off_delay_windows=6,
            minimum_confidence=0.5,
        ),
        failure_modes=modes,
        actions={},
        files={},
        opset=OPSET,
        minimum_gateway_version="0.1.0",
        not_after=now + timedelta(days=1),
        metrics={},
        lineage=Lineage(
            trained_at=now,
            trained_on_assets=(),
            held_out_assets=(),
            observations=0,
            lake_digest="",
            replaces_version=None,
            software_version="0.1.0",
        ),
    )


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--hold", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold is not None:
        print(json.dumps(hold(arguments.hold)))
        return
    tell(measurements(), as_json=arguments.json)


if __name__ == "__main__":
    main()
