"""A server without security and with many plain nodes, for tests of how values are asked for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.server.server import Server

from gateway.config import Sampling
from gateway.data_acquisition.publishing import Item, Message, Publishing
from tests.gateway.data_acquisition.small_plant import free_port

FAST = Sampling(publishing_interval_ms=20.0)


class ManyNodes:
    """The server; node ``i`` has the value that was written last."""

    def __init__(self) -> None:
        self.port = free_port()
        self.server = Server()
        self.nodes: list[ua.NodeId] = []
        self.namespace = 0

    @property
    def endpoint(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/many/"

    async def start(self, count: int) -> None:
        gc.disable()  # as in small_plant
        try:
            await self.server.init()
        finally:
            gc.enable()
        self.server.set_endpoint(self.endpoint)
        self.server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        self.namespace = await self.server.register_namespace("urn:many")
        for _ in range(count):
            await self.add(0.0)
        await self.server.start()

    async def add(self, initial: Any) -> None:
        node = await self.server.nodes.objects.add_variable(self.namespace, f"v{len(self.nodes)}", initial)
        self.nodes.append(node.nodeid)

    async def write(self, i: int, value: float | list[float], status: int = 0) -> None:
        now: Any = datetime.now(UTC)
        variant = ua.Variant(value, ua.VariantType.Double)
        await self.server.write_attribute_value(
            self.nodes[i], ua.DataValue(variant, ua.StatusCode(ua.UInt32(status)), SourceTimestamp=now)
        )

    def items(self, numbers: Iterable[int], sampling: Sampling = FAST) -> list[Item]:
        """Return items of the nodes *numbers*, which are their handles."""
        return [Item(handle=i, node=self.nodes[i], sampling=sampling) for i in numbers]

    def subscriptions(self) -> list[Any]:
        """Return asyncua's own subscriptions, those of sessions that left them behind too."""
        return list(self.server.iserver.subscription_service.subscriptions.values())

    def unacknowledged(self) -> int:
        return sum(len(subscription._not_acknowledged_results) for subscription in self.subscriptions())


@asynccontextmanager
async def connected_to(endpoint: str) -> AsyncIterator[Client]:
    """Hold a session of asyncua's client."""
    client = Client(endpoint, timeout=5, watchdog_intervall=1.0)
    await client.connect()
    try:
        yield client
    finally:
        await client.disconnect()


class Taker:
    """Takes what comes, as the gateway would: looks at it, keeps it, acknowledges it."""

    def __init__(self, publishing: Publishing) -> None:
        self.publishing = publishing
        self.values: dict[int, list[float]] = {}
        self.messages: list[Message] = []
        self.acknowledges = True

    @property
    def lost(self) -> list[Message]:
        return [message for message in self.messages if message.lost]

    async def take(self, wait_s: float | None = None) -> Message | None:
        message = await self.publishing.next(wait_s)
        if message is None:
            return None
        self.messages.append(message)
        if message.values is not None:
            for handle, value in zip(message.values.handle.tolist(), message.values.value.tolist(), strict=True):
                self.values.setdefault(handle, []).append(value)
            if self.acknowledges:
                self.publishing.acknowledge(message)
        return message

    async def until(self, handle: int, value: float) -> None:
        """Take until *handle* has *value*; the test's own time limit ends what never does."""
        while value not in self.values.get(handle, []):
            await self.take(0.1)

    async def on(self) -> None:
        """Take for ever."""
        while True:
            await self.take(1.0)

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[None]:
        """Take meanwhile."""
        task = asyncio.create_task(self.on())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
