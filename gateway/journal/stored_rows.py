"""Rows that are stored already, found again: the newest of each stream at a start, and those of a stretch of time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import structlog

from gateway.errors import JournalError
from gateway.journal.entries import read_segment
from gateway.journal.errors import PageDamaged
from gateway.journal.newest import Newest
from gateway.journal.pages import checked_content
from models.records import Observations, Stream
from models.segment import SegmentError, decode_segment

if TYPE_CHECKING:
    from gateway.journal.database import JournalDatabase

_LOOKED_AT = 64

log = structlog.get_logger()


def stored_rows(database: JournalDatabase, streams: Collection[Stream], start_ns: int, end_ns: int) -> Observations:
    """Return the stored rows of *streams* with ``start_ns <= source time <= end_ns``; on the writing thread."""
    parts: list[Observations] = []
    for entry in database.segments.select(
        "start_time <= ? AND end_time >= ?", (end_ns, start_ns), connection=database.writer
    ):
        try:
            parts.append(_rows_of(decode_segment(read_segment(entry)).observations, streams, start_ns, end_ns))
        except (JournalError, SegmentError) as error:
            log.warning("segment not searched; rows it has may be stored again", error=str(error))
    pages = database.writer.execute(
        "SELECT seq, payload, checksum FROM page WHERE observations > 0 AND seq > ?",
        (database.counters.compacted_pages,),
    )
    for seq, payload, checksum in pages:
        try:
            content = checked_content(database.path, seq, payload, checksum)
        except PageDamaged as damaged:
            log.warning("page not searched; rows it had may be stored again", error=str(damaged))
            continue
        if isinstance(content, Observations):
            parts.append(_rows_of(content, streams, start_ns, end_ns))
    return Observations.concatenate(parts)


def newest_rows(database: JournalDatabase, adopted: Sequence[Observations]) -> tuple[Newest, int, int]:
    """Return the newest rows, and how many pages and rows there are since they were saved.

    They are as of the saved ones, or of the last segments when those are damaged; then *adopted*, which came out of
    segments that were taken over, and the pages.
    """
    row = database.writer.execute("SELECT seq, snapshot FROM newest").fetchone()
    newest, after = Newest(), 0
    try:
        if row is not None:
            newest, after = Newest.from_bytes(row[1]), int(row[0])
    except ValueError as error:
        database.told.append(f"{database.path}: {error}; they are taken from the last {_LOOKED_AT} segments")
        adopted, after = [*_last_segments(database), *adopted], database.counters.compacted_pages
    for content in adopted:
        if len(content):
            newest.apply(newest.examine(content)[1])
    pages = rows = 0
    for seq, payload, checksum in database.writer.execute(
        "SELECT seq, payload, checksum FROM page WHERE seq > ? ORDER BY seq", (after,)
    ):
        try:
            page = checked_content(database.path, seq, payload, checksum)
        except PageDamaged:
            continue  # put aside when it is its turn to be read
        if isinstance(page, Observations) and len(page):
            newest.apply(newest.examine(page)[1])
            rows += len(page)
        pages += 1
    return newest, pages, rows


def _last_segments(database: JournalDatabase) -> list[Observations]:
    found = []
    for entry in database.segments.select(limit=_LOOKED_AT, connection=database.writer, newest_first=True):
        try:
            found.append(decode_segment(read_segment(entry)).observations)
        except (JournalError, SegmentError) as error:
            log.warning("segment not searched; rows it has may be stored again", error=str(error))
    return found[::-1]


def _rows_of(observations: Observations, streams: Collection[Stream], start_ns: int, end_ns: int) -> Observations:
    """Return the rows of *streams* with ``start_ns <= source time <= end_ns``."""
    time = observations.source_time
    wanted = np.array([stream in streams for stream in observations.streams], np.bool_)
    rows = (time >= start_ns) & (time <= end_ns)
    rows[rows] = wanted[observations.stream[rows]]
    return observations.take(rows)
