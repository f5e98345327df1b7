"""The pages a reader asks for: from the table, or rebuilt from the segments once the table has let them go.

Pages wait for every reader that is known. A reader that comes later (InfluxDB switched on after a year) starts at
page 1 all the same: its first pages come out of segments. Their rows are sorted by stream, in their order inside each,
and their committed time, which a segment does not keep, is 0.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import numpy as np

from gateway.errors import JournalError
from gateway.journal.database import JournalDatabase
from gateway.journal.entries import SegmentEntry, decoded_segment
from models.records import GatewayEvent, Observations, Page, Results


def pages_after(database: JournalDatabase, after: int, *, limit: int, max_bytes: int) -> list[Page]:
    """Return the pages that follow *after*, at least one when there is one.

    Of pages that were purged one page of results says so; it has the seq of the last of them.

    Raises:
        SegmentDamaged: If they are in a segment that is gone or changed.
    """
    pages = database.decoded_pages(after, limit=limit, max_bytes=max_bytes)
    if pages and pages[0].seq == after + 1:
        return pages
    for entry in database.segments.select("first_seq <= ? AND last_seq > ?", (after + 1, after)):
        return pages_of(entry, after)
    if after >= database.counters.compacted_pages:
        if pages:
            raise JournalError(
                f"{database.path}: page {after + 1} is in no segment and not in the table; its reader stops"
            )
        return []
    return [_purged(database, after, pages)]


def _purged(database: JournalDatabase, after: int, pages: list[Page]) -> Page:
    """Return the page that stands for those after *after* that are neither in a segment nor in the table."""
    following = [entry.first_seq for entry in database.segments.select("first_seq > ?", (after,), limit=1)]
    following += [page.seq for page in pages[:1]]
    last = min(following, default=database.counters.pages + 1) - 1
    event = GatewayEvent(
        kind="pages_purged",
        gateway_time=datetime.now(UTC),
        message=f"pages {after + 1} to {last} were purged before this reader came to them",
        detail={"first_seq": str(after + 1), "last_seq": str(last)},
    )
    return Page(
        gateway_id=database.gateway_id,
        epoch=database.epoch,
        seq=last,
        committed_time=time.time_ns(),
        content=Results(events=(event,)),
    )


def pages_of(entry: SegmentEntry, after: int) -> list[Page]:
    """Return the pages of a segment that follow *after*."""
    segment = decoded_segment(entry)
    contents: dict[int, Observations | Results] = dict(segment.results)
    by_page = np.argsort(segment.seq, kind="stable")
    seqs, starts = np.unique(segment.seq[by_page], return_index=True)
    for seq, rows in zip(seqs.tolist(), np.split(by_page, starts)[1:], strict=True):
        contents[seq] = segment.observations.take(rows)
    return [
        Page(gateway_id=segment.gateway_id, epoch=segment.epoch, seq=seq, committed_time=0, content=contents[seq])
        for seq in sorted(contents)
        if seq > after
    ]
