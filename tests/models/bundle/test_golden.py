"""Golden vectors notice another formula, another model and another machine."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models.bundle.archive import pack, unpack_verified
from models.bundle.contents import CLASSIFIER, GOLDEN
from models.bundle.errors import GoldenMismatch
from models.bundle.golden import MAX_WINDOWS, make_golden, run_golden
from models.features import extraction, plain


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


def test_another_model_is_noticed(release: Any, tmp_path: Path) -> None:
    """Even when it is signed and fits."""
    with pytest.raises(GoldenMismatch, match="life at"):
        run_golden(unpacked(release, tmp_path / "into", life=release.parts[CLASSIFIER]))


def test_another_feature_is_noticed(release: Any, folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula that differs only where the reference window does not look, so that the hash is the same."""
    into = folder()
    first = plain.PLAIN_FEATURES[0]
    # The reference window's flow averages below 80; the golden windows rise above.
    other = replace(first, compute=lambda segments: plain.mean(segments) + 0.1 * (plain.mean(segments) > 85.0))
    assert release.windows[0].values[1].mean() < 80.0
    assert release.windows[-1].values[1].mean() > 90.0
    monkeypatch.setattr(extraction, "PLAIN_FEATURES", (other, *plain.PLAIN_FEATURES[1:]))
    monkeypatch.setattr("models.bundle.loaded.feature_hash", lambda _: release.manifest.feature_hash)

    with pytest.raises(GoldenMismatch, match="features at"):
        run_golden(into)


@pytest.mark.parametrize("field", ["features", "inputs", "detector_output", "probabilities", "life_s", "windows"])
def test_golden_vectors_cut_short_are_refused(release: Any, tmp_path: Path, field: str) -> None:
    told = msgspec.msgpack.decode(release.parts[GOLDEN])
    told[field] = told[field][:-8] if field != "windows" else []

    with pytest.raises(GoldenMismatch):
        run_golden(unpacked(release, tmp_path / "into", golden=msgspec.msgpack.encode(told)))


def test_a_bundle_without_golden_vectors_is_refused(release: Any, tmp_path: Path) -> None:
    parts = {name: data for name, data in release.parts.items() if name != GOLDEN}
    unpack_verified(pack(parts, release.manifest, release.key), release.key.public_key(), into=tmp_path / "into")

    with pytest.raises(GoldenMismatch, match="cannot be read"):
        run_golden(tmp_path / "into")


def test_golden_vectors_need_some_windows_and_not_too_many(release: Any) -> None:
    for windows in (release.windows[:0], release.windows[:1] * (MAX_WINDOWS + 1)):
        with pytest.raises(GoldenMismatch, match="1 to 256"):
            make_golden(release.loaded, windows)
