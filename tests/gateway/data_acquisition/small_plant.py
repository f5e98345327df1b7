"""A small OPC UA server in the test's process, and what the tests do with it."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.history import HistoryDict
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes

from gateway.data_acquisition import Batch, OpcuaSource, ensure_application_certificate
from gateway.journal import Hole
from models.records import Gap, Stream, to_ns

NOON = datetime.fromisoformat("2026-03-02T12:00:00+00:00")
NOON_NS = to_ns(NOON)
SECOND_NS = 1_000_000_000
CHANNELS = ("speed_rpm", "load_pct", "vibration_waveform_m_s2")
BAD_SENSOR = 0x808C0000  # BadSensorFailure


class OneUser(UserManager):
    """Lets in the user ``gateway`` with the password ``secret``."""

    def get_user(
        self,
        iserver: Any,  # noqa: ARG002 - asyncua's signature
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,  # noqa: ARG002 - the same
    ) -> User | None:
        return User(role=UserRole.User) if (username, password) == ("gateway", "secret") else None


@dataclass
class SmallPlant:
    """An OPC UA server in this process with one asset, written by the test."""

    pki: Path
    port: int
    with_history: bool = True
    security: ua.SecurityPolicyType = ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt
    channels: tuple[str, ...] = CHANNELS
    server: Server | None = None
    nodes: dict[str, Any] = field(default_factory=dict)
    folder_node: Any = None
    namespace: int = 0
    _create_items: Any = None
    strangers: int = 0  # namespaces before the plant's own, which a restart may have changed
    asked_for: list[str] = field(default_factory=list)  # channels for which a monitored item was asked for
    most_items: int | None = None  # monitored items it takes
    storage: HistoryDict = field(default_factory=lambda: HistoryDict(max_history_data_response_size=7))

    @property
    def endpoint(self) -> str:
        return f"opc.tcp://127.0.0.1:{self.port}/wearsight/"

    @property
    def certificate(self) -> Path:
        return self.pki / "application.der"

    async def start(self) -> None:
        uri = "urn:test:plant"
        certificate, key = ensure_application_certificate(self.pki, uri, "plant")
        server = Server(user_manager=OneUser())
        gc.disable()  # a hundred thousand nodes are made, none is garbage: 0.8 s rather than 1.3 s
        try:
            await server.init()
        finally:
            gc.enable()
        server.iserver.history_manager.set_storage(self.storage)
        await server.set_application_uri(uri)
        server.set_security_policy([self.security])
        server.set_identity_tokens([ua.UserNameIdentityToken])
        await server.load_certificate(certificate)
        await server.load_private_key(key, format="pem")
        server.set_endpoint(self.endpoint)
        for number in range(self.strangers):
            await server.register_namespace(f"urn:stranger:{number}")
        namespace = await server.register_namespace("urn:test")
        machines = await server.nodes.objects.add_folder(namespace, "Machines")
        pump = await machines.add_object(namespace, "pump-01")
        self.folder_node, self.namespace = await pump.add_object(namespace, "Monitoring"), namespace
        self.nodes = {}
        self.server = server
        for channel in self.channels:
            await self.add(channel)
        tell_items = server.get_node(ua.NodeId(ua.Int32(ObjectIds.Server_GetMonitoredItems)))
        server.link_method(tell_items, self._tell_items)
        service = server.iserver.subscription_service
        self._create_items = service.create_monitored_items
        service.create_monitored_items = self._create_few_items  # type: ignore[method-assign]  # to count and to refuse
        await server.start()

    async def _tell_items(self, _parent: ua.NodeId, subscription_id: ua.Variant) -> list[ua.Variant]:
        """Answer GetMonitoredItems, which asyncua's server has not."""
        items = [
            item
            for subscription in self.subscriptions()
            if subscription.data.SubscriptionId == subscription_id.Value
            for item in subscription.monitored_item_srv._monitored_items.values()
        ]
        return [
            ua.Variant([item.monitored_item_id for item in items], ua.VariantType.UInt32),
            ua.Variant([item.client_handle for item in items], ua.VariantType.UInt32),
        ]

    async def _create_few_items(self, params: ua.CreateMonitoredItemsParameters) -> list[ua.MonitoredItemCreateResult]:
        requests, results = params.ItemsToCreate, list[ua.MonitoredItemCreateResult]()
        for request in requests:
            self.asked_for.append(str(request.ItemToMonitor.NodeId.Identifier))
            if self.most_items is not None and len(self.items()) >= self.most_items:
                refused = ua.StatusCode(ua.UInt32(StatusCodes.BadTooManyMonitoredItems))
                results.append(ua.MonitoredItemCreateResult(StatusCode=refused))
                continue
            params.ItemsToCreate = [request]
            results += await self._create_items(params)
        return results

    async def anew(self, *channels: str) -> None:
        """Have *channels* alone, without a past, as if the server had just been started."""
        assert self.server is not None
        for channel in list(self.nodes):
            await self.remove(channel)
        self.storage._datachanges.clear()
        self.most_items = None
        for channel in channels:
            await self.add(channel)
        self.asked_for.clear()

    async def remove(self, channel: str) -> None:
        """Delete the node of *channel*; its history stays. asyncua's server says nothing of that by itself."""
        assert self.server is not None
        self.silence_item(channel)  # else asyncua begins to tell, and does not
        await self.server.delete_nodes([self.nodes.pop(channel)])

    def items(self) -> dict[str, int]:
        """Return the monitored items the server has, by their nodes."""
        return {str(node): number for node, number, _ in self._monitored()}

    def _monitored(self) -> Iterator[tuple[str, int, Any]]:
        for subscription in self.subscriptions():
            service = subscription.monitored_item_srv
            for callback, number in service._monitored_datachange.items():
                assert self.server is not None
                attribute = self.server.iserver.aspace._handle_to_attribute_map.get(callback)
                if attribute is not None:  # its node is there still
                    yield str(attribute[0].Identifier), number, service

    def forget_item(self, channel: str) -> None:
        """Delete the monitored item of *channel* without a word to the client."""
        for node, number, service in list(self._monitored()):
            if node == channel:
                service.delete_monitored_items([number])

    def silence_item(self, channel: str) -> None:
        """Have the monitored item of *channel* stay, and tell nothing any more."""
        assert self.server is not None
        data = self.server.iserver.aspace._nodes[self.nodes[channel].nodeid]
        data.attributes[AttributeIds.Value].datachange_callbacks.clear()

    async def add(self, channel: str) -> None:
        """Add a channel to the asset; a channel there was before the restart has its last value again."""
        parent, namespace = self.folder_node, self.namespace
        waveform = "waveform" in channel
        initial = ua.Variant([0.0] if waveform else 0.0, ua.VariantType.Float if waveform else ua.VariantType.Double)
        node = await parent.add_variable(
            ua.NodeId(ua.String(channel), ua.Int16(namespace)), f"{namespace}:{channel}", initial
        )
        await node.add_property(0, "EURange", ua.Range(Low=0.0, High=100.0))
        unit = ua.EUInformation(DisplayName=ua.LocalizedText("m/s²" if waveform else "1/min"))
        await node.add_property(0, "EngineeringUnits", unit)
        if waveform:
            await node.add_property(0, "SampleRate", 6400.0)
        self.nodes[channel] = node
        remembered = self.storage._datachanges.setdefault(node.nodeid, [])
        self.storage._datachanges_period.setdefault(node.nodeid, (None, 0))
        if self.with_history:
            await node.set_attr_bit(AttributeIds.AccessLevel, ua.AccessLevel.HistoryRead)
            await node.set_attr_bit(AttributeIds.UserAccessLevel, ua.AccessLevel.HistoryRead)
        if remembered:
            assert self.server is not None
            await self.server.write_attribute_value(node.nodeid, remembered[-1])
        else:
            await self.write(channel, 0, [0.0] if waveform else 0.0)

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop()
            self.server = None

    async def write(self, channel: str, second: float, value: float | list[float], status: int = 0) -> None:
        """Have *channel* measure *value* so many seconds after noon."""
        data_value = self._data_value(second, value, status)
        self.remember(channel, data_value)
        assert self.server is not None
        await self.server.write_attribute_value(self.nodes[channel].nodeid, data_value)

    @staticmethod
    def _data_value(second: float, value: float | list[float], status: int = 0) -> ua.DataValue:
        kind = ua.VariantType.Float if isinstance(value, list) else ua.VariantType.Double
        measured: Any = NOON + timedelta(seconds=second)
        return ua.DataValue(ua.Variant(value, kind), ua.StatusCode(ua.UInt32(status)), SourceTimestamp=measured)

    def remember(self, channel: str, data_value: ua.DataValue) -> None:
        """Put a value into the history alone, as if it had been measured while the server was there alone."""
        self.storage._datachanges[self.nodes[channel].nodeid].append(data_value)

    def remember_values(self, channel: str, seconds: Iterable[int]) -> None:
        """Have values in the history that were measured while the server was away."""
        for second in seconds:
            self.remember(channel, self._data_value(second, float(second)))

    def subscriptions(self) -> list[Any]:
        assert self.server is not None
        return list(self.server.iserver.subscription_service.subscriptions.values())

    def unacknowledged(self) -> int:
        """How many messages the server still keeps for sending again."""
        return sum(len(subscription._not_acknowledged_results) for subscription in self.subscriptions())

    def acknowledged(self) -> int:
        """How many messages the server sent and forgot."""
        sent = sum(int(subscription._notification_seq) - 1 for subscription in self.subscriptions())
        return sent - self.unacknowledged()


@dataclass
class Store:
    """Where the test's batches end: what a journal would hold, with its rule for repeats."""

    rows: dict[Stream, list[tuple[int, float, int]]] = field(default_factory=dict)
    waveforms: list[list[float]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    open: list[Hole] = field(default_factory=list)
    repeats: int = 0
    batches: list[Batch] = field(default_factory=list)

    def newest_source_time(self, stream: Stream) -> int | None:
        rows = self.rows.get(stream)
        return max(row[0] for row in rows) if rows else None

    def holes(self) -> list[Hole]:
        return list(self.open)

    def append(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.gaps += batch.results.gaps
        self.events += [event.kind for event in batch.results.events]
        self.open += batch.opened
        for done in batch.filled:
            self.open = [piece for hole in self.open for piece in without(hole, done)]
        o = batch.observations
        for i, samples in enumerate(o.waveforms()):
            stream = o.streams[o.stream[i]]
            row = (int(o.source_time[i]), float(o.value[i]), int(o.status[i]))
            rows = self.rows.setdefault(stream, [])
            if rows and np.array_equal(rows[-1], row, equal_nan=True):
                self.repeats += 1
                continue
            rows.append(row)
            if o.sample_count[i]:
                self.waveforms.append(samples.tolist())

    def seconds(self, channel: str) -> list[float]:
        return [(row[0] - NOON_NS) / SECOND_NS for row in self.in_time(channel)]

    def values(self, channel: str) -> list[float]:
        return [row[1] for row in self.in_time(channel)]

    def in_time(self, channel: str) -> list[tuple[int, float, int]]:
        """Return the rows of a channel by source time: history may come after what is live."""
        return sorted(self.rows.get(Stream("pump-01", channel), []), key=lambda row: row[0])


def without(hole: Hole, done: Hole) -> list[Hole]:
    """Return what of *hole* is left when *done* is filled."""
    if hole.stream != done.stream or done.end_ns <= hole.start_ns or hole.end_ns <= done.start_ns:
        return [hole]
    pieces = [replace(hole, end_ns=done.start_ns), replace(hole, start_ns=done.end_ns)]
    return [piece for piece in pieces if piece.start_ns < piece.end_ns]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@asynccontextmanager
async def collecting(source: OpcuaSource, store: Store) -> AsyncIterator[None]:
    """Carry batches of *source* into *store* meanwhile."""

    async def collect() -> None:
        async with aclosing(source.batches()) as batches:
            async for batch in batches:
                store.append(batch)
                await batch.acknowledge()

    task = asyncio.create_task(collect())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds; the test's own time limit ends what never does."""
    while not condition():  # noqa: ASYNC110 - many things change it, none of them tells
        await asyncio.sleep(0.01)


class Listening(Protocol):
    """A server on this machine."""

    @property
    def port(self) -> int:
        """Where it listens."""

    @property
    def endpoint(self) -> str:
        """Its address, with the port in it."""


class Cable:
    """A TCP forwarder to a plant that can be cut (closed), or frozen (open, and nothing passes)."""

    def __init__(self, plant: Listening) -> None:
        self._plant = plant
        self._passes = asyncio.Event()
        self._passes.set()
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.endpoint = self._plant.endpoint.replace(f":{self._plant.port}/", f":{port}/")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.thaw()
        self.cut()
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def join(self) -> None:
        self._is_cut = False

    def freeze(self) -> None:
        self._passes.clear()

    def thaw(self) -> None:
        self._passes.set()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._plant.port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                await self._passes.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()
