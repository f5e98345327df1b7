import subprocess
import sys
from pathlib import Path

import pytest

from gateway.bundles import verification
from gateway.bundles.limited import MEMORY_BYTES
from gateway.bundles.verification import run_golden
from models.bundle.errors import GoldenMismatch

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


def test_a_folder_that_is_no_bundle_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(GoldenMismatch, match="manifest"):
        run_golden(tmp_path)


def test_a_bundle_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "GOLDEN_TIMEOUT_S", 0.001)

    with pytest.raises(GoldenMismatch, match="took more than"):
        run_golden(tmp_path)
