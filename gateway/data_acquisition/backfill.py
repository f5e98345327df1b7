"""Filling holes from a server's history, newest first: what was measured while nobody listened.

All streams of a server are read over one window of time, then over the one before it. A window is as wide as some ten
thousand values are, or some values of each stream; when a slice is full with those of some streams, the others follow
in the next. What a slice brought is done when it is committed, so a backfill that is cut off goes on where the
journal's open holes end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from asyncua import ua
from asyncua.client.client import Client

from gateway.data_acquisition.history_reading import HistoryBusy, HistoryReader, Reading
from gateway.data_acquisition.profiles import chunks
from gateway.journal import Hole
from models.records import Gap, Int64Array, Observations, Stream, from_ns

_ROWS_WANTED = 20_000  # in one slice
_SAMPLES_WANTED = 1_000_000
_ROWS_EACH = 20  # of a stream in one request, or requests cost more than values
_FIRST_NS = 10_000_000_000  # the first window
_NARROWEST_NS = 1_000_000
_STEP = 8  # so many times wider than the last a window is at most
_SETTLE_S = 3.0  # a historian may be that late with the newest values
_SETTLE_LATER_S = 10.0  # or even that late
_SETTLE_STEP_S = 0.1
_UNSETTLED_NS = 60_000_000_000  # what a late historian may lack
_LOOK_BACK_NS = 3_600_000_000_000
_LONGEST_PAUSE_S = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A hole in one stream that the history of *node* may fill.

    ``anchored`` says that the row just before the hole is stored, so history that begins after it lacks something.
    """

    stream: Stream
    node: ua.NodeId
    hole: Hole
    anchored: bool = False


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What history gave for a stretch of time; to be committed together.

    Attributes:
        observations: Rows in time order.
        filled: The parts of holes that are done with them.
        gaps: Where in these history has nothing to give, and why.
    """

    observations: Observations
    filled: tuple[Hole, ...]
    gaps: tuple[Gap, ...]


class Backfill:
    """Reads the history of *wanted* through *client*, *per_request* nodes at a time; iterate over `slices` once.

    After each slice it pauses as long as reading it took, up to a second: live values go first.
    """

    def __init__(self, client: Client, server_name: str, wanted: Sequence[Wanted], *, per_request: int) -> None:
        self._server_name = server_name
        self._per_request = per_request
        self._wanted = [w for w in wanted if w.hole.start_ns < w.hole.end_ns]
        self._streams = tuple(dict.fromkeys(w.stream for w in self._wanted))
        places = {stream: place for place, stream in enumerate(self._streams)}
        self._stream = np.array([places[w.stream] for w in self._wanted], np.uint32)
        self._reader = HistoryReader(client, server_name, [w.node for w in self._wanted])
        # By index of the wanted hole: where it starts, up to where it is still to be read and still to be told, and the
        # oldest row found.
        self._start = np.array([w.hole.start_ns for w in self._wanted], np.int64)
        self._anchored = np.array([w.anchored for w in self._wanted], np.bool_)
        self._is_upto(np.array([w.hole.end_ns for w in self._wanted], np.int64))
        self._left_out = np.zeros(len(self._wanted), np.bool_)

    async def slices(self) -> AsyncGenerator[Slice, None]:
        """Yield what history holds, newest first, without overlap.

        A stream whose history cannot be read has its hole filled with one gap record. Where a server does not give
        history now (it is busy, or short of something), the hole is left open and the others go on.

        Raises:
            SourceUnavailable: If the connection is lost; what was yielded stays good.
        """
        if not self._wanted:
            return
        try:
            if await self._settles(_SETTLE_S):
                async for part in self._windows():
                    yield part
                return
            async for part in self._late_windows():
                yield part
        except HistoryBusy as error:
            log.warning("holes stay open; no history now", server=self._server_name, reason=str(error))

    async def _late_windows(self) -> AsyncGenerator[Slice, None]:
        """Yield what a historian holds that lacks the newest values, and these last, when it has had more time."""
        newest = self._upto
        settled = np.clip(newest.max() - _UNSETTLED_NS, self._start, newest)
        self._is_upto(settled)
        async for part in self._windows():
            yield part
        self._anchored &= settled == self._start
        self._start = settled
        self._is_upto(newest)
        await self._settles(_SETTLE_LATER_S)
        async for part in self._windows():
            yield part

    def _is_upto(self, end: Int64Array) -> None:
        """Have the holes end at *end*, shape ``(n,)``."""
        self._from, self._upto, self._told, self._oldest = end, end.copy(), end.copy(), end.copy()

    async def _windows(self) -> AsyncGenerator[Slice, None]:
        """Yield slices of one window of time after the other until nothing is left to read."""
        clock = asyncio.get_running_loop().time
        width, before = _FIRST_NS, 0
        while len(indices := np.flatnonzero((self._upto > self._start) & ~self._left_out)):
            began = clock()
            end = int(self._upto[indices].max())
            start = max(end - width, int(self._start[indices].min()))
            due = indices[self._upto[indices] > start].tolist()
            reading, asked = await self._read(due, start, end)
            if set(asked) <= set(reading.too_much):
                before = before or width
                if width <= _NARROWEST_NS:
                    self._leave_out(reading)
                width = before if width <= _NARROWEST_NS else max(width // _STEP, _NARROWEST_NS)
                continue
            before = 0
            observations, gaps = await self._take(reading, asked, start)
            width = self._next_width(end - start, reading, len(asked), len(indices))
            if len(observations) or gaps:
                yield self._slice(observations, gaps)
            await asyncio.sleep(min(clock() - began, _LONGEST_PAUSE_S))
        if (self._told > self._upto).any():
            yield self._slice(Observations.empty(), [])

    async def _settles(self, wait_s: float) -> bool:
        """Wait until history holds the newest of the values that end the holes, for *wait_s*; return whether it does.

        Servers store history a little later than they report, and in order. The live value that ends a hole is
        known; once history has the newest of these, what was before is there.
        """
        newest = int(self._upto.max())
        latest = set(np.flatnonzero(self._upto == newest)[: self._per_request].tolist())
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            reading = Reading()
            await self._reader.read(sorted(latest), newest - newest % 1000, newest + 1000, reading)
            values, index = reading.values()
            latest -= {*index[values.source_time == newest].tolist(), *reading.failed}
            if latest:  # the end of what is left of a hole is no value's time; one that is later tells as much
                values, index = (await self._reader.oldest(sorted(latest), newest, newest + _UNSETTLED_NS)).values()
                latest -= set(index[values.source_time >= newest].tolist())
            if not latest or asyncio.get_running_loop().time() > deadline:
                return not latest
            await asyncio.sleep(_SETTLE_STEP_S)

    async def _read(self, due: Sequence[int], start: int, end: int) -> tuple[Reading, list[int]]:
        """Read from *start* to *end* of the holes *due*, until there is enough for a slice; return also which."""
        reading, asked = Reading(), list[int]()
        for some in chunks(due, self._per_request):
            await self._reader.read(some, start - 1, end, reading)  # with the row before a hole that begins here
            asked += some
            if reading.rows >= _ROWS_WANTED or reading.samples >= _SAMPLES_WANTED:
                break
        return reading, asked

    async def _take(self, reading: Reading, asked: Sequence[int], start: int) -> tuple[Observations, list[Gap]]:
        """Return the rows of *reading* that lie in the holes, and the gaps; what was asked for from *start* is done."""
        values, index = reading.values()
        since = np.maximum(self._start, start)
        inside = (values.source_time >= since[index]) & (values.source_time < self._upto[index])
        inside &= ~np.isin(index, [*reading.failed, *reading.too_much])
        rows = Observations(
            streams=self._streams,
            stream=self._stream[index],
            source_time=values.source_time,
            value=values.value,
            status=values.status,
            sample_count=values.sample_count,
            samples=values.samples,
        ).take(inside)
        np.minimum.at(self._oldest, index[inside], rows.source_time)
        gaps = [self._failure(i, cause) for i, cause in reading.failed.items()]
        done = [i for i in asked if i not in reading.failed and i not in reading.too_much]
        self._upto[done] = since[done]
        with_older = set(index[values.source_time < self._start[index]].tolist())
        complete = [i for i in done if self._upto[i] == self._start[i]]
        gaps += await self._beginnings([i for i in complete if self._anchored[i] and i not in with_older])
        order = np.lexsort((rows.stream, rows.source_time))
        return rows.take(order), gaps

    def _failure(self, index: int, cause: str) -> Gap:
        """Return the gap that a history leaves that cannot be read: the whole hole, when nothing of it could."""
        if self._upto[index] == self._from[index]:
            self._told[index] = self._upto[index] = self._wanted[index].hole.end_ns
            self._left_out[index] = True
        gap = self._gap(index, int(self._upto[index]), cause)
        self._upto[index] = self._start[index]
        return gap

    async def _beginnings(self, indices: Sequence[int]) -> list[Gap]:
        """Return a gap for each hole of which history does not reach back to the row before it."""
        gaps = []
        for some in chunks(indices, self._per_request):
            starts = self._start[list(some)]
            found = await self._reader.oldest(some, int(starts.min()) - _LOOK_BACK_NS, int(starts.max()))
            values, index = found.values()
            reaching = set(index[values.source_time < self._start[index]].tolist())
            gaps += [
                self._gap(i, int(self._oldest[i]), "the server's history does not reach back to the last stored value")
                for i in some
                if i not in reaching
            ]
        return gaps

    def _gap(self, index: int, end: int, cause: str) -> Gap:
        stream, start = self._wanted[index].stream, int(self._start[index])
        return Gap(
            asset_id=stream.asset_id,
            channel=stream.channel,
            from_time=from_ns(start),
            to_time=from_ns(end),
            cause=cause,
        )

    def _slice(self, observations: Observations, gaps: Sequence[Gap]) -> Slice:
        filled = [
            Hole(
                stream=self._wanted[i].stream,
                start_ns=int(self._upto[i]),
                end_ns=int(self._told[i]),
                cause=self._wanted[i].hole.cause,
            )
            for i in np.flatnonzero(self._told > self._upto).tolist()
        ]
        self._told = self._upto.copy()
        return Slice(observations=observations, filled=tuple(filled), gaps=tuple(gaps))

    def _leave_out(self, reading: Reading) -> None:
        """Leave holes open whose history cannot be had now."""
        for i, reason in reading.too_much.items():
            self._left_out[i] = True
            place = "/".join(self._wanted[i].stream)
            log.warning(
                "hole stays open, history not to be had now", server=self._server_name, channel=place, reason=reason
            )

    @staticmethod
    def _next_width(width: int, reading: Reading, asked: int, every: int) -> int:
        """Return how wide the next window is, after *reading* came of *asked* of *every* stream in one of *width*."""
        rows, samples = max(_ROWS_WANTED / every, _ROWS_EACH), _SAMPLES_WANTED / every
        fullness = max(reading.rows / rows, reading.samples / samples) / asked
        return max(int(width / min(max(fullness, 1 / _STEP), _STEP)), _NARROWEST_NS)
