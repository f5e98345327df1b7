"""The journal's pages as rows of their table: how they are cut, written, read and checked."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.journal.errors import CommitFailed, PageDamaged
from models.page import PageError, decode_content, encode_content
from models.records import GatewayEvent, Observations, Results, from_ns
from models.segment import MAX_RESULTS_BYTES

MAX_PAGE_ROWS = 500_000
MAX_PAGE_SAMPLES = 4_000_000
MAX_PAGE_BYTES = 32 * 2**20
_IN_SEGMENT = 1024  # bytes a segment needs beside the one page of results it may hold


@dataclass(frozen=True, kw_only=True, slots=True)
class PageRow:
    """A page as its row holds it; `checksum` is the CRC-32 of the payload, None in rows of older journals."""

    seq: int
    committed_time: int
    observations: int
    payload: bytes
    checksum: int | None

    @classmethod
    def of(cls, content: Observations | Results, *, seq: int, committed_time: int) -> PageRow:
        """Return the row of a page that holds *content*.

        Raises:
            CommitFailed: If it is too large for a page.
        """
        payload = encode_content(content)
        most = MAX_PAGE_BYTES if isinstance(content, Observations) else MAX_RESULTS_BYTES - _IN_SEGMENT
        if len(payload) > most:
            raise CommitFailed(f"a page of {len(payload)} bytes is above {most}; nothing of it is stored")
        return cls(
            seq=seq,
            committed_time=committed_time,
            observations=len(content) if isinstance(content, Observations) else 0,
            payload=payload,
            checksum=zlib.crc32(payload),
        )


def insert(connection: sqlite3.Connection, rows: Sequence[PageRow]) -> None:
    """Write *rows*, inside the caller's transaction."""
    connection.executemany(
        "INSERT INTO page (seq, committed_time, observations, payload, checksum) VALUES (?, ?, ?, ?, ?)",
        [(row.seq, row.committed_time, row.observations, row.payload, row.checksum) for row in rows],
    )


def is_stored(connection: sqlite3.Connection, row: PageRow) -> bool:
    """Return whether exactly *row* is in the table."""
    found = connection.execute("SELECT committed_time, checksum FROM page WHERE seq = ?", (row.seq,)).fetchone()
    return bool(found == (row.committed_time, row.checksum))


def checked_content(path: Path, seq: int, payload: bytes, checksum: int | None) -> Observations | Results:
    """Return what the page *seq* holds.

    Raises:
        PageDamaged: If it is not what was written.
    """
    reason = "its checksum differs"
    if checksum is None or zlib.crc32(payload) == checksum:
        try:
            return decode_content(payload)
        except PageError as error:
            reason = str(error)
    raise PageDamaged(f"{path}: page {seq} is damaged ({reason}); it is put aside", seq=seq, reason=reason)


def check(connection: sqlite3.Connection, path: Path, *, after: int, last: int, max_bytes: int) -> int | None:
    """Check pages after *after* up to *last*, until *max_bytes* are read; return the last one, None when none is left.

    Raises:
        PageDamaged: If one is not what was written.
    """
    size, seq = 0, None
    for seq, payload, checksum in connection.execute(
        "SELECT seq, payload, checksum FROM page WHERE seq > ? AND seq <= ? ORDER BY seq", (after, last)
    ):
        size += len(payload)
        if checksum is None or zlib.crc32(payload) != checksum:
            checked_content(path, seq, payload, checksum)
        if size >= max_bytes:
            break
    return seq


def tombstone(seq: int, *, observations: int, reason: str, time_ns: int) -> PageRow:
    """Return the row that takes the place of page *seq*, which is damaged or gone."""
    lost = f"{observations} observations" if observations >= 0 else "what it held"
    event = GatewayEvent(
        kind="page_quarantined",
        gateway_time=from_ns(time_ns),
        message=f"page {seq} cannot be read ({reason}); {lost} of it cannot be had from this gateway's journal",
        detail={"seq": str(seq), "observations": str(max(observations, 0)), "reason": reason},
    )
    return PageRow.of(Results(events=(event,)), seq=seq, committed_time=time_ns)


def cut(observations: Observations) -> Iterator[Observations]:
    """Cut a batch that is too large for one page, so that every page fits into a segment."""
    if len(observations) <= MAX_PAGE_ROWS and observations.samples.size <= MAX_PAGE_SAMPLES:
        yield observations
        return
    samples = np.cumsum(observations.sample_count, dtype=np.int64)
    start = 0
    while start < len(observations):
        before = int(samples[start - 1]) if start else 0
        fits = int(np.searchsorted(samples, before + MAX_PAGE_SAMPLES, "right"))
        end = min(max(fits, start + 1), start + MAX_PAGE_ROWS)
        yield observations.take(np.arange(start, end, dtype=np.intp))
        start = end
