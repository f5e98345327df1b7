"""Subscriptions over a connection that was lost and made anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.config import Security, ServerConfig
from gateway.data_acquisition.connection import Connection, Identity, connect
from gateway.data_acquisition.profiles import RequestLimits, ServerProfile
from gateway.data_acquisition.publishing import Publishing
from gateway.errors import SourceUnavailable
from tests.gateway.data_acquisition.many_nodes import ManyNodes, Taker
from tests.gateway.data_acquisition.small_plant import Cable, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many() -> AsyncIterator[ManyNodes]:
    many = ManyNodes()
    await many.start(10)
    yield many
    await many.server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def cable(many: ManyNodes) -> AsyncIterator[Cable]:
    for i in range(10):
        await many.write(i, 0.0)
    async with Cable(many) as cable:
        yield cable


class Link:
    """The gateway's connection over a cable, made anew when it was cut."""

    def __init__(self, cable: Cable, pki: Path) -> None:
        self._cable = cable
        self._server = ServerConfig(name="s", endpoint=cable.endpoint, security=Security.NONE)
        self._identity = Identity(application_uri="urn:gateway", common_name="gateway", pki_dir=pki)
        self.connection: Connection | None = None

    async def make(self) -> Connection:
        saved = self.connection.saved() if self.connection is not None else None
        if self.connection is not None:
            await self.connection.close(kindly=False)
        self.connection = await connect(self._server, self._identity, saved=saved)
        return self.connection

    async def cut(self, publishing: Publishing, taker: Taker) -> None:
        """Cut the link and take what had arrived, until it is noticed."""
        self._cable.cut()
        with pytest.raises(SourceUnavailable, match="connection lost"):
            await taker.on()
        assert publishing.backlog == 0
        self._cable.join()


@asynccontextmanager
async def linked(cable: Cable, pki: Path) -> AsyncIterator[tuple[Link, Publishing]]:
    link = Link(cable, pki)
    client = (await link.make()).client
    publishing = await Publishing.start(client, "s", ServerProfile(limits=RequestLimits(items=50)))
    try:
        yield link, publishing
    finally:
        await publishing.close()
        assert link.connection is not None
        await link.connection.close(kindly=True)


async def test_a_reused_session_loses_no_value_over_a_cut(many: ManyNodes, cable: Cable, tmp_path: Path) -> None:
    """What was on the way is asked for again, what was measured meanwhile is queued; all comes once and in order."""
    async with linked(cable, tmp_path) as (link, publishing):
        await publishing.watch(many.items(range(3)))
        taker = Taker(publishing)
        while not set(range(3)) <= taker.values.keys():
            await taker.take(1.0)
        value = 0
        for _ in range(3):
            for part in range(3):
                for _ in range(5):
                    value += 1
                    for i in range(3):
                        await many.write(i, float(value))
                    await asyncio.sleep(0.01)
                if part == 0:
                    await link.cut(publishing, taker)
                if part == 1:
                    connection = await link.make()
                    assert connection.reused
                    assert await publishing.resume(connection.client, reused=True)
            await taker.until(2, float(value))
        for i in range(3):
            assert taker.values[i][1:] == [float(number) for number in range(1, value + 1)]
        assert publishing.republished > 0
        assert not taker.lost


async def test_acknowledgements_on_the_way_are_sent_again(many: ManyNodes, cable: Cable, tmp_path: Path) -> None:
    """They go with requests that are never answered; the server forgets the messages all the same."""
    async with linked(cable, tmp_path) as (link, publishing):
        await publishing.watch(many.items([0]))
        taker = Taker(publishing)
        taker.acknowledges = False
        for value in (1.0, 2.0, 3.0):
            await many.write(0, value)
            await taker.until(0, value)
        kept = many.unacknowledged()
        assert kept >= 3
        cable.freeze()
        for message in taker.messages:
            publishing.acknowledge(message)
        taker.acknowledges = True
        publishing._requests.send_one()
        assert any(publishing._requests._line.carried.values())
        await link.cut(publishing, taker)
        cable.thaw()
        assert many.unacknowledged() >= kept
        connection = await link.make()
        assert await publishing.resume(connection.client, reused=connection.reused)
        await many.write(0, 4.0)
        await taker.until(0, 4.0)
        await many.write(0, 5.0)
        await taker.until(0, 5.0)
        await until(lambda: many.unacknowledged() < kept)


async def test_subscriptions_the_server_threw_away_cannot_go_on(many: ManyNodes, cable: Cable, tmp_path: Path) -> None:
    """All of them gone: start anew. One of two gone: that one is made anew, and told as lost."""
    async with linked(cable, tmp_path) as (link, publishing):
        service = many.server.iserver.subscription_service
        await publishing.watch(many.items([0]))
        taker = Taker(publishing)
        while 0 not in taker.values:
            await taker.take(1.0)
        (gone,) = publishing._items.subscriptions
        await link.cut(publishing, taker)
        connection = await link.make()
        await service.delete_subscriptions([gone])
        assert not await publishing.resume(connection.client, reused=True)

        anew = await Publishing.start(connection.client, "s", ServerProfile(items_per_subscription=1))
        await anew.watch(many.items([0, 1]))
        taker = Taker(anew)
        while not {0, 1} <= taker.values.keys():
            await taker.take(1.0)
        await link.cut(anew, taker)
        await service.delete_subscriptions([anew._items.home[0].id])
        connection = await link.make()
        assert await anew.resume(connection.client, reused=connection.reused)
        await many.write(0, 7.5)
        await taker.until(0, 7.5)
        assert [message.lost for message in taker.lost] == [{0}]
        await anew.close()


async def test_what_was_asked_while_the_link_was_down_is_an_error(
    many: ManyNodes, cable: Cable, tmp_path: Path
) -> None:
    """To watch, to ask what is monitored: the link is lost, and nothing else is said."""
    async with linked(cable, tmp_path) as (link, publishing):
        await publishing.watch(many.items([0]))
        taker = Taker(publishing)
        await taker.take(1.0)
        await link.cut(publishing, taker)
        with pytest.raises(SourceUnavailable, match="s: connection lost"):
            await publishing.watch(many.items([1]))
        with pytest.raises(SourceUnavailable, match="s: connection lost"):
            await publishing.next(0.0)
