"""A subscription on asyncua's session services, acknowledged by whoever received the values.

asyncua's own publish loop acknowledges a message as soon as its callback returned. Here a message is acknowledged
when its values are durable: `acknowledge` notes its sequence number, the next PublishRequest carries it. What is
noted but not yet carried when the link breaks is sent again by no one and lost by no one: it is in the journal.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from gateway.config import AcquisitionConfig
from gateway.data_acquisition.columns import MalformedMessage
from gateway.data_acquisition.limits import chunks
from gateway.data_acquisition.messages import (
    NotificationMessage,
    read_publish_response,
    read_republish_response,
    status_name,
)
from gateway.errors import SourceUnavailable

log = structlog.get_logger()

_IN_FLIGHT = 4
_UNACKNOWLEDGED_LIMIT = 400  # messages; then no more are asked for until some are committed. asyncua keeps 500
_KEEP_ALIVE_S = 2.5
_LIFETIME_S = 60.0
_SILENCE_FACTOR = 4  # keep-alives that may be missed
_LAST_SEQUENCE_NUMBER = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Item:
    """A node to watch; its values come under ``handle``."""

    handle: int
    node: ua.NodeId


class Subscription:
    """One subscription of a connected client; made by `create`, ended by `close`.

    Attributes:
        silence_limit_s: After so long without any message the link is given up.
    """

    def __init__(self, client: Client, server_name: str, result: ua.CreateSubscriptionResult) -> None:
        self._client = client
        self._server_name = server_name
        self._id = int(result.SubscriptionId)
        keep_alive_s = result.RevisedPublishingInterval / 1000 * result.RevisedMaxKeepAliveCount
        self.publishing_interval_s = result.RevisedPublishingInterval / 1000
        self.silence_limit_s = _SILENCE_FACTOR * keep_alive_s + 1.0
        self._republished = 0
        self._arrived: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self._acknowledgements: list[int] = []
        self._expected = 1
        self._parked: NotificationMessage | None = None
        self._room = asyncio.Semaphore(_UNACKNOWLEDGED_LIMIT)
        self._publishers = [asyncio.create_task(self._publish()) for _ in range(_IN_FLIGHT)]

    @classmethod
    async def create(cls, client: Client, server_name: str, acquisition: AcquisitionConfig) -> Subscription:
        """Create a subscription at the server *client* is connected to."""
        interval_s = acquisition.publishing_interval_ms / 1000
        keep_alive_count = max(1, math.ceil(_KEEP_ALIVE_S / interval_s))
        request = ua.CreateSubscriptionRequest()
        request.Parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=acquisition.publishing_interval_ms,
            RequestedLifetimeCount=max(3 * keep_alive_count, math.ceil(_LIFETIME_S / interval_s)),
            RequestedMaxKeepAliveCount=keep_alive_count,
            MaxNotificationsPerPublish=0,
            PublishingEnabled=True,
            Priority=0,
        )
        # Not uaclient.create_subscription: that starts asyncua's own publish loop, which acknowledges by itself.
        body = await client.uaclient.session._send_request(request)  # noqa: SLF001 - the session's request function
        response = struct_from_binary(ua.CreateSubscriptionResponse, body)
        response.ResponseHeader.ServiceResult.check()
        if response.Parameters.RevisedPublishingInterval <= 0 or response.Parameters.RevisedMaxKeepAliveCount <= 0:
            raise SourceUnavailable(f"{server_name}: the server offers no keep-alive; it is tried again")
        return cls(client, server_name, response.Parameters)

    async def watch(self, items: Sequence[Item], acquisition: AcquisitionConfig, *, per_request: int) -> dict[int, str]:
        """Have the values of *items* reported, each change of value, status or source time; *per_request* at a time.

        Returns:
            For each item that the server refused: its handle and the reason.
        """
        refused: dict[int, str] = {}
        smaller_queues = 0
        for some in chunks(items, per_request):
            parameters = ua.CreateMonitoredItemsParameters(
                SubscriptionId=self._id,
                TimestampsToReturn=ua.TimestampsToReturn.Both,  # the server's is for values without a source time
                ItemsToCreate=[_create_request(item, acquisition) for item in some],
            )
            results = await self._client.uaclient.create_monitored_items(parameters)
            for item, result in zip(some, results, strict=True):
                if not result.StatusCode.is_good():
                    refused[item.handle] = f"cannot be watched ({status_name(result.StatusCode.value)})"
                else:
                    smaller_queues += result.RevisedQueueSize < acquisition.queue_size
        if smaller_queues:
            log.warning(
                "server gives smaller queues",
                server=self._server_name,
                items=smaller_queues,
                asked=acquisition.queue_size,
            )
        return refused

    async def next(self, wait_s: float | None = None) -> NotificationMessage | None:
        """Return the next message in order; a keep-alive too. None when *wait_s* seconds pass without any.

        Raises:
            SourceUnavailable: If the server falls silent, ends the subscription, sends what is no message, or can
                no longer give one that was lost.
        """
        message = self._parked or await self._take(wait_s)
        if message is None:
            return None
        self._parked = None
        if message.sequence_number > self._expected:
            # One or more were lost on the way. They come first, then this one.
            self._parked = message
            message = await self._republish(self._expected)
        if message.values is None or message.sequence_number < self._expected:
            self._room.release()  # a keep-alive or a repetition: nothing to acknowledge
            return None if message.values is not None else message
        self._expected = 1 if self._expected == _LAST_SEQUENCE_NUMBER else self._expected + 1
        return message

    def acknowledge(self, sequence_number: int) -> None:
        """Have the server forget the message *sequence_number*; its values are durable."""
        self._acknowledgements.append(sequence_number)
        self._room.release()

    def take_republished(self) -> int:
        """Return how many messages had to be asked for again since the last call."""
        count, self._republished = self._republished, 0
        return count

    async def close(self) -> None:
        """Stop asking; the subscription ends with its session."""
        for publisher in self._publishers:
            publisher.cancel()
        for publisher in self._publishers:
            with suppress(asyncio.CancelledError, Exception):
                await publisher

    @property
    def backlog(self) -> int:
        """How many messages have arrived and were not taken yet."""
        return self._arrived.qsize()

    async def _publish(self) -> None:
        """Keep one PublishRequest at the server, as long as there is room for what it answers."""
        while True:
            await self._room.acquire()
            acknowledged, self._acknowledgements = self._acknowledgements, []
            request = ua.PublishRequest()
            request.Parameters.SubscriptionAcknowledgements = [
                ua.SubscriptionAcknowledgement(SubscriptionId=self._id, SequenceNumber=number)
                for number in acknowledged
            ]
            try:
                # Without a timeout of its own: a quiet server answers late, the silence limit is what counts.
                body = await self._client.uaclient.session._send_request(request, timeout=0)  # noqa: SLF001 - as above
            except UaStatusCodeError as error:
                if error.code == StatusCodes.BadTooManyPublishRequests:
                    return  # this many are not wanted; the other publishers go on
                self._arrived.put_nowait(error)
                return
            except (TimeoutError, OSError, UaError) as error:
                self._arrived.put_nowait(error)
                return
            self._arrived.put_nowait(bytes(body))

    async def _take(self, wait_s: float | None) -> NotificationMessage | None:
        """Return what arrived first, read; None when nothing does within *wait_s*."""
        try:
            async with asyncio.timeout(self.silence_limit_s if wait_s is None else wait_s):
                arrived = await self._arrived.get()
        except TimeoutError:
            if wait_s is not None:
                return None
            raise SourceUnavailable(
                f"{self._server_name}: no message for {self.silence_limit_s:.1f} s, not even a keep-alive; "
                "the connection is given up and made anew"
            ) from None
        if isinstance(arrived, Exception):
            raise SourceUnavailable(
                f"{self._server_name}: connection lost ({type(arrived).__name__}: {arrived}); it is made anew"
            ) from arrived
        try:
            message = read_publish_response(arrived)
        except (MalformedMessage, UaStatusCodeError) as error:
            raise SourceUnavailable(f"{self._server_name}: {error}; the connection is made anew") from error
        if message.ended is not None:
            raise SourceUnavailable(
                f"{self._server_name}: the server ended the subscription ({status_name(message.ended)}); "
                "the connection is made anew"
            )
        return message

    async def _republish(self, sequence_number: int) -> NotificationMessage:
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = self._id
        request.Parameters.RetransmitSequenceNumber = sequence_number
        try:
            body = bytes(await self._client.uaclient.session._send_request(request))  # noqa: SLF001 - as above
            message = read_republish_response(body, self._id)
        except (MalformedMessage, UaError, OSError) as error:
            message, reason = None, repr(error)
        else:
            reason = "empty answer"
        # asyncua's server answers with an empty message where it should say BadMessageNotAvailable.
        if message is None or message.sequence_number != sequence_number or message.values is None:
            raise SourceUnavailable(
                f"{self._server_name}: message {sequence_number} was lost and cannot be had again ({reason}); "
                "the connection is made anew and history fills the hole"
            )
        self._republished += 1
        log.info("message asked for again", server=self._server_name, sequence_number=sequence_number)
        return message


def _create_request(item: Item, acquisition: AcquisitionConfig) -> ua.MonitoredItemCreateRequest:
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=item.node, AttributeId=AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=item.handle,
            SamplingInterval=acquisition.sampling_interval_ms,
            # With the source time in it: a machine that measures the same value again has measured.
            Filter=ua.DataChangeFilter(
                Trigger=ua.DataChangeTrigger.StatusValueTimestamp,
                DeadbandType=ua.DeadbandType.None_.value,
                DeadbandValue=0.0,
            ),
            QueueSize=acquisition.queue_size,
            DiscardOldest=True,
        ),
    )
