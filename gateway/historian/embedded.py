"""The historian that needs no server: it reads the journal's segments, and the pages that are in none yet."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from gateway.historian.historian import by_stream_and_time
from gateway.journal import Journal, SegmentStore
from gateway.journal.entries import SegmentEntry, decoded_segment
from gateway.journal.errors import SegmentDamaged
from models.records import Observations, Page, Stream
from models.segment import decode_segment, segment_streams

_LOT, _LOT_BYTES = 64, 4 * 2**20
_MOST_PARTS = 512
_TABLES = 10_000
_NAMES_BYTES = 64 * 2**10


class EmbeddedHistorian:
    """Answers from the journal itself, waveforms included; opens only segments that reach into the time asked for."""

    retention_s = 0.0

    def __init__(self, journal: Journal) -> None:
        self._segments = SegmentStore(journal)
        self._tables = _StreamTables()

    async def write(self, *pages: Page) -> None:
        """Do nothing: the pages are in the journal."""

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the observations of *streams* with ``start_ns <= source_time < end_ns``, by stream, then time.

        It needs memory for what it returns and for a few segments, however long the time is.

        Raises:
            JournalError: If a segment cannot be read now. What is gone for good is missing, as its gaps tell.
        """
        asked = frozenset(streams)
        entries, pages = await self._segments.history(start_ns, end_ns)
        parts: list[Observations] = []
        for lot in _lots(entries):
            found, damaged = await asyncio.to_thread(self._search, lot, asked, start_ns, end_ns)
            for entry in damaged:
                data = await self._segments.read_if_there(entry)
                if data is not None:
                    found[entry.first_seq] = await asyncio.to_thread(_decode_selected, data, asked, start_ns, end_ns)
            parts += [found[first_seq] for first_seq in sorted(found)]
            if len(parts) > _MOST_PARTS:
                parts = [await asyncio.to_thread(by_stream_and_time, parts, streams)]
        parts += [_selected(rows, asked, start_ns, end_ns) for rows in map(_observations, pages)]
        return await asyncio.to_thread(by_stream_and_time, parts, streams)

    def _search(
        self, entries: Sequence[SegmentEntry], asked: Collection[Stream], start_ns: int, end_ns: int
    ) -> tuple[dict[int, Observations], list[SegmentEntry]]:
        """Return what is found, by the first seq of its segment, and the segments that are damaged."""
        found, damaged = {}, []
        for entry in entries:
            try:
                if self._tables.may_have(entry, asked):
                    rows = decoded_segment(entry).observations
                    found[entry.first_seq] = _selected(rows, asked, start_ns, end_ns)
            except SegmentDamaged:
                damaged.append(entry)
        return found, damaged

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:  # noqa: ARG002 - of all
        """Return about how many rows of all streams there are, eight samples of a waveform taken for one more."""
        entries, pages = await self._segments.history(start_ns, end_ns)
        rows = [_selected(rows, frozenset(rows.streams), start_ns, end_ns) for rows in map(_observations, pages)]
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


def _decode_selected(data: bytes, asked: Collection[Stream], start_ns: int, end_ns: int) -> Observations:
    return _selected(decode_segment(data).observations, asked, start_ns, end_ns)


def _selected(rows: Observations, asked: Collection[Stream], start_ns: int, end_ns: int) -> Observations:
    wanted = np.array([stream in asked for stream in rows.streams], np.bool_)[rows.stream]
    return rows.take(wanted & (rows.source_time >= start_ns) & (rows.source_time < end_ns))


def _lots(entries: Sequence[SegmentEntry]) -> Iterator[list[SegmentEntry]]:
    """Yield *entries* in lots that are searched in one go."""
    lot: list[SegmentEntry] = []
    size = 0
    for entry in entries:
        if lot and (len(lot) >= _LOT or size + entry.size > _LOT_BYTES):
            yield lot
            lot, size = [], 0
        lot.append(entry)
        size += entry.size
    if lot:
        yield lot


class _StreamTables:
    """The streams of the segments that were looked at lately; most segments have the same, which are kept once."""

    def __init__(self) -> None:
        self._by_digest: dict[str, frozenset[Stream] | None] = {}
        self._known: dict[frozenset[Stream], frozenset[Stream]] = {}

    def may_have(self, entry: SegmentEntry, asked: Collection[Stream]) -> bool:
        """Return whether *entry* has one of the streams *asked*, or cannot tell by its first bytes."""
        if entry.digest not in self._by_digest:
            if len(self._by_digest) >= _TABLES:
                self._by_digest.clear()
                self._known.clear()
            self._by_digest[entry.digest] = self._table(entry)
        table = self._by_digest[entry.digest]
        return table is None or not table.isdisjoint(asked)

    def _table(self, entry: SegmentEntry) -> frozenset[Stream] | None:
        try:
            with entry.path.open("rb") as file:
                streams = segment_streams(file.read(_NAMES_BYTES))
        except OSError:
            return None
        if streams is None:
            return None
        table = frozenset(streams)
        return self._known.setdefault(table, table)
