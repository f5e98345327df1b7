"""A program that opens a journal again and again, each time on a fresh copy, and dies at one statement later each time.

``python migration_killer.py DIR COPIES``: DIR is the journal; the copy in which it died at statement N is COPIES/N. It
ends when an opening gets through, and prints how many statements that took.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import structlog

from gateway.journal.database import JournalDatabase


def open_until(folder: Path, statement: int) -> None:
    """Open the journal in *folder* in a process of its own that is gone before *statement*, counted from 1."""
    real, seen = sqlite3.connect, 0

    def count(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == statement:
            os._exit(9)

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*arguments, **named)
        connection.set_trace_callback(count)
        return connection

    sqlite3.connect = connect  # type: ignore[assignment]  # every statement is to be seen
    JournalDatabase(folder, "gw-1")
    os._exit(0)


def main(folder: Path, copies: Path) -> None:
    """Die everywhere."""
    for statement in range(1, 1000):
        copy = copies / str(statement)
        shutil.copytree(folder, copy)
        child = os.fork()
        if not child:
            open_until(copy, statement)
        if os.waitpid(child, 0)[1] == 0:
            sys.stdout.write(f"{statement - 1}\n")
            return


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
