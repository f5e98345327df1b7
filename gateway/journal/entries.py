"""What the journal records of a segment, and how its bytes come back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.errors import JournalError
from models.segment import segment_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentEntry:
    """A segment the journal has recorded; its range and bytes never change.

    Attributes:
        first_seq: Its first page.
        last_seq: Its last page.
        path: Its file.
        digest: SHA-256 of the file.
        size: Bytes of the file.
        observations: How many its pages held when they were committed.
        start_ns: The oldest source time in it, None when it holds only results.
        end_ns: The newest.
        delivered: Whether the cloud has confirmed it.
        previous: Digest of the segment before it; empty for the first, and where an older version wrote it.
        stands_for: Digest of the segment whose place it has taken; empty when it is the first in its place.
        closed_age_s: The journal's age, in seconds of running, when it was closed.
        withheld: Observations that an upload policy leaves out of what is sent of it.
        expired: Observations of it that are gone: a tombstone has taken its place.
        refused: Why the cloud will not take it; empty when it is not on the shelf.
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
    previous: str = ""
    stands_for: str = ""
    closed_age_s: float = 0.0
    withheld: int = 0
    expired: int = 0
    refused: str = ""

    @property
    def chain_digest(self) -> str:
        """What the next segment's ``previous`` must be."""
        return self.stands_for or self.digest


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
