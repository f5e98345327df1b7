"""The journal's rows about segments: what is recorded, delivered, refused, and what is still to be sent.

Each method that writes is one transaction, durable when it returns, and keeps the journal's counters in step.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import JournalError
from gateway.journal.age import RunningTime
from gateway.journal.entries import SegmentEntry
from models.records import Page

if TYPE_CHECKING:
    from gateway.journal.database import JournalDatabase

DAMAGED = "damaged"
Arguments = Sequence[float] | Mapping[str, float]

_COLUMNS = (
    "first_seq, last_seq, path, digest, previous, size, observations, start_time, end_time, delivered_time, "
    "closed_age_s, withheld, expired, refused, stands_for, cut, expired_reason"
)


class SegmentTable:
    """The segments of one journal; `JournalDatabase` owns it.

    Attributes:
        folder: Where their files are.
        age: How long the journal has been open in all; kept with every segment that is recorded.
        size: Bytes of all files.
    """

    def __init__(self, database: JournalDatabase) -> None:
        self._database = database
        self.folder = database.path.parent / "segments"
        self.age = RunningTime(database.writer)
        self.size = int(database.writer.execute("SELECT coalesce(sum(size), 0) FROM segment").fetchone()[0])

    # What there is

    def names(self) -> frozenset[str]:
        """Return the names of all recorded files; on the writing thread."""
        return frozenset(name for (name,) in self._database.writer.execute("SELECT path FROM segment"))

    def last(self) -> SegmentEntry | None:
        """Return the newest segment; on the writing thread."""
        return next(iter(self.select(limit=1, newest_first=True, connection=self._database.writer)), None)

    def pending(self, limit: int, *, newest_first: bool = False) -> list[SegmentEntry]:
        """Return up to *limit* segments that wait to be sent: neither delivered nor on the shelf."""
        return self.select("delivered_time IS NULL AND refused IS NULL", limit=limit, newest_first=newest_first)

    # What becomes of them

    def record(self, entry: SegmentEntry) -> None:
        """Record a segment whose file is durable already."""
        database = self._database
        if self._is_recorded(entry):  # it is tried again after a commit of which the disk did not say how it ended
            return
        now = database.counters
        if entry.first_seq != now.compacted_pages + 1 or entry.last_seq > now.pages:
            raise JournalError(
                f"{database.path}: segment {entry.first_seq}-{entry.last_seq} does not follow page "
                f"{now.compacted_pages}; it is not recorded"
            )
        age_s = self.age.now_s
        values = (
            *(entry.first_seq, entry.last_seq, entry.path.name, entry.digest, entry.previous, entry.stands_for),
            *(entry.size, entry.observations, entry.start_ns, entry.end_ns, age_s),
        )
        with database.transaction():
            database.writer.execute(
                "INSERT INTO segment (first_seq, last_seq, path, digest, previous, stands_for, size, observations, "
                "start_time, end_time, closed_age_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            self.age.save()
        self.size += entry.size
        database.counters = replace(now, compacted_pages=entry.last_seq, segments_pending=now.segments_pending + 1)

    def _is_recorded(self, entry: SegmentEntry) -> bool:
        row = self._database.writer.execute(
            "SELECT last_seq, digest FROM segment WHERE first_seq = ?", (entry.first_seq,)
        ).fetchone()
        return bool(row == (entry.last_seq, entry.digest))

    def set_cut(self, first_seq: int, cut: bytes, withheld: int) -> None:
        """Decide what is left out of the segment that begins at *first_seq*, before it is first sent.

        Args:
            first_seq: Its first page.
            cut: The decision, in the uplink's own words; a later one must be the same.
            withheld: How many observations stay here; they count as such from its delivery on.

        Raises:
            JournalError: If it is delivered, or has another decision, or fewer observations.
        """
        with self._database.transaction():
            changed = self._database.writer.execute(
                "UPDATE segment SET cut = ?, withheld = ? WHERE first_seq = ? AND delivered_time IS NULL "
                "AND coalesce(cut, ?) = ? AND observations - expired >= ?",
                (cut, withheld, first_seq, cut, cut, withheld),
            ).rowcount
        if not changed:
            raise JournalError(
                f"{self._database.path}: the segment from page {first_seq} is delivered, gone, or cut otherwise; "
                f"{withheld} observations are not left out of it"
            )

    def refuse(self, first_seq: int, reason: str) -> bool:
        """Put the segment that begins at *first_seq* on the shelf; return False when it is delivered or gone."""
        with self._database.transaction():
            changed = self._database.writer.execute(
                "UPDATE segment SET refused = ? WHERE first_seq = ? AND delivered_time IS NULL", (reason, first_seq)
            ).rowcount
        self._count_refused()
        return bool(changed)

    def offer_again(self) -> int:
        """Take everything off the shelf, so that it is sent again; return how many segments."""
        with self._database.transaction():
            changed = self._database.writer.execute(
                "UPDATE segment SET refused = NULL WHERE delivered_time IS NULL AND refused IS NOT NULL"
            ).rowcount
        self._count_refused()
        return changed

    def _count_refused(self) -> None:
        (count,) = self._database.writer.execute(
            "SELECT count(*) FROM segment WHERE delivered_time IS NULL AND refused IS NOT NULL"
        ).fetchone()
        self._database.counters = replace(self._database.counters, segments_refused=count)

    def set_delivered(self, held: Sequence[tuple[int, int]]) -> int:
        """Mark the segments inside *held* as delivered; return how many changed."""
        with self._database.transaction():
            marked = self._set_delivered_time(
                "delivered_time IS NULL AND first_seq >= ? AND last_seq <= ?", time.time_ns(), merged(held)
            )
        self._count_delivered(marked, 1)
        if self._database.counters.segments_refused:
            self._count_refused()
        return len(marked)

    def withdraw_outside(self, held: Sequence[tuple[int, int]]) -> int:
        """Mark the segments that are not inside *held* as not delivered; return how many changed.

        What of them is gone here, since a tombstone has taken its place, is gone everywhere now.
        """
        with self._database.transaction():
            withdrawn = self._set_delivered_time(
                "delivered_time IS NOT NULL AND last_seq >= ? AND first_seq <= ?", None, _between(merged(held))
            )
            gone = self._give_up_tombstones() if withdrawn else 0
        self._count_delivered(withdrawn, -1, gone=gone)
        return len(withdrawn)

    def _give_up_tombstones(self) -> int:
        """Count what withdrawn tombstones stood for as expired; return how many observations that is."""
        where = "delivered_time IS NULL AND stands_for <> '' AND start_time IS NULL AND expired < observations"
        (gone,) = self._database.writer.execute(
            f"SELECT coalesce(sum(observations - expired), 0) FROM segment WHERE {where}"  # noqa: S608 - our own words
        ).fetchone()
        if gone:
            self._database.writer.execute(f"UPDATE segment SET expired = observations WHERE {where}")  # noqa: S608 - our own words
            self._add_expired({DAMAGED: gone})
        return int(gone)

    def replace(self, old: Sequence[SegmentEntry], new: SegmentEntry, reason: str = "") -> bool:
        """Let *new*, whose file is durable, take the place of *old*; return False when that is not there any more.

        Args:
            old: One segment, or some that follow each other, all delivered or none.
            new: Of the same pages.
            reason: When it is a tombstone, for which reason what the cloud does not hold of *old* is expired.
        """
        database = self._database
        if self._is_recorded(new):  # it is tried again, as above
            return True
        with database.transaction():
            rows = [row for entry in old for row in self._counts(entry)]
            if len(rows) != len(old) or len({row[3] for row in rows}) > 1:
                return False
            observations, withheld, expired = (sum(column) for column in list(zip(*rows, strict=True))[:3])
            delivered = bool(rows[0][3])
            gone = 0 if not reason else withheld if delivered else observations - expired
            database.writer.execute(
                "DELETE FROM segment WHERE first_seq > ? AND last_seq <= ?", (new.first_seq, new.last_seq)
            )
            database.writer.execute(
                "UPDATE segment SET last_seq = ?, path = ?, digest = ?, stands_for = ?, size = ?, observations = ?, "
                "start_time = ?, end_time = ?, expired = ?, withheld = ?, cut = iif(?, NULL, cut), refused = NULL, "
                "expired_reason = ?, closed_age_s = ? WHERE first_seq = ?",
                (
                    *(new.last_seq, new.path.name, new.digest, new.stands_for, new.size, observations),
                    *(new.start_ns, new.end_ns, expired + gone, 0 if reason else withheld),
                    *(bool(reason), reason, max(entry.closed_age_s for entry in old), new.first_seq),
                ),
            )
            self._add_expired({reason: gone})
        self.size += new.size - sum(entry.size for entry in old)
        if delivered:
            self._count(withheld=-gone, expired={reason: gone})
        else:
            self._count(pending=-gone, expired={reason: gone}, segments_pending=1 - len(old))
        if database.counters.segments_refused:
            self._count_refused()
        return True

    def _counts(self, entry: SegmentEntry) -> list[tuple[int, int, int, bool]]:
        """Return observations, withheld, expired and whether it is delivered, of a segment that is as it was."""
        return self._database.writer.execute(
            "SELECT observations, withheld, expired, delivered_time IS NOT NULL FROM segment "
            "WHERE first_seq = ? AND last_seq = ? AND digest = ?",
            (entry.first_seq, entry.last_seq, entry.digest),
        ).fetchall()

    def purge(self, entries: Sequence[SegmentEntry], reason: str) -> list[SegmentEntry]:
        """Forget delivered *entries*, all in one transaction; return those that are not there any more.

        What an upload policy kept back of them is expired for *reason*.
        """
        database = self._database
        rows: list[tuple[int, ...]] = [(0, 0, 0, 0)]
        with database.transaction():
            for entry in entries:
                rows += database.writer.execute(
                    "DELETE FROM segment WHERE first_seq = ? AND digest = ? AND delivered_time IS NOT NULL "
                    "RETURNING last_seq - first_seq + 1, observations - withheld - expired, withheld, size",
                    (entry.first_seq, entry.digest),
                ).fetchall()
            pages, delivered, withheld, size = (sum(column) for column in zip(*rows, strict=True))
            database.writer.execute(
                "UPDATE journal SET purged_pages = purged_pages + ?, purged_delivered = purged_delivered + ?",
                (pages, delivered),
            )
            self._add_expired({reason: withheld})
        self.size -= size
        self._count(withheld=-withheld, expired={reason: withheld})
        return [entry for entry in entries if not self._is_recorded(entry)]

    def _add_expired(self, observations: Mapping[str, int]) -> None:
        self._database.writer.executemany(
            "INSERT INTO expired VALUES (?, ?) "
            "ON CONFLICT (reason) DO UPDATE SET observations = observations + excluded.observations",
            [(reason, count) for reason, count in observations.items() if count],
        )

    def _count(
        self,
        *,
        delivered: int = 0,
        withheld: int = 0,
        pending: int = 0,
        expired: Mapping[str, int] | None = None,
        segments_pending: int = 0,
    ) -> None:
        """Add to the counters, all at once: whoever looks finds that they add up."""
        now = self._database.counters
        gone = {reason: now.expired.get(reason, 0) + count for reason, count in (expired or {}).items() if count}
        self._database.counters = replace(
            now,
            delivered=now.delivered + delivered,
            withheld=now.withheld + withheld,
            pending=now.pending + pending,
            expired={**now.expired, **gone},
            segments_pending=now.segments_pending + segments_pending,
        )

    def _set_delivered_time(
        self, where: str, moment: int | None, ranges: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Return observations delivered and withheld by each segment that changed."""
        statement = (
            f"UPDATE segment SET delivered_time = ?, refused = NULL WHERE {where} "  # noqa: S608 - our own words
            "RETURNING observations - withheld - expired, withheld"
        )
        rows = [self._database.writer.execute(statement, (moment, *limits)).fetchall() for limits in ranges]
        return [row for part in rows for row in part]

    def _count_delivered(self, changed: Sequence[tuple[int, int]], sign: int, *, gone: int = 0) -> None:
        """Count what *changed*: into the cloud or, with a negative *sign*, back, where *gone* is no longer here."""
        delivered, withheld = (sign * sum(column) for column in zip(*changed, strict=True)) if changed else (0, 0)
        self._count(
            delivered=delivered,
            withheld=withheld,
            pending=-delivered - withheld - gone,
            expired={DAMAGED: gone},
            segments_pending=-sign * len(changed),
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
                "SELECT seq, committed_time, payload, checksum FROM page "
                "WHERE seq > (SELECT coalesce(max(last_seq), 0) FROM segment) ORDER BY seq"
            )
            return segments, [self._database.page(*row) for row in pages]
        finally:
            reader.execute("COMMIT")

    def select(
        self,
        where: str = "1",
        arguments: Arguments = (),
        limit: int = -1,
        *,
        connection: sqlite3.Connection | None = None,
        newest_first: bool = False,
    ) -> list[SegmentEntry]:
        """Return the segments that *where* selects, oldest first; on the reading thread unless told otherwise."""
        chosen = connection or self._database.reader
        return select_segments(chosen, self.folder, where, arguments, limit, newest_first=newest_first)


def select_segments(
    connection: sqlite3.Connection,
    folder: Path,
    where: str = "1",
    arguments: Arguments = (),
    limit: int = -1,
    *,
    newest_first: bool = False,
) -> list[SegmentEntry]:
    """Return the segments in *folder* that *where* selects among the rows behind *connection*, oldest first."""
    order = "DESC" if newest_first else "ASC"
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM segment WHERE {where} ORDER BY first_seq {order} LIMIT {limit}",  # noqa: S608 - our own words
        arguments,
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
            stands_for=row[14],
            cut=row[15],
            expired_reason=row[16],
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
