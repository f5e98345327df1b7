"""Fetching what was measured while nobody listened: HistoryRead (raw), slice by slice, oldest first.

All streams of a server are read together, so that what comes out is in time order over all of them: the windows
built later see a past that looks like a present. Slices are made narrower or wider so that each holds some ten
thousand values.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from gateway.data_acquisition.columns import Columns, MalformedMessage
from gateway.data_acquisition.limits import chunks
from gateway.data_acquisition.messages import HistoryPage, read_history_response, status_name
from gateway.errors import SourceUnavailable
from models.records import Gap, Observations, Stream, from_ns

_ROWS_WANTED = 20_000  # in one slice
_ROWS_LIMIT = 10 * _ROWS_WANTED  # then the slice is read again, narrower
_SAMPLES_LIMIT = 20_000_000
_PAGES_LIMIT = 1_000  # continuation points followed for one request
_NARROWEST_NS = 1_000_000_000
_FIRST_SLICES = 32  # the whole time by this is the first slice
_REQUEST_TIMEOUT_S = 60.0
_SETTLE_S = 3.0  # a historian may be that late with the newest values
_SETTLE_STEP_S = 0.1
# What says something of the connection, not of the history
_LOST = frozenset(
    {StatusCodes.BadSessionIdInvalid, StatusCodes.BadSessionClosed, StatusCodes.BadSessionNotActivated,
     StatusCodes.BadSecureChannelClosed, StatusCodes.BadSecureChannelIdInvalid, StatusCodes.BadConnectionClosed,
     StatusCodes.BadServerHalted, StatusCodes.BadShutdown, StatusCodes.BadTimeout, StatusCodes.BadCommunicationError,
     StatusCodes.BadOutOfMemory, StatusCodes.BadTcpServerTooBusy}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The hole in one stream: source times from ``start`` (inclusive) to ``end`` (exclusive), ns."""

    stream: Stream
    node: ua.NodeId
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What history gave for a stretch of time: rows in time order, and the gaps it leaves."""

    observations: Observations
    gaps: tuple[Gap, ...]


@dataclass
class _Reading:
    """What one slice gave so far."""

    parts: dict[int, list[Columns]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    rows: int = 0
    samples: int = 0

    def add(self, index: int, values: Columns) -> None:
        self.parts.setdefault(index, []).append(values)
        self.rows += len(values.handle)
        self.samples += len(values.samples)

    def drop(self, index: int) -> None:
        for values in self.parts.pop(index, []):
            self.rows -= len(values.handle)
            self.samples -= len(values.samples)

    @property
    def is_too_large(self) -> bool:
        return self.rows > _ROWS_LIMIT or self.samples > _SAMPLES_LIMIT


class Backfill:
    """Reads the history of *wanted* streams through *client*, *per_request* at a time; iterate over `slices` once."""

    def __init__(self, client: Client, server_name: str, wanted: Sequence[Wanted], *, per_request: int) -> None:
        self._client = client
        self._server_name = server_name
        self._per_request = per_request
        self._wanted = [w for w in wanted if w.start < w.end]
        self._streams = tuple(w.stream for w in self._wanted)
        self._failed: set[int] = set()

    async def slices(self) -> AsyncGenerator[Slice, None]:
        """Yield what history holds, oldest first, without overlap.

        A stream whose history fails is left out from there on, with one gap record up to its end.

        Raises:
            SourceUnavailable: If the connection is lost; what was yielded stays good.
        """
        if not self._wanted:
            return
        await self._let_history_settle()
        at, end = min(w.start for w in self._wanted), max(w.end for w in self._wanted)
        width = max((end - at) // _FIRST_SLICES, _NARROWEST_NS)
        while at < end and len(self._failed) < len(self._wanted):
            upto = min(at + width, end)
            reading = await self._read(at, upto)
            if reading.is_too_large and width > _NARROWEST_NS:
                width = max(width // 4, _NARROWEST_NS)
                continue
            yield self._slice(reading, at, upto)
            at = upto
            if reading.rows < _ROWS_WANTED // 2:
                width *= 2
            elif reading.rows > 2 * _ROWS_WANTED:
                width = max(width // 2, _NARROWEST_NS)

    async def _let_history_settle(self) -> None:
        """Wait until history holds the newest of the values that end the holes, or for a few seconds.

        Servers store history a little later than they report, and in order. The live value that ends a hole is
        known; once history has the newest of these, what was before is there.
        """
        newest = max(wanted.end for wanted in self._wanted)
        latest = [i for i, wanted in enumerate(self._wanted) if wanted.end == newest][: self._per_request]
        deadline = asyncio.get_running_loop().time() + _SETTLE_S
        while True:
            reading = _Reading()
            await self._read_nodes(latest, newest - newest % 1000, newest + 1000, reading)
            arrived = {i for i, parts in reading.parts.items() if any((p.source_time == newest).any() for p in parts)}
            if arrived | set(reading.failed) >= set(latest) or asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(_SETTLE_STEP_S)

    def _slice(self, reading: _Reading, start: int, end: int) -> Slice:
        gaps = []
        for index, cause in reading.failed.items():
            wanted = self._wanted[index]
            self._failed.add(index)
            gaps.append(
                Gap(
                    asset_id=wanted.stream.asset_id,
                    channel=wanted.stream.channel,
                    from_time=from_ns(max(wanted.start, start)),
                    to_time=from_ns(wanted.end),
                    cause=cause,
                )
            )
        parts = [
            _within(Columns.concatenate(parts), max(w.start, start), min(w.end, end), index, self._streams)
            for index, parts in reading.parts.items()
            if index not in reading.failed
            for w in (self._wanted[index],)
        ]
        return Slice(observations=_in_time_order(Observations.concatenate(parts)), gaps=tuple(gaps))

    async def _read(self, start: int, end: int) -> _Reading:
        """Read from *start* to *end* (at least) of every stream with a hole there."""
        reading = _Reading()
        indices = [
            index
            for index, wanted in enumerate(self._wanted)
            if index not in self._failed and wanted.start < end and wanted.end > start
        ]
        for some in chunks(indices, self._per_request):
            await self._read_nodes(some, start, end, reading)
            if reading.is_too_large:
                break
        return reading

    async def _read_nodes(self, indices: Sequence[int], start: int, end: int, reading: _Reading) -> None:
        """Read some nodes in one request, and on from their continuation points until there are none."""
        open_points: dict[int, bytes | None] = dict.fromkeys(indices)
        for _ in range(_PAGES_LIMIT):
            try:
                pages = await self._request(open_points, start, end)
            except (UaStatusCodeError, MalformedMessage) as error:
                await self._read_alone(list(open_points), start, end, reading, str(error))
                return
            following: dict[int, bytes | None] = {}
            for index, page in zip(open_points, pages, strict=True):
                if page.status == StatusCodes.BadNoContinuationPoints:
                    following[index] = None  # asked again when others are done with theirs
                    continue
                if page.status >> 30 == 2:
                    reading.failed[index] = f"history cannot be read ({status_name(page.status)})"
                    continue
                if page.values is not None:
                    reading.add(index, page.values)
                if page.continuation is not None:
                    following[index] = page.continuation
            open_points = following
            if not open_points:
                return
            if reading.is_too_large:
                await self._request(open_points, start, end, release=True)
                return
        reading.failed.update(dict.fromkeys(open_points, f"history does not end after {_PAGES_LIMIT} pages"))

    async def _read_alone(self, indices: Sequence[int], start: int, end: int, reading: _Reading, reason: str) -> None:
        """Read nodes whose common request failed one by one, so that one bad node costs the others nothing."""
        if len(indices) == 1:
            reading.failed[indices[0]] = f"history cannot be read ({reason})"
            return
        for index in indices:
            reading.drop(index)
            await self._read_nodes([index], start, end, reading)

    async def _request(
        self, points: Mapping[int, bytes | None], start: int, end: int, *, release: bool = False
    ) -> list[HistoryPage]:
        request = ua.HistoryReadRequest()
        request.Parameters = ua.HistoryReadParameters(
            HistoryReadDetails=ua.ReadRawModifiedDetails(
                IsReadModified=False,
                StartTime=from_ns(start),
                EndTime=from_ns(end + 999),  # up to the microsecond; what is beyond is cut off here
                NumValuesPerNode=0,  # asyncua's server takes any other number for a limit of the whole, not of a page
                ReturnBounds=False,
            ),
            TimestampsToReturn=ua.TimestampsToReturn.Source,
            ReleaseContinuationPoints=release,
            NodesToRead=[
                ua.HistoryReadValueId(NodeId=self._wanted[index].node, ContinuationPoint=point)
                for index, point in points.items()
            ],
        )
        try:
            session = self._client.uaclient.session
            body = bytes(await session._send_request(request, timeout=_REQUEST_TIMEOUT_S))  # noqa: SLF001 - no other
        except (OSError, UaError) as error:
            if isinstance(error, UaStatusCodeError) and error.code not in _LOST:
                raise
            raise SourceUnavailable(
                f"{self._server_name}: connection lost while reading history ({error!r}); it is made anew"
            ) from error
        return [] if release else read_history_response(body, len(points))


def _within(values: Columns, start: int, end: int, index: int, streams: tuple[Stream, ...]) -> Observations:
    """Return the rows of one stream with start <= source time < end."""
    n = len(values.handle)
    rows = Observations(
        streams=streams,
        stream=np.full(n, index, np.uint32),
        source_time=values.source_time,
        value=values.value,
        status=values.status,
        sample_count=values.sample_count,
        samples=values.samples,
    )
    return rows.take((values.source_time >= start) & (values.source_time < end))


def _in_time_order(observations: Observations) -> Observations:
    return observations.take(np.lexsort((observations.stream, observations.source_time)))
