from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.utils import ServiceError
from asyncua.server.monitored_item_service import MonitoredItemService
from asyncua.server.subscription_service import SubscriptionService
from asyncua.ua.status_codes import StatusCodes

from gateway.config import Deadband, Discard, Sampling
from gateway.data_acquisition.profiles import RequestLimits, ServerProfile
from gateway.data_acquisition.publishing import Publishing
from tests.gateway.data_acquisition.many_nodes import FAST, ManyNodes, Taker, connected_to

pytestmark = pytest.mark.asyncio(loop_scope="module")

Judge = Callable[[Any], int]  # a request for one item → status with which it is refused, 0 if it is not
ONE_ABSOLUTE = dataclasses.replace(FAST, deadband=Deadband.ABSOLUTE, deadband_value=1.0)
FIVE_PERCENT = dataclasses.replace(FAST, deadband=Deadband.PERCENT, deadband_value=5.0)
NO_MORE = "cannot be watched: server monitors no more (BadTooManyMonitoredItems)"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def many() -> AsyncIterator[ManyNodes]:
    many = ManyNodes()
    await many.start(300)
    yield many
    await many.server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(many: ManyNodes) -> AsyncIterator[Client]:
    async with connected_to(many.endpoint) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def publishing(client: Client) -> AsyncIterator[Publishing]:
    publishing = await Publishing.start(client, "s", ServerProfile(limits=RequestLimits(items=50)))
    yield publishing
    await publishing.close()


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Judge], None]:
    """Have the server refuse items as told, when they are created and when they are modified."""

    def install(judge: Judge) -> None:
        for name, blank in (
            ("_create_data_change_monitored_item", ua.MonitoredItemCreateResult),
            ("_modify_monitored_item", ua.MonitoredItemModifyResult),
        ):
            monkeypatch.setattr(MonitoredItemService, name, _judged(getattr(MonitoredItemService, name), blank, judge))

    return install


def _judged(method: Any, blank: Any, judge: Judge) -> Any:
    def refusal(request: Any) -> Any:
        status = judge(request)
        return blank(StatusCode=ua.StatusCode(ua.UInt32(status))) if status else None

    async def create(service: Any, request: Any) -> Any:
        return refusal(request) or await method(service, request)

    def modify(service: Any, request: Any) -> Any:
        return refusal(request) or method(service, request)

    return create if blank is ua.MonitoredItemCreateResult else modify


def filter_of(request: Any) -> tuple[int, int] | None:
    """Return trigger and deadband type of a request, None when it has no filter."""
    wanted = request.RequestedParameters.Filter
    return None if not hasattr(wanted, "Trigger") else (int(wanted.Trigger), int(wanted.DeadbandType))


async def test_every_change_of_time_is_asked_for_and_a_deadband_without_it(
    many: ManyNodes, publishing: Publishing, refuse: Callable[[Judge], None]
) -> None:
    """Nothing is refused: what is granted is what was asked for, and there is nothing to note but the sampling."""
    asked: list[Any] = []

    def take(request: Any) -> int:
        asked.append(request)
        return 0

    refuse(take)
    newest_first = dataclasses.replace(FAST, queue_size=7, discard=Discard.NEWEST, sampling_interval_ms=1_000.0)
    await publishing.watch([*many.items([0]), *many.items([1], ONE_ABSOLUTE), *many.items([2], newest_first)])
    assert [filter_of(request) for request in asked] == [(2, 0), (1, 1), (2, 0)]
    assert asked[1].RequestedParameters.Filter.DeadbandValue == 1.0
    assert (asked[2].RequestedParameters.QueueSize, asked[2].RequestedParameters.DiscardOldest) == (7, False)
    assert publishing.revised[2].queue_size == 7
    assert 2 not in publishing.notes


async def test_a_deadband_is_kept_by_the_server(many: ManyNodes, publishing: Publishing) -> None:
    """Half a unit is not told, two are."""
    await publishing.watch(many.items([0], ONE_ABSOLUTE))
    taker = Taker(publishing)
    for value in (10.0, 10.5, 12.5):
        await many.write(0, value)
        await taker.take(0.2)
    await taker.until(0, 12.5)
    assert 10.5 not in taker.values[0]


@pytest.mark.parametrize("ways", ["watch", "modify"])
async def test_filters_are_given_up_one_after_the_other(
    many: ManyNodes, publishing: Publishing, refuse: Callable[[Judge], None], ways: str
) -> None:
    """A percent deadband without EURange, and an item that takes no filter: all are watched, with a note."""
    if ways == "modify":
        await publishing.watch(many.items([0, 1, 2]))

    def judge(request: Any) -> int:
        wanted = filter_of(request)
        if wanted is not None and wanted[1] == ua.DeadbandType.Percent.value:
            return StatusCodes.BadDeadbandFilterInvalid
        return StatusCodes.BadMonitoredItemFilterUnsupported if request_handle(request) == 2 and wanted else 0

    def request_handle(request: Any) -> int:
        return int(request.RequestedParameters.ClientHandle)

    refuse(judge)
    items = [*many.items([0], ONE_ABSOLUTE), *many.items([1], FIVE_PERCENT), *many.items([2], FAST)]
    assert await (publishing.watch(items) if ways == "watch" else publishing.modify(items)) == {}
    assert "deadband" not in publishing.notes.get(0, "")
    assert "no percent deadband (BadDeadbandFilterInvalid)" in publishing.notes[1]
    assert "source time alone changes (BadMonitoredItemFilterUnsupported)" in publishing.notes[2]


async def test_a_smaller_queue_is_noted(
    many: ManyNodes, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gives ten values' room, and says so."""
    monkeypatch.setattr(MonitoredItemService, "_revise_queue_size", lambda *_: 10)
    await publishing.watch(many.items([0]))
    assert publishing.revised[0].queue_size == 10
    assert "a queue of 10 values, not 1000" in publishing.notes[0]


async def test_a_full_subscription_is_followed_by_another(
    many: ManyNodes, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has room for 30 items in each subscription monitors all 70."""
    _limit_items(monkeypatch, lambda service: len(service._monitored_items) >= 30)
    assert await publishing.watch(many.items(range(70))) == {}
    assert sorted(len(s.items) for s in publishing._items.subscriptions.values()) == [10, 30, 30]


async def test_what_the_server_does_not_monitor_is_named(
    many: ManyNodes, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has room for 30 items in all: the others are refused, nothing stays behind, and there is room again later."""
    room = [30]

    def is_full(_: MonitoredItemService) -> bool:
        room[0] -= 1
        return room[0] < 0

    _limit_items(monkeypatch, is_full)
    refused = await publishing.watch(many.items(range(70)))
    assert refused == dict.fromkeys(range(30, 70), NO_MORE)
    assert len(publishing._items.subscriptions) == 1
    room[0] = 100
    assert await publishing.watch(many.items(range(30, 70))) == {}


def _limit_items(monkeypatch: pytest.MonkeyPatch, is_full: Callable[[MonitoredItemService], bool]) -> None:
    create = MonitoredItemService._create_data_change_monitored_item

    async def limited(service: MonitoredItemService, request: Any) -> Any:
        if is_full(service):
            status = ua.StatusCode(ua.UInt32(StatusCodes.BadTooManyMonitoredItems))
            return ua.MonitoredItemCreateResult(StatusCode=status)
        return await create(service, request)

    monkeypatch.setattr(MonitoredItemService, "_create_data_change_monitored_item", limited)


async def test_another_interval_is_better_than_none(many: ManyNodes, publishing: Publishing) -> None:
    """A server with one subscription: items of another interval go into it, new or changed."""
    service = many.server.iserver.subscription_service
    many.server.iserver.max_subscriptions = 0
    refused = await publishing.watch(many.items([0]))
    assert refused == {0: "cannot be watched: server monitors no more (BadTooManySubscriptions)"}
    many.server.iserver.max_subscriptions = len(service.subscriptions) + 1
    try:
        slow = Sampling(publishing_interval_ms=50.0)
        assert await publishing.watch([*many.items([0, 2], slow), *many.items([1], FAST)]) == {}
        assert await publishing.modify(many.items([2])) == {}
        (only,) = publishing._items.subscriptions.values()
        assert set(only.items) == {0, 1, 2}
    finally:
        many.server.iserver.max_subscriptions = 1_000


async def test_requests_get_smaller_until_the_server_takes_them(
    many: ManyNodes, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes ten items at a time, and says so only by refusing fifty."""
    create = SubscriptionService.create_monitored_items
    sizes: list[int] = []

    async def grudge(service: SubscriptionService, parameters: ua.CreateMonitoredItemsParameters) -> Any:
        sizes.append(len(parameters.ItemsToCreate))
        if sizes[-1] > 10:
            raise ServiceError(StatusCodes.BadTooManyOperations)
        return await create(service, parameters)

    monkeypatch.setattr(SubscriptionService, "create_monitored_items", grudge)
    assert await publishing.watch(many.items(range(60))) == {}
    assert sizes[:4] == [50, 25, 12, 6]
    assert max(sizes[3:]) == 6


async def test_a_subscription_without_items_ends(many: ManyNodes, publishing: Publishing) -> None:
    """When the last item goes, and comes again later."""
    before = len(many.subscriptions())
    await publishing.watch(many.items([0]))
    await publishing.unwatch([0, 55])
    assert len(many.subscriptions()) == before
    assert await publishing.next(0.05) is None
    await publishing.watch(many.items([0]))
    taker = Taker(publishing)
    await many.write(0, 3.5)
    await taker.until(0, 3.5)


async def test_a_server_without_the_method_cannot_tell_what_it_monitors(
    many: ManyNodes, publishing: Publishing
) -> None:
    """The server of asyncua is one."""
    await publishing.watch(many.items([0]))
    assert await publishing.monitored() is None
