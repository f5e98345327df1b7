"""Damaged pages: put aside as they are, replaced by a tombstone, and what they held counted as expired."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gateway.journal.counters import JournalCounters
from gateway.journal.errors import PageDamaged
from gateway.journal.pages import checked_content, insert, tombstone

if TYPE_CHECKING:
    from gateway.journal.database import JournalDatabase

log = structlog.get_logger()
DAMAGED = "damaged"


def put_aside(database: JournalDatabase, damaged: PageDamaged) -> JournalCounters:
    """Put a page aside, in one transaction; return the counters after it, the same when that is done already.

    A page that is in a segment too is only taken out of the table: readers then have it from there, and nothing is
    lost. Of any other a tombstone takes the place, so that readers and the uplink go on over it.
    """
    now, writer, time_ns = database.counters, database.writer, time.time_ns()
    seq, reason = damaged.seq, damaged.reason
    row = writer.execute("SELECT payload, checksum FROM page WHERE seq = ?", (seq,)).fetchone()
    if row is None or not _is_damaged(database.path, seq, *row):
        return now
    is_in_segment = seq <= now.compacted_pages
    lost = 0 if is_in_segment else _count_of(writer, seq)
    told = f"{reason}; its segment has what it held" if is_in_segment else reason
    with database.transaction():
        writer.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?)", (seq, time_ns, told, lost, row[0]))
        writer.execute("DELETE FROM page WHERE seq = ?", (seq,))
        if not is_in_segment:
            insert(writer, [tombstone(seq, observations=lost, reason=reason, time_ns=time_ns)])
            expire(writer, lost)
    log.error("damaged page put aside", seq=seq, reason=told, observations_lost=lost)
    return replace(
        now,
        pending=now.pending - lost,
        expired={**now.expired, DAMAGED: now.expired.get(DAMAGED, 0) + lost} if lost else now.expired,
        quarantined_pages=now.quarantined_pages + 1,
    )


def expire(writer: sqlite3.Connection, observations: int, reason: str = DAMAGED) -> None:
    """Count *observations* as expired, inside the caller's transaction."""
    if observations:
        writer.execute(
            "INSERT INTO expired VALUES (?, ?) "
            "ON CONFLICT (reason) DO UPDATE SET observations = observations + excluded.observations",
            (reason, observations),
        )


def _is_damaged(path: Path, seq: int, payload: bytes, checksum: int | None) -> bool:
    try:
        checked_content(path, seq, payload, checksum)
    except PageDamaged:
        return True
    return False


def _count_of(writer: sqlite3.Connection, seq: int) -> int:
    """Return how many observations a page held, from the index: it lies elsewhere on the disk than the page."""
    found = writer.execute("SELECT observations FROM page INDEXED BY page_count WHERE seq = ?", (seq,)).fetchone()
    return int(found[0]) if found else 0
