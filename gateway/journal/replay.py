"""The pages a reader asks for: from the table, or rebuilt from the segments once the table has let them go.

Pages wait for every reader that is known. A reader that comes later (InfluxDB switched on after a year) starts at
page 1 all the same: its first pages come out of segments. Their rows are sorted by stream, in their order inside each,
and their committed time, which a segment does not keep, is 0.
"""

from __future__ import annotations

import numpy as np

from gateway.errors import JournalError
from gateway.journal.database import JournalDatabase
from gateway.journal.entries import SegmentEntry, read_segment
from models.records import Observations, Page, Results
from models.segment import SegmentError, decode_segment


def pages_after(database: JournalDatabase, after: int, *, limit: int, max_bytes: int) -> list[Page]:
    """Return the pages that follow *after*, at least one when there is one.

    Raises:
        JournalError: If they are in a segment that is gone or changed.
    """
    pages = database.decoded_pages(after, limit=limit, max_bytes=max_bytes)
    if pages and pages[0].seq == after + 1:
        return pages
    for entry in database.segments.select("first_seq <= ? AND last_seq > ?", (after + 1, after)):
        return pages_of(entry, after)
    if pages:
        raise JournalError(f"{database.path}: page {after + 1} is in no segment and not in the table; its reader stops")
    return []


def pages_of(entry: SegmentEntry, after: int) -> list[Page]:
    """Return the pages of a segment that follow *after*."""
    try:
        segment = decode_segment(read_segment(entry))
    except SegmentError as error:
        raise JournalError(f"{entry.path}: {error}") from error
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
