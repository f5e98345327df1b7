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
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import structlog

from gateway.errors import JournalError
from gateway.journal.committing import Advance, Append, Work
from gateway.journal.connections import Connections, is_damage, is_disk_trouble, is_unknown
from gateway.journal.counters import JournalCounters
from gateway.journal.counting import tally
from gateway.journal.errors import CommitFailed, JournalLocked, JournalMismatch, PageDamaged, Unwritable
from gateway.journal.holes import Holes, HolesChange
from gateway.journal.joining import Joiner, joined
from gateway.journal.newest import Change
from gateway.journal.pages import PageRow, checked_content, cut, insert, is_stored
from gateway.journal.positions import Positions
from gateway.journal.quarantine import put_aside
from gateway.journal.recovery import finish, is_gone, salvage
from gateway.journal.schema import SCHEMA_VERSION, create, migrate
from gateway.journal.segment_table import SegmentTable
from gateway.journal.settling import Settling
from gateway.journal.stored_rows import newest_rows, stored_rows
from gateway.journal.witness import Head, Witness
from models.records import BoolArray, Observations, Page, Results

# The newest rows are saved after so many pages or rows, so that a start reads no more than these.
_SAVE_PAGES = 512
_SAVE_ROWS = 1_000_000
_TOLD = 10

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """A commit of which it is not known whether it became durable: its work, its last page, what it would return."""

    works: Sequence[Work]
    last: PageRow
    outcomes: Sequence[int | None]


class JournalDatabase:
    """One journal's tables, open for writing by this process alone."""

    def __init__(self, state_dir: Path, gateway_id: str) -> None:
        """Open the journal in *state_dir*, or create it.

        ``told`` is what went wrong with what is stored, in words for people, since then: the last few.

        Raises:
            JournalLocked: If another process has it open.
            JournalMismatch: If it is another gateway's, of another schema, or does not add up.
            JournalError: If it cannot be opened.
        """
        self.path = state_dir / "journal.sqlite"
        self.gateway_id = gateway_id
        state_dir.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(state_dir / "journal.lock", self.path)
        self.told: deque[str] = deque(maxlen=_TOLD)
        self.counters = JournalCounters()
        self._joiner = Joiner()
        self._attempt: _Attempt | None = None
        self.connections = Connections(self.path)
        self.witness = Witness(state_dir / "journal.last")
        try:
            self._open(is_start=True)
        except (sqlite3.Error, OSError, JournalError, ValueError) as error:
            self.connections.close()
            self._lock.close()
            if isinstance(error, JournalMismatch):
                raise
            if is_disk_trouble(error.__cause__ or error):
                raise Unwritable(f"{self.path}: cannot be opened now ({error}); it is tried again") from error
            raise JournalError(f"{self.path}: cannot be opened ({error}); the gateway does not start") from error

    def _open(self, *, is_start: bool) -> None:
        """Open the tables; what is damaged beyond SQLite's understanding is salvaged first."""
        is_salvaged = finish(self.path)
        if self.connections.is_damaged or is_gone(self.path):
            self._salvage()
            is_salvaged = True
        try:
            self._open_tables(is_start=is_start or is_salvaged, is_salvaged=is_salvaged)
        except (sqlite3.Error, Unwritable, UnicodeDecodeError) as error:
            cause = error.__cause__ or error
            if not (is_damage(cause) or is_unknown(cause) or isinstance(cause, UnicodeDecodeError)):
                raise
            self._salvage()
            self._open_tables(is_start=True, is_salvaged=True)

    def _salvage(self) -> None:
        self.connections.close()
        self.told.append(salvage(self.path, self.gateway_id))
        self.connections.is_damaged = False

    def _open_tables(self, *, is_start: bool, is_salvaged: bool) -> None:
        repeats = self.counters.repeats_dropped
        self.connections.open(has_failed=not is_start)
        self.witness.close()
        self.witness = Witness(self.path.parent / "journal.last")
        self.epoch = self._identify()
        settling = Settling(
            self.writer,
            path=self.path,
            gateway_id=self.gateway_id,
            epoch=self.epoch,
            witness=self.witness,
            is_start=is_start,
            is_salvaged=is_salvaged,
        )
        with self.transaction():
            settled = settling.settle()
            self._positions = Positions(self.writer)
            settled.told += self._positions.settle(self._known_positions(), settled.tally.counters.pages)
        self.told.extend(settled.told)
        self.counters = settled.tally.counters
        if repeats > self.counters.repeats_dropped:  # repeats alone are no commit: they were counted in memory only
            self.counters = replace(self.counters, repeats_dropped=repeats)
        self.segments = SegmentTable(self)
        self.newest, self._unsaved_pages, self._unsaved_rows = newest_rows(self, settled.adopted)
        self.holes = Holes(self.writer)
        positions = dict(self.writer.execute("SELECT reader, seq FROM position").fetchall())
        self.witness.begin(Head(gateway_id=self.gateway_id, epoch=self.epoch, positions=positions))
        self.connections.be_impatient()

    def _known_positions(self) -> Mapping[str, int]:
        head = self.witness.head
        return head.positions if head is not None and head.epoch == self.epoch else {}

    def close(self) -> None:
        """Fold the write-ahead log back in, and let others open the journal."""
        try:
            if not self.connections.in_doubt:
                self.reader.close()
                self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            log.warning("write-ahead log not folded in; the next start does it", error=str(error))
        finally:
            self.connections.close()
            self.witness.close()
            self._lock.close()

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection of the writing thread."""
        return self.connections.writer

    @property
    def reader(self) -> sqlite3.Connection:
        """The connection of whoever only reads."""
        return self.connections.reader

    def transaction(self) -> AbstractContextManager[None]:
        """Make all that is written in the block durable together, or none of it.

        Raises:
            Unwritable: If the disk is full or fails.
            CommitFailed: If it fails otherwise.
        """
        return self.connections.transaction()

    def make_sure(self) -> None:
        """Open the journal anew when an I/O error has put what the connections know in doubt.

        Raises:
            Unwritable: If that cannot be done now.
        """
        if not self.connections.in_doubt:
            return
        try:
            self._open(is_start=False)
        except (sqlite3.Error, OSError, Unwritable) as error:
            self.connections.close()
            raise Unwritable(f"{self.path}: cannot be opened again ({error}); it is tried again") from error

    def attempt(self, job: Callable[[JournalDatabase], T]) -> T:
        """Run *job*, which may write, on the writing thread.

        Raises:
            Unwritable: If the disk is full or fails; then no transaction of *job* has become durable.
        """
        self.make_sure()
        before = self.connections.transactions
        try:
            with self.connections.told():
                return job(self)
        except Unwritable as error:
            if self.connections.transactions > before:
                raise CommitFailed(f"{error}; what was stored before stays") from error
            raise

    def look(self, job: Callable[[JournalDatabase], T]) -> T:
        """Run *job*, which only reads, on another thread.

        Raises:
            Unwritable: If the disk fails.
        """
        with self.connections.reading(), self.connections.told():
            return job(self)

    # Writing

    def store(self, works: Sequence[Work]) -> Sequence[int | None]:
        """Store *works* in one transaction; return the seq of the last page of each, None where none was needed.

        Work that changes holes must come by itself. Work that comes again after `Unwritable` is stored once, also if
        it had become durable before.

        Raises:
            Unwritable: If the disk is full or fails.
            CommitFailed: If it can never be stored.
        """
        attempt, self._attempt = self._attempt, None
        if attempt is not None and attempt.works is works and is_stored(self.writer, attempt.last):
            return attempt.outcomes
        # Tables of streams that come in the same order again and again are joined once.
        appends = sorted(
            (work for work in works if isinstance(work, Append)), key=lambda work: work.observations.streams[:1]
        )
        return self._store(works, appends, [work for work in works if isinstance(work, Advance)])

    def _store(
        self, works: Sequence[Work], appends: Sequence[Append], advances: Sequence[Advance]
    ) -> Sequence[int | None]:
        observations = self._joiner.join([work.observations for work in appends])
        alone = appends[0] if len(appends) == 1 else Append()
        holes = self.holes.examine(
            observations,
            opened=alone.opened,
            filled=alone.filled,
            newest=self.newest.source_time,
            stored=partial(stored_rows, self),
        )
        new, change = self._new_rows(observations, holes)
        count = int(np.count_nonzero(new))
        repeats = len(observations) - count
        contents: list[Observations | Results] = []
        if count:
            contents += cut(observations.take(new) if repeats else observations)
        if results := joined(work.results for work in appends if work.results):
            contents.append(results)
        of_appends = len(contents)
        contents += [work.results for work in advances if work.results]
        now = self.counters.pages
        outcomes = self._outcomes(works, appends, new, now + of_appends)
        if contents or advances or (holes is not None and holes.is_written):
            self._commit(contents, works, outcomes, repeats=repeats, change=change if count else None, holes=holes)
        else:
            self.counters = replace(self.counters, repeats_dropped=self.counters.repeats_dropped + repeats)
        return outcomes

    def _outcomes(
        self, works: Sequence[Work], appends: Sequence[Append], new: BoolArray, last: int
    ) -> list[int | None]:
        """Return for each of *works* the seq of its last page, None for an append of which nothing was left."""
        seqs: dict[int, int | None] = {}
        place = 0
        for work in appends:
            rows = new[place : place + len(work.observations)]
            place += len(work.observations)
            seqs[id(work)] = last if work.results or rows.any() else None
        following = last
        for other in works:
            if isinstance(other, Advance):
                following += bool(other.results)
                seqs[id(other)] = following
        return [seqs[id(work)] for work in works]

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

    def _commit(
        self,
        contents: Sequence[Observations | Results],
        works: Sequence[Work],
        outcomes: Sequence[int | None],
        *,
        repeats: int,
        change: Change | None,
        holes: HolesChange | None,
    ) -> None:
        now, time_ns = self.counters, time.time_ns()
        rows = [PageRow.of(c, seq=now.pages + place, committed_time=time_ns) for place, c in enumerate(contents, 1)]
        count = sum(row.observations for row in rows)
        appended, dropped = now.appended + count, now.repeats_dropped + repeats
        if rows:
            self._attempt = _Attempt(works=works, last=rows[-1], outcomes=outcomes)
        is_saved = self._unsaved_pages >= _SAVE_PAGES or self._unsaved_rows >= _SAVE_ROWS
        with self.transaction():
            insert(self.writer, rows)
            if count:
                self.writer.execute("UPDATE journal SET appended = ?, repeats_dropped = ?", (appended, dropped))
            if holes is not None:
                self.holes.write(holes)
            steps = self._positions.write([work for work in works if isinstance(work, Advance)])
            if is_saved:
                self._save_newest()
        self._attempt = None
        self._positions.apply(steps)
        self.witness.write_pages(rows, now.appended)
        if advances := {work.reader: work.seq for work in works if isinstance(work, Advance)}:
            self._witness_positions(advances)
        if change is not None:
            self.newest.apply(change)
        if holes is not None:
            self.holes.apply(holes)
        self._unsaved_pages = len(rows) + self._unsaved_pages * (not is_saved)
        self._unsaved_rows = count + self._unsaved_rows * (not is_saved)
        self.counters = replace(
            now,
            appended=appended,
            pending=now.pending + count,
            repeats_dropped=dropped,
            pages=now.pages + len(rows),
        )

    def register_reader(self, name: str) -> tuple[int, bytes | None]:
        """Return the last seq that reader *name* has done, and its state; a new one starts before page 1."""
        with self.transaction():
            seq, state = self._positions.register(name)
        self._witness_positions({name: seq})
        return seq, state

    def forget_reader(self, name: str) -> None:
        """Remove the position of reader *name*, so that pages need not wait for it."""
        with self.transaction():
            self._positions.forget(name)
        self._witness_positions({}, without=name)

    def _witness_positions(self, moved: Mapping[str, int], without: str = "") -> None:
        head = self.witness.head
        assert head is not None
        positions = {name: seq for name, seq in {**head.positions, **moved}.items() if name != without}
        self.witness.write_head(replace(head, positions=positions))

    def trimmable(self) -> int:
        """Return how many pages `trim` would delete."""
        oldest = self.writer.execute("SELECT min(seq) FROM page").fetchone()[0]
        return 0 if oldest is None else max(self._passed_by_all() - int(oldest) + 1, 0)

    def _passed_by_all(self) -> int:
        passed = self.writer.execute("SELECT min(seq) FROM position").fetchone()[0]
        return self.counters.compacted_pages if passed is None else min(self.counters.compacted_pages, int(passed))

    def trim(self, *, up_to: int | None = None) -> int:
        """Delete the pages that are in a segment and that every reader has passed; return how many.

        With *up_to*, those that are in a segment, passed or not, up to that one: readers have them from there.
        The newest rows are saved in the same transaction, since the deleted pages can no longer tell them.
        """
        last = self._passed_by_all() if up_to is None else min(up_to, self.counters.compacted_pages)
        with self.transaction():
            deleted = self.writer.execute("DELETE FROM page WHERE seq <= ?", (last,)).rowcount
            if deleted:
                self._save_newest()
        if deleted:
            self._unsaved_pages = self._unsaved_rows = 0
        return deleted

    def _save_newest(self) -> None:
        """Save the newest rows as of the last commit, inside the caller's transaction."""
        snapshot = (self.counters.pages, self.newest.to_bytes())
        self.writer.execute("INSERT OR REPLACE INTO newest VALUES (1, ?, ?)", snapshot)

    def put_aside(self, damaged: PageDamaged) -> None:
        """Put a damaged page aside: a tombstone takes its seq, and its observations count as expired."""
        before = self.counters
        self.counters = put_aside(self, damaged)
        if self.counters is not before:
            self.told.append(str(damaged))

    # Reading

    def decoded_pages(self, after: int, *, limit: int, max_bytes: int) -> list[Page]:
        """Return the pages in the table that follow the oldest one after *after*, at least one when there is one.

        Raises:
            PageDamaged: If one of them is not what was written.
        """
        pages: list[Page] = []
        size = 0
        for row in self.reader.execute(
            "SELECT seq, committed_time, payload, checksum FROM page WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        ):
            size += len(row[2])
            if pages and (size > max_bytes or row[0] != pages[-1].seq + 1):
                break
            pages.append(self.page(*row))
        return pages

    def positions(self) -> dict[str, int]:
        """Return the position of every known reader."""
        return dict(self.reader.execute("SELECT reader, seq FROM position ORDER BY reader").fetchall())

    def page(self, seq: int, committed_time: int, payload: bytes, checksum: int | None = None) -> Page:
        """Return the page in a row of the table.

        Raises:
            PageDamaged: If it is not what was written.
        """
        return Page(
            gateway_id=self.gateway_id,
            epoch=self.epoch,
            seq=seq,
            committed_time=committed_time,
            content=checked_content(self.path, seq, payload, checksum),
        )

    # Opening

    def _identify(self) -> str:
        with self.transaction():
            if not self.writer.execute("SELECT 1 FROM sqlite_master").fetchone():
                create(self.writer, self.gateway_id, secrets.token_hex(8))
        row = self.writer.execute("SELECT gateway_id, epoch, schema FROM journal").fetchone()
        if row is None:
            raise sqlite3.OperationalError("the journal's own row is gone")
        gateway_id, epoch, schema = row
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

    def _count(self) -> JournalCounters:
        """Count everything anew."""
        return tally(self.writer).counters


def take_lock(path: Path, journal: Path) -> BinaryIO:
    """Take the journal for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        JournalLocked: If another process has it.
        JournalError: If the file cannot be opened.
    """
    try:
        lock = path.open("ab")
    except OSError as error:
        raise JournalError(f"{path}: cannot be opened ({error}); this process (pid {os.getpid()}) stops") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise JournalLocked(f"{journal}: is open in another process; this one (pid {os.getpid()}) stops") from error
    return lock
