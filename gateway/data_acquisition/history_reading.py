"""HistoryRead (raw) of many nodes over one stretch of time, whatever the server makes of it.

Servers give pages and continuation points, run out of points, take few nodes in one request, or fail for one node of
many. A request that is refused is made again for each half of its nodes, so that a bad node costs the others little.

Source: OPC 10000-4, 5.11.3; OPC 10000-11, 6.4.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from gateway.data_acquisition.columns import Columns, MalformedMessage
from gateway.data_acquisition.messages import HistoryPage, read_history_response, status_name
from gateway.data_acquisition.profiles import TOO_LARGE
from gateway.errors import SourceUnavailable
from models.records import UInt32Array, from_ns, to_ns

ROWS_LIMIT = 200_000  # of one request's nodes
SAMPLES_LIMIT = 8_000_000
_PAGES_LIMIT = 1_000  # continuation points followed for one request
_REQUEST_TIMEOUT_S = 60.0
_BUSY_S = (1.0, 2.0, 4.0)  # waits before a busy server is asked again
# What says that there is nothing, rather than that something is wrong
_EMPTY = frozenset({StatusCodes.BadNoData, StatusCodes.BadNoDataAvailable, StatusCodes.BadBoundNotFound})
_BUSY = frozenset({StatusCodes.BadServerTooBusy, StatusCodes.BadTcpServerTooBusy, StatusCodes.BadResourceUnavailable})
# What may be otherwise when less is asked for
_TOO_MUCH = TOO_LARGE | _BUSY | {
    StatusCodes.BadNoContinuationPoints, StatusCodes.BadContinuationPointInvalid, StatusCodes.BadOutOfMemory,
    StatusCodes.BadTimeout, StatusCodes.BadRequestTimeout, StatusCodes.BadTcpMessageTooLarge,
}  # fmt: skip
# What says something of the session, not of the history
_LOST = frozenset(
    {StatusCodes.BadSessionIdInvalid, StatusCodes.BadSessionClosed, StatusCodes.BadSessionNotActivated,
     StatusCodes.BadSecureChannelClosed, StatusCodes.BadSecureChannelIdInvalid, StatusCodes.BadConnectionClosed,
     StatusCodes.BadServerHalted, StatusCodes.BadShutdown, StatusCodes.BadCommunicationError}
)  # fmt: skip


class HistoryBusy(Exception):
    """The server gives no history now; it may later."""


@dataclass
class Reading:
    """What history gave so far.

    Attributes:
        parts: Pages of values by the index of their node.
        failed: Why a node's history cannot be read, by its index.
        too_much: Why a node's history cannot be read over so long a time, by its index.
        rows: How many values there are.
        samples: How many samples of waveforms.
    """

    parts: dict[int, list[Columns]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    too_much: dict[int, str] = field(default_factory=dict)
    rows: int = 0
    samples: int = 0

    def add(self, index: int, values: Columns) -> None:
        """Add a page of the node *index*."""
        self.parts.setdefault(index, []).append(values)
        self.rows += len(values.handle)
        self.samples += len(values.samples)

    def drop(self, index: int) -> None:
        """Forget what came of the node *index*."""
        for values in self.parts.pop(index, []):
            self.rows -= len(values.handle)
            self.samples -= len(values.samples)

    def values(self) -> tuple[Columns, UInt32Array]:
        """Return all values, and the index of the node of each, shape ``(n,)``."""
        pages = [(index, page) for index, parts in self.parts.items() for page in parts]
        lengths = [len(page.handle) for _, page in pages]
        index = np.repeat(np.array([index for index, _ in pages], np.uint32), lengths)
        return Columns.concatenate([page for _, page in pages]), index


class HistoryReader:
    """Reads the history of *nodes* through *client*; nodes are named by their index."""

    def __init__(self, client: Client, server_name: str, nodes: Sequence[ua.NodeId]) -> None:
        self._client = client
        self._server_name = server_name
        self._nodes = nodes

    async def read(self, indices: Sequence[int], start: int, end: int, reading: Reading) -> None:
        """Read some nodes from *start* to *end* (ns) or a little more into *reading*, all pages of them.

        More than `ROWS_LIMIT` values or `SAMPLES_LIMIT` samples are not read to the end: the nodes that have more are
        then among those of which it was too much.

        Raises:
            HistoryBusy: If the server stays busy.
            SourceUnavailable: If the connection is lost.
        """
        before = reading.rows, reading.samples
        points: dict[int, bytes | None] = dict.fromkeys(indices)
        waiting: dict[int, int] = {}
        for _ in range(_PAGES_LIMIT):
            try:
                pages = await self._request(points, start, end)
            except (UaStatusCodeError, MalformedMessage, TimeoutError) as error:
                for index in points:
                    reading.drop(index)
                await self._in_halves(list(points), start, end, reading, _code(error), str(error))
                points = {}
                break
            points = self._sort(points, pages, reading, waiting)
            if points and (reading.rows - before[0] > ROWS_LIMIT or reading.samples - before[1] > SAMPLES_LIMIT):
                await self._give_up(points, start, end, reading, "more of it than fits")
                points = {}
            if not points:
                break
        await self._give_up(points, start, end, reading, f"it does not end after {_PAGES_LIMIT} pages")
        if waiting and len(waiting) < len(indices):
            await self.read(list(waiting), start, end, reading)
        elif waiting:
            code = next(iter(waiting.values()))
            await self._in_halves(list(waiting), start, end, reading, code, "")

    async def oldest(self, indices: Sequence[int], start: int, end: int) -> Reading:
        """Read the first value of each node from *start* on; a node of which none is told is not in the reading."""
        reading, waiting = Reading(), dict[int, int]()
        points: dict[int, bytes | None] = dict.fromkeys(indices)
        try:
            pages = await self._request(points, start, end, most=1)
            await self._release(self._sort(points, pages, reading, waiting), start, end)
        except (UaStatusCodeError, MalformedMessage, TimeoutError):
            waiting = dict.fromkeys(indices, 0)
        if len(indices) > 1:
            for half in _halves(list(waiting)):
                reading.parts |= (await self.oldest(half, start, end)).parts if half else {}
        return reading

    async def server_time(self) -> int | None:
        """Return the server's clock, ns since 1970, None when it does not tell.

        Raises:
            SourceUnavailable: If it does not answer at all.
        """
        node = ua.NodeId(ua.Int32(ObjectIds.Server_ServerStatus_CurrentTime))
        try:
            (value,) = await self._client.uaclient.read_attributes([node], AttributeIds.Value)
        except UaStatusCodeError as error:
            if error.code in _LOST:
                raise self._lost(error) from error
            return None
        except Exception as error:  # asyncua passes on whatever ended the connection
            raise self._lost(error) from error
        now = value.Value.Value if value.Value is not None else None
        return to_ns(now) if isinstance(now, datetime) and now.tzinfo is not None else None

    def _sort(
        self,
        points: Mapping[int, bytes | None],
        pages: Sequence[HistoryPage],
        reading: Reading,
        waiting: dict[int, int],
    ) -> dict[int, bytes | None]:
        """Put *pages* where they belong; return the nodes of which there is more, with where to go on."""
        following: dict[int, bytes | None] = {}
        for index, page in zip(points, pages, strict=True):
            if page.status in _TOO_MUCH:
                reading.drop(index)
                waiting[index] = page.status
            elif page.status >> 30 == 2 and page.status not in _EMPTY:
                reading.failed[index] = f"history cannot be read ({status_name(page.status)})"
            else:
                if page.values is not None:
                    reading.add(index, page.values)
                if page.continuation is not None:
                    following[index] = page.continuation
        return following

    async def _in_halves(
        self, indices: Sequence[int], start: int, end: int, reading: Reading, code: int | None, reason: str
    ) -> None:
        """Read nodes in two requests that were refused in one, with a status or for a reason; one node is given up."""
        if len(indices) > 1:
            for half in _halves(indices):
                await self.read(half, start, end, reading)
            return
        given_up = reading.too_much if code in _TOO_MUCH else reading.failed
        given_up[indices[0]] = f"history cannot be read ({reason if code is None else status_name(code)})"

    async def _give_up(
        self, points: Mapping[int, bytes | None], start: int, end: int, reading: Reading, reason: str
    ) -> None:
        """Let the server forget *points*, and say of their nodes that it was too much."""
        if points:
            await self._release(points, start, end)
        for index in points:
            reading.drop(index)
            reading.too_much[index] = reason

    async def _release(self, points: Mapping[int, bytes | None], start: int, end: int) -> None:
        try:
            if points:
                await self._request(points, start, end, release=True)
        except (UaStatusCodeError, TimeoutError):
            pass  # they end with the session

    async def _request(
        self, points: Mapping[int, bytes | None], start: int, end: int, *, most: int = 0, release: bool = False
    ) -> list[HistoryPage]:
        request = ua.HistoryReadRequest()
        request.Parameters = ua.HistoryReadParameters(
            HistoryReadDetails=ua.ReadRawModifiedDetails(
                IsReadModified=False,
                StartTime=from_ns(start),
                EndTime=from_ns(end + 999),  # up to the microsecond; what is beyond is cut off by who asked
                NumValuesPerNode=most,  # asyncua's server takes it for a limit of the whole, not of a page
                ReturnBounds=False,
            ),
            TimestampsToReturn=ua.TimestampsToReturn.Both,  # the server's is for values without a source time
            ReleaseContinuationPoints=release,
            NodesToRead=[
                ua.HistoryReadValueId(NodeId=self._nodes[index], ContinuationPoint=point)
                for index, point in points.items()
            ],
        )
        body = await self._send(request)
        return [] if release else read_history_response(body, len(points))

    async def _send(self, request: ua.HistoryReadRequest) -> bytes:
        for wait_s in (*_BUSY_S, None):
            try:
                session = self._client.uaclient.session
                return bytes(await session._send_request(request, timeout=_REQUEST_TIMEOUT_S))  # noqa: SLF001 - no other
            except UaStatusCodeError as error:
                if error.code in _LOST:
                    raise self._lost(error) from error
                if error.code not in _BUSY:
                    raise
                if wait_s is None:
                    raise HistoryBusy(status_name(error.code)) from error
                await asyncio.sleep(wait_s)
            except TimeoutError:
                await self.server_time()  # a server that answers this has a slow history; one that does not is gone
                raise
            except Exception as error:  # asyncua passes on whatever ended the connection
                raise self._lost(error) from error
        raise AssertionError

    def _lost(self, error: Exception) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self._server_name}: connection lost while reading history ({error!r}); it is made anew"
        )


def _code(error: Exception) -> int | None:
    """Return the status that *error* stands for, None when it stands for none."""
    if isinstance(error, TimeoutError):
        return StatusCodes.BadTimeout
    return error.code if isinstance(error, UaStatusCodeError) else None


def _halves(whole: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    return whole[: len(whole) // 2], whole[len(whole) // 2 :]
