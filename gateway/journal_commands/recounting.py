"""What opening a journal does not put right by itself: rows of segments by their files, gaps without a file, positions.

Missing pages, files without a row, and sums are for `gateway.journal.settling`, each time a journal is opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from gateway.journal.counting import tally
from gateway.journal.entries import SegmentEntry
from gateway.journal.orphans import orphan_after
from gateway.journal.quarantine import DAMAGED, expire
from gateway.journal.segment_files import entry_of, write_segment
from gateway.journal.segment_table import select_segments
from models.records import GatewayEvent, Results
from models.segment import Expired, Segment, SegmentError, decode_segment, segment_digest, tombstone

_UNKNOWN = "0" * 64  # in the place of a digest that nobody knows any more


def recount(connection: sqlite3.Connection, folder: Path, differing: Sequence[int], lost: Sequence[int]) -> list[str]:
    """Make the tables behind *connection* fit together, inside the caller's transaction; return what was done.

    Args:
        connection: Of the journal, which nobody else has open.
        folder: Where its segment files are.
        differing: First pages of the segments whose row and file do not agree; the file is believed.
        lost: First pages of the segments whose file is not where the row says.
    """
    done = [*_find_files(connection, folder, lost), *_take_from_files(connection, folder, differing)]
    done += _close_segment_gaps(connection, folder)
    return done + list(_bring_positions_back(connection))


def _find_files(connection: sqlite3.Connection, folder: Path, lost: Sequence[int]) -> Iterator[str]:
    """Let rows name their files again, where these are whole under their own names."""
    for first_seq in lost:
        for entry in select_segments(connection, folder, "first_seq = ?", (first_seq,)):
            name = next(
                (path.name for path in _files(connection, folder, first_seq) if _digest(path) == entry.digest), ""
            )
            if name and name != entry.path.name:
                connection.execute("UPDATE segment SET path = ? WHERE first_seq = ?", (name, first_seq))
                yield f"segment {entry.first_seq}-{entry.last_seq}: its row names its file again"


def _files(connection: sqlite3.Connection, folder: Path, first_seq: int) -> Iterator[Path]:
    (epoch,) = connection.execute("SELECT epoch FROM journal").fetchone()
    yield from sorted(folder.glob(f"{epoch}-{first_seq:012d}-*.wseg"))


def _digest(path: Path) -> str:
    try:
        return segment_digest(path.read_bytes())
    except OSError:
        return ""


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
    """Put tombstones where the row of a segment is gone, and its file too."""
    (upcoming,) = connection.execute("SELECT purged_pages + 1 FROM journal").fetchone()
    before = ""
    for entry in select_segments(connection, folder):
        if entry.first_seq > upcoming:
            yield from _close_gap(connection, folder, upcoming, before, entry)
        upcoming, before = entry.last_seq + 1, entry.chain_digest


def _close_gap(
    connection: sqlite3.Connection, folder: Path, first: int, before: str, following: SegmentEntry
) -> Iterator[str]:
    """Put a tombstone from *first* on, or behind the files that the journal takes over when it is opened."""
    gateway_id, epoch = connection.execute("SELECT gateway_id, epoch FROM journal").fetchone()
    missing = tally(connection).missing_observations
    whose = {"gateway_id": gateway_id, "epoch": epoch}
    while orphan := orphan_after(folder, **whose, after=first - 1, before=following.first_seq):
        first, before = orphan.entry.last_seq + 1, orphan.entry.chain_digest
        missing -= orphan.entry.observations - orphan.entry.expired
    last, missing = following.first_seq - 1, max(missing, 0)
    if first > last:
        return
    event = GatewayEvent(
        kind="segment_expired",
        gateway_time=datetime.now(UTC),
        message=f"pages {first} to {last} are nowhere in the journal: {missing} observations are gone",
        detail={"first_seq": str(first), "last_seq": str(last), "observations": str(missing), "reason": DAMAGED},
    )
    data = tombstone(
        **whose,
        first_seq=first,
        last_seq=last,
        previous=before,
        stands_for=following.previous or _UNKNOWN,
        expired=Expired(reason=DAMAGED, observations=missing),
        results=Results(events=(event,)),
    )
    entry = write_segment(folder, data)
    connection.execute(
        "INSERT INTO segment (first_seq, last_seq, path, digest, previous, stands_for, size, observations, expired, "
        "expired_reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(entry.first_seq, entry.last_seq, entry.path.name, entry.digest, entry.previous, entry.stands_for),
            *(entry.size, missing, missing, DAMAGED),
        ),
    )
    expire(connection, missing)
    yield f"segment {first}-{last}: a tombstone takes its place, {missing:,} observations are gone"


def _bring_positions_back(connection: sqlite3.Connection) -> Iterator[str]:
    last = tally(connection).counters.pages
    for reader, seq in connection.execute("SELECT reader, seq FROM position WHERE seq > ?", (last,)).fetchall():
        connection.execute("UPDATE position SET seq = ?, checksum = NULL WHERE reader = ?", (last, reader))
        yield f"reader {reader}: back from page {seq} to the last, {last}"


def _read(path: Path) -> tuple[Segment, SegmentEntry] | None:
    try:
        data = path.read_bytes()
        segment = decode_segment(data)
    except (OSError, SegmentError):
        return None
    return segment, entry_of(segment, path, segment_digest(data), len(data))


def _is_of(connection: sqlite3.Connection, segment: Segment) -> bool:
    """Return whether *segment* is of this journal."""
    gateway_id, epoch = connection.execute("SELECT gateway_id, epoch FROM journal").fetchone()
    return bool(segment.gateway_id == gateway_id and segment.epoch == epoch)
