"""What tests of a gateway need, ours and yours: a source that plays what it is given, small machines, real bundles.

Making bundles needs the extra ``train``; a gateway never imports this module.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, helper

from gateway.data_acquisition import Batch
from models.bundle.archive import archive_name, pack
from models.bundle.contents import (
    BASELINES,
    CLASSIFIER,
    DETECTION,
    DETECTOR,
    FAILURE,
    FEATURES,
    GOLDEN,
    LIFE,
    LIFE_CUT,
    PROGNOSIS,
    encode_specification,
)
from models.bundle.golden import make_golden
from models.bundle.loaded import LoadedBundle
from models.bundle.manifest import SCHEMA_VERSION, Lineage, Manifest, Thresholds
from models.detection.detection import Detection, Member, encode_detection
from models.export.graph import INPUT, OPSET, finish, missing_as_zero
from models.failure.modes import FailureModes, encode_failure_modes
from models.features.baseline import encode_baseline, fit_baseline
from models.features.extraction import extract
from models.features.hashing import feature_hash
from models.features.names import feature_names, input_names
from models.features.specification import FeatureSpecification, History
from models.features.windower import windows_of
from models.prognosis.prognoses import Offsets, Prognoses, Variant, encode_prognoses
from models.records import Channel, FloatArray, Observations, Stream

ASSET_CLASS = "test_machine"
FAILURE_MODES = ("normal", "overheating", "imbalance")
START_NS = 1_772_409_600 * 10**9  # 2026-03-02T00:00:00Z
MINUTE_NS = 60 * 10**9
BAD = 0x80000000
SPECIFICATION = FeatureSpecification(
    asset_class=ASSET_CLASS,
    channels=(
        Channel(name="load_pct", unit="%", low=0.0, high=100.0),
        Channel(name="temperature_c", unit="°C", low=0.0, high=150.0),
        Channel(name="vibration_waveform_m_s2", unit="m/s²", low=-50.0, high=50.0, sample_rate_hz=6400.0),
    ),
    window_s=7200.0,
    step_s=3600.0,
    late_s=3600.0,
    history=History(rolling=(4,)),
    expected_counts=(12.0, 12.0, 2.0),
)
THRESHOLDS = Thresholds(
    warning=8.0,
    alarm=20.0,
    minimum_good_share=0.7,
    on_delay_windows=2,
    off_delay_windows=3,
    minimum_confidence=0.6,
)
# The detector's number is taken as it is: one decade for each unit.
DETECTION_FORM = Detection(members=(Member(name="largest", outputs=(0.0, 1000.0), decades=(0.0, 1000.0), slope=1.0),))


class ScriptedSource:
    """Plays *batches* in order and remembers what was acknowledged when, then ends."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.acknowledged: list[int] = []
        self._batches = batches

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield the batches."""
        for number, batch in enumerate(self._batches):
            yield replace(batch, on_acknowledge=partial(self.acknowledged.append, number))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """From *start_h* on the temperature climbs by *celsius_per_h*, or the vibration by *gain_per_h*."""

    start_h: float
    celsius_per_h: float = 0.0
    gain_per_h: float = 0.0


def run_machine(
    asset_id: str, *, hours: float, start_h: float = 0.0, fault: Fault | None = None, seed: int = 0
) -> Observations:
    """Return what a small machine measures: load and temperature each 10 minutes, 128 samples of vibration each hour.

    Rows come in the order of their times, and the same seed gives the same machine however long it runs.
    """
    random = np.random.default_rng([seed, *asset_id.encode()])
    rows: list[tuple[int, int, float, FloatArray | None]] = []
    for minute in range(0, round((start_h + hours) * 60), 10):
        hour = minute / 60
        age = max(hour - fault.start_h, 0.0) if fault else 0.0
        load, noise = 60.0 + 10.0 * np.sin(hour / 3.0) + random.normal(), random.normal()
        waveform = random.normal(size=128)
        heat = age * fault.celsius_per_h if fault else 0.0
        shake = 1.0 + (age * fault.gain_per_h if fault else 0.0)
        time_ns = START_NS + minute * MINUTE_NS
        rows += [(0, time_ns, load, None), (1, time_ns, 40.0 + 0.2 * load + noise + heat, None)]
        if minute % 60 == 0:
            rows.append((2, time_ns, np.nan, waveform * shake))
    kept = [row for row in rows if row[1] >= START_NS + round(start_h * 60) * MINUTE_NS]
    waveforms = [row[3] for row in kept if row[3] is not None]
    return Observations(
        streams=tuple(Stream(asset_id, channel.name) for channel in SPECIFICATION.channels),
        stream=np.array([row[0] for row in kept], np.uint32),
        source_time=np.array([row[1] for row in kept], np.int64),
        value=np.array([row[2] for row in kept], np.float64),
        status=np.zeros(len(kept), np.uint32),
        sample_count=np.array([0 if row[3] is None else len(row[3]) for row in kept], np.uint32),
        samples=np.concatenate([np.empty(0), *waveforms]).astype(np.float32),
    )


def cut(observations: Observations, pieces: int) -> list[Observations]:
    """Return *observations* in so many pieces, as pages bring them."""
    return [observations.take(rows) for rows in np.array_split(np.arange(len(observations)), pieces)]


def public_pem(signing_key: Ed25519PrivateKey) -> bytes:
    """Return the public half of *signing_key* in PEM, as a gateway trusts it."""
    return signing_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def make_bundle(
    folder: Path,
    *,
    version: int,
    signing_key: Ed25519PrivateKey,
    specification: FeatureSpecification = SPECIFICATION,
    thresholds: Thresholds = THRESHOLDS,
    not_after: datetime = datetime(2099, 1, 1, tzinfo=UTC),
    minimum_gateway_version: str = "0.1.0",
    golden_gain: float = 1.0,
) -> Path:
    """Write a real, signed bundle for test machines into *folder* and return its archive.

    Its detector gives the largest mean deviation over the context. With *golden_gain* other than 1 its golden vectors
    are of another detector, so that a gateway has to refuse it.
    """
    healthy = Observations.concatenate([run_machine(f"train-{n}", hours=72, seed=n) for n in range(2)])
    windows = windows_of(specification, healthy)
    by_asset = {
        asset_id: extract(specification, windows.take(windows.asset == number))
        for number, asset_id in enumerate(windows.asset_ids)
    }
    manifest = _manifest(version, specification, thresholds, not_after, minimum_gateway_version)
    parts = {
        FEATURES: encode_specification(specification),
        BASELINES: encode_baseline(fit_baseline(specification, by_asset, commissioning_windows=48)),
        DETECTOR: _detector(specification, gain=1.0),
        DETECTION: encode_detection(DETECTION_FORM),
        CLASSIFIER: _classifier(specification),
        FAILURE: _failure(specification),
        LIFE: _life(specification),
        LIFE_CUT: _life(specification),
        PROGNOSIS: _prognosis(),
    }
    claimed = LoadedBundle.of_parts({**parts, DETECTOR: _detector(specification, gain=golden_gain)}, manifest)
    parts[GOLDEN] = make_golden(claimed, windows.take(np.arange(20, 30)))
    archive = folder / archive_name(manifest)
    archive.write_bytes(pack(parts, manifest, signing_key))
    return archive


def _manifest(
    version: int, spec: FeatureSpecification, thresholds: Thresholds, not_after: datetime, minimum_gateway_version: str
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        asset_class=spec.asset_class,
        version=version,
        channels=spec.channels,
        feature_hash=feature_hash(spec),
        thresholds=thresholds,
        failure_modes=FAILURE_MODES,
        actions={"overheating": "Clean the cooler.", "imbalance": "Balance the rotor."},
        files={},
        opset=OPSET,
        minimum_gateway_version=minimum_gateway_version,
        not_after=not_after,
        metrics={"f1": 0.9},
        lineage=Lineage(
            trained_at=datetime(2026, 3, 1, tzinfo=UTC),
            trained_on_assets=("train-0", "train-1"),
            held_out_assets=(),
            observations=1000,
            lake_digest="00",
            replaces_version=None,
            software_version="0.1.0",
        ),
    )


def _detector(spec: FeatureSpecification, *, gain: float) -> bytes:
    """Return the graph of the largest magnitude among the means over the context, times *gain*."""
    width = len(feature_names(spec))
    nodes, constants = missing_as_zero(INPUT, "present")
    constants += [
        helper.make_tensor("first", TensorProto.INT64, [1], [width]),
        helper.make_tensor("last", TensorProto.INT64, [1], [2 * width]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("gain", TensorProto.FLOAT, [1], [gain]),
    ]
    nodes += [
        helper.make_node("Slice", ["present", "first", "last", "axis"], ["means"]),
        helper.make_node("Abs", ["means"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["largest"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["largest", "gain"], ["score"]),
    ]
    return finish("detector", nodes, constants, inputs=3 * width, output="score", columns=1)


def _classifier(spec: FeatureSpecification) -> bytes:
    """Return the graph of a softmax over the mean temperature's and the vibration's deviation."""
    names = list(feature_names(spec))
    weights = np.zeros((3 * len(names), len(FAILURE_MODES)))
    weights[names.index("temperature_c.mean"), 1] = weights[names.index("vibration_waveform_m_s2.rms"), 2] = 1.0
    return _linear("classifier", weights, [4.0, 0.0, 0.0], "Softmax")


def _failure(spec: FeatureSpecification) -> bytes:
    """Return how the classifier is read: each mode is foretold from a half on, by all inputs alike."""
    inputs = len(input_names(spec))
    modes = FailureModes(
        names=FAILURE_MODES[1:],
        horizon_h=48.0,
        thresholds=(0.5,) * (len(FAILURE_MODES) - 1),
        importance=((1.0 / inputs,) * inputs,) * (len(FAILURE_MODES) - 1),
        band_low=(-2.0,) * inputs,
        band_high=(2.0,) * inputs,
    )
    return encode_failure_modes(modes)


def _life(spec: FeatureSpecification) -> bytes:
    """Return the graph of 50 hours, whatever comes in."""
    return _linear("life", np.zeros((3 * len(feature_names(spec)), 1)), [50.0], "Identity")


def _prognosis() -> bytes:
    """Return that a life is 20, 50 and 90 hours, from the first window on, however much of it is known."""
    variant = Variant(
        weights={"trees": 1.0},
        offsets=Offsets(life_h=(50.0,), p10_h=(-30.0,), p50_h=(0.0,), p90_h=(40.0,)),
        least_windows=1,
    )
    return encode_prognoses(Prognoses(cap_h=1000.0, whole=variant, cut=variant))


def _linear(name: str, weights: FloatArray, bias: list[float], last: str) -> bytes:
    nodes, constants = missing_as_zero(INPUT, "present")
    inputs, columns = weights.shape
    constants += [
        helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel().tolist()),
        helper.make_tensor("bias", TensorProto.FLOAT, [columns], bias),
    ]
    nodes += [
        helper.make_node("Gemm", ["present", "weights", "bias"], ["linear"]),
        helper.make_node(last, ["linear"], ["answer"]),
    ]
    return finish(name, nodes, constants, inputs=inputs, output="answer", columns=columns)


def encoded(value: object) -> bytes:
    """Return *value* as canonical JSON, to compare records whole."""
    return msgspec.json.encode(value, order="sorted")
