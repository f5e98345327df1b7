import subprocess
import sys
from pathlib import Path

import pytest

from gateway.bundles import verification
from gateway.bundles.limited import MEMORY_BYTES
from gateway.bundles.verification import run_golden
from models.bundle.errors import GoldenMismatch, ManifestMismatch

GREEDY = """
import runpy, sys
from gateway.bundles import limited
runpy.run_module = lambda *_, **__: bytearray({size})
limited.main()
"""


def greedy(size: int) -> int:
    """Return the exit code of a limited process that asks for *size* bytes."""
    program = [sys.executable, "-c", GREEDY.format(size=size)]
    return subprocess.run(program, capture_output=True, check=False).returncode


def test_a_bundle_cannot_take_the_gateways_memory() -> None:
    """What asks for more than the limit ends; what asks for little does not."""
    assert greedy(MEMORY_BYTES) != 0
    assert greedy(1000) == 0


def test_a_folder_that_is_no_bundle_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No module is taken from where somebody stands who installs: others may write there."""
    planted = tmp_path / "gateway"
    planted.mkdir()
    (planted / "__init__.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ManifestMismatch, match=r"^manifest does not decode .* live one stays$"):
        run_golden(tmp_path)


def test_whatever_the_process_prints_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that quotes a hostile graph does not keep to UTF-8."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nprintf 'operator \\377 is none' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))

    with pytest.raises(GoldenMismatch, match=r"operator . is none"):
        run_golden(tmp_path)


@pytest.mark.parametrize(
    ("version", "numbers"), [("1.2", (1, 2, 0)), ("0.2b3.1", (0, 2, 0)), ("0.2.0rc1", (0, 2, 0)), ("none", (0, 0, 0))]
)
def test_versions_are_ordered_by_their_leading_numbers(version: str, numbers: tuple[int, ...]) -> None:
    """A number behind a letter is no part of them: 0.2b3 is not 0.23."""
    assert verification._numbers(version) == numbers


def test_a_bundle_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "GOLDEN_TIMEOUT_S", 0.001)

    with pytest.raises(GoldenMismatch, match="took more than"):
        run_golden(tmp_path)
