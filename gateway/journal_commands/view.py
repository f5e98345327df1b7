"""A journal opened for a look: read while the gateway writes, without its lock, and never written to.

The file is opened read-only. Where nobody has it open there is no write-ahead log beside it, and it is read as it is,
since SQLite would leave one behind; should a gateway start meanwhile, the next look goes through its log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.errors import JournalError
from gateway.journal.counters import JournalCounters
from gateway.journal.counting import Tally, tally
from gateway.journal.entries import SegmentEntry
from gateway.journal.errors import JournalMismatch
from gateway.journal.holes import Hole
from gateway.journal.pages import PageRow
from gateway.journal.schema import SCHEMA_VERSION
from gateway.journal.segment_table import select_segments
from models.records import Stream

_WAIT_S = 30.0  # a checkpoint holds readers up for a moment


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A page that was found damaged and put aside; times are ns by the gateway's clock."""

    seq: int
    found_time: int
    reason: str
    observations: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the tables say in sum; each number is counted anew, not taken from where it was noted.

    Attributes:
        tally: As the gateway counts when it starts.
        first_seq: The oldest page that is still here; 1 when there is none.
        purged_pages: How many were purged; they are the ones before the oldest.
        segments: How many are here.
        segment_bytes: What their files take, as recorded.
        page_rows: Pages that have a row of their own; those that are in a segment too wait for a reader.
        oldest_ns: The oldest source time in segments, None without any.
        newest_ns: The newest.
        age_s: How long the journal has been running, in seconds.
    """

    tally: Tally
    first_seq: int
    purged_pages: int
    segments: int
    segment_bytes: int
    page_rows: int
    oldest_ns: int | None
    newest_ns: int | None
    age_s: float

    @property
    def counters(self) -> JournalCounters:
        """What the journal holds."""
        return self.tally.counters


class JournalView:
    """The journal of one folder, to be looked at. Use it as a context.

    Attributes:
        path: Its file.
        gateway_id: Whose it is.
        epoch: Drawn when it was created.
    """

    def __init__(self, state_dir: Path) -> None:
        """Open the journal in *state_dir* for reading.

        Raises:
            JournalError: If there is none, or it is damaged so that not even its head can be read.
            JournalMismatch: If it is of another schema.
        """
        self.path = state_dir / "journal.sqlite"
        self.segments_dir = state_dir / "segments"
        if not self.path.is_file():
            raise JournalError(f"{self.path}: is not there; a gateway makes it when it first runs")
        self._connection, self._as_it_is = self._opened()
        try:
            with self.moment() as connection:
                self.gateway_id, self.epoch = _identity(self.path, connection)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    @contextmanager
    def moment(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that sees the journal as it is at one moment. Keep it short: the log grows meanwhile.

        Raises:
            JournalError: If what is read is damaged.
        """
        if self._as_it_is and self._log_exists():
            self._connection.close()
            self._connection, self._as_it_is = self._opened()
        try:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.rollback()
        except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
            # A damaged row has values of other types than its table: SQLite checks these when they are written.
            raise JournalError(f"{self.path}: cannot be read ({error}); nothing of it was changed") from error

    def totals(self) -> Totals:
        """Count everything, at one moment."""
        with self.moment() as connection:
            return _totals(connection)

    def last_seq(self) -> int:
        """Return the seq of the newest page, 0 when there is none."""
        with self.moment() as connection:
            row = connection.execute(
                "SELECT max(coalesce((SELECT max(seq) FROM page), 0), "
                "coalesce((SELECT max(last_seq) FROM segment), 0), "
                "(SELECT purged_pages FROM journal))"
            ).fetchone()
        return int(row[0])

    def positions(self) -> dict[str, int]:
        """Return the last seq that each known reader has done."""
        with self.moment() as connection:
            return dict(connection.execute("SELECT reader, seq FROM position ORDER BY reader").fetchall())

    def segments(self, where: str = "1", arguments: Sequence[int] = (), limit: int = -1) -> list[SegmentEntry]:
        """Return the segments that *where*, a condition on their table, selects, oldest first."""
        with self.moment() as connection:
            return select_segments(connection, self.segments_dir, where, arguments, limit)

    def page_rows(self, after: int, last: int, *, limit: int, max_bytes: int) -> list[PageRow]:
        """Return the oldest rows with ``after < seq <= last``, at least one when there is one."""
        rows: list[PageRow] = []
        size = 0
        with self.moment() as connection:
            for seq, committed, observations, stored, checksum in connection.execute(
                "SELECT seq, committed_time, observations, payload, checksum FROM page "
                "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
                (after, last, limit),
            ):
                payload = stored if isinstance(stored, bytes) else b""  # a damaged row
                size += len(payload)
                if rows and size > max_bytes:
                    break
                rows.append(
                    PageRow(
                        seq=seq, committed_time=committed, observations=observations, payload=payload, checksum=checksum
                    )
                )
        return rows

    def quarantined(self) -> list[Quarantined]:
        """Return the pages that were put aside, by seq."""
        with self.moment() as connection:
            rows = connection.execute(
                "SELECT seq, found_time, reason, observations, coalesce(length(payload), 0) FROM quarantine ORDER BY 1"
            ).fetchall()
        return [
            Quarantined(seq=seq, found_time=found, reason=reason, observations=observations, size=size)
            for seq, found, reason, observations, size in rows
        ]

    def holes(self) -> list[Hole]:
        """Return what history is still read for, each stream's oldest first."""
        with self.moment() as connection:
            rows = connection.execute(
                "SELECT asset_id, channel, start_time, end_time, cause FROM hole ORDER BY 1, 2, 3"
            ).fetchall()
        return [
            Hole(stream=Stream(asset_id, channel), start_ns=start, end_ns=end, cause=cause)
            for asset_id, channel, start, end, cause in rows
        ]

    def _opened(self) -> tuple[sqlite3.Connection, bool]:
        """Return a connection, and whether it takes the file as it is, without a log."""
        as_it_is = not self._log_exists()
        mode = "immutable=1" if as_it_is else "mode=ro"
        try:
            connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?{mode}",
                uri=True,
                timeout=_WAIT_S,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be opened ({error}); nothing of it was changed") from error
        return connection, as_it_is

    def _log_exists(self) -> bool:
        return self.path.with_name(f"{self.path.name}-wal").exists()


def _identity(path: Path, connection: sqlite3.Connection) -> tuple[str, str]:
    tables = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'journal'").fetchone()[0]
    row = connection.execute("SELECT gateway_id, epoch, schema FROM journal").fetchone() if tables else None
    if row is None:
        raise JournalMismatch(f"{path}: is no journal: its head is missing; nothing of it was changed")
    gateway_id, epoch, schema = row
    if schema != SCHEMA_VERSION:
        step = (
            "start the gateway of this version once, it takes the journal over"
            if schema < SCHEMA_VERSION
            else "use the version of Wearsight that wrote it"
        )
        raise JournalMismatch(f"{path}: has schema {schema}, this program reads {SCHEMA_VERSION}; {step}")
    return str(gateway_id), str(epoch)


def _totals(connection: sqlite3.Connection) -> Totals:
    one = connection.execute
    purged_pages, age_s = one("SELECT purged_pages, age_s FROM journal").fetchone()
    segments, first, size, oldest, newest = one(
        "SELECT count(*), min(first_seq), coalesce(sum(size), 0), min(start_time), max(end_time) FROM segment"
    ).fetchone()
    return Totals(
        tally=tally(connection),
        first_seq=first or purged_pages + 1,
        purged_pages=purged_pages,
        segments=segments,
        segment_bytes=size,
        page_rows=one("SELECT count(*) FROM page INDEXED BY page_count").fetchone()[0],
        oldest_ns=oldest,
        newest_ns=newest,
        age_s=age_s,
    )
