"""Segments: runs of pages compacted into column files, which are uploaded and kept as local history.

The order of a compaction is what makes it safe: the file is durable under its final name, then the row is recorded,
then (and when every reader has passed) the pages go. A crash in between leaves a file without a row, which the next
start removes; the range of a recorded segment never changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import structlog

from gateway.errors import JournalError
from gateway.journal.database import JournalDatabase
from gateway.journal.entries import SegmentEntry, read_segment
from gateway.journal.errors import CommitFailed, SegmentDamaged
from gateway.journal.journal import Journal
from gateway.journal.mending import mend
from gateway.journal.segment_files import write_segment
from models.records import Page
from models.segment import SegmentError, SegmentTooLarge, encode_segment

_MAX_BYTES = 32 * 2**20  # of page payloads: the segment then stays below its own limits
_TRIM_PAGES = 512  # pages are deleted in lots, since each lot saves the newest rows anew
_RETRY_S = 5.0

log = structlog.get_logger()


class SegmentStore:
    """The segments of a journal, as the uplink and the historian need them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def segments(self) -> list[SegmentEntry]:
        """Return every recorded segment, oldest first."""
        return await self._journal.read(lambda database: database.segments.select())

    async def pending(self, limit: int = 64, *, newest_first: bool = False) -> list[SegmentEntry]:
        """Return up to *limit* segments that wait to be sent: neither delivered nor on the shelf."""
        return await self._journal.read(lambda database: database.segments.pending(limit, newest_first=newest_first))

    async def refuse(self, entry: SegmentEntry, reason: str) -> bool:
        """Put *entry* on the shelf, since the cloud will not take it; return False when it is delivered or gone."""
        return await self._journal.write(lambda database: database.segments.refuse(entry.first_seq, reason))

    async def offer_again(self) -> int:
        """Take everything off the shelf, so that it is sent again; return how many segments."""
        return await self._journal.write(lambda database: database.segments.offer_again())

    async def set_cut(self, entry: SegmentEntry, cut: bytes, withheld: int) -> None:
        """Decide, durably and before it is first sent, what is left out of *entry*.

        Args:
            entry: Which segment.
            cut: The decision, in the uplink's own words; a later one must be the same.
            withheld: How many observations stay here; they count as such from its delivery on.

        Raises:
            JournalError: If it is delivered or gone, has another decision, or fewer observations.
        """
        await self._journal.write(lambda database: database.segments.set_cut(entry.first_seq, cut, withheld))

    async def history(self, start_ns: int, end_ns: int) -> tuple[list[SegmentEntry], list[Page]]:
        """Return what may hold source times in ``start_ns <= t < end_ns``: segments, and the pages that are in none."""
        return await self._journal.read(lambda database: database.segments.history(start_ns, end_ns))

    async def read(self, entry: SegmentEntry) -> bytes:
        """Return the bytes of *entry*, checked against the digest that was recorded.

        When its file is gone or damaged these are other bytes for the same pages: made anew, or a tombstone. What the
        bytes are says `models.segment.segment_digest`, not the entry.

        Raises:
            JournalError: If it was purged meanwhile, or cannot be read now.
        """
        data = await self.read_if_there(entry)
        if data is None:
            raise JournalError(f"{entry.path}: segment was purged; it is left out")
        return data

    async def read_if_there(self, entry: SegmentEntry) -> bytes | None:
        """Return what `read` does, None when it was purged meanwhile.

        Raises:
            JournalError: If it cannot be read now.
        """
        found: SegmentEntry | None = entry
        while found is not None:
            try:
                return await asyncio.to_thread(read_segment, found)
            except SegmentDamaged as damaged:
                log.warning("segment damaged", error=str(damaged))
                found = await self._mended(damaged.first_seq)
        return None

    async def _mended(self, first_seq: int) -> SegmentEntry | None:
        while True:
            try:
                return await mend(self._journal, first_seq)
            except OSError as error:  # the disk is full, or fails
                log.error("damaged segment cannot be replaced now; it is tried again", error=str(error))  # noqa: TRY400 - the message says all
                await asyncio.sleep(_RETRY_S)

    async def mark_delivered(self, ranges: Sequence[tuple[int, int]]) -> int:
        """Mark every segment that lies inside *ranges* of seq as delivered; return how many changed.

        Ranges that touch count as one. Others stay as they are.
        """
        return await self._journal.write(lambda database: database.segments.set_delivered(ranges))

    async def withdraw_outside(self, held: Sequence[tuple[int, int]]) -> int:
        """Take back what was marked as delivered and does not lie inside *held*, all that the cloud says it has.

        A cloud that was restored from a backup holds less than before: what it lost becomes pending again. What it
        holds beyond is not marked here: only its answer to the very bytes says that it holds these.
        """
        return await self._journal.write(lambda database: database.segments.withdraw_outside(held))

    async def wait_beyond(self, seq: int) -> bool:
        """Wait until a segment ends after *seq*; return False when the journal is closed instead."""
        return await self._journal.wait_until(lambda counters: counters.compacted_pages > seq)


async def compact(journal: Journal, *, interval_s: float, max_pages: int) -> None:
    """Turn committed pages into segments until the journal is closed.

    A segment is closed *interval_s* after its first page was seen, or at *max_pages* pages. What cannot be written
    (a full disk) is tried again; the pages stay until it could.
    """
    while await journal.wait_beyond(journal.counters.compacted_pages):
        enough = journal.counters.compacted_pages + max_pages
        try:
            async with asyncio.timeout(interval_s):
                if not await journal.wait_beyond(enough - 1):
                    return
        except TimeoutError:
            pass
        try:
            await compact_once(journal, max_pages=max_pages)
        except (OSError, CommitFailed, SegmentError) as error:
            log.error("segment not written; its pages stay and are tried again", error=str(error))  # noqa: TRY400 - the message says all
            await asyncio.sleep(_RETRY_S)
        except JournalError:
            if journal.closed:
                return  # while the segment was written; its file is removed at the next start
            raise


async def compact_once(journal: Journal, *, max_pages: int) -> SegmentEntry | None:
    """Write one segment of the oldest pages that are in none, up to *max_pages*; return None when there is none."""
    pages, before = await journal.read(partial(_next_pages, max_pages=max_pages))
    if not pages:
        return None
    entry = await asyncio.to_thread(_write, journal.state_dir / "segments", pages, before)
    await journal.write(lambda database: _record(database, entry))
    log.debug("segment written", first_seq=entry.first_seq, last_seq=entry.last_seq, size=entry.size)
    return entry


def _next_pages(database: JournalDatabase, *, max_pages: int) -> tuple[list[Page], SegmentEntry | None]:
    """Return the oldest pages that are in no segment, and the segment before them."""
    compacted = database.counters.compacted_pages
    pages = database.decoded_pages(compacted, limit=max_pages, max_bytes=_MAX_BYTES)
    return pages, next(iter(database.segments.select("last_seq = ?", (compacted,))), None)


def _write(folder: Path, pages: Sequence[Page], before: SegmentEntry | None) -> SegmentEntry:
    """Write the segment of *pages*, or of the first half of them when they do not fit into one."""
    try:
        data = encode_segment(pages, previous=before.chain_digest if before is not None else "")
    except SegmentTooLarge:
        if len(pages) == 1:
            raise
        return _write(folder, pages[: len(pages) // 2], before)
    return write_segment(folder, data)


def _record(database: JournalDatabase, entry: SegmentEntry) -> None:
    database.segments.record(entry)
    if database.trimmable() >= _TRIM_PAGES:
        database.trim()
