"""The journal's rows about segments: what is recorded, delivered, refused, and what is still to be sent.

Each method that writes is one transaction, durable when it returns, and keeps the journal's counters in step.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import JournalError
from gateway.journal.entries import SegmentEntry
from models.records import Page

if TYPE_CHECKING:
    from gateway.journal.database import JournalDatabase

_COLUMNS = (
    "first_seq, last_seq, path, digest, previous, size, observations, start_time, end_time, delivered_time, "
    "closed_age_s, withheld, expired, refused, stands_for"
)


class SegmentTable:
    """The segments of one journal; `JournalDatabase` owns it."""

    def __init__(self, database: JournalDatabase) -> None:
        self._database = database
        self._folder = database.path.parent / "segments"

    def record(self, entry: SegmentEntry) -> None:
        """Record a segment whose file is durable already."""
        database = self._database
        now = database.counters
        if entry.first_seq != now.compacted_pages + 1 or entry.last_seq > now.pages:
            raise JournalError(
                f"{database.path}: segment {entry.first_seq}-{entry.last_seq} does not follow page "
                f"{now.compacted_pages}; it is not recorded"
            )
        values = (
            *(entry.first_seq, entry.last_seq, entry.path.name, entry.digest, entry.previous, entry.size),
            *(entry.observations, entry.start_ns, entry.end_ns, entry.closed_age_s),
        )
        with database.transaction():
            database.writer.execute(
                "INSERT INTO segment (first_seq, last_seq, path, digest, previous, size, observations, start_time, "
                "end_time, closed_age_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        database.counters = replace(now, compacted_pages=entry.last_seq, segments_pending=now.segments_pending + 1)

    def set_delivered(self, held: Sequence[tuple[int, int]]) -> int:
        """Mark the segments inside *held* as delivered; return how many changed."""
        with self._database.transaction():
            marked = self._set_delivered_time(
                "delivered_time IS NULL AND first_seq >= ? AND last_seq <= ?", time.time_ns(), merged(held)
            )
        self._count_delivered(marked, 1)
        return len(marked)

    def withdraw_outside(self, held: Sequence[tuple[int, int]]) -> int:
        """Mark the segments that are not inside *held* as not delivered; return how many changed."""
        with self._database.transaction():
            withdrawn = self._set_delivered_time(
                "delivered_time IS NOT NULL AND last_seq >= ? AND first_seq <= ?", None, _between(merged(held))
            )
        self._count_delivered(withdrawn, -1)
        return len(withdrawn)

    def _set_delivered_time(
        self, where: str, moment: int | None, ranges: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Return observations delivered and withheld by each segment that changed."""
        statement = (
            f"UPDATE segment SET delivered_time = ? WHERE {where} "  # noqa: S608 - our own words
            "RETURNING observations - withheld - expired, withheld"
        )
        rows = [self._database.writer.execute(statement, (moment, *limits)).fetchall() for limits in ranges]
        return [row for part in rows for row in part]

    def _count_delivered(self, changed: Sequence[tuple[int, int]], sign: int) -> None:
        now = self._database.counters
        delivered, withheld = (sign * sum(column) for column in zip(*changed, strict=True)) if changed else (0, 0)
        self._database.counters = replace(
            now,
            delivered=now.delivered + delivered,
            withheld=now.withheld + withheld,
            pending=now.pending - delivered - withheld,
            segments_pending=now.segments_pending - sign * len(changed),
        )

    def history(self, start_ns: int, end_ns: int) -> tuple[list[SegmentEntry], list[Page]]:
        """Return what may hold source times in ``start_ns <= t < end_ns``: segments, and the pages that are in none.

        Both are of one moment: a page that moves into a segment meanwhile is in exactly one of them.
        """
        reader = self._database.reader
        reader.execute("BEGIN")
        try:
            segments = self.select("start_time < ? AND end_time >= ?", (end_ns, start_ns))
            pages = reader.execute(
                "SELECT seq, committed_time, payload FROM page "
                "WHERE seq > (SELECT coalesce(max(last_seq), 0) FROM segment) ORDER BY seq"
            )
            return segments, [self._database.page(*row) for row in pages]
        finally:
            reader.execute("COMMIT")

    def select(
        self,
        where: str = "1",
        arguments: Sequence[int] = (),
        limit: int = -1,
        *,
        connection: sqlite3.Connection | None = None,
        newest_first: bool = False,
    ) -> list[SegmentEntry]:
        """Return the segments that *where* selects, oldest first; on the reading thread unless told otherwise."""
        chosen = connection or self._database.reader
        return select_segments(chosen, self._folder, where, arguments, limit, newest_first=newest_first)


def select_segments(
    connection: sqlite3.Connection,
    folder: Path,
    where: str = "1",
    arguments: Sequence[int] = (),
    limit: int = -1,
    *,
    newest_first: bool = False,
) -> list[SegmentEntry]:
    """Return the segments in *folder* that *where* selects among the rows behind *connection*, oldest first."""
    order = "DESC" if newest_first else "ASC"
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM segment WHERE {where} ORDER BY first_seq {order} LIMIT ?",  # noqa: S608 - our own words
        (*arguments, limit),
    )
    return [
        SegmentEntry(
            first_seq=row[0],
            last_seq=row[1],
            path=folder / row[2],
            digest=row[3],
            previous=row[4],
            size=row[5],
            observations=row[6],
            start_ns=row[7],
            end_ns=row[8],
            delivered=row[9] is not None,
            closed_age_s=row[10],
            withheld=row[11],
            expired=row[12],
            refused=row[13] or "",
        )
        for row in rows
    ]


def merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return closed *ranges* in order, those that touch or overlap made one."""
    whole: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if whole and first <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(last, whole[-1][1]))
        else:
            whole.append((first, last))
    return whole


def _between(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the closed ranges that lie outside of merged *ranges*."""
    starts = [1, *(last + 1 for _, last in ranges)]
    ends = [*(first - 1 for first, _ in ranges), 2**63 - 1]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start <= end]
