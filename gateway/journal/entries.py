"""What the journal records of a segment, and how its bytes come back."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import JournalError
from gateway.journal.errors import SegmentDamaged
from models.segment import Segment, SegmentError, decode_segment, segment_digest

# A disk that has lost the place says EIO, and will say it again; anything else may pass.
_LOST = (errno.ENOENT, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.EUCLEAN)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentEntry:
    """A segment the journal has recorded; its range never changes, nor its bytes while they are whole.

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
        expired_reason: Why they are; empty when none are.
        refused: Why the cloud will not take it; empty when it is not on the shelf.
        cut: What was decided to leave out of what is sent, as the uplink wrote it; None when nothing was.
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
    expired_reason: str = ""
    refused: str = ""
    cut: bytes | None = None

    @property
    def chain_digest(self) -> str:
        """What the next segment's ``previous`` must be."""
        return self.stands_for or self.digest

    @property
    def is_tombstone(self) -> bool:
        """Whether its observations are gone from here: a segment that stands for another and has no times."""
        return bool(self.stands_for and self.observations and self.start_ns is None)


def read_segment(entry: SegmentEntry) -> bytes:
    """Return the bytes of *entry*, checked against the digest that was recorded.

    Raises:
        SegmentDamaged: If the file is gone or changed.
        JournalError: If it cannot be read now.
    """
    try:
        data = entry.path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a damaged row names what can be no file
        message = f"{entry.path}: segment cannot be read ({error}); it is left out"
        if isinstance(error, ValueError) or error.errno in _LOST:
            raise SegmentDamaged(message, first_seq=entry.first_seq) from error
        raise JournalError(message) from error
    if segment_digest(data) != entry.digest:
        raise SegmentDamaged(
            f"{entry.path}: segment is not what was written (digest differs); it is left out",
            first_seq=entry.first_seq,
        )
    return data


def decoded_segment(entry: SegmentEntry) -> Segment:
    """Return what *entry* holds.

    Raises:
        SegmentDamaged: If the file is gone or changed.
        JournalError: If it cannot be read now.
    """
    try:
        return decode_segment(read_segment(entry))
    except SegmentError as error:
        raise SegmentDamaged(f"{entry.path}: {error}", first_seq=entry.first_seq) from error
