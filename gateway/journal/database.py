"""The journal's tables in SQLite: each method that writes is one transaction, durable when it returns.

Everything here blocks, so `gateway.journal.journal` runs it on one thread of its own; only `counters` and
`newest.source_time` are read from elsewhere. The promise that a disk flush stands behind each commit is SQLite's:
write-ahead log, ``synchronous=FULL``.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import structlog

from gateway.errors import JournalError
from gateway.journal.entries import SegmentEntry, read_segment
from gateway.journal.errors import CommitFailed, JournalLocked, JournalMismatch
from gateway.journal.holes import HOLE_TABLES, Hole, Holes, HolesChange
from gateway.journal.newest import Change, Newest
from models.page import decode_content, encode_content
from models.records import BoolArray, Observations, Page, Results, Stream
from models.segment import SegmentError, decode_segment

SCHEMA_VERSION = 2
_LOCKED_S = 300.0  # a backup or somebody's look may hold the file that long; values wait at their servers
MAX_PAGE_ROWS = 500_000
MAX_PAGE_SAMPLES = 4_000_000
MAX_PAGE_BYTES = 32 * 2**20

log = structlog.get_logger()

_TABLES = """
CREATE TABLE journal (
    one INTEGER PRIMARY KEY CHECK (one = 1), gateway_id TEXT NOT NULL, epoch TEXT NOT NULL, schema INTEGER NOT NULL,
    appended INTEGER NOT NULL, repeats_dropped INTEGER NOT NULL) STRICT;
CREATE TABLE page (
    seq INTEGER PRIMARY KEY, committed_time INTEGER NOT NULL, observations INTEGER NOT NULL,
    payload BLOB NOT NULL) STRICT;
CREATE TABLE position (reader TEXT PRIMARY KEY, seq INTEGER NOT NULL, state BLOB) STRICT;
CREATE TABLE segment (
    first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL UNIQUE, path TEXT NOT NULL, digest TEXT NOT NULL,
    size INTEGER NOT NULL, observations INTEGER NOT NULL, start_time INTEGER, end_time INTEGER,
    delivered_time INTEGER, CHECK (first_seq <= last_seq)) STRICT;
CREATE INDEX segment_pending ON segment (first_seq) WHERE delivered_time IS NULL;
CREATE TABLE newest (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, snapshot BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalCounters:
    """What the journal holds, as of the last commit. ``appended == delivered + pending`` at every moment.

    Attributes:
        appended: Observations ever stored.
        delivered: Of these, the ones in segments the cloud has confirmed.
        pending: The ones in pages and segments it has not.
        repeats_dropped: Observations that came again and were not stored again.
        pages: Pages ever committed, which is also the last seq.
        compacted_pages: Of these, the ones that are in segments.
        segments_pending: Segments the cloud has not confirmed.
    """

    appended: int = 0
    delivered: int = 0
    pending: int = 0
    repeats_dropped: int = 0
    pages: int = 0
    compacted_pages: int = 0
    segments_pending: int = 0


class JournalDatabase:
    """One journal's tables, open for writing by this process alone."""

    def __init__(self, state_dir: Path, gateway_id: str) -> None:
        """Open the journal in *state_dir*, or create it.

        Raises:
            JournalLocked: If another process has it open.
            JournalMismatch: If it is another gateway's, of another schema, or does not add up.
            JournalError: If it cannot be opened.
        """
        self.path = state_dir / "journal.sqlite"
        self.gateway_id = gateway_id
        state_dir.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(state_dir / "journal.lock", self.path)
        self._writer, self._reader = (
            sqlite3.connect(self.path, timeout=_LOCKED_S, isolation_level=None, check_same_thread=False)
            for _ in range(2)
        )
        try:
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = FULL")
            self.epoch = self._identify()
            self.newest = self._restore_newest()
            self.holes = Holes(self._writer)
            self.counters = self._count()
        except (sqlite3.Error, JournalError, ValueError) as error:
            self._reader.close()
            self._writer.close()
            self._lock.close()
            if isinstance(error, JournalMismatch):
                raise
            raise JournalError(f"{self.path}: cannot be opened ({error}); the gateway does not start") from error

    def close(self) -> None:
        """Fold the write-ahead log back in, and let others open the journal."""
        try:
            self._reader.close()
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._writer.close()
        finally:
            self._lock.close()

    # Writing

    def append(
        self,
        observations: Observations,
        *,
        results: Results | None = None,
        opened: Sequence[Hole] = (),
        filled: Sequence[Hole] = (),
    ) -> int | None:
        """Store the rows that are no repeats, *results*, and what becomes of holes; return the seq of the last page.

        None when no page was needed.
        """
        holes = self.holes.examine(
            observations, opened=opened, filled=filled, newest=self.newest.source_time, stored=self._stored_rows
        )
        new, change = self._new_rows(observations, holes)
        count = int(np.count_nonzero(new))
        repeats = len(observations) - count
        kept = observations if not repeats else observations.take(new)
        contents: list[Observations | Results] = list(_pages_of(kept)) if count else []
        if results:
            contents.append(results)
        if not contents and (holes is None or not holes.is_written):
            self.counters = replace(self.counters, repeats_dropped=self.counters.repeats_dropped + repeats)
            return None
        seq = self._commit(contents, repeats=repeats, change=change if count else None, holes=holes)
        return seq if contents else None

    def _new_rows(self, observations: Observations, holes: HolesChange | None) -> tuple[BoolArray, Change | None]:
        """Return which rows are no repeats, and what the newest rows are once those are stored."""
        if not len(observations):
            return np.zeros(0, np.bool_), None
        if holes is None or not holes.judged.any():
            return self.newest.examine(observations)
        new = holes.kept.copy()
        places = np.flatnonzero(new)
        if not len(places):
            return new, None
        of_kept, change = self.newest.examine(observations.take(places))
        new[places] = of_kept | holes.judged[places]
        return new, change

    def append_results(self, results: Results) -> int:
        """Store *results* as one page and return its seq."""
        return self._commit([results])

    def commit_reader(self, name: str, seq: int, *, results: Results | None, state: bytes | None) -> int:
        """Store *results*, the position and the state of reader *name*, all or nothing; return the last seq."""
        return self._commit([results] if results else [], position=(name, seq, state))

    def register_reader(self, name: str) -> tuple[int, bytes | None]:
        """Return the last seq that reader *name* has done, and its state; a new one starts before page 1."""
        with self._transaction():
            self._writer.execute("INSERT OR IGNORE INTO position VALUES (?, 0, NULL)", (name,))
        row = self._writer.execute("SELECT seq, state FROM position WHERE reader = ?", (name,)).fetchone()
        return int(row[0]), row[1]

    def forget_reader(self, name: str) -> None:
        """Remove the position of reader *name*, so that pages need not wait for it."""
        with self._transaction():
            self._writer.execute("DELETE FROM position WHERE reader = ?", (name,))

    def record_segment(self, entry: SegmentEntry) -> None:
        """Record a segment whose file is durable already."""
        now = self.counters
        if entry.first_seq != now.compacted_pages + 1 or entry.last_seq > now.pages:
            raise JournalError(
                f"{self.path}: segment {entry.first_seq}-{entry.last_seq} does not follow page {now.compacted_pages}; "
                "it is not recorded"
            )
        row = (entry.first_seq, entry.last_seq, entry.path.name, entry.digest, entry.size, entry.observations)
        with self._transaction():
            self._writer.execute(
                "INSERT INTO segment VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)", (*row, entry.start_ns, entry.end_ns)
            )
        self.counters = replace(now, compacted_pages=entry.last_seq, segments_pending=now.segments_pending + 1)

    def trimmable(self) -> int:
        """Return how many pages `trim` would delete."""
        oldest = self._writer.execute("SELECT min(seq) FROM page").fetchone()[0]
        return 0 if oldest is None else max(self._passed_by_all() - int(oldest) + 1, 0)

    def _passed_by_all(self) -> int:
        passed = self._writer.execute("SELECT min(seq) FROM position").fetchone()[0]
        return self.counters.compacted_pages if passed is None else min(self.counters.compacted_pages, int(passed))

    def trim(self) -> int:
        """Delete the pages that are in a segment and that every reader has passed; return how many.

        The newest rows are saved in the same transaction, since the deleted pages can no longer tell them.
        """
        last = self._passed_by_all()
        with self._transaction():
            deleted = self._writer.execute("DELETE FROM page WHERE seq <= ?", (last,)).rowcount
            if deleted:
                snapshot = (self.counters.pages, self.newest.to_bytes())
                self._writer.execute("INSERT OR REPLACE INTO newest VALUES (1, ?, ?)", snapshot)
        return deleted

    def set_delivered(self, held: Sequence[tuple[int, int]]) -> int:
        """Mark the segments inside *held* as delivered; return how many changed."""
        with self._transaction():
            marked = self._set_delivered_time(
                "delivered_time IS NULL AND first_seq >= ? AND last_seq <= ?", time.time_ns(), merged(held)
            )
        self._count_delivered(len(marked), sum(marked))
        return len(marked)

    def withdraw_outside(self, held: Sequence[tuple[int, int]]) -> int:
        """Mark the segments that are not inside *held* as not delivered; return how many changed."""
        with self._transaction():
            withdrawn = self._set_delivered_time(
                "delivered_time IS NOT NULL AND last_seq >= ? AND first_seq <= ?", None, _between(merged(held))
            )
        self._count_delivered(-len(withdrawn), -sum(withdrawn))
        return len(withdrawn)

    def _count_delivered(self, segments: int, observations: int) -> None:
        now = self.counters
        self.counters = replace(
            now,
            delivered=now.delivered + observations,
            pending=now.pending - observations,
            segments_pending=now.segments_pending - segments,
        )

    def _set_delivered_time(self, where: str, moment: int | None, ranges: Sequence[tuple[int, int]]) -> list[int]:
        statement = f"UPDATE segment SET delivered_time = ? WHERE {where} RETURNING observations"  # noqa: S608 - our own words
        rows = [self._writer.execute(statement, (moment, *limits)).fetchall() for limits in ranges]
        return [observations for part in rows for (observations,) in part]

    def _commit(
        self,
        contents: Sequence[Observations | Results],
        *,
        repeats: int = 0,
        change: Change | None = None,
        holes: HolesChange | None = None,
        position: tuple[str, int, bytes | None] | None = None,
    ) -> int:
        now = self.counters
        payloads = [_payload(content) for content in contents]
        counts = [len(content) if isinstance(content, Observations) else 0 for content in contents]
        appended, dropped = now.appended + sum(counts), now.repeats_dropped + repeats
        rows = [
            (now.pages + place, time.time_ns(), count, payload)
            for place, (count, payload) in enumerate(zip(counts, payloads, strict=True), 1)
        ]
        with self._transaction():
            self._writer.executemany("INSERT INTO page VALUES (?, ?, ?, ?)", rows)
            if any(counts):
                self._writer.execute("UPDATE journal SET appended = ?, repeats_dropped = ?", (appended, dropped))
            if holes is not None:
                self.holes.write(holes)
            if position is not None:
                self._writer.execute(
                    "INSERT INTO position VALUES (?, ?, ?) ON CONFLICT (reader) DO UPDATE "
                    "SET seq = excluded.seq, state = coalesce(excluded.state, state)",
                    position,
                )
        if change is not None:
            self.newest.apply(change)
        if holes is not None:
            self.holes.apply(holes)
        self.counters = replace(
            now,
            appended=appended,
            pending=now.pending + sum(counts),
            repeats_dropped=dropped,
            pages=now.pages + len(rows),
        )
        return self.counters.pages

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            yield
            self._writer.execute("COMMIT")
        except BaseException as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise CommitFailed(
                    f"{self.path}: commit failed ({error}); nothing of it is stored, the source is not acknowledged"
                ) from error
            raise

    # Reading

    def decoded_pages(self, after: int, *, limit: int, max_bytes: int) -> list[Page]:
        """Return the oldest pages in the table after *after*, at least one when there is one."""
        pages: list[Page] = []
        size = 0
        for row in self._reader.execute(
            "SELECT seq, committed_time, payload FROM page WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        ):
            size += len(row[2])
            if pages and size > max_bytes:
                break
            pages.append(self._page(*row))
        return pages

    def history(self, start_ns: int, end_ns: int) -> tuple[list[SegmentEntry], list[Page]]:
        """Return what may hold source times in ``start_ns <= t < end_ns``: segments, and the pages that are in none.

        Both are of one moment: a page that moves into a segment meanwhile is in exactly one of them.
        """
        self._reader.execute("BEGIN")
        try:
            segments = self.segments("start_time < ? AND end_time >= ?", (end_ns, start_ns))
            pages = self._reader.execute(
                "SELECT seq, committed_time, payload FROM page "
                "WHERE seq > (SELECT coalesce(max(last_seq), 0) FROM segment) ORDER BY seq"
            )
            return segments, [self._page(*row) for row in pages]
        finally:
            self._reader.execute("COMMIT")

    def positions(self) -> dict[str, int]:
        """Return the position of every known reader."""
        return dict(self._reader.execute("SELECT reader, seq FROM position ORDER BY reader").fetchall())

    def segments(self, where: str = "1", arguments: Sequence[int] = (), limit: int = -1) -> list[SegmentEntry]:
        """Return the segments that *where* selects, oldest first."""
        return self._segments(self._reader, where, arguments, limit)

    def _segments(
        self, connection: sqlite3.Connection, where: str, arguments: Sequence[int], limit: int = -1
    ) -> list[SegmentEntry]:
        columns = "first_seq, last_seq, path, digest, size, observations, start_time, end_time, delivered_time"
        rows = connection.execute(
            f"SELECT {columns} FROM segment WHERE {where} ORDER BY first_seq LIMIT ?",  # noqa: S608 - our own words
            (*arguments, limit),
        )
        return [
            SegmentEntry(
                first_seq=row[0],
                last_seq=row[1],
                path=self.path.parent / "segments" / row[2],
                digest=row[3],
                size=row[4],
                observations=row[5],
                start_ns=row[6],
                end_ns=row[7],
                delivered=row[8] is not None,
            )
            for row in rows
        ]

    def _stored_rows(self, streams: Collection[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the stored rows of *streams* with ``start_ns <= source time <= end_ns``; on the writing thread."""
        parts: list[Observations] = []
        for entry in self._segments(self._writer, "start_time <= ? AND end_time >= ?", (end_ns, start_ns)):
            try:
                parts.append(_rows_of(decode_segment(read_segment(entry)).observations, streams, start_ns, end_ns))
            except (JournalError, SegmentError) as error:
                log.warning("segment not searched; rows it has may be stored again", error=str(error))
        pages = self._writer.execute(
            "SELECT payload FROM page WHERE observations > 0 AND seq > ?", (self.counters.compacted_pages,)
        )
        for (payload,) in pages:
            content = decode_content(payload)
            if isinstance(content, Observations):
                parts.append(_rows_of(content, streams, start_ns, end_ns))
        return Observations.concatenate(parts)

    def _page(self, seq: int, committed_time: int, payload: bytes) -> Page:
        return Page(
            gateway_id=self.gateway_id,
            epoch=self.epoch,
            seq=seq,
            committed_time=committed_time,
            content=decode_content(payload),
        )

    # Opening

    def _identify(self) -> str:
        with self._transaction():
            if not self._writer.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._create(_TABLES + HOLE_TABLES)
                values = (self.gateway_id, secrets.token_hex(8), SCHEMA_VERSION)
                self._writer.execute("INSERT INTO journal VALUES (1, ?, ?, ?, 0, 0)", values)
        gateway_id, epoch, schema = self._writer.execute("SELECT gateway_id, epoch, schema FROM journal").fetchone()
        if schema not in (1, SCHEMA_VERSION):
            raise JournalMismatch(
                f"{self.path}: has schema {schema}, this program writes {SCHEMA_VERSION}; the gateway does not start"
            )
        if gateway_id != self.gateway_id:
            raise JournalMismatch(
                f"{self.path}: is the journal of gateway {gateway_id!r}, the configuration says {self.gateway_id!r}; "
                "the gateway does not start"
            )
        if schema == 1:  # without the ledger of holes
            with self._transaction():
                self._create(HOLE_TABLES)
                self._writer.execute("UPDATE journal SET schema = ?", (SCHEMA_VERSION,))
        return str(epoch)

    def _create(self, tables: str) -> None:
        for statement in tables.split(";"):
            self._writer.execute(statement)

    def _restore_newest(self) -> Newest:
        row = self._reader.execute("SELECT seq, snapshot FROM newest").fetchone()
        after, newest = (0, Newest()) if row is None else (int(row[0]), Newest.from_bytes(row[1]))
        for (payload,) in self._reader.execute("SELECT payload FROM page WHERE seq > ? ORDER BY seq", (after,)):
            content = decode_content(payload)
            if isinstance(content, Observations):
                newest.apply(newest.examine(content)[1])
        return newest

    def _count(self) -> JournalCounters:
        """Count everything anew, and check that the pages have no hole and that nothing is missing."""
        one = self._writer.execute
        appended, repeats = one("SELECT appended, repeats_dropped FROM journal").fetchone()
        compacted, segments, pending, delivered, waiting = one(
            "SELECT coalesce(max(last_seq), 0), coalesce(sum(last_seq - first_seq + 1), 0), "
            "coalesce(sum(observations) FILTER (WHERE delivered_time IS NULL), 0), "
            "coalesce(sum(observations) FILTER (WHERE delivered_time IS NOT NULL), 0), "
            "count(*) FILTER (WHERE delivered_time IS NULL) FROM segment"
        ).fetchone()
        pages, last, behind = one(
            "SELECT count(*), coalesce(max(seq), 0), coalesce(sum(observations), 0) FROM page WHERE seq > ?",
            (compacted,),
        ).fetchone()
        if appended != pending + behind + delivered or segments != compacted or pages != max(last - compacted, 0):
            raise JournalMismatch(
                f"{self.path}: {appended} observations were stored, but {pending + behind} pending and {delivered} "
                f"delivered are found, in {segments + pages} of {max(last, compacted)} pages; the gateway stops"
            )
        return JournalCounters(
            appended=appended,
            delivered=delivered,
            pending=pending + behind,
            repeats_dropped=repeats,
            pages=max(last, compacted),
            compacted_pages=compacted,
            segments_pending=waiting,
        )


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return closed *ranges* in order, those that touch or overlap made one."""
    whole: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if whole and first <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(last, whole[-1][1]))
        else:
            whole.append((first, last))
    return whole


def _between(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the closed ranges that lie outside of merged *ranges*."""
    starts = [1, *(last + 1 for _, last in ranges)]
    ends = [*(first - 1 for first, _ in ranges), 2**63 - 1]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start <= end]


def _lock(path: Path, journal: Path) -> BinaryIO:
    """Take the journal for this process; the system lets go of it when the process ends, however it ends."""
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise JournalLocked(f"{journal}: is open in another process; this one (pid {os.getpid()}) stops") from error
    return lock


def _rows_of(observations: Observations, streams: Collection[Stream], start_ns: int, end_ns: int) -> Observations:
    """Return the rows of *streams* with ``start_ns <= source time <= end_ns``."""
    time = observations.source_time
    wanted = np.array([stream in streams for stream in observations.streams], np.bool_)
    rows = (time >= start_ns) & (time <= end_ns)
    rows[rows] = wanted[observations.stream[rows]]
    return observations.take(rows)


def _payload(content: Observations | Results) -> bytes:
    payload = encode_content(content)
    if len(payload) > MAX_PAGE_BYTES:
        raise CommitFailed(f"a page of {len(payload)} bytes is above {MAX_PAGE_BYTES}; nothing of it is stored")
    return payload


def _pages_of(observations: Observations) -> Iterator[Observations]:
    """Cut a batch that is too large for one page, so that every page fits into a segment."""
    if len(observations) <= MAX_PAGE_ROWS and observations.samples.size <= MAX_PAGE_SAMPLES:
        yield observations
        return
    samples = np.cumsum(observations.sample_count, dtype=np.int64)
    start = 0
    while start < len(observations):
        before = int(samples[start - 1]) if start else 0
        fits = int(np.searchsorted(samples, before + MAX_PAGE_SAMPLES, "right"))
        end = min(max(fits, start + 1), start + MAX_PAGE_ROWS)
        yield observations.take(np.arange(start, end, dtype=np.intp))
        start = end
