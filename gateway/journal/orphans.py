"""Segment files that the table of segments does not know: a crash or a damaged journal left them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.journal.entries import SegmentEntry
from models.records import Observations
from models.segment import Segment, SegmentError, decode_segment, segment_digest

_NAME = re.compile(r"([0-9a-f]+)-(\d+)-(\d+)\.wseg")


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A segment file that is whole.

    Attributes:
        entry: What the table would say of it.
        observations: Its rows.
        by_page: How many of them each page has that has any.
    """

    entry: SegmentEntry
    observations: Observations
    by_page: dict[int, int]


def epoch_of_files(folder: Path) -> str:
    """Return the epoch of the segment files in *folder*, empty when there is none."""
    found = [match[1] for path in sorted(folder.glob("*.wseg")) if (match := _NAME.fullmatch(path.name))]
    return found[-1] if found else ""


def orphan_after(folder: Path, *, gateway_id: str, epoch: str, after: int, before: int | None = None) -> Orphan | None:
    """Return the segment that begins after page *after* and ends before page *before*, if there is a file of it."""
    for path in sorted(folder.glob(f"{epoch}-{after + 1:012d}-*.wseg"), reverse=True):
        found = _read(path)
        if found is None or (found[1].gateway_id, found[1].epoch) != (gateway_id, epoch):
            continue
        entry = found[0]
        if entry.first_seq == after + 1 and (before is None or entry.last_seq < before):
            seqs, counts = np.unique(found[1].seq, return_counts=True)
            by_page = dict(zip(seqs.tolist(), counts.tolist(), strict=True))
            return Orphan(entry=entry, observations=found[1].observations, by_page=by_page)
    return None


def _read(path: Path) -> tuple[SegmentEntry, Segment] | None:
    try:
        data = path.read_bytes()
        segment = decode_segment(data)
    except (OSError, SegmentError):
        return None
    times, gone = segment.observations.source_time, segment.expired.observations if segment.expired else 0
    digest = segment_digest(data)
    entry = SegmentEntry(
        first_seq=segment.first_seq,
        last_seq=segment.last_seq,
        path=path,
        digest=digest,
        size=len(data),
        observations=len(segment.observations) + gone,
        start_ns=int(times.min()) if len(times) else None,
        end_ns=int(times.max()) if len(times) else None,
        delivered=False,
        previous=segment.previous,
        expired=gone,
        expired_reason=segment.expired.reason if segment.expired else "",
        stands_for=segment.chain_digest if segment.chain_digest != digest else "",
    )
    return entry, segment
