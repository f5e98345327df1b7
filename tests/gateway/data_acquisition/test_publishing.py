from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from asyncua.client.client import Client

from gateway.data_acquisition.profiles import RequestLimits, ServerProfile
from gateway.data_acquisition.publishing import Publishing
from tests.gateway.data_acquisition.many_nodes import ManyNodes, Taker, connected_to
from tests.gateway.data_acquisition.small_plant import until

PROFILE = ServerProfile(limits=RequestLimits(items=100))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many() -> AsyncIterator[ManyNodes]:
    many = ManyNodes()
    await many.start(1_200)
    yield many
    await many.server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(many: ManyNodes) -> AsyncIterator[Client]:
    async with connected_to(many.endpoint) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def publishing(client: Client) -> AsyncIterator[Publishing]:
    publishing = await Publishing.start(client, "s", PROFILE)
    yield publishing
    await publishing.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_values_come_and_are_acknowledged_only_when_told(many: ManyNodes, publishing: Publishing) -> None:
    """What is not acknowledged is kept by the server; what is, is forgotten."""
    assert await publishing.watch(many.items([0])) == {}
    taker = Taker(publishing)
    taker.acknowledges = False
    await many.write(0, 1.5)
    await taker.until(0, 1.5)
    await asyncio.sleep(0.1)
    assert many.unacknowledged() == len([m for m in taker.messages if m.values])
    for message in taker.messages:
        publishing.acknowledge(message)
    await many.write(0, 2.5)
    await taker.until(0, 2.5)
    await until(lambda: many.unacknowledged() <= 2)
