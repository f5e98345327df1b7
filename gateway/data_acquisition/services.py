"""The subscription services of one session, a request each: OPC UA's words on one side, ours on the other.

Source: OPC 10000-4, 5.13 and 5.14; GetMonitoredItems is in OPC 10000-5, 9.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import UaStatusCodeError

from gateway.data_acquisition.columns import Columns, MalformedMessage
from gateway.data_acquisition.messages import (
    NotificationMessage,
    read_read_response,
    read_republish_response,
    status_name,
)
from gateway.errors import SourceUnavailable
from models.records import UInt32Array

_KEEP_ALIVE_S = 2.5
_LIFETIME_S = 600.0
_SILENCE_FACTOR = 2  # keep-alives in whose time one has to come
TOO_LARGE = frozenset(
    {
        StatusCodes.BadTooManyOperations,
        StatusCodes.BadRequestTooLarge,
        StatusCodes.BadResponseTooLarge,
        StatusCodes.BadEncodingLimitsExceeded,
    }
)
_SESSION_LOST = frozenset(
    {
        StatusCodes.BadSessionIdInvalid,
        StatusCodes.BadSessionClosed,
        StatusCodes.BadSessionNotActivated,
        StatusCodes.BadSecureChannelIdInvalid,
        StatusCodes.BadSecureChannelClosed,
        StatusCodes.BadServerHalted,
        StatusCodes.BadShutdown,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GrantedSubscription:
    """What the server made of a request for a subscription.

    Attributes:
        subscription_id: The server's.
        publishing_interval_ms: Between two messages.
        silence_s: So long without any message, and something is wrong.
    """

    subscription_id: int
    publishing_interval_ms: float
    silence_s: float


class Services:
    """Requests to one server about subscriptions.

    Each raises `SourceUnavailable` when the link or the session is lost or the answer is none, and
    ``UaStatusCodeError`` when the server refuses the request as a whole.

    Args:
        client: The connected client; may be replaced.
        server_name: For messages.
    """

    def __init__(self, client: Client, server_name: str) -> None:
        self.client = client
        self.server_name = server_name

    async def create_subscription(self, interval_ms: float) -> GrantedSubscription:
        """Have a subscription that tells every *interval_ms* what is new, and every 2.5 s that it is there."""
        request = ua.CreateSubscriptionRequest()
        keep_alive_count, lifetime_count = _counts(interval_ms)
        request.Parameters = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=interval_ms,
            RequestedLifetimeCount=lifetime_count,
            RequestedMaxKeepAliveCount=keep_alive_count,
            MaxNotificationsPerPublish=0,
            PublishingEnabled=True,
            Priority=0,
        )
        revised = (await self._call(request, ua.CreateSubscriptionResponse)).Parameters
        subscription_id, interval_ms = int(revised.SubscriptionId), float(revised.RevisedPublishingInterval)
        keep_alive_count = int(revised.RevisedMaxKeepAliveCount)
        if interval_ms <= 0 or keep_alive_count <= 0:
            raise SourceUnavailable(f"{self.server_name}: the server offers no keep-alive; it is tried again")
        if keep_alive_count > 2 * _counts(interval_ms)[0]:  # counted for another interval than it now has
            keep_alive_count = await self._recount(subscription_id, interval_ms, keep_alive_count)
        silence_s = _SILENCE_FACTOR * interval_ms / 1000 * keep_alive_count + 1.0
        return GrantedSubscription(
            subscription_id=subscription_id, publishing_interval_ms=interval_ms, silence_s=silence_s
        )

    async def _recount(self, subscription_id: int, interval_ms: float, before: int) -> int:
        """Have the keep-alive of *subscription_id* counted for *interval_ms*; return the count it has then."""
        request = ua.ModifySubscriptionRequest()
        keep_alive_count, lifetime_count = _counts(interval_ms)
        request.Parameters = ua.ModifySubscriptionParameters(
            SubscriptionId=subscription_id,
            RequestedPublishingInterval=interval_ms,
            RequestedLifetimeCount=lifetime_count,
            RequestedMaxKeepAliveCount=keep_alive_count,
            MaxNotificationsPerPublish=0,
            Priority=0,
        )
        try:
            revised = (await self._call(request, ua.ModifySubscriptionResponse)).Parameters
        except UaStatusCodeError:
            return before
        return int(revised.RevisedMaxKeepAliveCount) or before

    async def delete_subscriptions(self, ids: Sequence[int]) -> None:
        """End the subscriptions *ids*; those that are not there are ended."""
        request = ua.DeleteSubscriptionsRequest()
        request.Parameters.SubscriptionIds = list(ids)
        await self._call(request, ua.DeleteSubscriptionsResponse)

    async def alive(self, ids: Sequence[int]) -> list[bool]:
        """Return of each of the subscriptions *ids* whether the server has it for this session."""
        request = ua.SetPublishingModeRequest()  # says nothing new to a subscription that publishes
        request.Parameters.PublishingEnabled = True
        request.Parameters.SubscriptionIds = list(ids)
        response = await self._call(request, ua.SetPublishingModeResponse)
        return [status.is_good() for status in self._all(response.Parameters.Results, len(ids))]

    async def transfer(self, ids: Sequence[int]) -> list[list[int] | None]:
        """Take over the subscriptions *ids* of another session.

        Returns:
            Of each the sequence numbers that can be had again, or None when it cannot be taken over.
        """
        request = ua.TransferSubscriptionsRequest()
        request.Parameters.SubscriptionIds = list(ids)
        request.Parameters.SendInitialValues = False
        results = (await self._call(request, ua.TransferSubscriptionsResponse)).Parameters.Results
        return [
            [int(number) for number in result.AvailableSequenceNumbers] if result.StatusCode.is_good() else None
            for result in self._all(results, len(ids))
        ]

    async def republish(self, subscription_id: int, sequence_number: int) -> tuple[NotificationMessage | None, int]:
        """Ask again for one message; return it and its size in bytes, None and 0 when the server no longer has it."""
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = subscription_id
        request.Parameters.RetransmitSequenceNumber = sequence_number
        try:
            body = bytes(await self._send(request))
            message = read_republish_response(body, subscription_id)
        except MalformedMessage as error:
            raise self.malformed(error) from error
        except UaStatusCodeError as error:
            if error.code == StatusCodes.BadMessageNotAvailable:
                return None, 0
            raise
        # asyncua's server answers with an empty message where it should say BadMessageNotAvailable.
        if message.sequence_number != sequence_number or (message.values is None and message.ended is None):
            return None, 0
        return message, len(body)

    async def create_items(
        self, subscription_id: int, items: list[ua.MonitoredItemCreateRequest]
    ) -> list[ua.MonitoredItemCreateResult]:
        """Have *items* monitored; return a result for each."""
        request = ua.CreateMonitoredItemsRequest()
        request.Parameters = ua.CreateMonitoredItemsParameters(
            SubscriptionId=subscription_id,
            TimestampsToReturn=ua.TimestampsToReturn.Both,  # the server's is for values without a source time
            ItemsToCreate=items,
        )
        response = await self._call(request, ua.CreateMonitoredItemsResponse)
        return self._all(response.Results, len(items))

    async def modify_items(
        self, subscription_id: int, items: list[ua.MonitoredItemModifyRequest]
    ) -> list[ua.MonitoredItemModifyResult]:
        """Have *items* monitored in another way; return a result for each."""
        request = ua.ModifyMonitoredItemsRequest()
        request.Parameters = ua.ModifyMonitoredItemsParameters(
            SubscriptionId=subscription_id, TimestampsToReturn=ua.TimestampsToReturn.Both, ItemsToModify=items
        )
        response = await self._call(request, ua.ModifyMonitoredItemsResponse)
        return self._all(response.Results, len(items))

    async def delete_items(self, subscription_id: int, ids: list[int]) -> list[ua.StatusCode]:
        """Have the items *ids* (the server's numbers) monitored no more; return a status for each."""
        request = ua.DeleteMonitoredItemsRequest()
        request.Parameters = ua.DeleteMonitoredItemsParameters(SubscriptionId=subscription_id, MonitoredItemIds=ids)
        response = await self._call(request, ua.DeleteMonitoredItemsResponse)
        return self._all(response.Results, len(ids))

    async def read(self, nodes: list[ua.ReadValueId], handles: UInt32Array) -> Columns:
        """Read *nodes* now; their values come under *handles*, shape ``(n,)``."""
        request = ua.ReadRequest()
        request.Parameters = ua.ReadParameters(
            MaxAge=0.0, TimestampsToReturn=ua.TimestampsToReturn.Both, NodesToRead=nodes
        )
        body = bytes(await self._send(request))
        try:
            return read_read_response(body, handles)
        except MalformedMessage as error:
            raise self.malformed(error) from error

    async def monitored(self, subscription_id: int) -> dict[int, list[int]] | None:
        """Return what the server monitors in one subscription: its numbers by client handle; None: it cannot tell."""
        request = ua.CallRequest()
        method = ua.CallMethodRequest(
            ObjectId=ua.NodeId(ua.Int32(ObjectIds.Server)),
            MethodId=ua.NodeId(ua.Int32(ObjectIds.Server_GetMonitoredItems)),
            InputArguments=[ua.Variant(subscription_id, ua.VariantType.UInt32)],
        )
        request.Parameters.MethodsToCall = [method]
        try:
            (result,) = self._all((await self._call(request, ua.CallResponse)).Results, 1)
        except UaStatusCodeError:
            return None
        if result.StatusCode.value == StatusCodes.BadSubscriptionIdInvalid:
            return {}
        if not result.StatusCode.is_good() or len(result.OutputArguments) != 2:
            return None
        numbers, handles = (argument.Value or [] for argument in result.OutputArguments)
        told: dict[int, list[int]] = {}
        for handle, number in zip(handles, numbers, strict=False):
            told.setdefault(int(handle), []).append(int(number))
        return told

    async def _call(self, request: Any, response_type: type) -> Any:
        """Return the server's answer to *request*, decoded."""
        body = await self._send(request)
        try:
            response: Any = struct_from_binary(response_type, body)
        except Exception as error:  # asyncua's decoder raises many things on strange bytes
            raise SourceUnavailable(
                f"{self.server_name}: answer to {type(request).__name__} cannot be read ({error!r}); "
                "the connection is made anew"
            ) from error
        self._check(response.ResponseHeader.ServiceResult)
        return response

    async def _send(self, request: Any) -> Any:
        try:
            return await self.client.uaclient.session._send_request(request)  # noqa: SLF001 - the session's request function
        except UaStatusCodeError as error:
            self._check(ua.StatusCode(ua.UInt32(error.code)))
            raise
        except Exception as error:  # asyncua passes on whatever ended the connection
            raise self.lost(error) from error

    def _check(self, status: ua.StatusCode) -> None:
        if status.value in _SESSION_LOST:
            raise SourceUnavailable(f"{self.server_name}: session lost ({status_name(status.value)}); it is made anew")
        status.check()

    def _all(self, results: Any, count: int) -> list[Any]:
        if len(results) != count:
            raise SourceUnavailable(
                f"{self.server_name}: {len(results)} results for {count} requests; the connection is made anew"
            )
        return list(results)

    def malformed(self, error: Exception) -> SourceUnavailable:
        """Return that the server sends what cannot be read, by *error*."""
        return SourceUnavailable(f"{self.server_name}: {error}; the connection is made anew")

    def lost(self, error: BaseException) -> SourceUnavailable:
        """Return that the link is lost by *error*."""
        return SourceUnavailable(
            f"{self.server_name}: connection lost ({type(error).__name__}: {error}); it is made anew"
        )


def _counts(interval_ms: float) -> tuple[int, int]:
    """Return the keep-alive count and lifetime count for a publishing interval."""
    keep_alive_count = max(1, math.ceil(1000 * _KEEP_ALIVE_S / interval_ms))
    return keep_alive_count, max(3 * keep_alive_count, math.ceil(1000 * _LIFETIME_S / interval_ms))
