"""What one session monitors: which item is in which subscription, and what the server granted of what was asked."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import structlog
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from gateway.config import Deadband, Discard, Sampling
from gateway.data_acquisition.messages import NotificationMessage, status_name
from gateway.data_acquisition.profiles import ServerProfile
from gateway.data_acquisition.services import TOO_LARGE, GrantedSubscription, Services

log = structlog.get_logger()

_FILTER_REFUSED = frozenset(
    {
        StatusCodes.BadFilterNotAllowed,
        StatusCodes.BadMonitoredItemFilterInvalid,
        StatusCodes.BadMonitoredItemFilterUnsupported,
        StatusCodes.BadDeadbandFilterInvalid,
    }
)
_FULL = frozenset({StatusCodes.BadTooManyMonitoredItems, StatusCodes.BadTooManySubscriptions})
_DEADBANDS = {Deadband.ABSOLUTE: ua.DeadbandType.Absolute, Deadband.PERCENT: ua.DeadbandType.Percent}
_STATUS_VALUE, _WITH_TIME = ua.DataChangeTrigger.StatusValue, ua.DataChangeTrigger.StatusValueTimestamp


@dataclass(frozen=True, kw_only=True)
class Item:
    """A node to watch; its values come under ``handle``, which no other item of the session has."""

    handle: int
    node: ua.NodeId
    sampling: Sampling


@dataclass(frozen=True, kw_only=True)
class Revised:
    """What the server made of the sampling that was asked for."""

    sampling_interval_ms: float
    queue_size: int


@dataclass(kw_only=True, eq=False)
class Subscription:
    """One subscription of the session.

    Attributes:
        granted: As the server made it.
        asked_interval_ms: The publishing interval its items want.
        capacity: Items it may have.
        items: Its items by client handle.
        ids: The server's numbers of them by client handle.
        left: Handles of items that went to another subscription; what it still tells of them does not count.
        is_kept: Whether it stays when it has no items.
        expected: The sequence number that comes next.
        heard_at: When it was last heard of, keep-alives too, on the event loop's clock.
        heard: Whether it was heard of at all.
        missed: Messages lost for good that nobody was told of yet.
        parked: What came early and waits for the messages before it.
    """

    granted: GrantedSubscription
    asked_interval_ms: float
    capacity: int
    items: dict[int, Item] = field(default_factory=dict)
    ids: dict[int, int] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    is_kept: bool = False
    expected: int = 1
    heard_at: float = 0.0
    heard: bool = False
    missed: int = 0
    parked: tuple[NotificationMessage, int, int] | None = None

    @property
    def id(self) -> int:
        """The server's number of it."""
        return self.granted.subscription_id


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """One item with one of the filters that would do."""

    item: Item
    filters: Sequence[ua.DataChangeFilter | None]
    note: str = ""

    @classmethod
    def first(cls, item: Item) -> _Attempt:
        return cls(item=item, filters=_filters(item.sampling))

    def next(self, status: int) -> _Attempt:
        """Return the same with the next filter, after the server refused this one with *status*."""
        deadband = self.item.sampling.deadband
        if deadband is not Deadband.NONE:
            note = f"no {deadband} deadband ({status_name(status)})"
        else:
            note = f"nothing when the source time alone changes ({status_name(status)})"
        return dataclasses.replace(self, filters=self.filters[1:], note=self.note or note)

    def parameters(self) -> ua.MonitoringParameters:
        sampling = self.item.sampling
        return ua.MonitoringParameters(
            ClientHandle=self.item.handle,
            SamplingInterval=sampling.sampling_interval_ms,
            Filter=self.filters[0],
            QueueSize=sampling.queue_size,
            DiscardOldest=sampling.discard is Discard.OLDEST,
        )


class MonitoredItems:
    """The items of one session, by subscription. Not for use by several tasks at the same time.

    Args:
        services: Requests to the server.
        profile: How much it takes.
        on_began: Called for each new subscription before it has items.

    Attributes:
        subscriptions: By the server's number.
        home: The subscription of each item, by client handle.
        revised: What the server granted, by client handle.
        notes: What it did not grant, by client handle.
    """

    def __init__(self, services: Services, profile: ServerProfile, on_began: Callable[[], None]) -> None:
        self.subscriptions: dict[int, Subscription] = {}
        self.home: dict[int, Subscription] = {}
        self.revised: dict[int, Revised] = {}
        self.notes: dict[int, str] = {}
        self.is_creating = False
        # What the server monitors though nobody asks for it, by handle: in which subscription, the server's numbers.
        self._unasked: dict[int, tuple[int, list[int]]] = {}
        self._services = services
        self._per_subscription = max(1, profile.items_per_subscription)
        self._per_request = max(1, profile.limits.items)
        self._on_began = on_began

    async def watch(self, items: Iterable[Item]) -> dict[int, str]:
        """Have *items* monitored in subscriptions of their publishing interval; return the refused with the reason."""
        refused: dict[int, str] = {}
        for interval_ms, some in groupby(sorted(items, key=_interval), key=_interval):
            refused |= await self._place(interval_ms, list(some))
        return refused

    async def modify(self, items: Iterable[Item]) -> dict[int, str]:
        """Have *items*, which keep their publishing interval, sampled otherwise; return the refused with the reason."""
        refused: dict[int, str] = {}
        for subscription in list(self.subscriptions.values()):
            some = [_Attempt.first(item) for item in items if self.home.get(item.handle) is subscription]

            async def request(tries: Sequence[_Attempt], at: Subscription = subscription) -> list[Any]:
                changes = [
                    ua.MonitoredItemModifyRequest(
                        MonitoredItemId=at.ids[t.item.handle], RequestedParameters=t.parameters()
                    )
                    for t in tries
                ]
                return await self._services.modify_items(at.id, changes)

            for attempt, result in await self._try(some, request, ua.MonitoredItemModifyResult):
                if result.StatusCode.is_good():
                    subscription.items[attempt.item.handle] = attempt.item
                    self._note(subscription, attempt, result)
                else:
                    refused[attempt.item.handle] = f"cannot be changed ({status_name(result.StatusCode.value)})"
        return refused

    async def move(self, source: Subscription, items: Sequence[Item]) -> tuple[dict[int, int], dict[int, str]]:
        """Have *items* of *source*, which want another publishing interval, in another subscription too.

        Returns:
            The server's numbers in *source* of those that are, by client handle, to be deleted there; and the refused
            with the reason. When the server gives no more subscriptions, the items stay and are sampled as they say.
        """
        try:
            await self._with_room(_interval(items[0]), elsewhere=False)
        except UaStatusCodeError:
            return {}, await self.modify(items)
        before = {item.handle: (source.items[item.handle], source.ids[item.handle]) for item in items}
        source.is_kept = True
        for handle in before:
            self._forget(source, handle)
        refused = await self._place(_interval(items[0]), list(items), elsewhere=False)
        for handle in refused:
            source.items[handle], source.ids[handle] = before.pop(handle)
            self.home[handle] = source
        return {handle: number for handle, (_, number) in before.items()}, refused

    async def unwatch(self, handles: Collection[int]) -> None:
        """Have the items *handles* monitored no more; those that are not are left alone."""
        by_subscription: dict[int, dict[int, int]] = {}
        for handle in handles:
            if handle in self._unasked:
                subscription_id, numbers = self._unasked.pop(handle)
                await self.delete(subscription_id, numbers)
            if (home := self.home.get(handle)) is not None:
                by_subscription.setdefault(home.id, {})[handle] = home.ids[handle]
                self._forget(home, handle)
        for subscription_id, ids in by_subscription.items():
            await self.delete(subscription_id, list(ids.values()))
        await self.end_empty()

    async def delete(self, subscription_id: int, ids: Sequence[int]) -> None:
        """Delete items by the server's numbers; a refusal means that they are not there."""

        async def request(some: Sequence[int]) -> list[ua.StatusCode]:
            return await self._services.delete_items(subscription_id, list(some))

        await self._in_pieces(ids, request, lambda status: status)

    async def monitored(self) -> frozenset[int] | None:
        """Return the handles the server says it monitors, None when it cannot tell."""
        told: set[int] = set()
        self._unasked.clear()
        for subscription in list(self.subscriptions.values()):
            numbers = await self._services.monitored(subscription.id)
            if numbers is None:
                return None
            told |= numbers.keys()
            for handle in numbers.keys() - self.home.keys():
                self._unasked[handle] = (subscription.id, numbers[handle])
        return frozenset(told)

    def drop(self, subscription: Subscription) -> dict[int, Item]:
        """Forget *subscription*, which has ended; return the items it had."""
        self.subscriptions.pop(subscription.id, None)
        items = dict(subscription.items)
        for handle in items:
            self._forget(subscription, handle)
        return items

    async def _place(self, interval_ms: float, items: list[Item], *, elsewhere: bool = True) -> dict[int, str]:
        refused: dict[int, str] = {}
        while items:
            try:
                subscription = await self._with_room(interval_ms, elsewhere=elsewhere)
            except UaStatusCodeError as error:
                return refused | dict.fromkeys((item.handle for item in items), _refusal(error.code))
            room = subscription.capacity - len(subscription.items)
            some, items = items[:room], items[room:]
            no_room: list[Item] = []
            for item, status in await self._create(subscription, some):
                if status in _FULL:
                    no_room.append(item)
                else:
                    refused[item.handle] = _refusal(status)
            if no_room:
                # The subscription is full, or the server; an empty one tells.
                subscription.capacity = len(subscription.items)
                items = no_room + items
                if not subscription.items:
                    refused |= dict.fromkeys(
                        (item.handle for item in items), _refusal(StatusCodes.BadTooManyMonitoredItems)
                    )
                    break
        await self.end_empty()
        return refused

    async def _with_room(self, interval_ms: float, *, elsewhere: bool) -> Subscription:
        """Return a subscription of *interval_ms* that may take an item; a new one if need be.

        When the server gives no more subscriptions, it is one of another interval, if it may be *elsewhere*.
        """
        roomy = [s for s in self.subscriptions.values() if len(s.items) < s.capacity]
        for subscription in roomy:
            if subscription.asked_interval_ms == interval_ms:
                return subscription
        self.is_creating = True  # its first message may come before the answer to the request
        try:
            granted = await self._services.create_subscription(interval_ms)
        except UaStatusCodeError as error:
            if error.code in _FULL and roomy and elsewhere:
                return min(roomy, key=lambda s: abs(s.asked_interval_ms - interval_ms))
            raise
        finally:
            self.is_creating = False
        subscription = Subscription(granted=granted, asked_interval_ms=interval_ms, capacity=self._per_subscription)
        subscription.heard_at = asyncio.get_running_loop().time()
        self.subscriptions[subscription.id] = subscription
        self._on_began()
        return subscription

    async def _create(self, subscription: Subscription, items: Sequence[Item]) -> list[tuple[Item, int]]:
        """Create *items* in *subscription*; return those that were refused with the status."""

        async def request(tries: Sequence[_Attempt]) -> list[Any]:
            wanted = [
                ua.MonitoredItemCreateRequest(
                    ItemToMonitor=ua.ReadValueId(NodeId=t.item.node, AttributeId=AttributeIds.Value),
                    MonitoringMode=ua.MonitoringMode.Reporting,
                    RequestedParameters=t.parameters(),
                )
                for t in tries
            ]
            return await self._services.create_items(subscription.id, wanted)

        refused = []
        first = [_Attempt.first(item) for item in items]
        for attempt, result in await self._try(first, request, ua.MonitoredItemCreateResult):
            if not result.StatusCode.is_good():
                refused.append((attempt.item, int(result.StatusCode.value)))
                continue
            handle = attempt.item.handle
            subscription.items[handle] = attempt.item
            subscription.ids[handle] = int(result.MonitoredItemId)
            self.home[handle] = subscription
            subscription.left.discard(handle)
            self._note(subscription, attempt, result)
        return refused

    async def _try(
        self, attempts: Sequence[_Attempt], request: Callable[[Sequence[_Attempt]], Awaitable[list[Any]]], blank: type
    ) -> list[tuple[_Attempt, Any]]:
        """Make *attempts*, those whose filter is refused with the next filter; return each with its last result."""
        done: list[tuple[_Attempt, Any]] = []
        while attempts:
            again = []
            results = await self._in_pieces(attempts, request, lambda status: blank(StatusCode=status))
            for attempt, result in zip(attempts, results, strict=True):
                if result.StatusCode.value in _FILTER_REFUSED and len(attempt.filters) > 1:
                    again.append(attempt.next(result.StatusCode.value))
                else:
                    done.append((attempt, result))
            attempts = again
        return done

    async def _in_pieces(
        self,
        rows: Sequence[Any],
        request: Callable[[Sequence[Any]], Awaitable[list[Any]]],
        refusal: Callable[[ua.StatusCode], Any],
    ) -> list[Any]:
        """Return a result for each of *rows*, asked for as many at once as the server takes."""
        results: list[Any] = []
        while len(results) < len(rows):
            some = rows[len(results) : len(results) + self._per_request]
            try:
                results += await request(some)
            except UaStatusCodeError as error:
                if error.code in TOO_LARGE and len(some) > 1:
                    self._per_request = len(some) // 2
                    continue
                results += [refusal(ua.StatusCode(ua.UInt32(error.code)))] * len(some)
        return results

    def _note(self, subscription: Subscription, attempt: _Attempt, result: Any) -> None:
        """Compare what the server granted with what was asked for."""
        sampling, handle = attempt.item.sampling, attempt.item.handle
        revised = Revised(
            sampling_interval_ms=float(result.RevisedSamplingInterval), queue_size=int(result.RevisedQueueSize)
        )
        self.revised[handle] = revised
        notes = [attempt.note] if attempt.note else []
        if revised.queue_size < sampling.queue_size:
            notes.append(f"a queue of {revised.queue_size} values, not {sampling.queue_size}")
        if revised.sampling_interval_ms > sampling.sampling_interval_ms:
            notes.append(f"sampled every {revised.sampling_interval_ms:g} ms, not {sampling.sampling_interval_ms:g} ms")
        if subscription.granted.publishing_interval_ms > sampling.publishing_interval_ms:
            told_ms = subscription.granted.publishing_interval_ms
            notes.append(f"told every {told_ms:g} ms, not {sampling.publishing_interval_ms:g} ms")
        self.notes.pop(handle, None)
        if notes:
            self.notes[handle] = "; ".join(notes)

    async def end_empty(self) -> None:
        """End the subscriptions without items."""
        empty = [s for s in self.subscriptions.values() if not s.items and not s.is_kept]
        for subscription in empty:
            self.drop(subscription)
        if empty:
            await self._services.delete_subscriptions([subscription.id for subscription in empty])

    def _forget(self, subscription: Subscription, handle: int) -> None:
        del subscription.items[handle], subscription.ids[handle], self.home[handle]
        self.revised.pop(handle, None)
        self.notes.pop(handle, None)


def _interval(item: Item) -> float:
    return item.sampling.publishing_interval_ms


def _filters(sampling: Sampling) -> list[ua.DataChangeFilter | None]:
    """Return the filters that would do, the best first; None is what the server does without one."""
    none = ua.DeadbandType.None_
    found: list[ua.DataChangeFilter | None] = []
    if sampling.deadband is not Deadband.NONE:
        # With a deadband the time must not count: a machine that measures the same again would pass it.
        found.append(_filter(_STATUS_VALUE, _DEADBANDS[sampling.deadband], sampling.deadband_value))
    # With the source time in it: a machine that measures the same value again has measured.
    return [*found, _filter(_WITH_TIME, none), _filter(_STATUS_VALUE, none), None]


def _filter(trigger: ua.DataChangeTrigger, deadband: ua.DeadbandType, value: float = 0.0) -> ua.DataChangeFilter:
    return ua.DataChangeFilter(Trigger=trigger, DeadbandType=deadband.value, DeadbandValue=value)


def _refusal(status: int) -> str:
    if status in _FULL:
        return f"cannot be watched: server monitors no more ({status_name(status)})"
    return f"cannot be watched ({status_name(status)})"
