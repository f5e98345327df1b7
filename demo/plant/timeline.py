"""What a cell has made up to now, in order of time: the live values to come, and the history behind them."""

from __future__ import annotations

from typing import Final

import numpy as np

from demo.plant.simulator import DAY_NS
from demo.plant.source import Source, streams_of
from models.records import Int64Array, Observations

AHEAD_NS: Final = DAY_NS


class _Block:
    """A span of observations by time, with the rows of each stream at hand."""

    def __init__(self, observations: Observations, stream_count: int) -> None:
        self.observations = observations
        self._rows = np.argsort(observations.stream, kind="stable")
        self._bounds = np.searchsorted(observations.stream[self._rows], np.arange(stream_count + 1))
        self._ends = np.cumsum(observations.sample_count, dtype=np.int64)

    def rows(self, stream: int, start_ns: int, end_ns: int) -> Int64Array:
        """Return the rows of *stream* with ``start_ns <= source_time <= end_ns``, by time."""
        rows = self._rows[self._bounds[stream] : self._bounds[stream + 1]]
        times = self.observations.source_time[rows]
        return np.asarray(rows[np.searchsorted(times, start_ns, "left") : np.searchsorted(times, end_ns, "right")])

    def take(self, rows: Int64Array) -> Observations:
        """Return *rows*, few out of many: ``Observations.take`` looks at the whole block each time."""
        whole = self.observations
        counts = whole.sample_count[rows]
        pieces = [
            whole.samples[end - count : end]
            for end, count in zip(self._ends[rows].tolist(), counts.tolist(), strict=True)
            if count
        ]
        return Observations(
            streams=whole.streams,
            stream=whole.stream[rows],
            source_time=whole.source_time[rows],
            value=whole.value[rows],
            status=whole.status[rows],
            sample_count=counts,
            samples=np.concatenate(pieces) if pieces else np.empty(0, np.float32),
        )


class Timeline:
    """The rows of a source, cut at ``now``: behind it is history, ahead of it is nobody's business yet."""

    def __init__(self, source: Source) -> None:
        self.streams = streams_of(source.machines)
        self.index = {stream: number for number, stream in enumerate(self.streams)}
        self.now = source.live_start - 1
        self._source = source
        self._known_until = source.live_start
        self._blocks: list[_Block] = []
        self._add(source.observations(source.first, source.live_start))
        self._position = self.made = len(self._blocks[0].observations)

    @property
    def ended(self) -> bool:
        """Whether the source has nothing more to give."""
        end = self._source.end
        return end is not None and self.now >= end - 1

    def behind(self) -> Observations:
        """Return all that was made up to now, by time."""
        rows = Observations.concatenate([block.observations for block in self._blocks])
        return rows.take(rows.source_time <= self.now)

    def due(self, until_ns: int, limit: int) -> Observations:
        """Return the next rows up to *until_ns*, at most about *limit*, and move ``now`` to where they end.

        All rows of one instant stay together, so ``now`` never stands inside an instant.
        """
        end = self._source.end
        until_ns = until_ns if end is None else min(until_ns, end - 1)
        if self._position == len(self._blocks[-1].observations) and self._known_until <= until_ns:
            self._look_ahead()
        times = self._blocks[-1].observations.source_time
        reach = min(until_ns, self._known_until - 1)
        stop = int(np.searchsorted(times, reach, "right"))
        if stop - self._position > limit:
            stop = int(np.searchsorted(times, times[self._position + limit - 1], "right"))
            reach = int(times[stop - 1])
        rows = self._blocks[-1].take(np.arange(self._position, stop))
        self._position = stop
        self.now = max(self.now, reach)
        self.made += len(rows)
        return rows

    def history(self, stream: int, start_ns: int, end_ns: int) -> Observations:
        """Return what *stream* made in ``start_ns <= source_time <= end_ns``, up to now, by time."""
        end_ns = min(end_ns, self.now)
        parts = [(block, block.rows(stream, start_ns, end_ns)) for block in self._blocks]
        filled = [block.take(rows) for block, rows in parts if len(rows)]
        return filled[0] if len(filled) == 1 else Observations.concatenate(filled)

    def newest(self, stream: int) -> Observations:
        """Return the newest row of *stream* up to now, or no row."""
        for block in reversed(self._blocks):
            rows = block.rows(stream, 0, self.now)
            if len(rows):
                return block.take(rows[-1:])
        return Observations.empty()

    def _look_ahead(self) -> None:
        start = self._known_until
        end = start + AHEAD_NS if self._source.end is None else min(start + AHEAD_NS, self._source.end)
        self._add(self._source.observations(start, end))
        self._position, self._known_until = 0, end

    def _add(self, observations: Observations) -> None:
        if len(observations) and observations.streams != self.streams:
            raise ValueError("a source must give its rows over the streams of its machines, in their order")
        self._blocks.append(_Block(observations, len(self.streams)))
