"""Golden vectors notice another formula, another model and another machine."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, load_model_from_string

from models.bundle.archive import pack, unpack_verified
from models.bundle.contents import GOLDEN, LIFE
from models.bundle.errors import GoldenMismatch
from models.bundle.golden import MAX_WINDOWS, check_golden, main, make_golden, run_golden
from models.bundle.loaded import LoadedBundle
from models.bundle.scored import score
from models.export.graph import finish, sealed
from models.export.parity import FAR
from models.features import extraction, plain
from models.features.history import Histories
from models.features.names import input_names


def unpacked(release: Any, into: Path, **parts: bytes) -> Path:
    """Return the folder of the release with some *parts* (by name without ending) put in the place of its own."""
    names = {name.split(".")[0]: name for name in release.parts}
    changed = {**release.parts, **{names[short]: data for short, data in parts.items()}}
    unpack_verified(pack(changed, release.manifest, release.key), release.key.public_key(), into=into)
    return into


def test_a_bundle_answers_here_as_where_it_was_made(folder: Callable[[], Path]) -> None:
    run_golden(folder())


def test_as_a_program_it_says_why(release: Any, tmp_path: Path) -> None:
    """This is how a gateway runs it."""
    good, bad = unpacked(release, tmp_path / "good"), unpacked(release, tmp_path / "bad", golden=b"\xc1")
    runs = [
        subprocess.run(
            [sys.executable, "-m", "models.bundle.golden", str(folder)], capture_output=True, text=True, check=False
        )
        for folder in (good, bad)
    ]

    assert (runs[0].returncode, runs[0].stderr) == (0, "")
    assert runs[1].returncode == 1
    assert runs[1].stderr.startswith("GoldenMismatch: test_pump version 7:")


def test_a_graph_that_does_not_answer_is_refused_in_one_line(
    release: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runtime's own reason has several lines; a gateway reads the last that is printed."""
    width = len(input_names(release.loaded.specification))
    sevens = helper.make_tensor("sevens", TensorProto.INT64, [2], [-1, 7])
    nodes = [
        helper.make_node("Reshape", ["features", "sevens"], ["rows"]),
        helper.make_node("ReduceMax", ["rows"], ["score"], axes=[1], keepdims=1),
    ]
    wrong = finish("detector", nodes, [sevens], inputs=width, output="score", columns=1)

    assert main([str(unpacked(release, tmp_path / "into", detector=wrong))]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ManifestMismatch: detector.onnx does not answer 6 rows (")
    assert line.endswith("the bundle is refused, the live one stays")


@pytest.mark.parametrize("data", [b"\x81\xa1\xff\x01", b"\x81\xa1x" * 100_000], ids=["other text", "without end"])
def test_golden_vectors_that_are_none_are_refused(release: Any, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(GoldenMismatch, match="cannot be read"):
        run_golden(unpacked(release, tmp_path / "into", golden=data))


def test_another_model_is_noticed(release: Any, tmp_path: Path) -> None:
    """Even when it is signed and fits."""
    model = load_model_from_string(release.parts[LIFE])
    hours = next(constant for constant in model.graph.initializer if constant.name == "hours")
    hours.float_data[0] = 51.0
    with pytest.raises(GoldenMismatch, match="life at"):
        run_golden(unpacked(release, tmp_path / "into", life=sealed(model)))


def test_another_feature_is_noticed(release: Any, folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula that differs only where the reference window does not look, so that the hash is the same."""
    into = folder()
    first = plain.PLAIN_FEATURES[0]
    # The reference window's flow averages below 80; the golden windows rise above.
    other = replace(first, compute=lambda segments: plain.mean(segments) + 0.1 * (plain.mean(segments) > 85.0))
    flow = release.windows.channels[1]
    assert flow.value[: flow.last[0]].mean() < 80.0
    assert flow.value[flow.first[-1] :].mean() > 90.0
    monkeypatch.setattr(extraction, "PLAIN_FEATURES", (other, *plain.PLAIN_FEATURES[1:]))
    monkeypatch.setattr("models.bundle.loaded.feature_hash", lambda _: release.manifest.feature_hash)

    with pytest.raises(GoldenMismatch, match="features at"):
        run_golden(into)


ASKED = (
    "inputs",
    "sequences",
    "windows_known",
    "whole",
    "detector_output",
    "probabilities",
    "life_s",
    "decisions",
)


@pytest.mark.parametrize(
    "place",
    [("features",), ("windows", "asset"), *(("own", name) for name in ASKED), *(("further", name) for name in ASKED)],
    ids=".".join,
)
def test_golden_vectors_cut_short_are_refused(release: Any, place: tuple[str, ...]) -> None:
    told = msgspec.msgpack.decode(release.parts[GOLDEN])
    within = told
    for name in place[:-1]:
        within = within[name]
    within[place[-1]] = within[place[-1]][:-8]

    with pytest.raises((GoldenMismatch, ValueError)):
        check_golden(release.loaded, msgspec.msgpack.encode(told))


@pytest.mark.parametrize("which", ["own", "further"])
def test_a_decision_that_changed_is_noticed(release: Any, which: str) -> None:
    """Though all numbers are as they were: the thresholds of the manifest decide."""
    told = msgspec.msgpack.decode(release.parts[GOLDEN])
    decisions = np.frombuffer(told[which]["decisions"], np.int64).copy()
    decisions[0] = 2 - decisions[0]
    told[which]["decisions"] = decisions.tobytes()

    with pytest.raises(GoldenMismatch, match=r"decision at \(0, 0\)"):
        check_golden(release.loaded, msgspec.msgpack.encode(told))


def test_other_thresholds_are_other_decisions(release: Any) -> None:
    """Control: with the manifest's own they are what was noted."""
    limits = replace(release.manifest.thresholds, warning=0.5, alarm=0.6)
    parts = {name: data for name, data in release.parts.items() if name != GOLDEN}

    check_golden(LoadedBundle.of_parts(parts, release.manifest), release.parts[GOLDEN])
    with pytest.raises(GoldenMismatch, match="decision at"):
        check_golden(LoadedBundle.of_parts(parts, replace(release.manifest, thresholds=limits)), release.parts[GOLDEN])


def test_what_lies_on_a_threshold_is_not_held_to_a_decision(release: Any) -> None:
    """The last bit of another processor would decide it: neither bundle is refused for that."""
    output = score(release.loaded, Histories(release.loaded.specification), release.windows).detector_output
    for factor in (1.0 - 1e-7, 1.0 + 1e-7):
        limits = replace(release.manifest.thresholds, warning=output[3], alarm=1e6)
        made = LoadedBundle.of_parts(release.parts, replace(release.manifest, thresholds=limits))
        here = replace(made.manifest, thresholds=replace(limits, warning=output[3] * factor))

        check_golden(LoadedBundle.of_parts(release.parts, here), make_golden(made, release.windows))


def test_models_are_asked_on_splits_with_holes_and_far_out(release: Any) -> None:
    """Each kind is there, beside the raw windows."""
    told = msgspec.msgpack.decode(release.parts[GOLDEN])
    spec = release.loaded.specification
    inputs = np.frombuffer(told["further"]["inputs"], np.float32).reshape(-1, len(input_names(spec)))

    assert np.isnan(inputs).all(axis=1).sum() == 1
    assert 0 < np.isnan(inputs).mean() < 0.5
    assert set(FAR) <= set(inputs[np.isfinite(inputs)].tolist())


def test_golden_vectors_are_bounded(release: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    into = unpacked(release, tmp_path / "into")
    monkeypatch.setattr("models.bundle.golden.MAX_BYTES", 1000)

    with pytest.raises(GoldenMismatch, match="more than 1000 bytes"):
        run_golden(into)
    with pytest.raises(GoldenMismatch, match="no bundle is made"):
        make_golden(release.loaded, release.windows)


def test_a_bundle_without_golden_vectors_is_refused(release: Any, tmp_path: Path) -> None:
    parts = {name: data for name, data in release.parts.items() if name != GOLDEN}
    unpack_verified(pack(parts, release.manifest, release.key), release.key.public_key(), into=tmp_path / "into")

    with pytest.raises(GoldenMismatch, match="cannot be read"):
        run_golden(tmp_path / "into")


def test_golden_vectors_need_some_windows_and_not_too_many(release: Any) -> None:
    for rows in ([], [0] * (MAX_WINDOWS + 1)):
        windows = release.windows.take(np.array(rows, np.intp))
        with pytest.raises(GoldenMismatch, match="1 to 256"):
            make_golden(release.loaded, windows)
