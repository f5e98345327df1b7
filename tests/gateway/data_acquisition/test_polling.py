from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession
from asyncua.ua.status_codes import StatusCodes

from gateway.config import Mode, Sampling
from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.polling import Polling
from gateway.data_acquisition.profiles import RequestLimits
from gateway.data_acquisition.publishing import Item
from gateway.errors import SourceUnavailable
from tests.gateway.data_acquisition.many_nodes import ManyNodes, connected_to

LIMITS = RequestLimits(read=4)
QUICK = Sampling(mode=Mode.POLL, sampling_interval_ms=20.0)
SLOW = Sampling(mode=Mode.POLL, sampling_interval_ms=100.0)
BAD_SENSOR = 0x808C0000

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many() -> AsyncIterator[ManyNodes]:
    many = ManyNodes()
    await many.start(12)
    await many.add([1.0, 2.0, 3.0])
    yield many
    await many.server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(many: ManyNodes) -> AsyncIterator[Client]:
    for i in range(12):
        await many.write(i, float(i))
    async with connected_to(many.endpoint) as client:
        yield client


async def take(polling: Polling, enough: Callable[[list[Columns]], bool]) -> Columns:
    """Return what was read until it was *enough*."""
    taken: list[Columns] = []
    async with aclosing(polling.readings()) as readings:
        async for values in readings:
            taken.append(values)
            if enough(taken):
                break
    return Columns.concatenate(taken)


async def test_all_items_are_read_in_requests_of_the_size_the_server_takes(many: ManyNodes, client: Client) -> None:
    """Twelve items, four at a time, each value under its handle with its source time."""
    polling = Polling(client, "s", many.items(range(12), QUICK), LIMITS)
    values = await take(polling, lambda taken: len(taken) == 3)
    assert values.handle.tolist() == list(range(12))
    assert values.value.tolist() == [float(i) for i in range(12)]
    assert (values.status == 0).all()
    assert (values.source_time > 0).all()


async def test_each_group_is_read_at_its_interval(many: ManyNodes, client: Client) -> None:
    """In the time of six slow readings there are many more quick ones."""
    polling = Polling(client, "s", [*many.items([0], QUICK), *many.items([1], SLOW)], LIMITS)
    values = await take(polling, lambda taken: sum(1 in part.handle for part in taken) == 6)
    assert (values.handle == 0).sum() > 2 * (values.handle == 1).sum()


async def test_a_slow_group_holds_up_no_other(many: ManyNodes, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server thinks long about one node; the others' values come meanwhile."""
    read, is_held, waiting = InternalSession.read, asyncio.Event(), [0]

    async def hesitate(session: InternalSession, parameters: ua.ReadParameters) -> list[ua.DataValue]:
        if parameters.NodesToRead[0].NodeId == many.nodes[1]:
            waiting[0] += 1
            await is_held.wait()
        return await read(session, parameters)

    monkeypatch.setattr(InternalSession, "read", hesitate)
    async with connected_to(many.endpoint) as other:
        polling = Polling(client, "s", many.items([0], QUICK), LIMITS)
        slow = Polling(other, "s", many.items([1], QUICK), LIMITS)
        reading = asyncio.create_task(take(slow, lambda taken: len(taken) == 1))
        values = await take(polling, lambda taken: len(taken) == 10)
        assert set(values.handle.tolist()) == {0}
        assert waiting == [1]  # never two readings of one group at the same time
        is_held.set()
        assert (await reading).handle.tolist() == [1]


async def test_a_tag_that_fails_is_a_bad_value_among_good_ones(many: ManyNodes, client: Client) -> None:
    """A broken sensor and a node that is not there; their neighbours are read."""
    await many.write(1, 5.0, BAD_SENSOR)
    nobody = Item(handle=2, node=ua.NodeId(ua.String("nobody"), ua.Int16(1)), sampling=QUICK)
    polling = Polling(client, "s", [*many.items([0, 1], QUICK), nobody, *many.items([3], QUICK)], LIMITS)
    values = await take(polling, lambda taken: len(taken) == 1)
    assert values.status.tolist() == [0, BAD_SENSOR, StatusCodes.BadNodeIdUnknown, 0]
    assert values.value[[0, 3]].tolist() == [0.0, 3.0]


async def test_a_waveform_is_one_reading(many: ManyNodes, client: Client) -> None:
    """Its samples come together."""
    polling = Polling(client, "s", many.items([11, 12], QUICK), LIMITS)
    values = await take(polling, lambda taken: len(taken) == 1)
    assert values.sample_count.tolist() == [0, 3]
    assert values.samples.tolist() == [1.0, 2.0, 3.0]


async def test_the_list_changes_while_it_is_read(many: ManyNodes, client: Client) -> None:
    """A tag goes, another comes, in the same and in another group."""
    polling = Polling(client, "s", many.items([0, 1], QUICK), LIMITS)
    seen: list[set[int]] = []
    async with aclosing(polling.readings()) as readings:
        async for values in readings:
            seen.append(set(values.handle.tolist()))
            if len(seen) == 3:
                polling.update([*many.items([1, 2], QUICK), *many.items([3], SLOW)])
            if {1, 2} in seen and {3} in seen:
                polling.update([])
                break
    assert seen[0] == {0, 1}
    assert seen[-1] in ({1, 2}, {3})


async def test_a_server_that_takes_fewer_nodes_is_asked_for_fewer(
    many: ManyNodes, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BadTooManyOperations halves the request, and all is read."""
    read, sizes = InternalSession.read, []

    async def grudge(session: InternalSession, parameters: ua.ReadParameters) -> list[ua.DataValue]:
        sizes.append(len(parameters.NodesToRead))
        if len(parameters.NodesToRead) > 2:
            raise ServiceError(StatusCodes.BadTooManyOperations)
        return await read(session, parameters)

    monkeypatch.setattr(InternalSession, "read", grudge)
    polling = Polling(client, "s", many.items(range(12), QUICK), RequestLimits(read=12))
    values = await take(polling, lambda taken: sum(len(part.handle) for part in taken) >= 24)
    assert values.handle.tolist()[:12] == list(range(12))
    assert (values.status == 0).all()
    assert set(sizes[-3:]) <= {1, 2}


async def test_a_lost_link_ends_the_readings(many: ManyNodes) -> None:
    """It is the one error; the server's name is in it."""
    async with connected_to(many.endpoint) as client:
        polling = Polling(client, "line 3", many.items([0], QUICK), LIMITS)

        def cut(_: list[Columns]) -> bool:
            client.disconnect_socket()
            return False

        with pytest.raises(SourceUnavailable, match="line 3: connection lost"):
            await take(polling, cut)
