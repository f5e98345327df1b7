"""PublishRequests kept at the server: as many as it wants, none when too much waits for its acknowledgement.

Source: OPC 10000-4, 5.14.5.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from asyncua import ua
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from gateway.data_acquisition.columns import MalformedMessage
from gateway.data_acquisition.messages import read_publish_response
from gateway.data_acquisition.services import Services
from gateway.errors import SourceUnavailable

_AHEAD = 3  # beyond one for each subscription
_MOST_REQUESTS = 64
_HELD_MESSAGES = 400  # asyncua's server keeps 500 or more
_HELD_BYTES = 64 * 2**20
_ACKNOWLEDGEMENTS = 1_000  # in one request
_PAUSE_S = 0.5
_SERVICE_FAULT = b"\x01\x00\x8d\x01"
_PASSING = frozenset(
    {
        StatusCodes.BadTimeout,
        StatusCodes.BadRequestTimeout,
        StatusCodes.BadTooManyOperations,
        StatusCodes.BadTcpServerTooBusy,
    }
)

Key = tuple[int, int]  # subscription, sequence number


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, not looked at yet: the bytes, the gateway's clock in ns since 1970, and the event loop's."""

    body: bytes
    received_time: int
    at: float


@dataclass(kw_only=True, eq=False)
class _Line:
    """The connection they go over, and what those that are not answered carry."""

    carried: dict[int, list[Key]] = field(default_factory=dict)
    sent: int = 0


class PublishRequests:
    """The PublishRequests of one session.

    Args:
        services: Requests to the server.
        subscriptions: Tells how many subscriptions there are.

    Attributes:
        arrived: Answers nobody has looked at, oldest first.
        changed: Set when something arrives or ends.
        broken: Why nothing comes any more, or None.
        none_left: Whether the server says that there is no subscription, though there should be.
    """

    def __init__(self, services: Services, subscriptions: Callable[[], int]) -> None:
        self.arrived: deque[Answer] = deque()
        self.changed = asyncio.Event()
        self.broken: SourceUnavailable | None = None
        self.none_left = False
        self._services = services
        self._subscriptions = subscriptions
        self._clock = asyncio.get_running_loop().time
        self._line = _Line()
        self._most = _MOST_REQUESTS
        self._paused: asyncio.TimerHandle | None = None
        self._asked_since: float = math.inf  # without a time in which there was no room
        self._began = 0  # subscriptions there were, to tell an old answer from a new one
        self._acknowledgements: list[Key] = []
        self._held: dict[Key, int] = {}
        self._held_bytes = 0

    @property
    def asked_since(self) -> float:
        """Since when the server could send, on the event loop's clock; inf when it cannot, for lack of room."""
        return self._asked_since

    @property
    def in_flight(self) -> int:
        """How many are at the server."""
        return len(self._line.carried)

    @property
    def waiting(self) -> int:
        """How many messages arrived and are not acknowledged."""
        return len(self.arrived) + len(self._held)

    def send(self) -> None:
        """Have as many at the server as there should be."""
        if self.broken is not None or self.none_left or self._paused is not None:
            return
        subscriptions = self._subscriptions()
        wanted = min(subscriptions + _AHEAD, self._most) if subscriptions else 0
        while self.in_flight < wanted:
            if self.waiting + self.in_flight >= _HELD_MESSAGES or self._held_bytes >= _HELD_BYTES:
                self._asked_since = math.inf
                return
            self._asked_since = min(self._asked_since, self._clock())
            self.send_one()

    def send_one(self) -> None:
        """Send one, with what there is to acknowledge."""
        acknowledged = self._acknowledgements[:_ACKNOWLEDGEMENTS]
        del self._acknowledgements[:_ACKNOWLEDGEMENTS]
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = [
            ua.SubscriptionAcknowledgement(SubscriptionId=subscription_id, SequenceNumber=number)
            for subscription_id, number in acknowledged
        ]
        self._line.sent += 1
        number = self._line.sent
        self._line.carried[number] = acknowledged
        try:
            # Without a timeout of its own: a quiet server answers late, the silence limit is what counts. By the
            # protocol rather than the session: no task, no place among asyncua's hundred requests.
            protocol: Any = self._services.client.uaclient.protocol
            future = protocol._send_request(request, 0)  # noqa: SLF001 - no public way that answers later
        except Exception as error:  # noqa: BLE001 - asyncua passes on whatever ended the connection
            self.fail(self._services.lost(error))
            return
        future.add_done_callback(partial(self._answered, self._line, number, self._began))

    def began(self, early: list[Answer]) -> None:
        """Ask for a new subscription too; *early* are its answers that came before it was known."""
        self._began += 1
        self._most = _MOST_REQUESTS
        self.arrived.extendleft(reversed(early))
        self._held_bytes += sum(len(answer.body) for answer in early)
        self.changed.set()
        self.send()

    def take(self) -> Answer:
        """Return what arrived first; its room is free unless it is held."""
        answer = self.arrived.popleft()
        self._held_bytes -= len(answer.body)
        return answer

    def hold(self, key: Key, size: int) -> None:
        """Keep room for a message of *size* bytes until it is acknowledged."""
        self._held[key] = size
        self._held_bytes += size

    def free(self, key: Key) -> bool:
        """Give the room of a message back; False if it has none."""
        size = self._held.pop(key, None)
        self._held_bytes -= size or 0
        return size is not None

    def acknowledge(self, key: Key) -> None:
        """Tell the server with the next request that it may forget a message."""
        self._acknowledgements.append(key)

    def forget(self, subscription_id: int) -> None:
        """Acknowledge nothing more of a subscription that has ended."""
        self._acknowledgements = [key for key in self._acknowledgements if key[0] != subscription_id]

    def hang_up(self) -> None:
        """Forget those on the way; what they carried is sent again."""
        for acknowledged in self._line.carried.values():
            self._acknowledgements += acknowledged
        self._line = _Line()
        self._asked_since = math.inf
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None

    def fail(self, error: SourceUnavailable) -> None:
        """Send no more, for *error*."""
        if self.broken is None:
            self.broken = error
        self.changed.set()

    def _answered(self, line: _Line, number: int, began: int, future: asyncio.Future[Any]) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        acknowledged = line.carried.pop(number, [])
        if line is not self._line:
            return
        if error is None:
            body = bytes(future.result())
            if not body.startswith(_SERVICE_FAULT):
                self.arrived.append(Answer(body, time.time_ns(), self._clock()))
                self._held_bytes += len(body)
                self.changed.set()
                self.send()
                return
            error = _fault(body)
        self._acknowledgements += acknowledged
        self._refused(error, is_old=began != self._began)

    def _refused(self, error: BaseException, *, is_old: bool) -> None:
        """Act on a refusal, which says nothing of the newest subscription when it *is_old*."""
        code = error.code if isinstance(error, UaStatusCodeError) else None
        if code == StatusCodes.BadTooManyPublishRequests:
            self._most = max(1, self.in_flight)
        elif code == StatusCodes.BadNoSubscription:
            self.none_left = not is_old and self._subscriptions() > 0
            self.changed.set()
            self.send()
        elif code in _PASSING:
            if self._paused is None:
                self._paused = asyncio.get_running_loop().call_later(_PAUSE_S, self._go_on)
        else:
            self.fail(self._services.lost(error))

    def _go_on(self) -> None:
        self._paused = None
        self.send()


def _fault(body: bytes) -> BaseException:
    try:
        read_publish_response(body)
    except (MalformedMessage, UaStatusCodeError) as error:
        return error
    return MalformedMessage("a fault without a status")
