"""Servers are asked for what they say they take, or are known to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession
from asyncua.server.server import Server
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes

from gateway.data_acquisition.profiles import RequestLimits, ServerProfile, budget, read_profile
from tests.gateway.data_acquisition.small_plant import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.init()
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.set_endpoint(f"opc.tcp://127.0.0.1:{free_port()}/")
    async with server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.endpoint.geturl()) as client:
        yield client


class Told:
    """Writes what the server tells of itself, and takes it back."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._told: dict[str, str | int] = {}

    async def tell(self, **nodes: str | int) -> None:
        self._told |= nodes
        for name, value in nodes.items():
            node = ua.NodeId(ua.Int32(getattr(ObjectIds, f"Server_{name}")))
            kind = ua.VariantType.String if isinstance(value, str) else ua.VariantType.UInt32
            await self._server.write_attribute_value(node, ua.DataValue(ua.Variant(value, kind)))

    async def take_back(self) -> None:
        """Tell nothing: an empty text, or 0."""
        await self.tell(**{name: type(value)() for name, value in self._told.items()})


@pytest_asyncio.fixture(loop_scope="module")
async def told(server: Server) -> AsyncIterator[Told]:
    told = Told(server)
    yield told
    await told.take_back()


async def test_a_server_that_tells_nothing_is_generic(client: Client) -> None:
    """It is asked for what any server takes."""
    assert await read_profile(client) == ServerProfile()


async def test_what_the_server_tells_wins(client: Client, told: Told) -> None:
    """Smaller limits hold; larger ones change nothing, since more saves no time."""
    await told.tell(
        ServerCapabilities_OperationLimits_MaxNodesPerRead=7,
        ServerCapabilities_OperationLimits_MaxNodesPerBrowse=100_000,
        ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall=0,
        ServerCapabilities_MaxMonitoredItems=6_000,
        ServerCapabilities_MaxMonitoredItemsPerSubscription=300,
        ServerCapabilities_MaxSubscriptionsPerSession=50,
    )
    profile = await read_profile(client)
    assert profile.limits == RequestLimits(read=7)
    assert (profile.items_per_subscription, profile.subscriptions, profile.monitored_items) == (300, 50, 6_000)


@pytest.mark.parametrize(
    ("build_info", "name"),
    [
        ({"ProductUri": "https://www.siemens.com/s7-1500"}, "S7-1500"),
        ({"ProductName": "CPU 1516-3 PN/DP", "ManufacturerName": "Siemens AG"}, "S7-1500"),
        ({"ProductName": "6ES7 214-1AG40-0XB0", "ManufacturerName": "Siemens AG"}, "S7-1200"),
        ({"ProductUri": "urn:kepware.com:KEPServerEX", "ProductName": "KEPServerEX/UA Server"}, "Kepware"),
        ({"ProductUri": "urn:inductiveautomation:ignition:opcua:server"}, "Ignition"),
        ({"ProductName": "TwinCAT OPC UA Server", "ManufacturerName": "Beckhoff Automation"}, "Beckhoff"),
        ({"ProductUri": "urn:eclipse:milo", "ProductName": "a server"}, "generic"),
    ],
)
async def test_a_product_is_known_by_its_build_info(
    client: Client, told: Told, build_info: dict[str, str], name: str
) -> None:
    """By any of the three names in it."""
    empty = dict.fromkeys(("ProductUri", "ManufacturerName", "ProductName"), "")
    await told.tell(**{f"ServerStatus_BuildInfo_{key}": value for key, value in (empty | build_info).items()})
    assert (await read_profile(client)).name == name


async def test_a_known_product_is_asked_for_less_unless_it_tells(client: Client, told: Told) -> None:
    """The table holds where the server is silent."""
    await told.tell(ServerStatus_BuildInfo_ProductUri="https://www.siemens.com/s7-1200")
    profile = await read_profile(client)
    assert (profile.limits.items, profile.monitored_items) == (100, 1_000)
    await told.tell(ServerCapabilities_MaxMonitoredItems=4_000)
    assert (await read_profile(client)).monitored_items == 4_000


async def test_experience_goes_before_everything(client: Client) -> None:
    """A server that refused larger requests is asked for no more again."""
    assert (await read_profile(client, at_most=3)).limits == RequestLimits(browse=3, read=3, history=3, items=3)


@pytest.fixture(params=[5, 1, 0])
def read_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have servers answer BadTooManyOperations to a read of more nodes than this; 0: to each."""
    most: int = request.param
    read = InternalSession.read

    async def limited(self: InternalSession, parameters: ua.ReadParameters) -> Any:
        if self.external and len(parameters.NodesToRead) > most:
            raise ServiceError(ua.UInt32(StatusCodes.BadTooManyOperations))
        return await read(self, parameters)

    monkeypatch.setattr(InternalSession, "read", limited)
    return most


async def test_a_server_that_takes_few_nodes_still_tells(client: Client, told: Told, read_at_once: int) -> None:
    """It is asked for one after the other; what it refuses even then is not told."""
    await told.tell(ServerCapabilities_OperationLimits_MaxNodesPerBrowse=9)
    profile = await read_profile(client)
    assert profile.limits.browse == (9 if read_at_once else RequestLimits().browse)


async def test_the_budget_says_how_much_too_much() -> None:
    """Wanted and possible, in numbers, and what to do; nothing when it fits or is not known."""
    assert budget(ServerProfile(), 1_000_000) == ""
    assert budget(ServerProfile(monitored_items=6_000), 6_000) == ""
    told = budget(ServerProfile(monitored_items=6_000), 30_398)
    assert told.startswith("30,398 wanted, server monitors 6,000; the other 24,398 are refused and tried again")
    by_subscriptions = ServerProfile(subscriptions=2, items_per_subscription=100, monitored_items=6_000)
    assert "server monitors 200;" in budget(by_subscriptions, 201)
