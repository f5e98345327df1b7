"""All subscriptions of one session, on asyncua's session, acknowledged by whoever received the values.

asyncua's own publish loop acknowledges a message as soon as its callback returned. Here a message is acknowledged
when its values are durable: `Publishing.acknowledge` notes its number, the next PublishRequest carries it. Messages
that were lost on the way are asked for again before those behind them pass. What the server no longer has, and a
subscription it ended, is told as lost, and the rest goes on: only the loss of the link itself is an error.

Source: OPC 10000-4, 5.14.1 and 5.14.5.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import structlog
from asyncua.client.client import Client
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from gateway.data_acquisition.columns import Columns, MalformedMessage
from gateway.data_acquisition.handover import Handover, select
from gateway.data_acquisition.messages import NotificationMessage, read_publish_response, status_name
from gateway.data_acquisition.monitored_items import Item, MonitoredItems, Revised, Subscription
from gateway.data_acquisition.profiles import ServerProfile
from gateway.data_acquisition.publish_requests import Answer, PublishRequests
from gateway.data_acquisition.services import Services
from gateway.errors import SourceUnavailable

__all__ = ["Item", "Message", "Publishing", "Revised"]

log = structlog.get_logger()

_MOST_REPUBLISHED = 1_000  # in one go; no server keeps more
_NUMBERS = 2**32 - 1  # sequence numbers go from 1 to this one, and again from 1
_BELIEVED_S = 0.5
_IDLE_S = 2.5
_ENDED = frozenset({StatusCodes.BadTimeout, StatusCodes.GoodSubscriptionTransferred})


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What came from one subscription.

    Attributes:
        subscription_id: The server's number of it.
        sequence_number: To acknowledge it by; 0 where there is nothing to acknowledge.
        values: None for a keep-alive, and where something was lost.
        received_time: The gateway's clock, ns since 1970 UTC.
        lost: Handles of which values were lost before this; history may have them.
        refused: Of those the handles that the server does not take again, with the reason.
        cause: Why they were lost.
    """

    subscription_id: int
    sequence_number: int = 0
    values: Columns | None = None
    received_time: int = field(default_factory=time.time_ns)
    lost: frozenset[int] = frozenset()
    refused: Mapping[int, str] = field(default_factory=dict)
    cause: str = ""


class Publishing:
    """All subscriptions of one session; made by `start`, ended by `close`.

    One task takes messages with `next`; it or another may change what is watched meanwhile.

    Attributes:
        republished: Messages that had to be asked for again.
    """

    def __init__(self, client: Client, server_name: str, profile: ServerProfile) -> None:
        self.republished = 0
        self._server_name = server_name
        self._services = Services(client, server_name)
        self._items = MonitoredItems(self._services, profile, self._on_began)
        self._changing = asyncio.Lock()
        self._clock = asyncio.get_running_loop().time
        self._requests = PublishRequests(self._services, lambda: len(self._items.subscriptions))
        self._suspected_at = math.inf  # when silence is believed
        self._early: list[Answer] = []  # of a subscription that is just being created
        self._ready: deque[Message] = deque()
        self._behind: deque[Subscription] = deque()  # those that wait for lost messages
        self._doubted: deque[tuple[Subscription, int]] = deque()
        self._handovers: list[Handover] = []
        self._unplaced: dict[int, Item] = {}
        self._obsolete: list[int] = []

    @classmethod
    async def start(cls, client: Client, server_name: str, profile: ServerProfile) -> Publishing:
        """Return the session of *client* without subscriptions; they come with items."""
        return cls(client, server_name, profile)

    async def watch(self, items: Iterable[Item]) -> dict[int, str]:
        """Have the values of *items* told; return for each that the server refuses its handle and the reason.

        Raises:
            SourceUnavailable: If the link is lost.
        """
        async with self._changing:
            return await self._items.watch(items)

    async def modify(self, items: Iterable[Item]) -> dict[int, str]:
        """Have watched *items* sampled as they say now; return the refused, which stay as they were, with the reason.

        Raises:
            SourceUnavailable: If the link is lost.
        """
        async with self._changing:
            return await self._modify(items)

    async def _modify(self, items: Iterable[Item]) -> dict[int, str]:
        staying: list[Item] = []
        new: list[Item] = []
        moving: dict[tuple[int, float], list[Item]] = {}
        for item in items:
            home, interval_ms = self._items.home.get(item.handle), item.sampling.publishing_interval_ms
            if home is None:
                new.append(item)
            elif home.asked_interval_ms == interval_ms:
                staying.append(item)
            else:
                moving.setdefault((home.id, interval_ms), []).append(item)
        refused = await self._items.modify(staying) | await self._items.watch(new)
        for (subscription_id, _), some in moving.items():
            refused |= await self._move(self._items.subscriptions[subscription_id], some)
        return refused

    async def _move(self, source: Subscription, items: list[Item]) -> dict[int, str]:
        """Have *items* go from *source* to a subscription of their publishing interval."""
        handover = Handover(source, {item.handle: source.ids[item.handle] for item in items})
        self._handovers.append(handover)
        left: dict[int, int] = {}
        try:
            left, refused = await self._items.move(source, items)
        finally:
            self._unplaced |= {item.handle: item for item in items if item.handle not in self._items.home}
            if left:
                handover.begun(left, [self._items.home[handle] for handle in left])
            else:
                self._handovers.remove(handover)
        return refused

    async def unwatch(self, handles: Collection[int]) -> None:
        """Have the values of *handles* told no more.

        Raises:
            SourceUnavailable: If the link is lost.
        """
        async with self._changing:
            for handle in handles:
                self._unplaced.pop(handle, None)
            for handover in self._handovers[:]:
                await self._unwatch_leaving(handover, [handle for handle in handles if handle in handover.ids])
            await self._items.unwatch(handles)

    async def _unwatch_leaving(self, handover: Handover, handles: Collection[int]) -> None:
        """End the items *handles* in the subscription that they were about to leave."""
        if not handles:
            return
        numbers = [handover.ids.pop(handle) for handle in handles]
        source = handover.source
        source.left.update(handles)  # what it still tells of them does not count
        if not handover.ids:
            self._handovers.remove(handover)
            source.is_kept = any(h.source is source for h in self._handovers)
        if source.id in self._items.subscriptions:
            await self._items.delete(source.id, numbers)

    async def monitored(self) -> frozenset[int] | None:
        """Return the handles the server itself says it monitors, None when it cannot tell.

        Raises:
            SourceUnavailable: If the link is lost.
        """
        async with self._changing:
            told = await self._items.monitored()
            return None if told is None else told | self._unplaced.keys()

    async def next(self, wait_s: float | None = None) -> Message | None:
        """Return the next message of any subscription, each subscription's in order.

        Args:
            wait_s: How long to wait for one; None: until the server has been silent for too long.

        Returns:
            The message; None when nothing comes within *wait_s*, or there is no subscription to wait for.

        Raises:
            SourceUnavailable: If the link is lost, the server is silent, or sends what is no message. What had
                arrived before has been returned.
        """
        if wait_s is None:
            wait_s = math.inf if self._items.subscriptions else _IDLE_S
        deadline = self._clock() + wait_s
        while not self._ready:
            if not (await self._mend() or self._look() or await self._settle() or await self._anything(deadline)):
                return None
        return self._ready.popleft()

    async def _mend(self) -> bool:
        """Do the next thing that has to be done before what arrived is looked at; False: nothing has to."""
        if self._behind:
            await self._catch_up(self._behind[0])
        elif self._doubted:
            await self._ask_after(*self._doubted[0])
        else:
            return False
        return True

    def _look(self) -> bool:
        """Look at what arrived next; False: nothing has."""
        if self._requests.arrived:
            self._take(self._requests.take())
        elif self._requests.broken is not None:
            raise self._requests.broken
        elif self._requests.none_left:
            self._drop_all(f"no subscription left ({status_name(StatusCodes.BadNoSubscription)})")
        else:
            return False
        return True

    def acknowledge(self, message: Message) -> None:
        """Have the server forget *message*; its values are durable."""
        key = (message.subscription_id, message.sequence_number)
        if self._requests.free(key):
            if message.subscription_id in self._items.subscriptions:
                self._requests.acknowledge(key)
            self._requests.send()

    @property
    def backlog(self) -> int:
        """How many messages have arrived and were not taken yet."""
        return len(self._requests.arrived) + len(self._ready)

    @property
    def revised(self) -> Mapping[int, Revised]:
        """What the server made of the sampling asked for, by handle."""
        return self._items.revised

    @property
    def notes(self) -> Mapping[int, str]:
        """What the server did not grant, by handle."""
        return self._items.notes

    def last_message_at(self, handle: int) -> float | None:
        """Return when the subscription of *handle* was heard of last, keep-alives too, on the event loop's clock."""
        home = self._items.home.get(handle)
        return home.heard_at if home is not None else None

    async def resume(self, client: Client, *, reused: bool) -> bool:
        """Go on over the connection of *client*, after the one before was lost.

        Args:
            client: Connected and signed in.
            reused: Whether its session is the one the subscriptions are of; otherwise they are transferred to it.

        Returns:
            False if the server no longer has any of the subscriptions; then all starts anew.

        Raises:
            SourceUnavailable: If this link is lost too.
        """
        self._requests.hang_up()
        self._services.client = client
        self._requests.broken, self._requests.none_left = None, False
        subscriptions = list(self._items.subscriptions.values())
        if not subscriptions:
            return not self._unplaced
        ids = [subscription.id for subscription in subscriptions]
        try:
            if reused:
                available: list[list[int] | None] = [[] if lives else None for lives in await self._services.alive(ids)]
            else:
                available = await self._services.transfer(ids)
        except UaStatusCodeError as error:
            log.info("subscriptions cannot go on", server=self._server_name, reason=status_name(error.code))
            return False
        if all(numbers is None for numbers in available):
            return False
        for subscription, numbers in zip(subscriptions, available, strict=True):
            subscription.heard_at = self._clock()
            if numbers is None:
                self._drop(subscription, "the server ended the subscription while the link was down")
            elif subscription.parked is None and (
                ahead := [n for n in numbers if _distance(n, subscription.expected) >= 0]
            ):
                last = max(ahead, key=lambda n: _distance(n, subscription.expected))
                self._wait_for(subscription, _keep_alive(subscription.id, _after(last)), time.time_ns(), 0)
        self._requests.send()
        return True

    async def close(self, *, delete: bool = True) -> None:
        """Ask for nothing more; with *delete* the server ends the subscriptions."""
        self._requests.hang_up()
        ids = [*self._items.subscriptions, *self._obsolete]
        self._items.subscriptions.clear()
        self._requests.fail(SourceUnavailable(f"{self._server_name}: closed"))
        if delete and ids:
            with suppress(SourceUnavailable, UaStatusCodeError):
                await self._services.delete_subscriptions(ids)

    def _on_began(self) -> None:
        """Ask for a new subscription too."""
        early, self._early = self._early, []
        self._requests.began(early)

    # Messages

    async def _anything(self, deadline: float) -> bool:
        """Wait until something happens; False when nothing does by *deadline*."""
        now = self._clock()
        silent_at = self._silent_at()
        if now < silent_at:
            self._suspected_at = math.inf
        elif now >= self._suspected_at:
            self._end_silent()
            return True
        else:  # a process that stood still finds first what came meanwhile
            silent_at = self._suspected_at = min(self._suspected_at, now + _BELIEVED_S)
        if now >= deadline:
            return False
        changed = self._requests.changed
        changed.clear()
        until = min(deadline, silent_at, now + _IDLE_S)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await changed.wait()
        protocol = self._services.client.uaclient.protocol
        if not changed.is_set() and (protocol is None or protocol.is_closed):
            self._requests.fail(SourceUnavailable(f"{self._server_name}: connection lost; it is made anew"))
        return True

    def _silent_at(self) -> float:
        """Return when the first subscription will have been silent for too long."""
        subscriptions = self._items.subscriptions.values()
        return min((self._spoke_at(s) + s.granted.silence_s for s in subscriptions), default=math.inf)

    def _spoke_at(self, subscription: Subscription) -> float:
        """Return since when *subscription* has been silent though it could speak."""
        return max(subscription.heard_at, self._requests.asked_since)

    def _end_silent(self) -> None:
        """Give up the link when nothing comes over it, and a subscription when it alone is silent."""
        self._suspected_at = math.inf
        subscriptions = list(self._items.subscriptions.values())
        silent = [s for s in subscriptions if self._clock() > self._spoke_at(s) + s.granted.silence_s]
        shortest_s = min(s.granted.silence_s for s in subscriptions)
        if all(self._clock() > self._spoke_at(s) + shortest_s for s in subscriptions):
            self._requests.fail(
                SourceUnavailable(
                    f"{self._server_name}: no message for {shortest_s:.1f} s, not even a keep-alive; "
                    "the connection is given up and made anew"
                )
            )
            return
        for subscription in silent:
            self._obsolete.append(subscription.id)
            self._drop(subscription, f"the subscription fell silent for {subscription.granted.silence_s:.1f} s")

    def _take(self, answer: Answer) -> None:
        """Look at what arrived."""
        try:
            message = read_publish_response(answer.body)
        except (MalformedMessage, UaStatusCodeError) as error:
            malformed = self._services.malformed(error)
            self._requests.fail(malformed)
            raise malformed from error
        subscription = self._items.subscriptions.get(message.subscription_id)
        if subscription is None:
            if self._items.is_creating:
                self._early.append(answer)
            elif message.subscription_id and message.subscription_id not in self._obsolete:
                self._obsolete.append(message.subscription_id)  # of an earlier time, or ended by now
            return
        subscription.heard, subscription.heard_at = True, answer.at
        ahead = _distance(message.sequence_number, subscription.expected)
        if message.sequence_number and ahead > 0:
            self._wait_for(subscription, message, answer.received_time, len(answer.body))
        elif ahead == 0 or _is_keep_alive(message):
            self._pass_on(subscription, message, answer.received_time, len(answer.body))
        self._requests.send()

    def _wait_for(
        self, subscription: Subscription, message: NotificationMessage, received_time: int, size: int
    ) -> None:
        """Let *message* wait for those before it, which were lost on the way."""
        subscription.parked = (message, received_time, size)
        self._behind.append(subscription)

    async def _catch_up(self, subscription: Subscription) -> None:
        """Ask for the next message that was lost, or pass on the one that waited for it."""
        assert subscription.parked is not None
        message, received_time, size = subscription.parked
        lost = _distance(message.sequence_number, subscription.expected) - _MOST_REPUBLISHED
        if lost > 0:
            subscription.expected = _after(message.sequence_number - _MOST_REPUBLISHED - 1)
            subscription.missed += lost
        elif subscription.expected == message.sequence_number:
            self._behind.popleft()
            subscription.parked = None
            self._pass_on(subscription, message, received_time, size)
        else:
            await self._republish(subscription)

    async def _republish(self, subscription: Subscription) -> None:
        number = subscription.expected
        try:
            message, size = await self._services.republish(subscription.id, number)
        except SourceUnavailable as error:
            self._requests.fail(error)
            raise
        except UaStatusCodeError as error:
            self._drop(subscription, f"a lost message cannot be had again ({status_name(error.code)})")
            return
        if message is None:
            subscription.expected = _after(number)
            subscription.missed += 1
            return
        self.republished += 1
        log.info("message asked for again", server=self._server_name, sequence_number=number)
        self._pass_on(subscription, message, time.time_ns(), size)

    def _pass_on(self, subscription: Subscription, message: NotificationMessage, received_time: int, size: int) -> None:
        """Hand out *message*, which is the next of its subscription."""
        if subscription.missed:
            self._tell_lost(
                subscription, f"messages lost on the way that the server no longer has: {subscription.missed}"
            )
            subscription.missed = 0
        values = message.values
        if self._handovers or subscription.left:
            values = self._sort_out(subscription, values)
        if _is_keep_alive(message):
            self._ready.append(Message(subscription_id=subscription.id, received_time=received_time))
            self._end_handovers()
            return
        subscription.expected = _after(message.sequence_number)
        key = (subscription.id, message.sequence_number)
        if values is not None:
            self._requests.hold(key, size)
            self._ready.append(
                Message(
                    subscription_id=subscription.id,
                    sequence_number=message.sequence_number,
                    values=values,
                    received_time=received_time,
                )
            )
        else:
            self._requests.acknowledge(key)
        if self._handovers:
            self._end_handovers()
        if message.ended is not None:
            self._doubted.append((subscription, message.ended))

    def _sort_out(self, subscription: Subscription, values: Columns | None) -> Columns | None:
        """Return what passes of *values* while items go from one subscription to another."""
        if values is not None and subscription.left:
            gone = np.isin(values.handle, np.fromiter(subscription.left, np.uint32))
            values = select(values, ~gone) if gone.any() else values
        for handover in self._handovers:
            if not handover.is_over:
                values = handover.sort_out(subscription, values)
        return values

    def _end_handovers(self, of: Subscription | None = None) -> None:
        """Pass on what the handovers that are over held back; those of the subscription *of* are over now."""
        for handover in self._handovers:
            if not handover.is_told and (handover.is_over or (of is not None and handover.is_of(of))):
                handover.source.left |= handover.ids.keys()
                if (values := handover.end()) is not None:
                    self._ready.append(Message(subscription_id=handover.source.id, values=values))

    async def _ask_after(self, subscription: Subscription, status: int) -> None:
        """Ask whether *subscription* is there still, of which the server told *status*."""
        is_alive = False
        if status not in _ENDED:
            with suppress(UaStatusCodeError):
                (is_alive,) = await self._services.alive([subscription.id])
        self._doubted.popleft()
        if is_alive:
            log.warning("bad status of a subscription", server=self._server_name, status=status_name(status))
        elif subscription.id in self._items.subscriptions:
            self._drop(subscription, f"the server ended the subscription ({status_name(status)})")

    # Subscriptions that end

    def _tell_lost(self, subscription: Subscription, cause: str) -> None:
        leaving = (h.ids for h in self._handovers if h.source is subscription and not h.is_told)
        lost = frozenset(subscription.items).union(*leaving)
        log.warning("values lost", server=self._server_name, tags=len(lost), reason=cause)
        self._ready.append(Message(subscription_id=subscription.id, lost=lost, cause=cause))

    def _drop(self, subscription: Subscription, cause: str) -> None:
        """Tell that *subscription* has ended; its items get another one.

        If it was never heard of, another one would end as soon: then the link is given up.
        """
        self._tell_lost(subscription, cause)
        self._end_handovers(subscription)
        self._unplaced |= self._items.drop(subscription)
        self._requests.forget(subscription.id)
        if subscription in self._behind:
            self._behind.remove(subscription)
        self._requests.changed.set()
        if not subscription.heard:
            self._requests.fail(SourceUnavailable(f"{self._server_name}: {cause}; the connection is made anew"))

    def _drop_all(self, cause: str) -> None:
        self._requests.none_left = False
        for subscription in list(self._items.subscriptions.values()):
            self._drop(subscription, cause)

    async def _settle(self) -> bool:
        """End what is obsolete, and have the items watched again whose subscription ended; False: there are none."""
        if not (self._unplaced or self._obsolete or any(handover.is_told for handover in self._handovers)):
            return False
        async with self._changing:
            for handover in [handover for handover in self._handovers if handover.is_told]:
                if handover.source.id in self._items.subscriptions:
                    await self._items.delete(handover.source.id, list(handover.ids.values()))
                self._handovers.remove(handover)
                handover.source.is_kept = any(h.source is handover.source for h in self._handovers)
            await self._items.end_empty()
            if obsolete := self._obsolete[:]:
                with suppress(UaStatusCodeError):
                    await self._services.delete_subscriptions(obsolete)
                del self._obsolete[: len(obsolete)]
            items = [item for item in self._unplaced.values() if item.handle not in self._items.home]
            refused = await self._items.watch(items)
            self._unplaced.clear()
            if refused:
                cause = "the server does not take it again"
                lost = frozenset(refused)
                self._ready.append(Message(subscription_id=0, lost=lost, refused=refused, cause=cause))
        return True


def _is_keep_alive(message: NotificationMessage) -> bool:
    return message.values is None and message.ended is None


def _keep_alive(subscription_id: int, number: int) -> NotificationMessage:
    return NotificationMessage(subscription_id=subscription_id, sequence_number=number, values=None, ended=None)


def _after(number: int) -> int:
    """Return the sequence number after *number*."""
    return number % _NUMBERS + 1


def _distance(number: int, expected: int) -> int:
    """Return how far *number* is ahead of *expected*; negative when it is behind."""
    return (number - expected + _NUMBERS // 2) % _NUMBERS - _NUMBERS // 2
