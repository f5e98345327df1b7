"""A plant, links that can be ill-treated, and a gateway: three processes and what was agreed between them.

The plant has two pumps behind one server. The gateway reads ``pump-01`` over a secured connection with a user and
``pump-02`` over an open one without, each through a proxy of its own, so every fault is done to both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from models.records import Stream
from tests.chaos.oracle import Verdict
from tests.gateway.data_acquisition.small_plant import free_port
from tests.integration.faults.chaos_proxy import ChaosProxy
from tests.integration.faults.judge import Stored, judge, read_journal
from tests.integration.faults.program import GATEWAY_ID, GatewayProgram, Server
from tests.integration.faults.tail import JournalTail
from tests.integration.peers.asyncua_plant import Settings
from tests.integration.peers.server import CHANNELS, Asyncua, Measured, Peer

PUMPS = {"pump-01": "secured", "pump-02": "open"}
ALL = tuple(Stream(asset, channel) for asset in PUMPS for channel in CHANNELS)
GOAL_S = 10.0  # live again: what is promised
BOUND_S = 30.0  # what a busy machine may make of it before a run fails
_SETTLED_S = 60.0

Fault = Callable[[Sequence[ChaosProxy]], Awaitable[None]]


@dataclass
class Field:
    """All of it, running.

    Attributes:
        since: The source time from which every value has to be stored or told.
        behind_ns: How far the plant's clock is behind.
        since_of: The same for single streams, where it is later.
        again_s: By fault: seconds from its end until every stream was live again.
    """

    plant: Peer
    gateway: GatewayProgram
    proxies: Sequence[ChaosProxy]
    tail: JournalTail
    servers: Sequence[Server]
    since: int = 0
    behind_ns: int = 0
    since_of: dict[Stream, int] = field(default_factory=dict)
    again_s: dict[str, float] = field(default_factory=dict)
    streams: tuple[Stream, ...] = ()

    def book(self) -> dict[Stream, list[Measured]]:
        """Return all that the plant made, by stream, in time order."""
        return read_book(self.plant.folder)

    def newest(self) -> int:
        """Return when the plant measured last, ns."""
        return max(rows[-1].source_time for rows in self.book().values())

    async def suffer(self, name: str, fault: Fault) -> None:
        """Have the links suffer *fault*, heal them, and wait until every stream is live again."""
        await fault(self.proxies)
        for proxy in self.proxies:
            proxy.heal()
        ended = time.time_ns()
        live = await self.tail.until_live(self.streams, ended - self.behind_ns, within_s=2 * BOUND_S)
        self.again_s[name] = (live - ended) / 1e9

    async def restart_plant(self, name: str, settings: Settings, *, down_s: float) -> None:
        """Kill the plant, start it again as another one, and wait until every stream is live again.

        Live again is counted from when the stream is there again, with its first value.
        """
        killed = time.time_ns()
        self.plant.kill()
        await asyncio.sleep(down_s)
        (self.plant.folder / "plant.json").write_bytes(msgspec.json.encode(settings))
        await asyncio.to_thread(self.plant.start)
        self.behind_ns = int(settings.behind_s * 1e9)
        took = []
        for stream in self.streams:
            first = await self.first_after(stream, killed - self.behind_ns)
            live = await self.tail.until_live([stream], first, within_s=2 * BOUND_S)
            took.append((live - self.behind_ns - first) / 1e9)
        self.again_s[name] = max(took)

    async def first_after(self, stream: Stream, time_ns: int) -> int:
        """Wait for the first value the plant makes of *stream* after *time_ns*; return its source time, ns."""
        while True:
            for row in self.book().get(stream, ()):
                if row.source_time > time_ns:
                    return row.source_time
            await asyncio.sleep(0.5)

    async def end(self) -> tuple[Verdict, Stored]:
        """Have the plant rest, wait until the gateway is through, stop it, and judge what it stored of the streams."""
        await asyncio.to_thread(self.plant.tell, "pause")
        patience = time.monotonic() + _SETTLED_S
        while time.monotonic() < patience:
            await asyncio.to_thread(self.tail.look)
            if not self.verdict(self.tail.stored).missing:
                break
            await asyncio.sleep(0.5)
        await self.gateway.stop()
        stored = await read_journal(self.gateway.state_dir, GATEWAY_ID)
        return self.verdict(stored), stored

    def verdict(self, stored: Stored, streams: Sequence[Stream] = ()) -> Verdict:
        """Judge what is *stored* of *streams* (none given: of all that are watched) up to now."""
        since = {stream: max(self.since, self.since_of.get(stream, 0)) for stream in streams or self.streams}
        return judge(self.book(), stored, since=since, until=self.newest())


def read_book(folder: Path) -> dict[Stream, list[Measured]]:
    """Return what a plant of several assets wrote to its book in *folder*, by stream, in time order."""
    book: dict[Stream, list[Measured]] = {}
    for line in (folder / "measured.csv").read_text().split("\n")[:-1]:
        place, source_time, status, numbers = line.split(",")
        asset, channel = place.split("/")
        row = Measured(int(source_time), int(status), tuple(float(number) for number in numbers.split()))
        book.setdefault(Stream(asset, channel), []).append(row)
    return book


@asynccontextmanager
async def running(
    folder: Path,
    settings: Settings,
    *,
    acquisition: Mapping[str, float] | None = None,
    tags: Sequence[str] = (),
    streams: Sequence[Stream] = ALL,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Field]:
    """Give the field with *streams* live, and end it however it goes.

    Args:
        folder: For its files.
        settings: How the plant is.
        acquisition: Keys of ``[acquisition]``.
        tags: Lines of the tag list; with these the pumps are not found by path.
        streams: What there is to be watched at first.
        environment: Of the gateway.
    """
    gateway = GatewayProgram(folder / "gateway")
    plant = Peer(Asyncua(), folder / "plant", free_port(), clients=[gateway.certificate])
    gateway.trust(plant.certificate, "plant")
    (plant.folder / "plant.json").write_bytes(msgspec.json.encode(settings))
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(ChaosProxy(plant.port)) for _ in PUMPS]
        servers = [
            Server(name=name, port=proxy.port, is_open=name == "open")
            for name, proxy in zip(PUMPS.values(), proxies, strict=True)
        ]
        gateway.configure(servers, {} if tags else PUMPS, acquisition=acquisition, tags=tags)
        stack.callback(plant.kill)
        stack.callback(gateway.kill)
        await asyncio.to_thread(plant.start)
        await gateway.start(environment)
        it = Field(plant, gateway, proxies, JournalTail(gateway.state_dir / "journal.sqlite"), servers)
        it.streams, it.behind_ns = tuple(streams), int(settings.behind_s * 1e9)
        await it.tail.until_live(it.streams, 0, within_s=60)
        it.since = it.newest()
        yield it
