"""What the journal records of a segment, and how its bytes come back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.errors import JournalError
from models.segment import segment_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentEntry:
    """A segment the journal has recorded; its range and bytes never change.

    ``start_ns`` and ``end_ns`` are the oldest and newest source time in it, None when it holds only results.
    """

    first_seq: int
    last_seq: int
    path: Path
    digest: str
    size: int
    observations: int
    start_ns: int | None
    end_ns: int | None
    delivered: bool


def read_segment(entry: SegmentEntry) -> bytes:
    """Return the bytes of *entry*, checked against the digest that was recorded.

    Raises:
        JournalError: If the file is gone or changed.
    """
    try:
        data = entry.path.read_bytes()
    except OSError as error:
        raise JournalError(f"{entry.path}: segment cannot be read ({error}); it is left out") from error
    if segment_digest(data) != entry.digest:
        raise JournalError(f"{entry.path}: segment is not what was written (digest differs); it is left out")
    return data
