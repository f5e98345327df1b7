"""Subscriptions and polled readings against OPC UA servers of other makers, below the gateway's source."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest
from asyncua import ua
from asyncua.client.client import Client

from gateway.config import Deadband, Mode, Sampling, ServerConfig
from gateway.data_acquisition import ensure_application_certificate
from gateway.data_acquisition.certificate import application_uri
from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.connection import Connection, Identity, connect
from gateway.data_acquisition.polling import Polling
from gateway.data_acquisition.profiles import RequestLimits, ServerProfile
from gateway.data_acquisition.publishing import Item, Publishing
from gateway.errors import SourceUnavailable
from tests.gateway.data_acquisition.small_plant import Cable, free_port
from tests.integration.peers.server import CHANNELS, Maker, Measured, Milo, NodeOpcua, Peer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

OVERFLOW = 0x480
FAST = Sampling(publishing_interval_ms=100.0)
# The servers take three items, and two nodes to read, in one request: the first request finds out.
PROFILE = ServerProfile(limits=RequestLimits(items=4))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module", params=[NodeOpcua, Milo], ids=lambda maker: maker.name)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Each maker's server in turn, which trusts the gateway and is trusted by it."""
    maker: Maker = request.param()
    if lacking := maker.lacking():
        if os.environ.get("WEARSIGHT_NO_SKIP") == "1":
            pytest.fail(lacking)
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp(maker.name)
    pki = folder / "pki"
    ensure_application_certificate(pki, application_uri("gw-1"), "Wearsight gateway gw-1")
    peer = Peer(maker, folder / "peer", free_port(), clients=[(pki / "application.der").read_bytes()])
    (pki / "trusted").mkdir()
    (pki / "trusted" / "peer.der").write_bytes(peer.certificate)
    (folder / "password").write_text("secret\n")
    try:
        peer.start()
        yield peer
    finally:
        peer.kill()
        shutil.rmtree(folder, ignore_errors=True)


class Link:
    """The gateway's connections to a peer, one after the other."""

    def __init__(self, peer: Peer, endpoint: str) -> None:
        folder = peer.folder.parent
        self._server = ServerConfig(name="peer", endpoint=endpoint, user="gateway", password_file=folder / "password")
        self._identity = Identity(
            application_uri=application_uri("gw-1"), common_name="Wearsight gateway gw-1", pki_dir=folder / "pki"
        )
        self.connection: Connection | None = None

    async def make(self, *, reusing: bool = True) -> Connection:
        saved = None
        if self.connection is not None:
            saved = self.connection.saved() if reusing else None
            await self.connection.close(kindly=False)
        self.connection = await connect(self._server, self._identity, saved=saved)
        return self.connection


class Reader:
    """Takes what comes as rows of the peer's book, and acknowledges it."""

    def __init__(self, publishing: Publishing) -> None:
        self.publishing = publishing
        self.rows: dict[int, list[Measured]] = {}
        self.lost: list[str] = []

    async def on(self) -> None:
        """Take for ever."""
        while True:
            await self.take()

    async def take(self) -> None:
        message = await self.publishing.next(5.0)
        if message is None:
            return
        if message.lost:
            self.lost.append(message.cause)
        if message.values is not None:
            for handle, row in rows_of(message.values):
                self.rows.setdefault(handle, []).append(row)
            self.publishing.acknowledge(message)

    async def upto(self, source_time: int, handles: range = range(len(CHANNELS))) -> None:
        async with asyncio.timeout(60):
            while not all(self.rows.get(h) and self.rows[h][-1].source_time >= source_time for h in handles):
                await self.take()


def rows_of(values: Columns) -> list[tuple[int, Measured]]:
    ends = np.cumsum(values.sample_count)
    found = []
    for i, handle in enumerate(values.handle.tolist()):
        samples = values.samples[ends[i] - values.sample_count[i] : ends[i]].tolist()
        numbers = samples if values.sample_count[i] else [float(values.value[i])]
        found.append((handle, Measured(int(values.source_time[i]), int(values.status[i]), tuple(numbers))))
    return found


async def items_of(client: Client, sampling: Sampling = FAST) -> list[Item]:
    """Return the peer's channels as items; the handle is the channel's place."""
    namespace = await client.get_namespace_index("urn:wearsight:test:plant")
    nodes = [ua.NodeId(ua.String(f"pump-01.{channel}"), ua.Int16(namespace)) for channel in CHANNELS]
    return [Item(handle=handle, node=node, sampling=sampling) for handle, node in enumerate(nodes)]


async def measured_more(peer: Peer, ticks: int) -> int:
    """Wait until the pump measured *ticks* times more; return when it measured every channel last."""
    wanted = len(peer.book()["load_pct"]) + ticks
    while len(peer.book()["load_pct"]) < wanted:  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.02)
    return min(rows[-1].source_time for rows in peer.book().values())


@asynccontextmanager
async def watching(peer: Peer, endpoint: str = "") -> AsyncIterator[tuple[Link, Publishing, Reader]]:
    """Watch all channels of *peer*."""
    link = Link(peer, endpoint or peer.endpoint)
    client = (await link.make()).client
    publishing = await Publishing.start(client, "peer", PROFILE)
    try:
        assert await publishing.watch(await items_of(client)) == {}
        yield link, publishing, Reader(publishing)
    finally:
        await publishing.close()
        assert link.connection is not None
        await link.connection.close(kindly=True)


def agrees(reader: Reader, peer: Peer, end: int) -> None:
    """Hold that of each channel everything came since the first value, once and in order."""
    for handle, channel in enumerate(CHANNELS):
        rows = [row for row in reader.rows[handle] if row.source_time <= end]
        # node-opcua tells the newest value once more when a session comes back; the journal drops such repeats.
        rows = [row for i, row in enumerate(rows) if i == 0 or row != rows[i - 1]]
        first = rows[0].source_time
        book = [row for row in peer.book()[channel] if first <= row.source_time <= end]
        missing, others = set(book) - set(rows), set(rows) - set(book)
        assert (channel, missing, others) == (channel, set(), set())
        assert rows == book, channel


@pytest.mark.parametrize("way", ["session reused", "subscriptions transferred"])
async def test_no_value_is_lost_over_cuts(peer: Peer, way: str) -> None:
    """Twice the link is cut while the pump measures on; the subscriptions go on, and nothing is missing or twice."""
    async with Cable(peer) as cable, watching(peer, cable.endpoint) as (link, publishing, reader):
        for _ in range(2):
            await reader.upto(await measured_more(peer, 3))
            subscriptions = set(publishing._items.subscriptions)
            cable.cut()
            with pytest.raises(SourceUnavailable):
                await reader.on()
            await measured_more(peer, 5)
            cable.join()
            connection = await link.make(reusing=way == "session reused")
            assert connection.reused == (way == "session reused")
            assert await publishing.resume(connection.client, reused=connection.reused)
            end = await measured_more(peer, 3)
            await reader.upto(end)
            assert set(publishing._items.subscriptions) == subscriptions
        agrees(reader, peer, end)
        assert reader.lost == []


async def test_a_restarted_server_knows_nothing_of_the_subscriptions(peer: Peer) -> None:
    """Neither the session nor a transfer brings them back; that is said, and is no error."""
    async with watching(peer) as (link, publishing, reader):
        await reader.upto(await measured_more(peer, 3))
        peer.kill()
        with pytest.raises(SourceUnavailable):
            await reader.on()
        await asyncio.to_thread(peer.start)
        connection = await link.make()
        assert not connection.reused
        assert not await publishing.resume(connection.client, reused=False)


async def test_the_server_tells_what_it_monitors(peer: Peer) -> None:
    """Its own list of client handles, after items came and went; one that nobody asked for any more can be ended."""
    async with watching(peer) as (_, publishing, reader):
        await reader.take()
        everything = frozenset(range(len(CHANNELS)))
        assert await publishing.monitored() == everything
        await publishing.unwatch([1])
        assert await publishing.monitored() == everything - {1}
        publishing._items._forget(publishing._items.home[2], 2)  # as after an answer that never came
        assert await publishing.monitored() == everything - {1}
        await publishing.unwatch([2])
        assert await publishing.monitored() == everything - {1, 2}


async def test_a_queue_of_two_overflows_and_says_so(peer: Peer) -> None:
    """The revised size is known, and a value before which others were dropped bears the overflow bit."""
    async with watching(peer) as (link, publishing, reader):
        assert link.connection is not None
        await publishing.unwatch(range(len(CHANNELS)))
        small = Sampling(publishing_interval_ms=1000.0, queue_size=2)
        # A channel that is always good: node-opcua 2.182 throws where a value that is not has to bear the bit.
        (item,) = [i for i in await items_of(link.connection.client, small) if CHANNELS[i.handle] == "load_pct"]
        assert await publishing.watch([item]) == {}
        assert publishing.revised[item.handle].queue_size == 2
        async with asyncio.timeout(30):
            while not any(row.status & OVERFLOW == OVERFLOW for row in reader.rows.get(item.handle, [])):
                await reader.take()


async def test_items_move_to_another_interval_without_a_hole(peer: Peer) -> None:
    """From 100 ms to 300 ms and back: every value once and in order."""
    async with watching(peer) as (link, publishing, reader):
        assert link.connection is not None
        await reader.upto(await measured_more(peer, 3))
        for interval_ms in (300.0, 100.0):
            before = set(publishing._items.subscriptions)
            slower = await items_of(link.connection.client, Sampling(publishing_interval_ms=interval_ms))
            assert await publishing.modify(slower) == {}
            async with asyncio.timeout(30):
                while before & set(publishing._items.subscriptions):
                    await reader.take()
        end = await measured_more(peer, 5)
        await reader.upto(end)
        agrees(reader, peer, end)
        assert reader.lost == []


async def test_a_deadband_leaves_every_channel_watched(peer: Peer) -> None:
    """Absolute or percent, of a number or a waveform: it is granted or it is noted, and values come."""
    async with watching(peer) as (link, publishing, reader):
        assert link.connection is not None
        for deadband in (Deadband.ABSOLUTE, Deadband.PERCENT):
            sampling = Sampling(publishing_interval_ms=100.0, deadband=deadband, deadband_value=0.01)
            assert await publishing.modify(await items_of(link.connection.client, sampling)) == {}
            await reader.upto(await measured_more(peer, 5))


async def test_polled_readings_are_what_the_pump_measured(peer: Peer) -> None:
    """Each reading stands in the book, waveforms and Bad values too, whatever size of request the server takes."""
    link = Link(peer, peer.endpoint)
    client = (await link.make()).client
    items = await items_of(client, Sampling(mode=Mode.POLL, sampling_interval_ms=50.0))
    polling = Polling(client, "peer", items, RequestLimits(read=4))
    taken: list[tuple[int, Measured]] = []
    async with aclosing(polling.readings()) as readings:
        async for values in readings:
            taken += rows_of(values)
            if len(taken) > 150:
                break
    book = peer.book()
    assert {handle for handle, _ in taken} == set(range(len(CHANNELS)))
    for handle, row in taken:
        assert row in book[CHANNELS[handle]]
    assert link.connection is not None
    await link.connection.close(kindly=True)
