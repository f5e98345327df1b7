"""A program that begins a new epoch and dies at a step: ``python epoch_killer.py DIR STEP before|after``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from gateway.journal.database import JournalDatabase
from gateway.journal_commands import new_epoch


def main(folder: Path, step: str, moment: str) -> None:
    """Begin a new epoch; end like a kill before or after *step*."""
    real = getattr(new_epoch, step)

    def dies(*arguments: Any, **named: Any) -> Any:
        if moment == "after":
            real(*arguments, **named)
        os._exit(9)

    setattr(new_epoch, step, dies)
    new_epoch.begin(JournalDatabase(folder, "gw-1"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
