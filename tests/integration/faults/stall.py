"""A disk that stops answering under a gateway, as a network disk or a worn one does: its flushes wait."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("stalled_disk.c")


class StalledDisk:
    """Makes the flushes of a program wait while `stall` holds; start the program with `environment`.

    Args:
        folder: For the library, which is compiled here, and the file by which it is told.
    """

    def __init__(self, folder: Path) -> None:
        self._told = folder / "stalled"
        library = folder / "stalled_disk.so"
        done = subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.environment = {"LD_PRELOAD": str(library), "WEARSIGHT_TEST_STALL": str(self._told)}

    def stall(self) -> None:
        """Have every flush wait from now on."""
        self._told.touch()

    def go_on(self) -> None:
        """Let them through."""
        self._told.unlink()
