"""The bytes of a segment: a closed range of pages, compacted into columns per stream.

A segment is what a gateway uploads and what it keeps as local history. Rows are sorted by stream and keep their order
inside it; each row remembers its page, so that the identity of every observation, ``(gateway_id, epoch, seq)`` and its
place, survives. Each segment names the digest of the one before it, which makes them a chain.

What it holds stands in `models.segment_content`, how that becomes bytes in `models.segment_layout`; segments of the
first version are read by `models.segment_v1`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from models import segment_layout, segment_v1
from models.fingerprints import row_sums
from models.records import Observations, Page, Results, Stream
from models.segment_content import (
    MAX_PAGES,
    MAX_RESULTS_BYTES,
    MAX_ROWS,
    MAX_SAMPLES,
    MAX_SEGMENT_BYTES,
    MAX_STREAMS,
    Expired,
    Segment,
    SegmentError,
    SegmentKind,
    SegmentSize,
    SegmentTooLarge,
    Withheld,
    segment_digest,
)

__all__ = [
    "MAX_PAGES",
    "MAX_RESULTS_BYTES",
    "MAX_ROWS",
    "MAX_SAMPLES",
    "MAX_SEGMENT_BYTES",
    "MAX_STREAMS",
    "SCHEMA_VERSION",
    "Expired",
    "Segment",
    "SegmentError",
    "SegmentKind",
    "SegmentSize",
    "SegmentTooLarge",
    "Withheld",
    "cut_segment",
    "decode_segment",
    "encode_segment",
    "express_segment",
    "merge_segments",
    "segment_digest",
    "segment_size",
    "segment_streams",
    "tombstone",
]

SCHEMA_VERSION: Final = 2


def encode_segment(
    pages: Sequence[Page], *, previous: str = "", kind: SegmentKind = SegmentKind.FULL, stands_for: str = ""
) -> bytes:
    """Return the segment of *pages*, which must be of one journal, with seq numbers that follow each other.

    The same pages give the same bytes.

    Args:
        pages: What it is to hold.
        previous: `Segment.chain_digest` of the segment before it.
        kind: ``full``, or ``cut`` where it takes the place of a segment of the same pages that had other bytes.
        stands_for: For ``cut``, the digest of that segment.

    Raises:
        SegmentTooLarge: If there is more than a segment may hold.
        SegmentError: If there is no page, or a hole between them.
    """
    if not pages:
        raise SegmentError("a segment needs at least one page")
    first, last = pages[0], pages[-1]
    if any(page.seq != first.seq + place or page.epoch != first.epoch for place, page in enumerate(pages)):
        raise SegmentError(f"pages {first.seq} to {last.seq} have a hole or are of two journals; no segment is made")
    parts = [(page.seq, page.content) for page in pages if isinstance(page.content, Observations)]
    seq = np.repeat(np.array([s for s, _ in parts], np.int64), [len(content) for _, content in parts])
    return segment_layout.pack(
        Segment(
            gateway_id=first.gateway_id,
            epoch=first.epoch,
            first_seq=first.seq,
            last_seq=last.seq,
            observations=Observations.concatenate([content for _, content in parts]),
            seq=seq,
            results=tuple((page.seq, page.content) for page in pages if isinstance(page.content, Results)),
            kind=kind,
            previous=previous,
            chain_digest=stands_for,
        )
    )


def cut_segment(data: bytes, withheld: Collection[Stream]) -> bytes:
    """Return the full segment *data* without the rows of the streams *withheld*, which it counts instead.

    Its pages have the fingerprints they had, and it stands in the chain where the full one stood. One that is cut
    already or a tombstone, or has no row of these streams, is returned as it is.

    Raises:
        SegmentError: If *data* is no segment.
    """
    segment = decode_segment(data)
    rows = segment.observations
    of_row = np.array([stream in withheld for stream in rows.streams], np.bool_)[rows.stream]
    if segment.withheld or not of_row.any():
        return data
    out = rows.take(of_row)
    return segment_layout.pack(
        replace(
            segment,
            kind=SegmentKind.CUT,
            observations=rows.take(~of_row),
            seq=segment.seq[~of_row],
            withheld=_withheld(out),
            remainders=row_sums(out, segment.seq[of_row] - segment.first_seq, len(segment.remainders)),
        )
    )


def _withheld(rows: Observations) -> tuple[Withheld, ...]:
    """Return what rows sorted by stream come to, by stream."""
    stream, starts, counts = np.unique(rows.stream, return_index=True, return_counts=True)
    time = rows.source_time
    oldest, newest = np.minimum.reduceat(time, starts).tolist(), np.maximum.reduceat(time, starts).tolist()
    return tuple(
        Withheld(stream=rows.streams[place], observations=count, start_ns=start, end_ns=end)
        for place, count, start, end in zip(stream.tolist(), counts.tolist(), oldest, newest, strict=True)
    )


def tombstone(
    *,
    gateway_id: str,
    epoch: str,
    first_seq: int,
    last_seq: int,
    previous: str,
    stands_for: str,
    expired: Expired,
    results: Results,
) -> bytes:
    """Return a segment that takes the place of one whose pages are gone.

    Args:
        gateway_id: Whose pages they were.
        epoch: Of which journal.
        first_seq: The first of them.
        last_seq: The last of them; *results* take its place, so that a reader goes on behind it.
        previous: What the segment had as its previous.
        stands_for: Its digest.
        expired: How many observations are gone, and why.
        results: What is to be known of it: gaps, an event.
    """
    return segment_layout.pack(
        Segment(
            gateway_id=gateway_id,
            epoch=epoch,
            first_seq=first_seq,
            last_seq=last_seq,
            observations=Observations.empty(),
            seq=np.empty(0, np.int64),
            results=((last_seq, results),) if results else (),
            kind=SegmentKind.TOMBSTONE,
            previous=previous,
            chain_digest=stands_for,
            expired=expired,
        )
    )


def merge_segments(parts: Sequence[bytes]) -> bytes:
    """Return one segment with all that *parts*, of one journal and following each other, hold.

    It stands in the chain where they stood: behind what came before the first, before what came after the last.

    Raises:
        SegmentTooLarge: If they do not fit into one.
        SegmentError: If one is no whole segment, or does not follow the one before it.
    """
    segments = [decode_segment(data) for data in parts]
    for one, two in pairwise(segments):
        if two.first_seq != one.last_seq + 1 or two.epoch != one.epoch:
            raise SegmentError(
                f"segment from page {two.first_seq} does not follow page {one.last_seq}; nothing is made"
            )
    if any(segment.expired or segment.withheld for segment in segments):
        raise SegmentError("a segment that is not whole is not merged")
    return segment_layout.pack(
        replace(
            segments[0],
            kind=SegmentKind.CUT,
            last_seq=segments[-1].last_seq,
            observations=Observations.concatenate([segment.observations for segment in segments]),
            seq=np.concatenate([segment.seq for segment in segments]),
            results=tuple(page for segment in segments for page in segment.results),
            chain_digest=segments[-1].chain_digest,
            remainders=np.zeros(0, np.uint64),
        )
    )


def express_segment(page: Page) -> bytes:
    """Return the page of results *page* alone, to be sent ahead of the segment it will be in."""
    if not isinstance(page.content, Results):
        raise SegmentError(f"page {page.seq} holds observations; only results go ahead of their segment")
    return encode_segment([page], kind=SegmentKind.EXPRESS)


def decode_segment(data: bytes) -> Segment:
    """Return the segment that *data* holds, of this or the earlier version.

    Raises:
        SegmentError: If it is too large, of another version, damaged, claims more than its bytes can hold, or does not
            fit together.
    """
    if len(data) > MAX_SEGMENT_BYTES:
        raise SegmentError(f"segment of {len(data)} bytes is above the limit of {MAX_SEGMENT_BYTES}; it is refused")
    if data.startswith(segment_layout.MAGIC):
        return segment_layout.unpack(data)
    if data.startswith(segment_v1.MAGIC):
        return segment_v1.unpack(data)
    raise SegmentError(f"bytes do not start a segment of version 1 to {SCHEMA_VERSION}; they are refused")


def segment_size(start: bytes) -> SegmentSize | None:
    """Return what the segment whose first 8 KiB are *start* says it holds; None when it does not say, or lies."""
    if not start.startswith(segment_layout.MAGIC):
        return None
    try:
        return segment_layout.unpack_size(start)
    except SegmentError:
        return None


def segment_streams(start: bytes) -> tuple[Stream, ...] | None:
    """Return the streams of the segment whose first bytes are *start*; None when they cannot be told from these.

    A segment that is damaged further behind still tells; one of the first version does not.
    """
    if not start.startswith(segment_layout.MAGIC):
        return None
    try:
        return segment_layout.unpack_streams(start)
    except SegmentError:
        return None
