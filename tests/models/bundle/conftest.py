import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import NodeProto, TensorProto, helper

from cloud_service.training.sequence import kernel_features, make_kernels
from models.bundle.archive import pack, unpack_verified
from models.bundle.contents import (
    BASELINES,
    CLASSIFIER,
    DETECTION,
    DETECTOR,
    FAILURE,
    FEATURES,
    GOLDEN,
    HEADS,
    KERNELS,
    LIFE,
    LIFE_CUT,
    PROGNOSIS,
    STATISTICS,
    encode_specification,
)
from models.bundle.golden import make_golden
from models.bundle.loaded import LoadedBundle
from models.bundle.manifest import SCHEMA_VERSION, Lineage, Manifest, Thresholds
from models.detection.detection import SEQUENCE, Detection, Member, encode_detection
from models.export.golden_rows import golden_rows
from models.export.graph import INPUT, finish, missing_as_zero
from models.failure.modes import FailureModes, encode_failure_modes
from models.features.baseline import Baseline, encode_baseline
from models.features.extraction import extract
from models.features.hashing import feature_hash, reference_window
from models.features.history import Histories
from models.features.names import feature_names, input_names, sequence_names
from models.features.specification import FeatureSpecification, History
from models.features.windows import Windows
from models.prognosis.prognoses import Offsets, Prognoses, Variant, encode_prognoses
from models.records import Channel
from models.scoring import prepare
from models.sequence.encoding import encode_heads, encode_statistics
from models.sequence.heads import Head, HeadStatistics

_OFFSETS = Offsets(life_h=(0.0,), p10_h=(-40.0,), p50_h=(0.0,), p90_h=(50.0,))
# Of a whole life the trees tell; of others, from the second window on, trees and kernels, each half.
PROGNOSES = Prognoses(
    cap_h=1000.0,
    whole=Variant(weights={"trees": 1.0}, offsets=_OFFSETS, least_windows=1),
    cut=Variant(weights={"trees": 0.5, "kernels": 0.5}, offsets=_OFFSETS, least_windows=2),
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A small bundle with real graphs: its parts, what is said of them, who signs, and windows to score."""

    parts: dict[str, bytes]
    manifest: Manifest
    key: Ed25519PrivateKey
    windows: Windows

    @property
    def archive(self) -> bytes:
        return pack(self.parts, self.manifest, self.key)

    @property
    def loaded(self) -> LoadedBundle:
        return LoadedBundle.of_parts(self.parts, self.manifest)


@pytest.fixture(scope="session")
def release() -> Release:
    spec = FeatureSpecification(
        asset_class="test_pump",
        channels=(
            Channel(name="speed_rpm", unit="rpm", low=0.0, high=3600.0),
            Channel(name="flow_m3_h", unit="m³/h", low=0.0, high=150.0),
            Channel(name="vibration_m_s2", unit="m/s²", low=-160.0, high=160.0, sample_rate_hz=6400.0),
        ),
        window_s=7200.0,
        step_s=3600.0,
        late_s=3600.0,
        history=History(rolling=(4,), since_start=True, sequence_windows=6),
    )
    window = reference_window(spec)
    centre = extract(spec, window)[0]
    baseline = Baseline(
        centre={"reference": (tuple(centre.tolist()),)},
        class_centre=(tuple((centre + 1.0).tolist()),),
        class_scale=(tuple((0.1 * np.abs(centre) + 0.1).tolist()),),
    )
    parts = {FEATURES: encode_specification(spec), BASELINES: encode_baseline(baseline), **graphs(spec)}
    manifest = manifest_of(spec)
    windows = Windows.concatenate([moved(spec, window, step) for step in range(6)])
    bundle = LoadedBundle.of_parts(parts, manifest)
    training = prepare(spec, baseline, Histories(spec), windows)
    parts[GOLDEN] = make_golden(bundle, windows, golden_rows(spec, parts, training, seed=1))
    return Release(parts=parts, manifest=manifest, key=Ed25519PrivateKey.generate(), windows=windows)


@pytest.fixture
def folder(release: Release, tmp_path: Path) -> Callable[[], Path]:
    """Return what unpacks the release and gives its folder."""

    def unpack() -> Path:
        unpack_verified(release.archive, release.key.public_key(), into=tmp_path / "bundle")
        return tmp_path / "bundle"

    return unpack


def moved(spec: FeatureSpecification, window: Windows, step: int) -> Windows:
    """Return *window* later by *step* and with the flow risen a little each step."""
    channels = [replace(rows, time=rows.time + step * spec.step_ns) for rows in window.channels]
    channels[1] = replace(channels[1], value=channels[1].value + 6.0 * step)
    return replace(
        window,
        start_ns=window.start_ns + step * spec.step_ns,
        end_ns=window.end_ns + step * spec.step_ns,
        channels=tuple(channels),
    )


def graphs(spec: FeatureSpecification) -> dict[str, bytes]:
    """Return a detector (the largest deviation), a classifier, a life model and kernels that are easy to foresee."""
    inputs, flow = len(input_names(spec)), feature_names(spec).index("flow_m3_h.mean")
    weights = np.zeros((inputs, 3), np.float32)
    weights[flow] = (-1.0, 1.0, 0.0)
    clean, zero = missing_as_zero("inputs", "present")
    detector = [
        *clean,
        helper.make_node("Abs", ["present"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["score"], axes=[1], keepdims=1),
    ]
    matrix = helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel().tolist())
    product = helper.make_node("MatMul", ["present", "weights"], ["product"])
    classifier = [*clean, product, helper.make_node("Softmax", ["product"], ["probabilities"], axis=1)]
    hours = helper.make_tensor("hours", TensorProto.FLOAT, [1], [50.0])
    slope = helper.make_tensor("slope", TensorProto.FLOAT, [inputs, 1], weights[:, 1].tolist())
    life = [
        *clean,
        helper.make_node("MatMul", ["present", "slope"], ["more"]),
        helper.make_node("Add", ["more", "hours"], ["life"]),
    ]

    def made(name: str, nodes: list[NodeProto], constants: list[TensorProto], output: str, columns: int) -> bytes:

        renamed = [helper.make_node("Identity", [INPUT], ["inputs"]), *nodes]
        return finish(name, renamed, constants, inputs=inputs, output=output, columns=columns)

    # A decade is one unit of deviation.
    largest = Member(name="largest", outputs=(0.0, 100.0), decades=(0.0, 100.0), slope=1.0)
    unforeseen = Member(name=SEQUENCE, outputs=(0.0, 1e6), decades=(0.0, 1e-3), slope=1e-9)
    sequences = np.random.default_rng(1).normal(size=(100, len(sequence_names(spec)), 6)).astype(np.float32)
    kernels = make_kernels(sequences.shape[1], 6, 100, 1, sequences)
    sums = HeadStatistics.of(kernel_features(kernels, sequences), sequences[:, :2, -1].astype(np.float64))
    late = Head(weights=np.zeros((sums.columns, 1)), bias=np.array([70.0]))
    return {
        KERNELS: kernels,
        HEADS: encode_heads({"forecast": sums.solve(1.0), "life_cut": late}),
        STATISTICS: encode_statistics({"forecast": sums}),
        DETECTION: encode_detection(
            Detection(members=(largest, unforeseen), combination="max", forecast_scale=(1.0, 1.0))
        ),
        DETECTOR: made("detector", detector, zero, "score", 1),
        FAILURE: encode_failure_modes(
            FailureModes(
                names=("leak", "imbalance"),
                horizon_h=24.0,
                thresholds=(0.4, math.inf),
                importance=((1.0 / inputs,) * inputs,) * 2,
                band_low=(-1.0,) * inputs,
                band_high=(1.0,) * inputs,
            )
        ),
        CLASSIFIER: made("classifier", classifier, [*zero, matrix], "probabilities", 3),
        LIFE: made("life", life, [*zero, slope, hours], "life", 1),
        LIFE_CUT: made("life", life, [*zero, slope, hours], "life", 1),
        PROGNOSIS: encode_prognoses(PROGNOSES),
    }


def manifest_of(spec: FeatureSpecification) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        asset_class=spec.asset_class,
        version=7,
        channels=spec.channels,
        feature_hash=feature_hash(spec),
        thresholds=Thresholds(
            warning=3.0,
            alarm=6.0,
            minimum_good_share=0.6,
            on_delay_windows=3,
            off_delay_windows=6,
            minimum_confidence=0.5,
        ),
        failure_modes=("normal", "leak", "imbalance"),
        actions={"leak": "Replace the seal."},
        files={},
        opset={"": 15},
        minimum_gateway_version="0.1.0",
        not_after=datetime(2100, 1, 1, tzinfo=UTC),
        metrics={"auc": 0.9},
        lineage=Lineage(
            trained_at=datetime(2026, 3, 1, tzinfo=UTC),
            trained_on_assets=("a-1",),
            held_out_assets=("a-2",),
            observations=100,
            lake_digest="",
            replaces_version=None,
            software_version="0.1.0",
        ),
    )
