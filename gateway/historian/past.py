"""What was stored of some streams before a place in the journal: what windows longer than a restart begin with.

The journal's own pages and segments tell it exactly, up to a page and not beyond. What they no longer have, because it
was purged, is read from InfluxDB where that is the historian.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import numpy as np

from gateway.historian.historian import Historian
from gateway.journal import Journal, SegmentEntry, SegmentStore
from models.records import Observations, Stream
from models.segment import decode_segment

_MOST_STREAMS = 400  # in one reading: an hour of them at 1 Hz is some 60 MB
_SPREAD_NS = 60_000_000_000

Wanted = tuple[tuple[Stream, ...], int]


class Past:
    """Observations from before a page.

    Args:
        journal: Where they are.
        historian: Where older ones are; None when the journal's segments are all there is.
    """

    def __init__(self, journal: Journal, historian: Historian | None = None) -> None:
        self._journal = journal
        self._segments = SegmentStore(journal)
        self._historian = historian

    def together(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """Return what is *wanted*, streams and how many ns of them, those together whose newest values are as old.

        A segment has all streams of a gateway, so that it need not be unpacked for every asset again. Whose newest
        value is older than that of others it is read with gets as much as it wanted, others a little more.
        """
        lots: list[tuple[list[Stream], int, int, int]] = []
        for length_ns, end, streams in sorted(
            (length, self._newest(streams) or 0, streams) for streams, length in wanted
        ):
            if (
                lots
                and lots[-1][1] == length_ns
                and end - lots[-1][2] <= _SPREAD_NS
                and len(lots[-1][0]) + len(streams) <= _MOST_STREAMS
            ):
                lots[-1] = ([*lots[-1][0], *streams], length_ns, lots[-1][2], end)
            else:
                lots.append((list(streams), length_ns, end, end))
        return [(tuple(streams), length_ns + last - first) for streams, length_ns, first, last in lots]

    def _newest(self, streams: Iterable[Stream]) -> int | None:
        times = (self._journal.newest_source_time(stream) for stream in streams)
        return max((time for time in times if time is not None), default=None)

    async def read(self, streams: Sequence[Stream], length_ns: int, until_seq: int) -> Observations:
        """Return the last *length_ns* of *streams* as of page *until_seq*, in the order of their source times.

        The end is the newest source time that is stored of them, so a reader that is far behind gets less.

        Raises:
            JournalError: If a segment file is gone or changed.
            HistorianError: If the historian cannot be asked.
        """
        newest = self._newest(streams)
        if newest is None or until_seq < 1:
            return Observations.empty()
        start_ns, end_ns = newest - length_ns, newest + 1
        entries, pages = await self._segments.history(start_ns, end_ns)
        parts = []
        for entry in entries:
            if entry.first_seq <= until_seq:
                data = await self._segments.read(entry)
                parts.append(await asyncio.to_thread(_rows_until, data, until_seq, streams))
        parts += [
            _of_streams(page.content, streams)
            for page in pages
            if page.seq <= until_seq and isinstance(page.content, Observations)
        ]
        rows = Observations.concatenate(parts)
        rows = rows.take((rows.source_time >= start_ns) & (rows.source_time < end_ns))
        if self._historian is not None and (oldest := await self._oldest_kept()) is not None and oldest > start_ns:
            rows = Observations.concatenate([await self._historian.read(streams, start_ns, oldest), rows])
        return rows.take(np.argsort(rows.source_time, kind="stable"))

    async def _oldest_kept(self) -> int | None:
        """Return the oldest source time of the segments that are left when older ones were purged, else None."""
        entries: list[SegmentEntry] = await self._segments.segments()
        times = [entry.start_ns for entry in entries if entry.start_ns is not None]
        return min(times) if times and entries[0].first_seq > 1 else None


def _rows_until(data: bytes, until_seq: int, streams: Sequence[Stream]) -> Observations:
    segment = decode_segment(data)
    return _of_streams(segment.observations.take(segment.seq <= until_seq), streams)


def _of_streams(rows: Observations, streams: Sequence[Stream]) -> Observations:
    asked = frozenset(streams)
    wanted = np.array([stream in asked for stream in rows.streams], np.bool_)
    return rows.take(wanted[rows.stream]) if len(rows) else rows
