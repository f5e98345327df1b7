"""Values read again and again, for servers and channels that nothing else does justice to.

The items of one interval are a group, read in turn by a task of its own, so that no group waits for a slow one. A
group whose reading takes longer than its interval misses turns; it is never read twice at the same time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress

import numpy as np
import structlog
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.uaerrors import UaStatusCodeError

from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.monitored_items import Item
from gateway.data_acquisition.profiles import RequestLimits
from gateway.data_acquisition.services import TOO_LARGE, Services
from models.records import UInt32Array

log = structlog.get_logger()

_WAITING = 16  # answers not taken yet; then no more is read


class Polling:
    """The polled items of one server.

    Args:
        client: The connected client.
        server_name: For messages.
        items: What to read, each at its sampling interval.
        limits: Nodes in one request.
    """

    def __init__(self, client: Client, server_name: str, items: Sequence[Item], limits: RequestLimits) -> None:
        self._services = Services(client, server_name)
        self._per_request = max(1, limits.read)
        self._groups: dict[float, list[Item]] = {}
        self._tasks: dict[float, asyncio.Task[None]] = {}
        self._answers: asyncio.Queue[Columns | Exception] = asyncio.Queue(_WAITING)
        self._is_reading = False
        self.update(items)

    def update(self, items: Iterable[Item]) -> None:
        """Read *items* from now on; the turns of those that stay go on as they were."""
        groups: dict[float, list[Item]] = {}
        for item in items:
            groups.setdefault(item.sampling.sampling_interval_ms, []).append(item)
        self._groups = groups
        if self._is_reading:
            self._start()

    async def read_once(self, nodes: Sequence[ua.NodeId], handles: UInt32Array) -> Columns:
        """Return the values of *nodes* as they are now, under *handles*; one that cannot be read has a Bad value.

        Raises:
            SourceUnavailable: If the link is lost.
        """
        parts = [await self._read(*request) for request in _requests(nodes, handles, self._per_request)]
        return Columns.concatenate(parts)

    async def readings(self) -> AsyncGenerator[Columns, None]:
        """Yield what is read, one answer of the server at a time; a tag that cannot be read has a Bad value.

        Raises:
            SourceUnavailable: If the link is lost.
        """
        self._is_reading = True
        self._start()
        try:
            while True:
                answer = await self._answers.get()
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            self._is_reading = False
            tasks = list(self._tasks.values())
            self._tasks = {}
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            self._answers = asyncio.Queue(_WAITING)

    def _start(self) -> None:
        """Have a task for each group."""
        self._tasks = {interval_ms: task for interval_ms, task in self._tasks.items() if not task.done()}
        for interval_ms in self._groups.keys() - self._tasks.keys():
            self._tasks[interval_ms] = asyncio.create_task(self._read_group(interval_ms))

    async def _read_group(self, interval_ms: float) -> None:
        """Read one group again and again, as long as it has items."""
        clock, interval_s = asyncio.get_running_loop().time, interval_ms / 1000
        due = clock()
        known: list[Item] = []
        requests: list[tuple[list[ua.ReadValueId], UInt32Array]] = []
        try:
            while items := self._groups.get(interval_ms):
                if items is not known or any(len(nodes) > self._per_request for nodes, _ in requests):
                    handles = np.array([item.handle for item in items], np.uint32)
                    known, requests = items, _requests([item.node for item in items], handles, self._per_request)
                for request in requests:
                    await self._answers.put(await self._read(*request))
                due += interval_s * max(1, math.ceil((clock() - due) / interval_s))
                await asyncio.sleep(due - clock())
        except Exception as error:  # noqa: BLE001 - raised again where readings are taken
            await self._answers.put(error)

    async def _read(self, nodes: list[ua.ReadValueId], handles: UInt32Array) -> Columns:
        """Read *nodes*, in as many requests as it takes."""
        try:
            return await self._services.read(nodes, handles)
        except UaStatusCodeError as error:
            if error.code in TOO_LARGE and len(nodes) > 1:
                half = len(nodes) // 2
                self._per_request = min(self._per_request, half)
                parts = [await self._read(nodes[:half], handles[:half]), await self._read(nodes[half:], handles[half:])]
                return Columns.concatenate(parts)
            return _bad(handles, error.code)


def _requests(
    nodes: Sequence[ua.NodeId], handles: UInt32Array, size: int
) -> list[tuple[list[ua.ReadValueId], UInt32Array]]:
    values = [ua.ReadValueId(NodeId=node, AttributeId=AttributeIds.Value) for node in nodes]
    return [(values[i : i + size], handles[i : i + size]) for i in range(0, len(values), size)]


def _bad(handles: UInt32Array, status: int) -> Columns:
    """Return no value for each of *handles*, for the reason *status*, as of now."""
    columns = Columns.blank(len(handles))
    columns.handle[:] = handles
    columns.source_time[:] = time.time_ns()
    columns.value[:] = np.nan
    columns.status[:] = status
    return columns
