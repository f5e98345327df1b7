"""A bundle loads only when its parts fit together and this software computes what they need."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

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
    MANIFEST,
    PROGNOSIS,
    STATISTICS,
    encode_specification,
)
from models.bundle.errors import DigestMismatch, FeatureHashMismatch, ManifestMismatch
from models.bundle.loaded import LoadedBundle, load_statistics
from models.detection.detection import Detection, Member, encode_detection
from models.export.graph import finish, missing_as_zero
from models.features import plain
from models.features.hashing import feature_hash
from models.features.names import input_names, sequence_names
from models.features.specification import History
from models.sequence.encoding import encode_heads
from models.sequence.heads import Head


def test_a_bundle_loads_from_its_folder(folder: Callable[[], Path]) -> None:
    bundle = LoadedBundle.load(folder())

    assert bundle.manifest.version == 7
    assert bundle.classifier is not None
    assert bundle.life is not None


def test_classifier_and_life_may_be_absent(release: Any) -> None:
    parts = {
        name: data
        for name, data in release.parts.items()
        if name not in {CLASSIFIER, FAILURE, LIFE, LIFE_CUT, PROGNOSIS}
    }

    bundle = LoadedBundle.of_parts(parts, replace(release.manifest, failure_modes=()))

    assert (bundle.classifier, bundle.life) == (None, None)


def test_a_file_changed_on_disk_is_noticed(folder: Callable[[], Path]) -> None:
    into = folder()
    data = bytearray((into / DETECTOR).read_bytes())
    data[100] ^= 1
    (into / DETECTOR).write_bytes(data)

    with pytest.raises(DigestMismatch, match="changed"):
        LoadedBundle.load(into)
    (into / MANIFEST).unlink()
    with pytest.raises(ManifestMismatch):
        LoadedBundle.load(into)
    with pytest.raises(ManifestMismatch, match="cannot be read"):
        LoadedBundle.load(into / "absent")


def test_other_features_than_trained_on_are_refused(release: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: with the code as it was, the bundle loads."""
    assert release.loaded
    changed = replace(plain.PLAIN_FEATURES[1], revision=2)
    monkeypatch.setattr("models.features.names.PLAIN_FEATURES", (changed, *plain.PLAIN_FEATURES[1:]))

    with pytest.raises(FeatureHashMismatch, match="live one stays"):
        LoadedBundle.of_parts(release.parts, release.manifest)


def test_parts_that_do_not_fit_are_refused(release: Any) -> None:
    manifest = release.manifest
    without = {name: data for name, data in release.parts.items() if name != CLASSIFIER}
    for parts, said in (
        (without, manifest),
        (release.parts, replace(manifest, failure_modes=())),
        (release.parts, replace(manifest, asset_class="other")),
        (release.parts, replace(manifest, channels=manifest.channels[:2])),
        ({**release.parts, DETECTOR: b"no graph"}, manifest),
        ({**release.parts, FEATURES: b"{}"}, manifest),
        ({**release.parts, BASELINES: b"{}"}, manifest),
        ({GOLDEN: release.parts[GOLDEN]}, manifest),
    ):
        with pytest.raises(ManifestMismatch, match="live one stays"):
            LoadedBundle.of_parts(parts, said)


def test_a_graph_with_other_outputs_is_refused(release: Any) -> None:
    """The classifier gives three columns, the detector's graph has one member."""
    with pytest.raises(ManifestMismatch, match=r"detector.onnx takes rows of .* gives 3 columns"):
        LoadedBundle.of_parts({**release.parts, DETECTOR: release.parts[CLASSIFIER]}, release.manifest)


def test_a_graph_that_says_another_shape_than_it_gives_is_refused(release: Any) -> None:
    """As an autoencoder does that the general converter made: all rows and outputs in one column."""
    width = len(input_names(release.loaded.specification))
    column = helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1])
    nodes = [helper.make_node("Reshape", ["features", "column"], ["score"])]
    wrong = finish("autoencoder", nodes, [column], inputs=width, output="score", columns=1)
    bundle = LoadedBundle.of_parts({**release.parts, DETECTOR: wrong}, release.manifest)

    with pytest.raises(ManifestMismatch, match=r"answers \(160, 1\) where \(2, 1\) is due"):
        bundle.detector(np.zeros((2, width), np.float32))


def test_all_parts_load(release: Any) -> None:
    bundle = release.loaded
    spec = bundle.specification
    sequences = np.zeros((3, len(sequence_names(spec)), spec.history.sequence_windows), np.float32)

    assert bundle.kernels is not None
    kernels = bundle.kernels(sequences)
    assert bundle.heads["forecast"].predict(kernels).shape == (3, 2)
    assert [member.name for member in bundle.detection.members] == ["largest", "sequence"]


HOSTILE: dict[str, dict[str, bytes | str | None]] = {
    "heads without kernels": {KERNELS: None},
    "kernels without heads": {HEADS: None},
    "probabilities without how they are read": {FAILURE: None},
    "failure modes that are none": {FAILURE: b"{}"},
    "other failure modes than the manifest's": {FAILURE: "renamed"},
    "lives that nobody can read": {PROGNOSIS: None},
    "a prognosis that is none": {PROGNOSIS: b"{}"},
    "a prognosis without its trees": {LIFE: None},
    "a life of three columns": {LIFE: "classifier.onnx"},
    "a prognosis without its head": {
        HEADS: encode_heads({"forecast": Head(weights=np.ones((108, 2)), bias=np.ones(2))})
    },
    "a head of two lives": {
        HEADS: encode_heads(
            {
                "forecast": Head(weights=np.ones((108, 2)), bias=np.ones(2)),
                "life_cut": Head(weights=np.ones((108, 2)), bias=np.ones(2)),
            }
        )
    },
    "no detection": {DETECTION: None},
    "heads that are none": {HEADS: b"\xc1"},
    "heads on fewer kernels": {HEADS: encode_heads({"life": Head(weights=np.ones((7, 1)), bias=np.ones(1))})},
    "a head that is not finite": {
        HEADS: encode_heads({"life": Head(weights=np.full((108, 1), np.nan), bias=np.ones(1))})
    },
    "a forecast of fewer deviations": {
        HEADS: encode_heads({"forecast": Head(weights=np.ones((108, 1)), bias=np.ones(1))})
    },
    "no forecast": {HEADS: encode_heads({"life": Head(weights=np.ones((108, 1)), bias=np.ones(1))})},
    "detection that is none": {DETECTION: b"{}"},
    "detection of more members than the graph": {
        DETECTION: encode_detection(
            Detection(
                members=tuple(
                    Member(name=name, outputs=(0.0, 1.0), decades=(0.0, 1.0), slope=1.0) for name in ("a", "b")
                )
            )
        )
    },
    "strays of fewer features": {
        DETECTION: encode_detection(
            Detection(members=(Member(name="a", outputs=(0.0, 1.0), decades=(0.0, 1.0), slope=1.0),), stray=(1.0, 1.0))
        )
    },
    "tables where sequences are due": {KERNELS: "detector.onnx"},
    "features in other text than UTF-8": {FEATURES: b'{"asset_class":"\xff"}'},
    "features without end": {FEATURES: b'{"x":' * 100_000},
    "baselines without end": {BASELINES: b'{"x":' * 100_000},
    "detection without end": {DETECTION: b'{"x":' * 100_000},
    "failure modes without end": {FAILURE: b'{"x":' * 100_000},
    "a prognosis without end": {PROGNOSIS: b'{"x":' * 100_000},
    "heads without end": {HEADS: b"\x81\xa1x" * 100_000},
    "a graph that is none": {DETECTOR: b"no graph"},
    "a graph with code": {DETECTOR: "code"},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_parts_are_refused(release: Any, kind: str) -> None:
    """Whoever signed them."""
    parts = dict(release.parts)
    for name, data in HOSTILE[kind].items():
        if data is None:
            del parts[name]
        elif data == "code":
            parts[name] = parts[name].replace(b"ReduceMax", b"PythonOpX")
        elif data == "renamed":
            parts[name] = parts[name].replace(b"leak", b"tear")
        else:
            parts[name] = release.parts[data] if isinstance(data, str) else data

    with pytest.raises(ManifestMismatch, match="live one stays"):
        LoadedBundle.of_parts(parts, release.manifest)


def test_sequence_models_need_features_with_sequences(release: Any) -> None:
    """Control: without kernels such a bundle is taken."""
    spec = replace(release.loaded.specification, history=History(rolling=(4,)))
    width = len(input_names(spec))
    nodes, zero = missing_as_zero("features", "present")
    nodes.append(helper.make_node("ReduceMax", ["present"], ["score"], axes=[1], keepdims=1))
    detector = finish("detector", nodes, zero, inputs=width, output="score", columns=1)
    largest = Member(name="largest", outputs=(0.0, 1.0), decades=(0.0, 1.0), slope=1.0)
    parts = {**release.parts, FEATURES: encode_specification(spec), DETECTOR: detector}
    parts[DETECTION] = encode_detection(Detection(members=(largest,)))
    del parts[CLASSIFIER], parts[FAILURE], parts[LIFE], parts[LIFE_CUT], parts[PROGNOSIS]
    manifest = replace(release.manifest, failure_modes=(), feature_hash=feature_hash(spec))

    with pytest.raises(ManifestMismatch, match="features have none"):
        LoadedBundle.of_parts(parts, manifest)
    del parts[KERNELS], parts[HEADS]
    assert LoadedBundle.of_parts(parts, manifest).kernels is None


def test_statistics_stay_on_disk_but_are_checked(folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are as large as all else together, and nobody scores with them."""
    into = folder()
    read: list[str] = []
    whole = Path.read_bytes

    def noting(path: Path) -> bytes:
        read.append(path.name)
        return whole(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", noting)
        bundle = LoadedBundle.load(into)
    assert DETECTOR in read
    assert not {STATISTICS, GOLDEN} & set(read)
    statistics = load_statistics(into, bundle.manifest)
    forecast = bundle.heads["forecast"]
    assert np.array_equal(statistics["forecast"].solve(forecast.ridge).weights, forecast.weights)

    data = bytearray((into / STATISTICS).read_bytes())
    data[100] ^= 1
    (into / STATISTICS).write_bytes(data)
    with pytest.raises(DigestMismatch, match="is changed"):
        LoadedBundle.load(into)
    with pytest.raises(DigestMismatch):
        load_statistics(into, bundle.manifest)
    (into / STATISTICS).unlink()
    with pytest.raises(ManifestMismatch, match="cannot be read"):
        load_statistics(into, bundle.manifest)


def test_a_bundle_without_statistics_has_none(release: Any, tmp_path: Path) -> None:
    assert load_statistics(tmp_path, release.manifest) == {}
