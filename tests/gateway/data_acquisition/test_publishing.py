from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.status_codes import StatusCodes

from gateway.config import Sampling
from gateway.data_acquisition import publish_requests
from gateway.data_acquisition import publishing as module
from gateway.data_acquisition.profiles import RequestLimits, ServerProfile
from gateway.data_acquisition.publishing import Item, Publishing
from gateway.errors import SourceUnavailable
from tests.gateway.data_acquisition.many_nodes import FAST, ManyNodes, Taker, connected_to
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
    for i in range(10):
        await many.write(i, 0.0)
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


@dataclasses.dataclass
class Thief:
    """Takes messages of the server's subscriptions out of the wire."""

    steals: Callable[[ua.PublishResult], bool] = lambda _: False
    forgets: bool = False  # has the server not keep what was stolen
    stolen: int = 0


@pytest.fixture
def thief(monkeypatch: pytest.MonkeyPatch) -> Thief:
    """Between asyncua's subscriptions and the wire."""
    thief = Thief()
    pop = InternalSubscription._pop_publish_result

    def popped(subscription: InternalSubscription) -> ua.PublishResult:
        result = pop(subscription)
        while result.NotificationMessage.NotificationData and thief.steals(result):
            thief.stolen += 1
            if thief.forgets:
                subscription._not_acknowledged_results.pop(result.NotificationMessage.SequenceNumber)
            result = pop(subscription)
        return result

    monkeypatch.setattr(InternalSubscription, "_pop_publish_result", popped)
    return thief


def numbered(*numbers: int) -> Callable[[ua.PublishResult], bool]:
    """Match the messages with these sequence numbers."""
    return lambda result: result.NotificationMessage.SequenceNumber in numbers


@pytest.mark.parametrize("first", [2, 2**32 - 3], ids=["in order", "over the last number"])
async def test_lost_messages_are_asked_for_again_in_order(
    many: ManyNodes, publishing: Publishing, thief: Thief, first: int
) -> None:
    """Three messages in a row are stolen, over the end of the numbers too; the values come complete, each once."""
    await publishing.watch(many.items([0]))
    (subscription,) = publishing._items.subscriptions.values()
    (theirs,) = [s for s in many.subscriptions() if s.data.SubscriptionId == subscription.id]
    taker = Taker(publishing)
    while not taker.values:
        await taker.take(1.0)
    subscription.expected = theirs._notification_seq = first
    _roll_over(theirs)
    thief.steals = lambda _: thief.stolen < 3
    for value in range(1, 8):
        await many.write(0, float(value))
        await asyncio.sleep(0.05)
    await taker.until(0, 7.0)
    assert taker.values[0][1:] == [float(value) for value in range(1, 8)]
    assert (thief.stolen, publishing.republished, taker.lost) == (3, 3, [])


def _roll_over(subscription: Any) -> None:
    """Have asyncua's server count as OPC UA says; it counts on."""

    class Numbers(dict[int, Any]):
        def __setitem__(self, number: int, result: Any) -> None:
            super().__setitem__(number, result)
            if number == 2**32 - 1:
                subscription._notification_seq = 1

    subscription._not_acknowledged_results = Numbers()


async def test_the_last_message_before_silence_is_missed_by_the_keep_alive(
    many: ManyNodes, publishing: Publishing, thief: Thief
) -> None:
    """Nothing follows the stolen message; the keep-alive's number shows that there was one."""
    await publishing.watch(many.items([0]))
    taker = Taker(publishing)
    while not taker.values:
        await taker.take(1.0)
    thief.steals = numbered(2)
    await many.write(0, 4.5)
    await taker.until(0, 4.5)
    assert publishing.republished == 1


async def test_what_cannot_be_had_again_is_told_as_lost_and_the_rest_goes_on(
    many: ManyNodes, publishing: Publishing, thief: Thief
) -> None:
    """One message of one subscription is gone for good: its handles are named, the other one's are not."""
    slow = Sampling(publishing_interval_ms=30.0)
    await publishing.watch([*many.items([0, 1]), *many.items([2], slow)])
    taker = Taker(publishing)
    while not {0, 1, 2} <= taker.values.keys():
        await taker.take(1.0)
    first = publishing._items.home[0].id
    thief.forgets = True
    thief.steals = lambda result: result.SubscriptionId == first and thief.stolen < 1
    await many.write(0, 1.0)
    await until(lambda: thief.stolen == 1)
    for value in (2.0, 3.0):
        await many.write(0, value)
        await many.write(2, value)
        await taker.until(0, value)
        await taker.until(2, value)
    assert [message.lost for message in taker.lost] == [{0, 1}]
    assert taker.lost[0].cause.endswith("no longer has: 1")
    assert 1.0 not in taker.values[0]


async def test_a_server_that_jumps_in_its_numbers_is_asked_a_thousand_times_at_most(
    many: ManyNodes, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is told once, with its size, and values go on."""
    monkeypatch.setattr(module, "_MOST_REPUBLISHED", 5)
    await publishing.watch(many.items([0]))
    taker = Taker(publishing)
    while not taker.values:
        await taker.take(1.0)
    (home,) = publishing._items.subscriptions.values()
    {s.data.SubscriptionId: s for s in many.subscriptions()}[home.id]._notification_seq += 1_000_000
    await many.write(0, 1.5)
    await taker.until(0, 1.5)
    assert [message.cause[-7:] for message in taker.lost] == ["1000000"]
    assert publishing.republished == 0


async def test_what_the_server_does_not_take_again_is_named(many: ManyNodes, publishing: Publishing) -> None:
    """A subscription ends and one of its nodes is gone meanwhile: the other is watched, that one told as refused."""
    await many.add(0.0)
    gone = len(many.nodes) - 1
    await publishing.watch(many.items([0, gone]))
    taker = Taker(publishing)
    while not {0, gone} <= taker.values.keys():
        await taker.take(1.0)
    await many.server.iserver.subscription_service.delete_subscriptions([publishing._items.home[0].id])
    await many.server.delete_nodes([many.server.get_node(many.nodes[gone])])
    publishing._requests.send_one()  # asyncua's server says so only to a new request
    await many.write(0, 9.25)
    await taker.until(0, 9.25)
    assert [message.lost for message in taker.lost] == [{0, gone}, {gone}]
    assert taker.lost[1].refused == {gone: "cannot be watched (BadNodeIdUnknown)"}


async def test_a_subscription_the_server_ends_is_made_anew_alone(many: ManyNodes, publishing: Publishing) -> None:
    """It is told as lost, its items are watched in another one; the other subscription stays."""
    slow = Sampling(publishing_interval_ms=30.0)
    await publishing.watch([*many.items([0, 1]), *many.items([2], slow)])
    taker = Taker(publishing)
    while not {0, 1, 2} <= taker.values.keys():
        await taker.take(1.0)
    ended, stays = publishing._items.home[0].id, publishing._items.home[2].id
    theirs = {s.data.SubscriptionId: s for s in many.subscriptions()}[ended]
    await theirs.monitored_item_srv.trigger_statuschange(ua.StatusCode(ua.UInt32(StatusCodes.BadTimeout)))
    while not taker.lost:
        await taker.take(1.0)
    assert taker.lost[0].lost == {0, 1}
    assert "BadTimeout" in taker.lost[0].cause
    await many.write(1, 8.5)
    await taker.until(1, 8.5)
    assert publishing._items.home[0].id != ended
    assert publishing._items.home[2].id == stays


async def test_a_bad_status_of_a_living_subscription_ends_nothing(many: ManyNodes, publishing: Publishing) -> None:
    """Asyncua's server says so when a node is deleted; nothing is lost by it."""
    await publishing.watch(many.items([0]))
    taker = Taker(publishing)
    while not taker.values:
        await taker.take(1.0)
    (home,) = publishing._items.subscriptions.values()
    theirs = {s.data.SubscriptionId: s for s in many.subscriptions()}[home.id]
    await theirs.monitored_item_srv.trigger_statuschange(ua.StatusCode(ua.UInt32(StatusCodes.BadNodeIdUnknown)))
    for value in (1.25, 2.25):
        await many.write(0, value)
        await taker.until(0, value)
    assert (taker.lost, list(publishing._items.subscriptions)) == ([], [home.id])


async def test_subscriptions_that_vanish_without_a_word_are_made_anew(many: ManyNodes, publishing: Publishing) -> None:
    """The server forgets all it had: it answers that there is no subscription, and everything is watched again."""
    await publishing.watch(many.items([0]))
    taker = Taker(publishing)
    while not taker.values:
        await taker.take(1.0)
    service = many.server.iserver.subscription_service
    await service.delete_subscriptions(list(service.subscriptions))
    publishing._requests.send_one()  # asyncua's server says so only to a new request
    await many.write(0, 3.75)
    await taker.until(0, 3.75)
    assert [message.lost for message in taker.lost] == [{0}]


async def test_one_silent_subscription_is_made_anew_while_others_talk(many: ManyNodes, publishing: Publishing) -> None:
    """The server no longer publishes one of two, and says nothing."""
    slow = Sampling(publishing_interval_ms=30.0)
    await publishing.watch([*many.items([0]), *many.items([2], slow)])
    taker = Taker(publishing)
    while not {0, 2} <= taker.values.keys():
        await taker.take(1.0)
    home = publishing._items.home[0]
    home.granted = dataclasses.replace(home.granted, silence_s=0.2)
    theirs = {s.data.SubscriptionId: s for s in many.subscriptions()}[home.id]
    theirs._task.cancel()
    while not taker.lost:
        await many.write(2, asyncio.get_running_loop().time())
        await taker.take(0.05)
    assert "silent" in taker.lost[0].cause
    await many.write(0, 6.5)
    await taker.until(0, 6.5)
    assert taker.lost[0].lost == {0}


async def test_a_silent_server_is_a_lost_link(many: ManyNodes, publishing: Publishing) -> None:
    """Neither value nor keep-alive: the link is given up."""
    await publishing.watch(many.items([0]))
    while await publishing.next(0.2):
        pass
    (home,) = publishing._items.subscriptions.values()
    home.granted = dataclasses.replace(home.granted, silence_s=0.2)
    {s.data.SubscriptionId: s for s in many.subscriptions()}[home.id]._task.cancel()
    with pytest.raises(SourceUnavailable, match=r"no message for 0\.2 s"):
        await publishing.next()


async def test_a_stalled_consumer_stops_the_requests_and_loses_nothing(
    many: ManyNodes, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ten messages unacknowledged no more are asked for; the server queues, and all comes in the end."""
    monkeypatch.setattr(publish_requests, "_HELD_MESSAGES", 10)
    await publishing.watch(many.items([0]))
    taker = Taker(publishing)
    taker.acknowledges = False
    for value in range(1, 40):
        await many.write(0, float(value))
        await taker.take(0.03)
    assert publishing._requests.waiting <= 10
    assert not publishing._requests.in_flight
    taker.acknowledges = True
    for message in list(taker.messages):
        publishing.acknowledge(message)
    await taker.until(0, 39.0)
    assert taker.values[0][1:] == [float(value) for value in range(1, 40)]
    assert not taker.lost


async def test_bytes_are_bounded_as_messages_are(
    many: ManyNodes, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few messages with much in them stop the requests as well."""
    monkeypatch.setattr(publish_requests, "_HELD_BYTES", 20_000)
    await publishing.watch(many.items(range(400)))
    for _ in range(6):
        await asyncio.gather(*(many.write(i, 1.0) for i in range(400)))
        await asyncio.sleep(0.05)
    assert publishing._requests._held_bytes < 20_000 + 4 * 400 * 60
    assert not publishing._requests.in_flight


async def test_fewer_requests_are_sent_when_the_server_wants_fewer(
    many: ManyNodes, publishing: Publishing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes two PublishRequests gets two, and values go on."""
    monkeypatch.setattr(UaProcessor, "publish_request_limit", lambda *_: 2)
    await publishing.watch(many.items([0]))
    taker = Taker(publishing)
    for value in (1.0, 2.0, 3.0):
        await many.write(0, value)
        await taker.until(0, value)
    assert publishing._requests.in_flight == 2


async def test_others_show_no_hole_while_a_thousand_items_come_change_and_go(
    many: ManyNodes, publishing: Publishing
) -> None:
    """Each value of the bystanders comes, once and in order, whatever happens to the rest."""
    bystanders = range(3)
    await publishing.watch(many.items(bystanders))
    taker = Taker(publishing)
    while not set(bystanders) <= taker.values.keys():
        await taker.take(1.0)
    is_done, written = False, 0

    async def write() -> None:
        nonlocal written
        while not is_done:
            written += 1
            for i in bystanders:
                await many.write(i, float(written))
            await asyncio.sleep(0.01)

    async with taker.taking():
        writing = asyncio.create_task(write())
        crowd = many.items(range(100, 1_100))
        changed = Sampling(publishing_interval_ms=20.0, queue_size=5)
        assert await publishing.watch(crowd) == {}
        assert await publishing.modify(many.items(range(100, 1_100), changed)) == {}
        assert publishing.revised[500].queue_size == 5
        await publishing.unwatch(range(100, 1_100))
        is_done = True
        await writing
        await until(lambda: all(taker.values[i][-1] == float(written) for i in bystanders))
    assert written > 10
    for i in bystanders:
        assert taker.values[i][1:] == [float(value) for value in range(1, written + 1)]
    assert not taker.lost


async def test_items_change_their_publishing_interval_without_a_hole(many: ManyNodes, publishing: Publishing) -> None:
    """They go to another subscription; each value comes once and in order, and the old one ends when it is empty."""
    numbers = range(10)
    await publishing.watch(many.items(numbers))
    before = publishing._items.home[0].id
    taker = Taker(publishing)
    while not set(numbers) <= taker.values.keys():
        await taker.take(1.0)
    is_done, written = False, 0

    async def write() -> None:
        nonlocal written
        while not is_done:
            written += 1
            for i in numbers:
                await many.write(i, float(written))
            await asyncio.sleep(0.003)

    async with taker.taking():
        writing = asyncio.create_task(write())
        assert await publishing.modify(many.items(numbers, Sampling(publishing_interval_ms=50.0))) == {}
        await until(lambda: before not in publishing._items.subscriptions)
        await asyncio.sleep(0.2)
        is_done = True
        await writing
        await until(lambda: all(taker.values[i][-1] == float(written) for i in numbers))
    assert written > 10
    for i in numbers:
        assert taker.values[i][1:] == [float(value) for value in range(1, written + 1)]
    assert not taker.lost


async def test_one_refused_item_does_not_stop_the_others(many: ManyNodes, publishing: Publishing) -> None:
    """It is named with OPC UA's word for the reason."""
    nobody = Item(handle=77, node=ua.NodeId(ua.String("nobody"), ua.Int16(1)), sampling=FAST)
    assert await publishing.watch([nobody, *many.items([0])]) == {77: "cannot be watched (BadNodeIdUnknown)"}
    assert publishing.last_message_at(77) is None
    assert publishing.last_message_at(0) is not None


async def test_items_are_spread_over_subscriptions(many: ManyNodes, client: Client) -> None:
    """250 items, at most 100 in one: three subscriptions."""
    publishing = await Publishing.start(client, "s", dataclasses.replace(PROFILE, items_per_subscription=100))
    await publishing.watch(many.items(range(250)))
    assert sorted(len(s.items) for s in publishing._items.subscriptions.values()) == [50, 100, 100]
    taker = Taker(publishing)
    await many.write(249, 9.5)
    await taker.until(249, 9.5)
    await publishing.close()
