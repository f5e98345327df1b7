"""A new epoch for a journal that was restored from a backup or cloned.

Two journals of one epoch tell different things under the same seq, and the cloud takes only what came first. Under a
new epoch a journal is one of its own again: what the cloud has not confirmed goes on, numbered anew from page 1 and
with a chain of its own; what it has confirmed is set aside, whole, as a journal of the old epoch.

All of it becomes true in one transaction. Before it there are only files that no row names, which the next start of a
gateway removes; after it there are the same of the old epoch.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import JournalError
from gateway.journal.database import JournalDatabase
from gateway.journal.entries import SegmentEntry
from gateway.journal.pages import PageRow, insert
from gateway.journal.replay import pages_of
from gateway.journal.segment_files import write_segment
from gateway.journal_commands.view import JournalView
from gateway.progress import Progress, silent
from models.records import GatewayEvent, Page, Results
from models.segment import encode_segment

SET_ASIDE = "new_epoch"  # why observations that an upload policy kept back are no longer here


@dataclass(frozen=True, kw_only=True)
class NewEpoch:
    """What became of the pages of a journal.

    Attributes:
        old: The epoch it had.
        new: The one it has; empty when nothing was done yet.
        carried_pages: Pages that go on, as many as were not delivered.
        carried_observations: In them.
        aside_pages: Delivered pages that are set aside.
        aside_observations: In them.
        aside: Where they are: a journal of the old epoch.
        unread: Readers that had not done some of the pages that are set aside, and the first of these.
    """

    old: str
    new: str
    carried_pages: int
    carried_observations: int
    aside_pages: int
    aside_observations: int
    aside: Path
    unread: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Pages that go on together: ``first`` to ``last`` of the old epoch are ``new_first`` to ``new_last``."""

    first: int
    last: int
    new_first: int
    new_last: int

    def position(self, seq: int) -> int:
        """Return how far a reader that has done page *seq*, at least ``first``, has come in it."""
        return self.new_last if seq >= self.last else min(self.new_first + seq - self.first, self.new_last)


def planned(view: JournalView) -> NewEpoch:
    """Return what `begin` would do."""
    now = view.totals().counters
    gone = view.segments("delivered_time IS NOT NULL")
    pending = view.segments("delivered_time IS NULL")
    carried = sum(entry.last_seq - entry.first_seq + 1 for entry in pending) + now.pages - now.compacted_pages
    return NewEpoch(
        old=view.epoch,
        new="",
        carried_pages=carried,
        carried_observations=now.pending,
        aside_pages=sum(entry.last_seq - entry.first_seq + 1 for entry in gone),
        aside_observations=sum(entry.observations - entry.expired for entry in gone),
        aside=_free(view.path.parent / "set-aside" / view.epoch),
        unread={
            reader: first
            for reader, seq in view.positions().items()
            if (first := next((max(entry.first_seq, seq + 1) for entry in gone if entry.last_seq > seq), 0))
        },
    )


def begin(database: JournalDatabase, progress: Progress = silent) -> NewEpoch:
    """Give the journal a new epoch, and return what became of its pages; *database* is to be closed then.

    Raises:
        JournalError: If a segment that is to go on cannot be read; then nothing is changed.
        OSError: If what is needed cannot be written; the same.
    """
    with JournalView(database.path.parent) as view:
        plan = replace(planned(view), new=secrets.token_hex(8))
    _set_aside(database, plan.aside)
    entries, runs = _carried_segments(database, plan.new, progress)
    with database.transaction():
        _exchange(database, plan, entries, runs)
    _remove(database, entries)
    return plan


def _free(folder: Path) -> Path:
    """Return *folder*, or with a number when there is one: an older backup of the same epoch may come back again."""
    number = 1
    while (free := folder.with_name(f"{folder.name}-{number}" if number > 1 else folder.name)).exists():
        number += 1
    return free


def _set_aside(database: JournalDatabase, aside: Path) -> None:
    """Make the folder *aside* hold the journal as it is: its tables, and its segment files under second names."""
    partial = aside.with_name(f"{aside.name}.part")
    shutil.rmtree(partial, ignore_errors=True)  # of an attempt that was cut off
    (partial / "segments").mkdir(parents=True)
    with closing(sqlite3.connect(partial / "journal.sqlite")) as copy:
        database.writer.backup(copy)
    for entry in database.segments.select():
        target = partial / "segments" / entry.path.name
        try:
            os.link(entry.path, target)
        except OSError:  # a file system without second names
            shutil.copy2(entry.path, target)
    for path in (partial / "journal.sqlite", partial / "segments", partial):
        _sync(path)
    partial.replace(aside)
    _sync(aside.parent)


def _carried_segments(
    database: JournalDatabase, epoch: str, progress: Progress
) -> tuple[list[SegmentEntry], list[_Run]]:
    """Write the segments that go on, under the new *epoch*; return their entries and the runs they are."""
    pending = database.segments.select("delivered_time IS NULL")
    entries: list[SegmentEntry] = []
    runs: list[_Run] = []
    last, previous = 0, ""
    for done, entry in enumerate(pending, 1):
        pages = list(_renumbered(pages_of(entry, 0), epoch, last + 1))
        if not pages:
            raise JournalError(f"{entry.path}: segment holds no page; no new epoch is begun")
        written = write_segment(entry.path.parent, encode_segment(pages, previous=previous))
        entries.append(replace(written, closed_age_s=entry.closed_age_s))
        runs.append(_Run(first=entry.first_seq, last=entry.last_seq, new_first=last + 1, new_last=last + len(pages)))
        last, previous = last + len(pages), written.digest
        progress(done, len(pending))
    return entries, runs


def _renumbered(pages: Sequence[Page], epoch: str, first: int) -> Iterator[Page]:
    """Yield *pages* under *epoch* from seq *first* on; of a tombstone that is one page: what it tells."""
    for seq, page in enumerate(pages, first):
        yield replace(page, epoch=epoch, seq=seq)


def _exchange(database: JournalDatabase, plan: NewEpoch, entries: Sequence[SegmentEntry], runs: Sequence[_Run]) -> None:
    """Change every table from the old epoch to the new one, inside the caller's transaction."""
    writer, now = database.writer, database.counters
    compacted = runs[-1].new_last if runs else 0
    last = compacted + now.pages - now.compacted_pages
    every = [*runs]
    if now.pages > now.compacted_pages:
        every.append(_Run(first=now.compacted_pages + 1, last=now.pages, new_first=compacted + 1, new_last=last))
    positions = database.positions()
    delivered, withheld = writer.execute(
        "SELECT coalesce(sum(observations - withheld - expired), 0), coalesce(sum(withheld), 0) FROM segment "
        "WHERE delivered_time IS NOT NULL"
    ).fetchone()
    writer.execute("DELETE FROM segment")
    for entry in entries:
        writer.execute(
            "INSERT INTO segment (first_seq, last_seq, path, digest, previous, size, observations, start_time, "
            "end_time, closed_age_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(entry.first_seq, entry.last_seq, entry.path.name, entry.digest, entry.previous, entry.size),
                *(entry.observations, entry.start_ns, entry.end_ns, entry.closed_age_s),
            ),
        )
    _move_pages(writer, now.compacted_pages, now.pages, compacted)
    insert(writer, [_event(plan, last + 1)])
    writer.executemany(
        "UPDATE position SET seq = ?, checksum = NULL WHERE reader = ?",
        [
            (max((run.position(seq) for run in every if seq >= run.first), default=0), reader)
            for reader, seq in positions.items()
        ],
    )
    writer.execute("INSERT OR REPLACE INTO newest VALUES (1, ?, ?)", (last + 1, database.newest.to_bytes()))
    writer.execute(
        "UPDATE journal SET epoch = ?, purged_pages = 0, purged_delivered = purged_delivered + ?", (plan.new, delivered)
    )
    if withheld:
        writer.execute(
            "INSERT INTO expired VALUES (?, ?) "
            "ON CONFLICT (reason) DO UPDATE SET observations = observations + excluded.observations",
            (SET_ASIDE, withheld),
        )


def _move_pages(writer: sqlite3.Connection, compacted: int, last: int, new_compacted: int) -> None:
    """Keep only the pages that are in no segment, and number them from *new_compacted* on."""
    writer.execute("DELETE FROM page WHERE seq <= ?", (compacted,))
    if compacted == new_compacted:
        return
    # One after the other, oldest first and downwards: the seq a page gets is always free.
    down = compacted - new_compacted
    writer.executemany(
        "UPDATE page SET seq = ? WHERE seq = ?", ((seq - down, seq) for seq in range(compacted + 1, last + 1))
    )


def _event(plan: NewEpoch, seq: int) -> PageRow:
    event = GatewayEvent(
        kind="new_epoch",
        gateway_time=datetime.now(UTC),
        message=(
            f"the journal goes on under epoch {plan.new} in the place of {plan.old}: {plan.carried_observations} "
            f"observations in {plan.carried_pages} pages that were not delivered, numbered anew"
        ),
        detail={
            "old_epoch": plan.old,
            "new_epoch": plan.new,
            "carried_pages": str(plan.carried_pages),
            "carried_observations": str(plan.carried_observations),
            "aside_pages": str(plan.aside_pages),
            "aside_observations": str(plan.aside_observations),
        },
    )
    return PageRow.of(Results(events=(event,)), seq=seq, committed_time=time.time_ns())


def _remove(database: JournalDatabase, entries: Sequence[SegmentEntry]) -> None:
    """Remove the files of the old epoch, which have second names where they are set aside."""
    recorded = {entry.path for entry in entries}
    for path in (database.path.parent / "segments").glob("*.wseg"):
        if path not in recorded:
            path.unlink()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
