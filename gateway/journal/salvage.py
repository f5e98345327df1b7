"""Rows of a damaged database file carried into a new one: every row that can still be read, page by page.

Where a stretch of the file cannot be read, the next row that can is searched for by halving. What is missing then is
for `gateway.journal.recounting`: tombstones take its place, and what it held counts as expired.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.errors import JournalError
from gateway.journal.schema import create
from models.segment import SegmentError, decode_segment

_BY_NUMBER = {"page": "seq", "segment": "first_seq", "quarantine": "seq"}  # tables that are walked by their key
_WHOLE = ("journal", "position", "newest", "hole", "filled", "late", "expired")
_LAST = 2**62

Row = tuple[Any, ...]


def salvage(path: Path, target: Path) -> list[str]:
    """Write what can be read of the database *path* into a new one, *target*; return what could not.

    Raises:
        JournalError: If not even whose journal it is can be found.
    """
    target.unlink(missing_ok=True)
    lost: list[str] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as old, closing(_new(target)) as new:
        gateway_id, epoch = _identity(old, path)
        new.execute("BEGIN")
        create(new, gateway_id, epoch)
        for table in _WHOLE:
            rows = _all_rows(old, table)
            if rows is None:
                lost.append(f"table {table} cannot be read")
            _copy(new, table, rows or [])
        for table, key in _BY_NUMBER.items():
            walked = _Walk(old, table, key)
            _copy(new, table, walked.rows())
            lost += [f"table {table}: rows after {after} up to {last} cannot be read" for after, last in walked.lost]
        new.execute("COMMIT")
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return lost


def _new(target: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(target, isolation_level=None)
    connection.execute("PRAGMA journal_mode = OFF")  # nobody reads it before it is whole
    return connection


def _identity(old: sqlite3.Connection, path: Path) -> tuple[str, str]:
    """Return gateway and epoch, from the head or, when that is lost, from the newest segment."""
    try:
        row = old.execute("SELECT gateway_id, epoch FROM journal").fetchone()
        if row is not None:
            return str(row[0]), str(row[1])
    except sqlite3.Error:
        pass
    for file in sorted((path.parent / "segments").glob("*.wseg"), reverse=True):
        try:
            segment = decode_segment(file.read_bytes())
        except (OSError, SegmentError):
            continue
        return segment.gateway_id, segment.epoch
    raise JournalError(f"{path}: not even whose journal it is can be read; bring it back from a backup")


def _all_rows(old: sqlite3.Connection, table: str) -> list[Row] | None:
    try:
        return old.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - our own words
    except sqlite3.Error:
        return None


class _Walk:
    """The rows of one table by its key; ``lost`` are the stretches over which it had to jump."""

    def __init__(self, old: sqlite3.Connection, table: str, key: str) -> None:
        self._old = old
        self._statement = f"SELECT * FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT 1"  # noqa: S608 - our own words
        self.lost: list[tuple[int, int]] = []

    def rows(self) -> Iterator[Row]:
        """Yield every row that can be read."""
        after = -1
        while True:
            try:
                row = self._after(after)
            except sqlite3.Error:
                resumed = self._readable_after(after)
                self.lost.append((after, resumed))
                after = resumed
                if after >= _LAST:
                    return
                continue
            if row is None:
                return
            yield row
            after = int(row[0])

    def _after(self, seq: int) -> Row | None:
        row: Row | None = self._old.execute(self._statement, (seq,)).fetchone()
        return row

    def _readable_after(self, bad: int) -> int:
        """Return the smallest place after *bad* behind which a row can be read, `_LAST` when there is none."""
        step = 1
        while bad + step < _LAST:
            if self._found(bad + step):
                break
            step *= 2
        low, high = bad + step // 2, min(bad + step, _LAST)
        while high - low > 1:
            middle = (low + high) // 2
            if self._found(middle):
                high = middle
            else:
                low = middle
        return high

    def _found(self, after: int) -> bool:
        try:
            return self._after(after) is not None
        except sqlite3.Error:
            return False


def _copy(new: sqlite3.Connection, table: str, rows: Iterator[Row] | list[Row]) -> None:
    columns = len(new.execute(f"PRAGMA table_info({table})").fetchall())
    places = ", ".join("?" * columns)
    new.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", (row for row in rows if len(row) == columns))  # noqa: S608 - our own words
