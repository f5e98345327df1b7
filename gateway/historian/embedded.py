"""The historian that needs no server: it reads the journal's segments, and the pages that are in none yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from gateway.historian.historian import by_stream_and_time
from gateway.journal import Journal, SegmentStore
from gateway.journal.entries import SegmentEntry
from models.records import Observations, Page, Stream
from models.segment import decode_segment


class EmbeddedHistorian:
    """Answers from the journal itself, waveforms included; opens only segments that reach into the time asked for."""

    retention_s = 0.0

    def __init__(self, journal: Journal) -> None:
        self._segments = SegmentStore(journal)

    async def write(self, *pages: Page) -> None:
        """Do nothing: the pages are in the journal."""

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the observations of *streams* with ``start_ns <= source_time < end_ns``, by stream, then time.

        Raises:
            JournalError: If a segment file is gone or changed.
        """
        entries, pages = await self._segments.history(start_ns, end_ns)
        parts = [_selected(rows, streams, start_ns, end_ns) for rows in map(_observations, pages)]
        compacted = []
        for entry in entries:
            data = await self._segments.read(entry)
            compacted.append(await asyncio.to_thread(_decode_selected, data, streams, start_ns, end_ns))
        return by_stream_and_time([*compacted, *parts], streams)

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:  # noqa: ARG002 - of all
        """Return about how many rows of all streams there are, eight samples of a waveform taken for one more."""
        entries, pages = await self._segments.history(start_ns, end_ns)
        rows = [_selected(rows, rows.streams, start_ns, end_ns) for rows in map(_observations, pages)]
        found = sum(len(part) + part.samples.size // 8 for part in rows)
        return found + sum(_share(entry, start_ns, end_ns) for entry in entries)

    async def close(self) -> None:
        """Do nothing: the journal is closed by its owner."""


def _share(entry: SegmentEntry, start_ns: int, end_ns: int) -> int:
    """Return how many rows of *entry* lie in that time, at least 1, were they spread evenly."""
    first, last = (entry.start_ns or 0), (entry.end_ns or 0)
    overlap = min(end_ns, last + 1) - max(start_ns, first)
    rows = entry.observations + entry.size // 8
    return max(rows * overlap // (last + 1 - first), 1)


def _observations(page: Page) -> Observations:
    return page.content if isinstance(page.content, Observations) else Observations.empty()


def _decode_selected(data: bytes, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
    return _selected(decode_segment(data).observations, streams, start_ns, end_ns)


def _selected(rows: Observations, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
    asked = frozenset(streams)
    wanted = np.array([stream in asked for stream in rows.streams], np.bool_)[rows.stream]
    return rows.take(wanted & (rows.source_time >= start_ns) & (rows.source_time < end_ns))
