"""The journal's two connections to SQLite, one that writes and one that reads, and what an error of theirs means.

After an I/O error nothing that a connection remembers is trusted: a flush that failed once may be said to have
succeeded when it is asked for again. Both connections are closed, and opened anew at the next commit.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.journal.errors import CommitFailed, Unwritable

# A backup or somebody's look may hold the file: a start waits for it; later it is told soon, and tried again.
_START_LOCKED_S, _LOCKED_S = 300.0, 3.0
_HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PASSES = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOMEM,
    }
)
_DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_WHAT_NOW = {
    Unwritable: "it is tried again until the disk takes it, and values wait at their servers; make room on it, or see "
    "to its health",
    CommitFailed: "nothing of it is stored, the source is not acknowledged",
}


def is_passing(error: BaseException) -> bool:
    """Return whether *error* is of a kind that a disk gets over: full, failing, held by somebody."""
    return isinstance(error, OSError) or _primary_code(error) in _PASSES


def is_disk_trouble(error: BaseException) -> bool:
    """Return whether *error* says that the disk is full or fails, so that the same may succeed later."""
    if isinstance(error, OSError):
        return error.errno in _DISK_TROUBLE
    return _primary_code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def is_damage(error: BaseException) -> bool:
    """Return whether *error* is SQLite's word for a file that is not, or not wholly, what it wrote."""
    return _primary_code(error) in _DAMAGED


def is_unknown(error: BaseException) -> bool:
    """Return whether *error*, while a journal is opened, says that its tables are not there."""
    return _primary_code(error) == sqlite3.SQLITE_ERROR or (
        type(error) is sqlite3.OperationalError and _primary_code(error) < 0
    )


def _primary_code(error: BaseException) -> int:
    code = getattr(error, "sqlite_errorcode", None)  # absent where Python's own module refuses
    return code & 0xFF if isinstance(code, int) else -1


class Connections:
    """Both connections of one journal.

    Attributes:
        writer: Used by the writing thread alone, and by whoever opens the journal.
        reader: Used under `reading` by whoever is not on the writing thread.
        in_doubt: Whether they have to be opened anew before anything is written.
        is_damaged: Whether SQLite has said that the file is not what it wrote.
        transactions: How many have become durable since the journal was opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reading = threading.RLock()
        self.in_doubt = True
        self.is_damaged = False
        self.transactions = 0

    def open(self, *, has_failed: bool = False) -> None:
        """Open both, anew if they are open.

        Args:
            has_failed: Whether the disk has failed under them. What a failed flush left in the log may be in memory
                alone, and be taken for written by the next flush: it goes into the database, and the log begins anew,
                before anything is told of it or built on it.

        Raises:
            sqlite3.Error: If that fails; then both are closed, and `in_doubt` stays.
        """
        with self._reading:
            self.close()
            self.writer, self.reader = (
                sqlite3.connect(self._path, timeout=_START_LOCKED_S, isolation_level=None, check_same_thread=False)
                for _ in range(2)
            )
            try:
                if has_failed:
                    self.be_impatient()
                self.writer.execute("PRAGMA auto_vacuum = INCREMENTAL")  # says nothing to a file that is there already
                self.writer.execute("PRAGMA journal_mode = WAL")
                self.writer.execute("PRAGMA synchronous = FULL")
                if has_failed and self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    raise sqlite3.OperationalError("somebody who reads it keeps the log from beginning anew")
            except sqlite3.Error:
                self.close()
                raise
            self.in_doubt = False

    def be_impatient(self) -> None:
        """Wait no longer than can be kept quiet for whoever else holds the file: the journal is open."""
        for connection in (self.writer, self.reader):
            connection.execute(f"PRAGMA busy_timeout = {_LOCKED_S * 1000:.0f}")

    def close(self) -> None:
        """Close both; nothing of theirs can be used until `open`."""
        self.in_doubt = True
        with self._reading:
            for name in ("reader", "writer"):
                if hasattr(self, name):
                    with suppress(sqlite3.Error):
                        getattr(self, name).close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep the reading connection open while the block runs.

        Raises:
            Unwritable: If it is closed, because the disk fails.
        """
        with self._reading:
            if self.in_doubt:
                raise Unwritable(f"{self._path}: is not open now, since the disk fails; it is tried again")
            yield

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raise what SQLite says of a disk that fails as ours, and trust the connections no more.

        Raises:
            Unwritable: If the disk fails under what is read in the block.
        """
        try:
            yield
        except sqlite3.Error as error:
            if not (is_passing(error) or is_damage(error)):
                raise
            self.in_doubt = True
            self.is_damaged = self.is_damaged or is_damage(error)
            raise Unwritable(f"{self._path}: cannot be read ({error}); it is tried again") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all that is written in the block durable together, or none of it.

        Raises:
            Unwritable: If the disk is full or fails.
            CommitFailed: If it fails otherwise.
        """
        try:
            self.writer.execute("BEGIN IMMEDIATE")
            yield
            self.writer.execute("COMMIT")
        except BaseException as error:
            self._roll_back(error)
            if isinstance(error, sqlite3.Error):
                kind = Unwritable if is_passing(error) or is_damage(error) else CommitFailed
                raise kind(f"{self._path}: commit failed ({error}); {_WHAT_NOW[kind]}") from error
            raise
        self.transactions += 1

    def _roll_back(self, error: BaseException) -> None:
        try:
            if self.writer.in_transaction:
                self.writer.execute("ROLLBACK")
        except sqlite3.Error:
            self.in_doubt = True
        # A full disk, or who holds the file, leaves the connection as it was; others may leave half a commit behind.
        self.is_damaged = self.is_damaged or is_damage(error)
        if isinstance(error, sqlite3.Error) and _primary_code(error) not in {sqlite3.SQLITE_FULL, *_HELD}:
            self.in_doubt = self.in_doubt or is_passing(error) or is_damage(error)
