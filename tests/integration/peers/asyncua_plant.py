"""Pumps behind asyncua's server, as a process: ``python -m tests.integration.peers.asyncua_plant PORT FOLDER``.

What FOLDER holds and gets is told in `tests.integration.peers.server`. In ``plant.json`` there, if it is there, stands
what is otherwise than with the other makers' servers: see `Settings`. Lines of the input are commands, ``pause`` and
``go``; each is answered by ``done``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.server import Server
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from cryptography.hazmat.primitives.serialization import Encoding

from models.records import from_ns
from tests.integration.peers.asyncua_ways import History, OneUser, Past, status_code, take_few, tell_overflows

URI = "urn:wearsight:test:plant"
PERIOD_MS = 100
BLOCK = 256  # samples of a waveform
BAD_SENSOR, UNCERTAIN = 0x808C0000, 0x40930000


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this plant is.

    Attributes:
        assets: The pumps.
        is_open: Whether clients may also come anonymously and without encryption.
        takes_few: Whether it refuses requests for more than a few nodes.
        history_page: Values in one answer; the rest behind a continuation point.
        remembers: Whether history has what was measured before the start.
        queue_most: Values it queues for one item at most.
        strangers: Namespaces that come before its own, and shift its index.
        catches_up: Whether it has measured once a second since the end of the book, with nobody there to be told.
        behind_s: How far the plant's clock is behind.
        late_s: Seconds after the start at which an asset or ``asset/channel`` appears; before it does, it is not there.
    """

    assets: tuple[str, ...] = ("pump-01",)
    is_open: bool = False
    takes_few: bool = True
    history_page: int = 20
    remembers: bool = True
    queue_most: int = 10_000
    strangers: int = 0
    catches_up: bool = False
    behind_s: float = 0.0
    late_s: dict[str, float] = {}


@dataclass(frozen=True)
class Channel:
    """A channel: what it is, and what it measures at tick k, or None."""

    kind: ua.VariantType
    unit: str
    low: float
    high: float
    measure: Callable[[int], tuple[int, list[float]] | None]
    has_history: bool = False
    is_waveform: bool = False

    def variant(self, numbers: list[float]) -> ua.Variant:
        if math.isnan(numbers[0]):
            return ua.Variant()
        if self.is_waveform:
            return ua.Variant(numbers, self.kind)
        return ua.Variant(int(numbers[0]) if self.kind is ua.VariantType.Int32 else numbers[0], self.kind)


CHANNELS = {
    "speed_rpm": Channel(  # every seventh is from a broken sensor, and null
        ua.VariantType.Double, "1/min", 0, 3600,
        lambda k: (BAD_SENSOR, [math.nan]) if k % 7 == 3 else (0, [1000 + k / 8]), has_history=True,
    ),
    "bearing_temperature_c": Channel(
        ua.VariantType.Float, "°C", -40, 150, lambda k: (UNCERTAIN if k % 11 == 5 else 0, [20 + k / 4]),
    ),
    "load_pct": Channel(  # most often as it was before
        ua.VariantType.Int32, "%", 0, 100, lambda k: (0, [float(k // 5 % 100)]),
    ),
    "vibration_waveform_m_s2": Channel(
        ua.VariantType.Float, "m/s²", -500, 500,
        lambda k: (0, [(k + i) / 64 for i in range(BLOCK)]) if k % 5 == 0 else None, has_history=True, is_waveform=True,
    ),
}  # fmt: skip


class Plant:
    """The server and what it measures.

    Args:
        port: Where it listens, on 127.0.0.1.
        folder: Its folder.
        settings: How it is.
    """

    def __init__(self, port: int, folder: Path, settings: Settings) -> None:
        self._port, self._folder, self._settings = port, folder, settings
        self._server = Server(user_manager=OneUser(is_open=settings.is_open))
        self._past = Past(settings.history_page)
        self._nodes: dict[tuple[str, str], ua.NodeId] = {}
        self._folders: dict[str, Any] = {}
        self._namespace = 0
        self._ticks: dict[str, int] = dict.fromkeys(settings.assets, 0)
        self._ahead_ns = -int(settings.behind_s * 1e9)
        self._remembered_ns = 0
        self._measuring = True

    async def run(self) -> None:
        """Serve until the input ends."""
        await self._configure()
        await self._build()
        self._remember()
        if self._settings.catches_up:
            self._catch_up()
        started = time.monotonic()
        await self._appear(0.0)
        await self._measure()
        await self._server.start()
        commands = asyncio.create_task(self._obey())
        print("up", flush=True)  # noqa: T201 - whoever started it waits for it
        while not commands.done():
            await asyncio.sleep(PERIOD_MS / 1000 - time.time() % (PERIOD_MS / 1000))
            await self._appear(time.monotonic() - started)
            if self._measuring:
                await self._measure()

    async def _configure(self) -> None:
        server, settings = self._server, self._settings
        gc.disable()  # a hundred thousand nodes are made, none is garbage
        await server.init()
        gc.enable()
        server.iserver.history_manager = History(server.iserver, self._past)
        server.iserver.max_monitored_item_queue_size = settings.queue_most
        await server.set_application_uri("urn:wearsight:test:peer")
        policies = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
        tokens: list[Any] = [ua.UserNameIdentityToken]
        if settings.is_open:
            policies.append(ua.SecurityPolicyType.NoSecurity)
            tokens.append(ua.AnonymousIdentityToken)
        server.set_security_policy(policies)
        server.set_identity_tokens(tokens)
        server.set_certificate_validator(self._check)
        await server.load_certificate(self._folder / "server.der")
        await server.load_private_key(self._folder / "server.key.pem", format="pem")
        server.set_endpoint(f"opc.tcp://127.0.0.1:{self._port}/peer")
        if settings.takes_few:
            await take_few(server)

    async def _check(self, certificate: Any, _description: Any) -> None:
        found = certificate.public_bytes(Encoding.DER)
        if found not in [path.read_bytes() for path in (self._folder / "clients").iterdir()]:
            raise ServiceError(ua.UInt32(StatusCodes.BadCertificateUntrusted))

    async def _build(self) -> None:
        for number in range(self._settings.strangers):
            await self._server.register_namespace(f"urn:wearsight:test:stranger-{number}")
        self._namespace = await self._server.register_namespace(URI)
        self._folders[""] = await self._server.nodes.objects.add_folder(self._namespace, "Machines")

    async def _appear(self, since_start_s: float) -> None:
        """Add what is not there yet and whose time has come."""
        late_s = self._settings.late_s
        for asset in self._settings.assets:
            if asset not in self._folders and late_s.get(asset, 0.0) <= since_start_s:
                await self._add_asset(asset)
            for name in CHANNELS:
                if (
                    (asset, name) not in self._nodes
                    and asset in self._folders
                    and late_s.get(f"{asset}/{name}", 0.0) <= since_start_s
                ):
                    await self._add_channel(asset, name)

    async def _add_asset(self, asset: str) -> None:
        pump = await self._folders[""].add_object(self._namespace, asset)
        self._folders[asset] = await pump.add_object(self._namespace, "Monitoring")
        node = ua.NodeId(ua.String(f"{asset}.serial_number"), ua.Int16(self._namespace))
        await self._folders[asset].add_variable(node, f"{self._namespace}:serial_number", "P-4711")

    async def _add_channel(self, asset: str, name: str) -> None:
        channel, namespace = CHANNELS[name], self._namespace
        nodeid = self._nodeid(asset, name)
        # Nothing here waits, so nobody sees the node before its first value is measured.
        node = await self._folders[asset].add_variable(
            nodeid, f"{namespace}:{name}", channel.variant([0.0]), varianttype=channel.kind
        )
        await node.add_property(0, "EURange", ua.Range(Low=channel.low, High=channel.high))
        await node.add_property(0, "EngineeringUnits", ua.EUInformation(DisplayName=ua.LocalizedText(channel.unit)))
        if channel.is_waveform:
            await node.add_property(0, "SampleRate", 6400.0)
        if channel.has_history:
            for attribute in (AttributeIds.AccessLevel, AttributeIds.UserAccessLevel):
                await node.set_attr_bit(attribute, ua.AccessLevel.HistoryRead)
            self._past.values.setdefault(nodeid, [])
        self._nodes[asset, name] = nodeid
        await self._measure([(asset, name)], anything=True)

    def _nodeid(self, asset: str, name: str) -> ua.NodeId:
        return ua.NodeId(ua.String(f"{asset}.{name}"), ua.Int16(self._namespace))

    def _remember(self) -> None:
        """Go on counting where the book ends, and have what it tells as history."""
        book = self._folder / "measured.csv"
        for line in book.read_text().splitlines() if book.exists() else ():
            place, time_ns, status, numbers = line.split(",")
            asset, name = place.split("/")
            self._ticks[asset] += name == "load_pct"
            self._remembered_ns = int(time_ns)
            if CHANNELS[name].has_history and self._settings.remembers:
                value = _value(CHANNELS[name], int(time_ns), int(status), [float(n) for n in numbers.split()])
                self._past.values.setdefault(self._nodeid(asset, name), []).append(value)

    async def _measure(self, some: Iterable[tuple[str, str]] = (), *, anything: bool = False) -> None:
        """Measure *some* channels, or all and count the tick; *anything* takes a value where there was none new."""
        time_ns = (time.time_ns() + self._ahead_ns) // 1000 * 1000
        measured = self._record(list(some or self._nodes), time_ns, anything=anything)
        for asset, name, value in measured:
            await self._server.write_attribute_value(self._nodes[asset, name], value)
        if not some:
            self._count({asset for asset, _ in self._nodes})

    def _count(self, assets: Iterable[str]) -> None:
        for asset in assets:
            self._ticks[asset] += 1

    def _catch_up(self) -> None:
        everything = [(asset, name) for asset in self._settings.assets for name in CHANNELS]
        for time_ns in range(self._remembered_ns + 10**9, time.time_ns() + self._ahead_ns, 10**9):
            self._record(everything, time_ns // 1000 * 1000)
            self._count(self._settings.assets)

    def _record(
        self, some: Sequence[tuple[str, str]], time_ns: int, *, anything: bool = False
    ) -> list[tuple[str, str, ua.DataValue]]:
        """Return what *some* channels measure; it is in the book and the history before anybody sees it."""
        measured, lines = [], []
        for asset, name in some:
            channel, k = CHANNELS[name], self._ticks[asset]
            if (found := channel.measure(k // 5 * 5 if anything else k)) is not None:
                status, numbers = found
                value = _value(channel, time_ns, status, numbers)
                measured.append((asset, name, value))
                lines.append(f"{asset}/{name},{time_ns},{status},{' '.join(map(repr, numbers))}\n")
        with (self._folder / "measured.csv").open("a") as book:
            book.writelines(lines)
        for asset, name, value in measured:
            if CHANNELS[name].has_history:
                self._past.values.setdefault(self._nodeid(asset, name), []).append(value)
        return measured

    async def _obey(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            match line:
                case ["pause"]:
                    self._measuring = False
                case ["go"]:
                    self._measuring = True
            print("done", flush=True)  # noqa: T201 - the answer


def _value(channel: Channel, time_ns: int, status: int, numbers: list[float]) -> ua.DataValue:
    measured: Any = from_ns(time_ns)
    return ua.DataValue(channel.variant(numbers), status_code(status), SourceTimestamp=measured)


async def main() -> None:
    """Run the plant that the arguments name."""
    logging.getLogger("asyncua").setLevel(logging.CRITICAL + 1)
    tell_overflows()
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    told = folder / "plant.json"
    settings = msgspec.json.decode(told.read_bytes(), type=Settings) if told.exists() else Settings()
    await Plant(port, folder, settings).run()


if __name__ == "__main__":
    asyncio.run(main())
