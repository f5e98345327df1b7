"""An OPC UA server that costs next to nothing per value: ``python -m benchmarks.frame_server --folder DIR``.

Handshake, sessions, browsing and monitored items are asyncua's, without and with encryption. PublishRequests are
answered here, with DataChangeNotifications encoded once: only numbers and times in them change. So it sends more values
than a client takes, and the client is what is measured.

It prints its endpoint when it is ready and obeys lines on its standard input: ``rate N`` (values a second from now on),
``rate max`` (as fast as is asked), ``rate 0`` (stop), ``told`` (print what was due and what was sent). It ends with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.server import Server
from asyncua.server.uaprocessor import PublishRequestData, UaProcessor
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.ua_binary import struct_from_binary
from numpy.typing import NDArray

from gateway.data_acquisition import ensure_application_certificate

URI = "urn:wearsight:benchmark"
NAMESPACE = "urn:wearsight:benchmark:plant"
CHANNELS = 100  # of each machine, as the server in tests/integration/peers/async-opcua has them
ROWS = 10_000  # values in a message, at most
_FASTEST_TICK_S = 0.0005  # source time between two values of a node where no rate is set
_KEEP_ALIVE_S = 2.0
_UNIX_EPOCH_TICKS = 116_444_736_000_000_000
_DATA_CHANGE = ObjectIds.DataChangeNotification_Encoding_DefaultBinary
_ITEM = np.dtype(
    [
        ("handle", "<u4"),
        ("mask", "u1"),
        ("type", "u1"),
        ("value", "<f8"),
        ("source_time", "<i8"),
        ("server_time", "<i8"),
    ]
)
_MASK = 0x01 | 0x04 | 0x08  # value, source time, server time
_PUBLISH = ua.NodeId(ua.Int32(ObjectIds.PublishRequest_Encoding_DefaultBinary))
_CREATE_ITEMS = ua.NodeId(ua.Int32(ObjectIds.CreateMonitoredItemsRequest_Encoding_DefaultBinary))
_DOUBLE = ua.VariantType.Double.value
# PublishResponse's TypeId; time, request handle, result, no diagnostics, no strings, no additional header;
# subscription, no available numbers, whether more is there, sequence number, publish time, how many notifications.
_HEAD = struct.Struct("<BBHqIIBiBBBIiBIqi")
_NOTIFICATION = struct.Struct("<BBHBii")  # TypeId, with a body, its bytes, how many items
_NO_DIAGNOSTICS = struct.pack("<i", -1)
_TAIL = struct.pack("<ii", 0, -1)  # no results of acknowledgements, no diagnostics


# Numbers with all their digits, as sensors send them: neither text nor a page gets them cheaper than they are.
_NOISE = np.random.default_rng(1).normal(50.0, 10.0, 100_003)


class Pace:
    """How many values are due; one for the whole server, which is meant for one client at a time."""

    def __init__(self) -> None:
        self.rate = 0.0
        self.sent = 0
        self.changed = asyncio.Event()
        self._due = 0.0
        self._since = 0.0

    def set(self, rate: float) -> None:
        """Have *rate* values be due each second from now on, what is behind forgotten; infinite: as many as go."""
        self.rate, self._due, self._since = rate, self.sent, time.monotonic()
        self.changed.set()

    def due(self) -> float:
        """Return how many values were due since the start; without a limit as many as were sent."""
        if math.isinf(self.rate):
            return self.sent
        return self._due + self.rate * (time.monotonic() - self._since) if self.rate else self._due


class Frames:
    """The messages of one subscription: all its nodes at each tick, whole ticks in a message."""

    def __init__(self, subscription_id: int, publishing_interval_s: float) -> None:
        self._subscription_id = subscription_id
        self._publishing_interval_s = publishing_interval_s
        self._handles: list[int] = []
        self._fresh: list[int] = []  # their first values were not sent yet
        self._encoded = bytearray()
        self._rows = np.zeros(0, _ITEM)
        self._sequence_number = 1
        self._tick = 0
        self._time = _now()
        self._sent_at = self._published_at = time.monotonic()
        self._due = 0.0

    def watch(self, handles: list[int]) -> None:
        """Send values of *handles* too, the first ones soon."""
        self._fresh += handles

    def next(self, pace: Pace) -> tuple[int, bytes] | None:
        """Return the number of values in the next message, first values not counted, and it; None: none is due."""
        if self._fresh:
            handles, self._fresh = self._fresh, []
            self._handles += handles
            body, rows = _encoded(handles)
            rows["source_time"] = rows["server_time"] = self._time
            self._encoded, self._rows = _encoded(self._handles * max(ROWS // len(self._handles), 1))
            return 0, self._message(body)
        now = time.monotonic()
        if now - self._published_at >= self._publishing_interval_s:
            self._due, self._published_at = pace.due(), now
        if self._handles and pace.rate:
            missing = self._due - pace.sent if math.isfinite(pace.rate) else math.inf
            ticks = int(min(len(self._rows), missing)) // len(self._handles)
            if ticks > 0:
                return ticks * len(self._handles), self._message(self._ticks(ticks, pace))
        if now - self._sent_at > _KEEP_ALIVE_S:
            return 0, self._message(None)
        return None

    def _ticks(self, ticks: int, pace: Pace) -> bytearray:
        """Return a notification with the next *ticks* ticks."""
        body, rows, nodes = self._encoded, self._rows, len(self._handles)
        if ticks * nodes < len(rows):
            body, rows = _encoded(self._handles * ticks)
        step_s = nodes / pace.rate if math.isfinite(pace.rate) else _FASTEST_TICK_S
        numbers = np.arange(1, ticks + 1)
        times = numbers * int(step_s * 1e7) + self._time
        first = self._tick * nodes % (len(_NOISE) // 2)
        rows["value"] = np.resize(_NOISE[first:], len(rows))
        rows["source_time"] = rows["server_time"] = np.repeat(times, nodes)
        self._tick += ticks
        self._time = int(times[-1])
        return body

    def _message(self, body: bytearray | None) -> bytes:
        now = _now()
        number, self._sequence_number = self._sequence_number, self._sequence_number + (body is not None)
        self._sent_at = time.monotonic()
        # The request handle is put in where the request is known.
        head = _HEAD.pack(
            *(1, 0, ObjectIds.PublishResponse_Encoding_DefaultBinary, now, 0, 0, 0, -1, 0, 0, 0),
            *(self._subscription_id, -1, 0, number, now, body is not None),
        )
        return head + body + _TAIL if body is not None else head + _TAIL


def with_request_handle(message: bytes, handle: int) -> bytes:
    """Return *message* as the answer to the request *handle*."""
    return message[:12] + struct.pack("<I", handle) + message[16:]


def _now() -> int:
    return time.time_ns() // 100 + _UNIX_EPOCH_TICKS


def _encoded(handles: list[int]) -> tuple[bytearray, NDArray[Any]]:
    """Return an encoded DataChangeNotification with a double for each of *handles*, and a view on its items."""
    rows = np.zeros(len(handles), _ITEM)
    rows["handle"], rows["mask"], rows["type"] = handles, _MASK, _DOUBLE
    head = _NOTIFICATION.pack(1, 0, _DATA_CHANGE, 1, 4 + rows.nbytes + 4, len(rows))
    body = bytearray(head + rows.tobytes() + _NO_DIAGNOSTICS)
    return body, np.frombuffer(body, _ITEM, len(rows), len(head))


class _Processor(UaProcessor):
    """One connection: asyncua's services, but for Publish."""

    def __init__(self, pace: Pace, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pace = pace
        self._frames: dict[int, Frames] = {}
        self._waiting: deque[tuple[int, Any]] = deque()
        self._feeder = asyncio.create_task(self._feed())

    def get_publish_request(self, subscription_id: ua.IntegerId) -> PublishRequestData:  # noqa: ARG002 - asyncua's
        """Let asyncua's own subscription believe that it is asked."""
        return PublishRequestData()

    async def forward_publish_response(self, result: ua.PublishResult, requestdata: PublishRequestData) -> None:
        """Throw away what asyncua's own subscription would send."""

    async def _process_message(self, typeid: ua.NodeId, requesthdr: Any, seqhdr: Any, body: Buffer) -> Any:
        if self.session is not None and typeid == _PUBLISH:
            self.session_last_activity = time.monotonic()
            self.session.touch()
            self._waiting.append((requesthdr.RequestHandle, seqhdr))
            self._pace.changed.set()
            return True
        items = struct_from_binary(ua.CreateMonitoredItemsParameters, body.copy()) if typeid == _CREATE_ITEMS else None
        answered = await super()._process_message(typeid, requesthdr, seqhdr, body)  # type: ignore[no-untyped-call]  # asyncua's
        if items is not None:
            subscription = int(items.SubscriptionId)
            if subscription not in self._frames:
                data = self.iserver.subscription_service.subscriptions[subscription].data
                self._frames[subscription] = Frames(subscription, data.RevisedPublishingInterval / 1000)
            self._frames[subscription].watch(
                [int(item.RequestedParameters.ClientHandle) for item in items.ItemsToCreate]
            )
        return answered

    async def _feed(self) -> None:
        """Answer PublishRequests as values come due."""
        while True:
            sent = 0
            for frames in self._frames.values():
                if not self._waiting:
                    break
                if (due := frames.next(self._pace)) is not None:
                    sent += 1
                    self._pace.sent += due[0]
                    handle, header = self._waiting.popleft()
                    message = with_request_handle(due[1], handle)
                    data = self._connection.message_to_binary(message, request_id=header.RequestId)
                    self._transport.write(data)
            if sent:
                await asyncio.sleep(0)
            else:
                self._pace.changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._pace.changed.wait(), 0.01)

    async def close(self) -> None:
        """End with the connection."""
        self._feeder.cancel()
        await super().close()  # type: ignore[no-untyped-call]  # asyncua's


class _Protocol(OPCUAProtocol):
    """A connection that is processed here."""

    def __init__(self, pace: Pace, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._pace = pace

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.processor = _Processor(self._pace, self.iserver, transport, self.limits)
        self.processor.set_policies(self.policies)  # type: ignore[no-untyped-call]  # asyncua's


class _FrameServer(Server):
    """asyncua's server with our connections."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    async def start(self) -> None:
        await self._setup_server_nodes()
        await self.iserver.start()
        binary = BinaryServer(self.iserver, "127.0.0.1", 0, self.limits)
        binary.set_policies(self._policies)
        binary._make_protocol = lambda: _Protocol(  # type: ignore[method-assign]  # noqa: SLF001 - it is set nowhere else
            self._pace,
            iserver=self.iserver,
            policies=self._policies,
            clients=binary.clients,
            closing_tasks=binary.closing_tasks,
            limits=self.limits,
        )
        await binary.start()
        self.bserver = binary


async def serve(folder: Path, nodes: int) -> None:
    """Serve *nodes* nodes until standard input ends."""
    pace = Pace()
    server = _FrameServer(pace)
    await server.init()
    await server.set_application_uri(URI)
    certificate, key = ensure_application_certificate(folder, URI, "benchmark")
    await server.load_certificate(certificate)
    await server.load_private_key(key, format="pem")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    server.set_identity_tokens([ua.AnonymousIdentityToken])
    server.set_endpoint("opc.tcp://127.0.0.1:0/")
    await _add_machines(server, nodes)
    async with server:
        assert server.bserver is not None
        print(f"opc.tcp://127.0.0.1:{server.bserver.port}/", flush=True)
        await _obey(pace)


async def _add_machines(server: Server, nodes: int) -> None:
    space = await server.register_namespace(NAMESPACE)

    def node(name: str) -> ua.NodeId:
        return ua.NodeId.from_string(f"ns={space};s={name}")

    machines = await server.nodes.objects.add_folder(node("Machines"), f"{space}:Machines")
    for first in range(0, nodes, CHANNELS):
        name = f"machine-{first // CHANNELS:02d}"
        machine = await machines.add_folder(node(name), f"{space}:{name}")
        for channel in (f"c{number:02d}" for number in range(min(CHANNELS, nodes - first))):
            await machine.add_variable(node(f"{name}.{channel}"), f"{space}:{channel}", 0.0)


async def _obey(pace: Pace) -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        match line.split():
            case ["rate", "max"]:
                pace.set(math.inf)
            case ["rate", number]:
                pace.set(float(number))
            case ["told"]:
                print(json.dumps({"due": pace.due(), "sent": pace.sent}), flush=True)
            case other:
                raise ValueError(f"not understood: {other}")


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=1000)
    options = parser.parse_args()
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    asyncio.run(serve(options.folder, options.nodes))


if __name__ == "__main__":
    main()
