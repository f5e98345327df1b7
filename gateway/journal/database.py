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
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import structlog

from gateway.errors import JournalError
from gateway.journal.counters import JournalCounters
from gateway.journal.entries import read_segment
from gateway.journal.errors import CommitFailed, JournalLocked, JournalMismatch
from gateway.journal.holes import Hole, Holes, HolesChange
from gateway.journal.newest import Change, Newest
from gateway.journal.schema import SCHEMA_VERSION, create, migrate
from gateway.journal.segment_table import SegmentTable
from models.page import decode_content, encode_content
from models.records import BoolArray, Observations, Page, Results, Stream
from models.segment import SegmentError, decode_segment

_LOCKED_S = 300.0  # a backup or somebody's look may hold the file that long; values wait at their servers
MAX_PAGE_ROWS = 500_000
MAX_PAGE_SAMPLES = 4_000_000
MAX_PAGE_BYTES = 32 * 2**20

log = structlog.get_logger()


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
        self.writer, self.reader = (
            sqlite3.connect(self.path, timeout=_LOCKED_S, isolation_level=None, check_same_thread=False)
            for _ in range(2)
        )
        try:
            self.writer.execute("PRAGMA journal_mode = WAL")
            self.writer.execute("PRAGMA synchronous = FULL")
            self.epoch = self._identify()
            self.newest = self._restore_newest()
            self.holes = Holes(self.writer)
            self.segments = SegmentTable(self)
            self.counters = self._count()
        except (sqlite3.Error, JournalError, ValueError) as error:
            self.reader.close()
            self.writer.close()
            self._lock.close()
            if isinstance(error, JournalMismatch):
                raise
            raise JournalError(f"{self.path}: cannot be opened ({error}); the gateway does not start") from error

    def close(self) -> None:
        """Fold the write-ahead log back in, and let others open the journal."""
        try:
            self.reader.close()
            self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.writer.close()
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
        with self.transaction():
            self.writer.execute("INSERT OR IGNORE INTO position VALUES (?, 0, NULL)", (name,))
        row = self.writer.execute("SELECT seq, state FROM position WHERE reader = ?", (name,)).fetchone()
        return int(row[0]), row[1]

    def forget_reader(self, name: str) -> None:
        """Remove the position of reader *name*, so that pages need not wait for it."""
        with self.transaction():
            self.writer.execute("DELETE FROM position WHERE reader = ?", (name,))

    def trimmable(self) -> int:
        """Return how many pages `trim` would delete."""
        oldest = self.writer.execute("SELECT min(seq) FROM page").fetchone()[0]
        return 0 if oldest is None else max(self._passed_by_all() - int(oldest) + 1, 0)

    def _passed_by_all(self) -> int:
        passed = self.writer.execute("SELECT min(seq) FROM position").fetchone()[0]
        return self.counters.compacted_pages if passed is None else min(self.counters.compacted_pages, int(passed))

    def trim(self) -> int:
        """Delete the pages that are in a segment and that every reader has passed; return how many.

        The newest rows are saved in the same transaction, since the deleted pages can no longer tell them.
        """
        last = self._passed_by_all()
        with self.transaction():
            deleted = self.writer.execute("DELETE FROM page WHERE seq <= ?", (last,)).rowcount
            if deleted:
                snapshot = (self.counters.pages, self.newest.to_bytes())
                self.writer.execute("INSERT OR REPLACE INTO newest VALUES (1, ?, ?)", snapshot)
        return deleted

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
        with self.transaction():
            self.writer.executemany(
                "INSERT INTO page (seq, committed_time, observations, payload) VALUES (?, ?, ?, ?)", rows
            )
            if any(counts):
                self.writer.execute("UPDATE journal SET appended = ?, repeats_dropped = ?", (appended, dropped))
            if holes is not None:
                self.holes.write(holes)
            if position is not None:
                self.writer.execute(
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
    def transaction(self) -> Iterator[None]:
        """Make all that is written in the block durable together, or none of it."""
        try:
            self.writer.execute("BEGIN IMMEDIATE")
            yield
            self.writer.execute("COMMIT")
        except BaseException as error:
            if self.writer.in_transaction:
                self.writer.execute("ROLLBACK")
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
        for row in self.reader.execute(
            "SELECT seq, committed_time, payload FROM page WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        ):
            size += len(row[2])
            if pages and size > max_bytes:
                break
            pages.append(self.page(*row))
        return pages

    def positions(self) -> dict[str, int]:
        """Return the position of every known reader."""
        return dict(self.reader.execute("SELECT reader, seq FROM position ORDER BY reader").fetchall())

    def _stored_rows(self, streams: Collection[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the stored rows of *streams* with ``start_ns <= source time <= end_ns``; on the writing thread."""
        parts: list[Observations] = []
        for entry in self.segments.select(
            "start_time <= ? AND end_time >= ?", (end_ns, start_ns), connection=self.writer
        ):
            try:
                parts.append(_rows_of(decode_segment(read_segment(entry)).observations, streams, start_ns, end_ns))
            except (JournalError, SegmentError) as error:
                log.warning("segment not searched; rows it has may be stored again", error=str(error))
        pages = self.writer.execute(
            "SELECT payload FROM page WHERE observations > 0 AND seq > ?", (self.counters.compacted_pages,)
        )
        for (payload,) in pages:
            content = decode_content(payload)
            if isinstance(content, Observations):
                parts.append(_rows_of(content, streams, start_ns, end_ns))
        return Observations.concatenate(parts)

    def page(self, seq: int, committed_time: int, payload: bytes) -> Page:
        """Return the page in a row of the table."""
        return Page(
            gateway_id=self.gateway_id,
            epoch=self.epoch,
            seq=seq,
            committed_time=committed_time,
            content=decode_content(payload),
        )

    # Opening

    def _identify(self) -> str:
        with self.transaction():
            if not self.writer.execute("SELECT 1 FROM sqlite_master").fetchone():
                create(self.writer, self.gateway_id, secrets.token_hex(8))
        gateway_id, epoch, schema = self.writer.execute("SELECT gateway_id, epoch, schema FROM journal").fetchone()
        if not 1 <= schema <= SCHEMA_VERSION:
            raise JournalMismatch(
                f"{self.path}: has schema {schema}, this program writes {SCHEMA_VERSION}; the gateway does not start"
            )
        if gateway_id != self.gateway_id:
            raise JournalMismatch(
                f"{self.path}: is the journal of gateway {gateway_id!r}, the configuration says {self.gateway_id!r}; "
                "the gateway does not start"
            )
        if schema < SCHEMA_VERSION:
            with self.transaction():
                migrate(self.writer, schema)
        return str(epoch)

    def _restore_newest(self) -> Newest:
        row = self.reader.execute("SELECT seq, snapshot FROM newest").fetchone()
        after, newest = (0, Newest()) if row is None else (int(row[0]), Newest.from_bytes(row[1]))
        for (payload,) in self.reader.execute("SELECT payload FROM page WHERE seq > ? ORDER BY seq", (after,)):
            content = decode_content(payload)
            if isinstance(content, Observations):
                newest.apply(newest.examine(content)[1])
        return newest

    def _count(self) -> JournalCounters:
        """Count everything anew, and check that the pages have no hole and that nothing is missing."""
        one = self.writer.execute
        appended, repeats, purged_pages, purged_delivered = one(
            "SELECT appended, repeats_dropped, purged_pages, purged_delivered FROM journal"
        ).fetchone()
        expired = dict(one("SELECT reason, observations FROM expired").fetchall())
        compacted, segments, pending, delivered, withheld, waiting, refused = one(
            "SELECT coalesce(max(last_seq), 0), coalesce(sum(last_seq - first_seq + 1), 0), "
            "coalesce(sum(observations - expired) FILTER (WHERE delivered_time IS NULL), 0), "
            "coalesce(sum(observations - expired - withheld) FILTER (WHERE delivered_time IS NOT NULL), 0), "
            "coalesce(sum(withheld) FILTER (WHERE delivered_time IS NOT NULL), 0), "
            "count(*) FILTER (WHERE delivered_time IS NULL), "
            "count(*) FILTER (WHERE delivered_time IS NULL AND refused IS NOT NULL) FROM segment"
        ).fetchone()
        compacted = max(compacted, purged_pages)
        pages, last, behind = one(
            "SELECT count(*), coalesce(max(seq), 0), coalesce(sum(observations), 0) FROM page WHERE seq > ?",
            (compacted,),
        ).fetchone()
        pending, delivered = pending + behind, delivered + purged_delivered
        if (
            appended != pending + delivered + withheld + sum(expired.values())
            or segments + purged_pages != compacted
            or pages != max(last - compacted, 0)
        ):
            raise JournalMismatch(
                f"{self.path}: {appended} observations were stored, but {pending} pending, {delivered} delivered, "
                f"{withheld} withheld and {sum(expired.values())} expired are found, in {segments + pages} of "
                f"{max(last, compacted)} pages; the gateway stops"
            )
        return JournalCounters(
            appended=appended,
            delivered=delivered,
            withheld=withheld,
            pending=pending,
            expired=expired,
            repeats_dropped=repeats,
            pages=max(last, compacted),
            compacted_pages=compacted,
            segments_pending=waiting,
            segments_refused=refused,
            quarantined_pages=one("SELECT count(*) FROM quarantine").fetchone()[0],
        )


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
