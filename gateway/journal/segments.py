"""Segments: runs of pages compacted into column files, which are uploaded and kept as local history.

The order of a compaction is what makes it safe: the file is durable under its final name, then the row is recorded,
then (and when every reader has passed) the pages go. A crash in between leaves a file without a row, which the next
start removes; the range of a recorded segment never changes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import structlog

from gateway.errors import JournalError
from gateway.journal.database import JournalDatabase
from gateway.journal.entries import SegmentEntry, read_segment
from gateway.journal.errors import CommitFailed
from gateway.journal.journal import Journal
from models.records import Observations, Page
from models.segment import encode_segment, segment_digest

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

    async def pending(self, limit: int = 64) -> list[SegmentEntry]:
        """Return up to *limit* segments that are not delivered, oldest first."""
        return await self._journal.read(
            lambda database: database.segments.select("delivered_time IS NULL", limit=limit)
        )

    async def history(self, start_ns: int, end_ns: int) -> tuple[list[SegmentEntry], list[Page]]:
        """Return what may hold source times in ``start_ns <= t < end_ns``: segments, and the pages that are in none."""
        return await self._journal.read(lambda database: database.segments.history(start_ns, end_ns))

    async def read(self, entry: SegmentEntry) -> bytes:
        """Return the bytes of *entry*, checked against the digest that was recorded.

        Raises:
            JournalError: If the file is gone or changed.
        """
        return await asyncio.to_thread(read_segment, entry)

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
    await remove_orphans(journal)
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
        except (OSError, CommitFailed) as error:
            log.error("segment not written; its pages stay and are tried again", error=str(error))  # noqa: TRY400 - the message says all
            await asyncio.sleep(_RETRY_S)
        except JournalError:
            if journal.closed:
                return  # while the segment was written; its file is removed at the next start
            raise


async def compact_once(journal: Journal, *, max_pages: int) -> SegmentEntry | None:
    """Write one segment of the oldest pages that are in none, up to *max_pages*; return None when there is none."""
    pages = await journal.read(
        lambda database: database.decoded_pages(
            database.counters.compacted_pages, limit=max_pages, max_bytes=_MAX_BYTES
        )
    )
    if not pages:
        return None
    entry = await asyncio.to_thread(_write_segment, journal.state_dir / "segments", pages)
    await journal.write(lambda database: _record(database, entry))
    log.debug("segment written", first_seq=entry.first_seq, last_seq=entry.last_seq, size=entry.size)
    return entry


async def remove_orphans(journal: Journal) -> None:
    """Remove files that a crash left between writing and recording them."""
    entries = await journal.read(lambda database: database.segments.select())
    recorded = {entry.path for entry in entries}
    folder = journal.state_dir / "segments"
    for path in [path for path in folder.glob("*.wseg*") if path not in recorded]:
        log.info("segment file without a record removed; its pages are compacted again", path=str(path))
        path.unlink()


def _record(database: JournalDatabase, entry: SegmentEntry) -> None:
    database.segments.record(entry)
    if database.trimmable() >= _TRIM_PAGES:
        database.trim()


def _write_segment(folder: Path, pages: Sequence[Page]) -> SegmentEntry:
    data = encode_segment(pages)
    first, last = pages[0], pages[-1]
    path = folder / f"{first.epoch}-{first.seq:012d}-{last.seq:012d}.wseg"
    folder.mkdir(exist_ok=True)
    temporary = path.with_suffix(".wseg.part")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(folder)
    columns = [page.content for page in pages if isinstance(page.content, Observations) and len(page.content)]
    return SegmentEntry(
        first_seq=first.seq,
        last_seq=last.seq,
        path=path,
        digest=segment_digest(data),
        size=len(data),
        observations=sum(len(observations) for observations in columns),
        start_ns=min((int(observations.source_time.min()) for observations in columns), default=None),
        end_ns=max((int(observations.source_time.max()) for observations in columns), default=None),
        delivered=False,
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
