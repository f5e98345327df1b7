"""What a segment holds, whatever its bytes look like, and how much that may be."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from models.fingerprints import UInt64Array
from models.records import Int64Array, Observations, Results, Stream

MAX_SEGMENT_BYTES = 64 * 2**20
MAX_ROWS = 4_000_000
MAX_SAMPLES = 32_000_000
MAX_STREAMS = 100_000
MAX_PAGES = 1_000_000
MAX_RESULTS_BYTES = 16 * 2**20


class SegmentError(ValueError):
    """The bytes are not a segment that can be trusted; nothing of it is used.

    Attributes:
        field: Which part of the body is at fault, as far as that can be told.
    """

    def __init__(self, message: str, field: str = "body") -> None:
        super().__init__(message)
        self.field = field


class SegmentTooLarge(SegmentError):
    """The pages do not fit into one segment; fewer of them may."""


class SegmentKind(StrEnum):
    """What of its pages a segment holds.

    ``full`` is all of them. ``cut`` is what an upload policy lets through, or all of them in other bytes than the full
    ones had: merged, or made anew. ``tombstone`` says that they are gone, and why. ``express`` is one page of results
    ahead of the segment it will be in; it is no part of the chain.
    """

    FULL = "full"
    CUT = "cut"
    TOMBSTONE = "tombstone"
    EXPRESS = "express"


@dataclass(frozen=True, kw_only=True)
class Withheld:
    """How many observations of one stream were left out, and from when to when their source times reach, in ns."""

    stream: Stream
    observations: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, kw_only=True)
class Expired:
    """How many observations are gone, and why: ``damaged``, ``size_limit`` or ``age_limit``."""

    reason: str
    observations: int


@dataclass(frozen=True, kw_only=True)
class SegmentSize:
    """What a segment says it holds, before it is unpacked."""

    rows: int
    samples: int
    streams: int
    pages: int
    results_bytes: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A decoded segment.

    Attributes:
        gateway_id: Who wrote it.
        epoch: Of which journal.
        first_seq: First page, inclusive.
        last_seq: Last page, inclusive.
        observations: All rows, sorted by stream, in their order inside it.
        seq: Page of each row, shape ``(n,)``.
        results: Page and content of each page of results, in order.
        kind: What of its pages it holds.
        previous: `chain_digest` of the segment before it, hexadecimal; empty for the first and for ``express``.
        chain_digest: What the next segment's ``previous`` must be: the digest of the full segment, of which a cut one
            or a tombstone has taken the place; empty for ``express``.
        withheld: What was left out, by stream.
        remainders: Sum of the fingerprints of the rows that were left out of each page, shape ``(n_pages,)``.
        expired: What is gone; None unless it is a tombstone.
    """

    gateway_id: str
    epoch: str
    first_seq: int
    last_seq: int
    observations: Observations
    seq: Int64Array
    results: tuple[tuple[int, Results], ...]
    kind: SegmentKind = SegmentKind.FULL
    previous: str = ""
    chain_digest: str = ""
    withheld: tuple[Withheld, ...] = ()
    remainders: UInt64Array = field(default_factory=lambda: np.zeros(0, np.uint64))
    expired: Expired | None = None


def segment_digest(data: bytes) -> str:
    """Return the SHA-256 of a segment's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
