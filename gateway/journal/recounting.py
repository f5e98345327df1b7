"""Making the journal's tables fit together again: rows of segments by their files, holes, positions, sums.

What is said to have been stored stays said; what is not found of it counts as expired (damaged).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gateway.errors import JournalError
from gateway.journal.counting import tally
from gateway.journal.entries import SegmentEntry
from gateway.journal.pages import insert, tombstone
from gateway.journal.quarantine import expire
from gateway.journal.segment_files import entry_of, write_segment
from gateway.journal.segment_table import select_segments
from models.records import GatewayEvent, Results
from models.segment import Expired, Segment, SegmentError, decode_segment, segment_digest
from models.segment import tombstone as segment_tombstone

_UNKNOWN = "0" * 64  # in the place of a digest that nobody knows any more
_COLUMNS = "first_seq, last_seq, path, digest, previous, stands_for, size, observations, start_time, end_time, expired"


def recount(connection: sqlite3.Connection, folder: Path, differing: Sequence[int]) -> list[str]:
    """Make the tables behind *connection* fit together, inside the caller's transaction; return what was done.

    Args:
        connection: Of the journal, which nobody else has open.
        folder: Where its segment files are.
        differing: First pages of the segments whose row and file do not agree; the file is believed.
    """
    done = [*_take_from_files(connection, folder, differing)]
    done += _close_segment_gaps(connection, folder)
    done += _close_page_gaps(connection)
    done += _bring_positions_back(connection)
    return done + list(_level_sums(connection))


def _take_from_files(connection: sqlite3.Connection, folder: Path, differing: Sequence[int]) -> Iterator[str]:
    for first_seq in differing:
        for entry in select_segments(connection, folder, "first_seq = ?", (first_seq,)):
            found = _read(entry.path)
            if found is None or not _is_of(connection, found[0]) or found[1].digest != entry.digest:
                continue
            segment, there = found
            if (there.first_seq, there.last_seq) != (entry.first_seq, entry.last_seq):
                continue
            observations = entry.observations if segment.expired else there.observations
            connection.execute(
                "UPDATE segment SET observations = ?, start_time = ?, end_time = ?, previous = ?, stands_for = ? "
                "WHERE first_seq = ?",
                (observations, there.start_ns, there.end_ns, there.previous, there.stands_for, first_seq),
            )
            yield f"segment {entry.first_seq}-{entry.last_seq}: its row says again what its file says"


def _close_segment_gaps(connection: sqlite3.Connection, folder: Path) -> Iterator[str]:
    """Record segments whose row is gone, or a tombstone where the file is gone too."""
    (upcoming,) = connection.execute("SELECT purged_pages + 1 FROM journal").fetchone()
    before: SegmentEntry | None = None
    for entry in select_segments(connection, folder):
        if entry.first_seq > upcoming:
            yield from _close_gap(connection, folder, upcoming, before, entry)
        upcoming, before = entry.last_seq + 1, entry


def _close_gap(
    connection: sqlite3.Connection, folder: Path, first: int, before: SegmentEntry | None, following: SegmentEntry
) -> Iterator[str]:
    last = following.first_seq - 1
    for path in sorted(folder.glob("*.wseg")):
        found = _read(path) if _covers(path, first, last) else None
        if (
            found is not None
            and _is_of(connection, found[0])
            and first == found[1].first_seq <= found[1].last_seq <= last
        ):
            _record(connection, found[1], observations=found[1].observations, expired=0)
            yield f"segment {first}-{found[1].last_seq}: recorded again, its file is whole"
            if found[1].last_seq < last:
                yield from _close_gap(connection, folder, found[1].last_seq + 1, found[1], following)
            return
    missing = max(tally(connection).missing_observations, 0)
    gateway_id, epoch = connection.execute("SELECT gateway_id, epoch FROM journal").fetchone()
    event = GatewayEvent(
        kind="segment_expired",
        gateway_time=datetime.now(UTC),
        message=f"pages {first} to {last} are nowhere in the journal: {missing} observations are gone",
        detail={"first_seq": str(first), "last_seq": str(last), "observations": str(missing), "reason": "damaged"},
    )
    data = segment_tombstone(
        gateway_id=gateway_id,
        epoch=epoch,
        first_seq=first,
        last_seq=last,
        previous=before.chain_digest if before is not None else "",
        stands_for=following.previous or _UNKNOWN,
        expired=Expired(reason="damaged", observations=missing),
        results=Results(events=(event,)),
    )
    _record(connection, write_segment(folder, data), observations=missing, expired=missing)
    expire(connection, missing)
    yield f"segment {first}-{last}: a tombstone takes its place, {missing:,} observations are gone"


def _close_page_gaps(connection: sqlite3.Connection) -> Iterator[str]:
    """Put tombstones where pages that are in no segment have no row."""
    (compacted,) = connection.execute(
        "SELECT max(coalesce((SELECT max(last_seq) FROM segment), 0), purged_pages) FROM journal"
    ).fetchone()
    holes = connection.execute(
        "SELECT before + 1, seq - 1 FROM (SELECT seq, lag(seq, 1, ?) OVER (ORDER BY seq) AS before FROM page "
        "WHERE seq > ?) WHERE seq <> before + 1",
        (compacted, compacted),
    ).fetchall()
    for first, last in holes:
        now = time.time_ns()
        insert(
            connection,
            [tombstone(seq, observations=-1, reason="its row is gone", time_ns=now) for seq in range(first, last + 1)],
        )
        yield f"pages {first}-{last}: tombstones take their place"


def _bring_positions_back(connection: sqlite3.Connection) -> Iterator[str]:
    last = tally(connection).counters.pages
    for reader, seq in connection.execute("SELECT reader, seq FROM position WHERE seq > ?", (last,)).fetchall():
        connection.execute("UPDATE position SET seq = ? WHERE reader = ?", (last, reader))
        yield f"reader {reader}: back from page {seq} to the last, {last}"


def _level_sums(connection: sqlite3.Connection) -> Iterator[str]:
    missing = tally(connection).missing_observations
    if missing > 0:
        expire(connection, missing)
        yield f"observations: {missing:,} that are not found count as expired (damaged)"
    elif missing < 0:
        connection.execute("UPDATE journal SET appended = appended + ?", (-missing,))
        yield f"observations: {-missing:,} more are found than were said to be stored; they count now"


def _record(connection: sqlite3.Connection, entry: SegmentEntry, *, observations: int, expired: int) -> None:
    connection.execute(
        f"INSERT INTO segment ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own words
        (
            *(entry.first_seq, entry.last_seq, entry.path.name, entry.digest, entry.previous, entry.stands_for),
            *(entry.size, observations, entry.start_ns, entry.end_ns, expired),
        ),
    )


def _read(path: Path) -> tuple[Segment, SegmentEntry] | None:
    try:
        data = path.read_bytes()
        segment = decode_segment(data)
    except (OSError, SegmentError, JournalError):
        return None
    return segment, entry_of(segment, path, segment_digest(data), len(data))


def _is_of(connection: sqlite3.Connection, segment: Segment) -> bool:
    """Return whether *segment* is of this journal."""
    gateway_id, epoch = connection.execute("SELECT gateway_id, epoch FROM journal").fetchone()
    return bool(segment.gateway_id == gateway_id and segment.epoch == epoch)


def _covers(path: Path, first: int, last: int) -> bool:
    """Return whether *path* says in its name that it may have pages *first* to *last*."""
    numbers = [int(part) for part in path.stem.split("-")[1:3] if part.isdecimal()]
    return len(numbers) == 2 and first == numbers[0] <= numbers[1] <= last
