"""A second opinion on the chain of a journal's segments, for tests: by its rows, and by its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import JournalError
from gateway.journal import SegmentEntry
from gateway.journal.entries import read_segment
from models.segment import SegmentError, decode_segment


@dataclass(frozen=True, kw_only=True)
class ChainProblem:
    """What is wrong with the chain at one segment."""

    entry: SegmentEntry
    problem: str


def verify_chain(entries: Sequence[SegmentEntry]) -> list[ChainProblem]:
    """Return where the chain of *entries*, oldest first, does not hold, by the table and by the files.

    A segment that an earlier version wrote has no link, and one after a purged one cannot be compared with it.
    """
    problems = []
    for place, entry in enumerate(entries):
        before = entries[place - 1] if place and entries[place - 1].last_seq + 1 == entry.first_seq else None
        if before is not None and entry.previous and entry.previous != before.chain_digest:
            problems.append(ChainProblem(entry=entry, problem="does not follow the segment before it"))
        try:
            segment = decode_segment(read_segment(entry))
        except (JournalError, SegmentError) as error:
            problems.append(ChainProblem(entry=entry, problem=str(error)))
            continue
        told = (segment.first_seq, segment.last_seq, segment.previous, segment.chain_digest)
        if told != (entry.first_seq, entry.last_seq, entry.previous, entry.chain_digest):
            problems.append(ChainProblem(entry=entry, problem="its file says another range or other links"))
    return problems
