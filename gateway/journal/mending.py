"""What becomes of a segment whose file is gone or damaged: made anew from its pages, or replaced by a tombstone.

The order keeps it safe: what takes the place is durable under a name of its own, then the table names it, then the
damaged file is put aside. A crash in between leaves the segment damaged, or a file that no row names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gateway.journal.entries import SegmentEntry, decoded_segment
from gateway.journal.errors import SegmentDamaged
from gateway.journal.segment_files import put_aside, write_segment
from models.records import Gap, GatewayEvent, Observations, Page, Results, Stream, from_ns
from models.segment import (
    Expired,
    SegmentError,
    SegmentKind,
    encode_segment,
    segment_digest,
    segment_streams,
    tombstone,
)

if TYPE_CHECKING:
    from gateway.journal.database import JournalDatabase
    from gateway.journal.journal import Journal

DAMAGED = "damaged"
_MOST_GAPS = 20_000
_NAMES_BYTES = 2**20  # the names of a segment's streams stand in its first bytes

log = structlog.get_logger()


async def mend(journal: Journal, first_seq: int) -> SegmentEntry | None:
    """Make the segment that begins at *first_seq* readable; return it as it is now, None when there is none.

    When its pages are still in the table it is made anew. Else a tombstone takes its place: what the cloud does not
    have of it counts as expired, the damaged file is kept aside, and readers and the uplink go on over it.

    Raises:
        OSError: If nothing can be written now.
        JournalError: If the file cannot be read now, though it may be whole; or the journal is closed.
    """
    entry = await journal.read(partial(_entry, first_seq=first_seq))
    if entry is None or not await asyncio.to_thread(_is_damaged, entry):
        return entry  # purged, or mended, meanwhile
    pages = await journal.read(partial(_pages, entry=entry))
    again = await asyncio.to_thread(_made_anew, entry, pages)
    if again is not None:
        await _exchange(journal, entry, again, "")
        log.warning("segment damaged; made anew from its pages", first_seq=first_seq, last_seq=entry.last_seq)
    else:
        await _give_up(journal, entry)
    return await journal.read(partial(_entry, first_seq=first_seq))


async def _give_up(journal: Journal, entry: SegmentEntry) -> None:
    gone = await asyncio.to_thread(_bury_damaged, journal.gateway_id, journal.epoch, entry)
    if not await _exchange(journal, entry, gone, _reason(entry)):
        return
    log.error("segment damaged; a tombstone takes its place", path=str(entry.path), observations=entry.observations)
    await journal.write(lambda database: database.told.append(message([entry], _reason(entry))))


async def _exchange(journal: Journal, old: SegmentEntry, new: SegmentEntry, reason: str) -> bool:
    """Let the table name *new* in the place of *old*, and put the file of *old* aside."""
    if new.path != old.path:
        done = await journal.write(lambda database: database.segments.replace([old], new, reason))
        await asyncio.to_thread(put_aside, old.path if done else new.path)
        return done
    return True


def _entry(database: JournalDatabase, *, first_seq: int) -> SegmentEntry | None:
    return next(iter(database.segments.select("first_seq = ?", (first_seq,))), None)


def _is_damaged(entry: SegmentEntry) -> bool:
    try:
        decoded_segment(entry)
    except SegmentDamaged:
        return True
    return False


def _pages(database: JournalDatabase, *, entry: SegmentEntry) -> list[Page]:
    """Return the pages of *entry* when they are all in the table, else none."""
    rows = database.reader.execute(
        "SELECT seq, committed_time, payload, checksum FROM page WHERE seq BETWEEN ? AND ? ORDER BY seq",
        (entry.first_seq, entry.last_seq),
    )
    pages = [database.page(*row) for row in rows]
    return pages if len(pages) == entry.last_seq - entry.first_seq + 1 else []


def _made_anew(entry: SegmentEntry, pages: list[Page]) -> SegmentEntry | None:
    """Write the segment of *pages*: in the same bytes, in the same file; or, by another version, in other bytes."""
    if not pages or entry.is_tombstone:
        return None
    if sum(len(page.content) for page in pages if isinstance(page.content, Observations)) != entry.observations:
        return None
    try:
        data = encode_segment(pages, previous=entry.previous)
        if segment_digest(data) == entry.digest:
            put_aside(entry.path)
        else:
            stands_for = entry.chain_digest
            data = encode_segment(pages, previous=entry.previous, kind=SegmentKind.CUT, stands_for=stands_for)
        return write_segment(entry.path.parent, data)
    except SegmentError:
        return None


def _bury_damaged(gateway_id: str, epoch: str, entry: SegmentEntry) -> SegmentEntry:
    gaps = []
    if entry.start_ns is not None and entry.end_ns is not None:
        gaps = [gap(stream, entry.start_ns, entry.end_ns, DAMAGED) for stream in streams_of(entry)]
    return bury(gateway_id, epoch, [entry], gaps, _reason(entry), are_gaps_lost=entry.is_tombstone)


def _reason(entry: SegmentEntry) -> str:
    """Return why what *entry* held is gone, now that it is damaged: that of a tombstone stays."""
    return entry.expired_reason or DAMAGED


def streams_of(entry: SegmentEntry) -> tuple[Stream, ...]:
    """Return the streams of a damaged segment, none when they cannot be told any more."""
    try:
        with entry.path.open("rb") as file:
            return segment_streams(file.read(_NAMES_BYTES)) or ()
    except OSError:
        return ()


def bury(
    gateway_id: str,
    epoch: str,
    entries: Sequence[SegmentEntry],
    gaps: Sequence[Gap],
    reason: str,
    *,
    are_gaps_lost: bool = False,
) -> SegmentEntry:
    """Write one tombstone for *entries*, which follow each other; return what is to be recorded of it.

    With *are_gaps_lost* it says that *gaps* cannot be told any more.
    """
    first, last = entries[0], entries[-1]
    observations = sum(entry.observations for entry in entries)
    event = GatewayEvent(
        kind="segment_expired",
        gateway_time=datetime.now(UTC),
        message=message(entries, reason),
        detail={
            "first_seq": str(first.first_seq),
            "last_seq": str(last.last_seq),
            "observations": str(observations),
            "reason": reason,
            **({"gaps": "lost"} if are_gaps_lost else {}),
        },
    )
    data = tombstone(
        gateway_id=gateway_id,
        epoch=epoch,
        first_seq=first.first_seq,
        last_seq=last.last_seq,
        previous=first.previous,
        stands_for=last.chain_digest,
        expired=Expired(reason=reason, observations=observations),
        results=Results(gaps=tuple(gaps[:_MOST_GAPS]), events=(event,)),
    )
    return write_segment(first.path.parent, data)


def message(entries: Sequence[SegmentEntry], reason: str) -> str:
    """Return what became of *entries*, in words for people."""
    held = "the cloud has them" if all(entry.delivered for entry in entries) else "they are gone"
    return (
        f"what was in pages {entries[0].first_seq} to {entries[-1].last_seq} is no longer here ({reason}): "
        f"{sum(entry.observations for entry in entries)} observations, {held}"
    )


def gap(stream: Stream, start_ns: int, end_ns: int, cause: str) -> Gap:
    """Return the gap from one source time to another."""
    return Gap(
        asset_id=stream.asset_id,
        channel=stream.channel,
        from_time=from_ns(start_ns),
        to_time=from_ns(end_ns),
        cause=cause,
    )
