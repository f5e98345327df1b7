"""A journal as it is opened: what is missing is found, filled in and counted, so that everything adds up again.

Three things can be missing in a file that SQLite calls sound: commits that it dropped with the tail of a damaged log
(the witness remembers them), pages out of the middle, and rows about segments whose files are there. Each seq that is
gone gets a tombstone: it may be in the cloud and must never be used for anything else.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from gateway.journal.counting import Tally, tally
from gateway.journal.errors import JournalMismatch, PageDamaged
from gateway.journal.orphans import Orphan, orphan_after
from gateway.journal.pages import checked_content, insert, tombstone
from gateway.journal.quarantine import expire
from gateway.journal.witness import Witness
from models.records import Observations

_VANISHED: Final = "it was committed and is not in the journal any more"
_NOT_FOUND: Final = "observations of pages that nothing tells any more"
_COLUMNS = (
    "first_seq, last_seq, path, digest, previous, stands_for, size, observations, start_time, end_time, closed_age_s, "
    "expired, expired_reason"
)

log = structlog.get_logger()


@dataclass(kw_only=True)
class Settled:
    """What came out of it.

    Attributes:
        tally: What the journal holds now.
        adopted: Rows of segments that were taken over.
        told: What was found missing, in words for people.
    """

    tally: Tally
    adopted: list[Observations] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


class Settling:
    """The settling of one journal, inside the caller's transaction.

    Args:
        connection: Writes.
        path: Of the journal.
        gateway_id: Whose it is.
        epoch: Its own.
        witness: What was committed last.
        is_start: Whether no segment is being written now, so that any file that fits may be taken over.
        is_salvaged: Whether the total is of all that was ever stored, and not of what the tables hold.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        path: Path,
        gateway_id: str,
        epoch: str,
        witness: Witness,
        is_start: bool,
        is_salvaged: bool,
    ) -> None:
        self._writer = connection
        self._path = path
        self._folder = path.parent / "segments"
        self._gateway_id = gateway_id
        self._epoch = epoch
        is_ours = witness.head is not None and witness.head.epoch == epoch
        self._committed = witness.pages if is_ours else {}
        self._is_start = is_start
        self._is_salvaged = is_salvaged
        self._adopted: list[Observations] = []
        self._told: list[str] = []

    def settle(self) -> Settled:
        """Fill in and count what is missing.

        Raises:
            JournalMismatch: If it cannot be made to add up.
        """
        found = tally(self._writer)
        self._adopt(found)
        self._fill(tally(self._writer))
        found = tally(self._writer)
        if found.missing_observations:
            self._recount()
            found = self._balance(tally(self._writer))
        if found.missing_observations or found.missing_pages:
            raise JournalMismatch(
                f"{self._path}: {found}; the gateway does not start, run `wearsight-gateway journal repair`"
            )
        for told in self._told:
            log.error("journal settled", found=told)
        return Settled(tally=found, adopted=self._adopted, told=self._told)

    # Segments

    def _adopt(self, found: Tally) -> None:
        """Take over files of segments that follow the last one or fill a hole between two."""
        for hole, before in self._segment_holes():
            after = hole
            while orphan := self._orphan(after, before):
                self._take_over(orphan, orphan.entry.last_seq)
                after = orphan.entry.last_seq
        after, last = found.counters.compacted_pages, found.counters.pages
        while orphan := self._orphan(after, None):
            is_there = self._writer.execute("SELECT 1 FROM page WHERE seq = ?", (after + 1,)).fetchone()
            if is_there and not self._is_start and orphan.entry.last_seq <= last:
                return  # it is being written just now
            self._take_over(orphan, last)
            after = orphan.entry.last_seq
            last = max(last, after)

    def _segment_holes(self) -> list[tuple[int, int]]:
        """Return the last page before, and the first after, each hole among the segments."""
        return self._writer.execute(
            "SELECT before, first_seq FROM (SELECT first_seq, lag(last_seq, 1, (SELECT purged_pages FROM journal)) "
            "OVER (ORDER BY first_seq) AS before FROM segment) WHERE before + 1 < first_seq"
        ).fetchall()

    def _orphan(self, after: int, before: int | None) -> Orphan | None:
        return orphan_after(self._folder, gateway_id=self._gateway_id, epoch=self._epoch, after=after, before=before)

    def _take_over(self, orphan: Orphan, last: int) -> None:
        """Record a segment; pages of it after *last* had vanished, and their observations are found again."""
        entry = orphan.entry
        self._writer.execute(
            f"INSERT INTO segment ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "  # noqa: S608 - our own words
            "(SELECT age_s FROM journal), ?, ?)",
            (
                *(entry.first_seq, entry.last_seq, entry.path.name, entry.digest, entry.previous, entry.stands_for),
                *(entry.size, entry.observations, entry.start_ns, entry.end_ns, entry.expired, entry.expired_reason),
            ),
        )
        again = sum(count for seq, count in orphan.by_page.items() if seq > last)
        if not self._is_salvaged:
            self._writer.execute("UPDATE journal SET appended = appended + ?", (again,))
        self._adopted.append(orphan.observations)
        log.warning("segment file taken over", first_seq=entry.first_seq, last_seq=entry.last_seq, found_again=again)

    # Pages

    def _fill(self, found: Tally) -> None:
        """Put a tombstone in every seq that is missing after the segments."""
        compacted, last = found.counters.compacted_pages, found.counters.pages
        newest = max(self._committed, default=0)
        missing = [seq for first, end in self._page_holes(compacted, max(last, newest)) for seq in range(first, end)]
        if not missing:
            return
        if newest > last:
            self._writer.execute("UPDATE journal SET appended = max(appended, ?)", (self._committed[newest].appended,))
        counts = {seq: self._committed[seq].observations if seq in self._committed else -1 for seq in missing}
        stones = [
            tombstone(seq, observations=count, reason=_VANISHED, time_ns=time.time_ns())
            for seq, count in counts.items()
        ]
        insert(self._writer, stones)
        self._writer.executemany(
            "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, NULL)",
            [(stone.seq, stone.committed_time, _VANISHED, max(counts[stone.seq], 0)) for stone in stones],
        )
        lost = sum(count for count in counts.values() if count > 0)
        expire(self._writer, lost)
        self._told.append(
            f"{len(missing)} pages from {missing[0]} to {missing[-1]} were committed and are not in the journal any "
            f"more; {lost} observations of theirs are counted as damaged"
        )

    def _page_holes(self, compacted: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the first seq of each hole in the table of pages, and the one after it."""
        before = compacted
        if self._writer.execute(
            "SELECT count(*) FROM page INDEXED BY page_count WHERE seq > ?", (compacted,)
        ).fetchone() == (last - compacted,):
            return
        for (seq,) in self._writer.execute(
            "SELECT seq FROM page INDEXED BY page_count WHERE seq > ? ORDER BY seq", (compacted,)
        ).fetchall():
            if seq > before + 1:
                yield before + 1, seq
            before = seq
        if before < last:
            yield before + 1, last + 1

    # Counts

    def _recount(self) -> None:
        """Correct what the rows of pages say they hold."""
        compacted = tally(self._writer).counters.compacted_pages
        wrong = []
        for seq, observations, payload, checksum in self._writer.execute(
            "SELECT seq, observations, payload, checksum FROM page NOT INDEXED WHERE seq > ? ORDER BY seq", (compacted,)
        ):
            try:
                content = checked_content(self._path, seq, payload, checksum)
            except PageDamaged:
                continue
            count = len(content) if isinstance(content, Observations) else 0
            if count != observations:
                wrong.append((count, seq))
        if wrong:
            self._writer.executemany("UPDATE page SET observations = ? WHERE seq = ?", wrong)
            self._told.append(f"{len(wrong)} pages said they held another number of observations; they were recounted")

    def _balance(self, found: Tally) -> Tally:
        """Count what is not found as damaged; what was found beyond what was counted was stored nonetheless."""
        missing = found.missing_observations
        witnessed = self._committed.get(found.counters.pages)
        if witnessed is not None and witnessed.appended == found.counters.appended - missing:
            self._writer.execute("UPDATE journal SET appended = ?", (witnessed.appended,))
            self._told.append("the count of all observations was damaged; it is as it was at the last commit")
        elif missing > 0:
            expire(self._writer, missing)
            seq, now = found.counters.pages + 1, time.time_ns()
            insert(self._writer, [tombstone(seq, observations=missing, reason=_NOT_FOUND, time_ns=now)])
            self._told.append(f"{missing} observations that were stored are not found; they are counted as damaged")
        elif missing < 0:
            self._writer.execute("UPDATE journal SET appended = appended + ?", (-missing,))
            self._told.append(f"{-missing} observations more than were counted are found; they are counted now")
        return tally(self._writer)
