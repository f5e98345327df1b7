"""Local history in fewer files: small neighbours that the cloud has become one segment.

A segment closes every few seconds, so that values reach the cloud soon; kept like that, a year is millions of files.
The merged one stands in the chain where they stood, and goes to the cloud in their place should the cloud lose them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from gateway.journal.entries import SegmentEntry, read_segment
from gateway.journal.errors import SegmentDamaged
from gateway.journal.segment_files import write_segment
from models.segment import SegmentError, merge_segments

if TYPE_CHECKING:
    from gateway.journal.database import JournalDatabase
    from gateway.journal.journal import Journal

# What is merged is in memory as a whole, some 200 bytes a row: these limits keep that to 60 MB.
_SMALL_BYTES, _MOST_BYTES = 2**20, 8 * 2**20
_SMALL_ROWS, _MOST_ROWS = 75_000, 300_000
_MOST_PAGES = 100_000
_AT_LEAST, _AT_MOST = 64, 256  # segments: fewer are not worth it yet, unless they are large enough together
_LOOKED_AT = 4096

log = structlog.get_logger()


async def merge_small(journal: Journal) -> SegmentEntry | None:
    """Merge the oldest run of small delivered neighbours that is long enough; return it, None when there is none.

    Raises:
        OSError: If the merged segment cannot be written.
    """
    run = await journal.read(_next_run)
    if not run:
        return None
    try:
        merged = await asyncio.to_thread(_written, run)
    except (SegmentDamaged, SegmentError) as error:
        log.warning("segments not merged", first_seq=run[0].first_seq, last_seq=run[-1].last_seq, error=str(error))
        return None
    done = await journal.write(lambda database: database.segments.replace(run, merged))
    await asyncio.to_thread(_unlink, run if done else [merged])
    log.debug("segments merged", first_seq=merged.first_seq, last_seq=merged.last_seq, segments=len(run))
    return merged if done else None


def _next_run(database: JournalDatabase) -> list[SegmentEntry]:
    """Return the oldest run that is worth merging. The newest segments are not looked at: they still come."""
    small = database.segments.select(
        "delivered_time IS NOT NULL AND size < ? AND observations < ? AND last_seq - first_seq < ? "
        "AND NOT (stands_for <> '' AND start_time IS NULL)",
        (_SMALL_BYTES, _SMALL_ROWS, _MOST_PAGES // 2),
        _LOOKED_AT,
    )
    return next((run for run in _runs(small) if _is_worth_it(run)), [])


def _runs(entries: Sequence[SegmentEntry]) -> list[list[SegmentEntry]]:
    """Cut *entries* where they do not follow each other, were cut otherwise, or become too much for one."""
    runs: list[list[SegmentEntry]] = []
    size = rows = 0
    for entry in entries:
        run = runs[-1] if runs else []
        size, rows = size + entry.size, rows + entry.observations
        if (
            run
            and run[-1].last_seq + 1 == entry.first_seq
            and run[-1].cut == entry.cut
            and len(run) < _AT_MOST
            and size <= _MOST_BYTES
            and rows <= _MOST_ROWS
            and entry.last_seq - run[0].first_seq < _MOST_PAGES
        ):
            run.append(entry)
        else:
            runs.append([entry])
            size, rows = entry.size, entry.observations
    return runs


def _is_worth_it(run: Sequence[SegmentEntry]) -> bool:
    """Return whether *run* is long enough, or has become so large that hardly another segment fits."""
    size, rows = sum(entry.size for entry in run), sum(entry.observations for entry in run)
    is_full = size > _MOST_BYTES - _SMALL_BYTES or rows > _MOST_ROWS - _SMALL_ROWS
    return len(run) >= _AT_LEAST or (len(run) > 1 and is_full)


def _written(run: Sequence[SegmentEntry]) -> SegmentEntry:
    return write_segment(run[0].path.parent, merge_segments([read_segment(entry) for entry in run]))


def _unlink(entries: Sequence[SegmentEntry]) -> None:
    for entry in entries:
        entry.path.unlink(missing_ok=True)
