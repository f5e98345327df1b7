"""What a server can take: what it tells of itself, and what its product is known for where it tells nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

T = TypeVar("T")

MOST = 500  # nodes or items in one request; more saves no time
TOO_LARGE = frozenset(
    {StatusCodes.BadTooManyOperations, StatusCodes.BadRequestTooLarge, StatusCodes.BadResponseTooLarge,
     StatusCodes.BadEncodingLimitsExceeded}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Nodes or items in one request, by service."""

    browse: int = 100
    read: int = 250
    history: int = 50
    items: int = MOST


@dataclass(frozen=True, kw_only=True)
class ServerProfile:
    """How much a server is asked for.

    Attributes:
        name: The product, or ``generic``.
        limits: Nodes or items in one request.
        items_per_subscription: Monitored items in one subscription.
        subscriptions: Subscriptions that the server grants one session; 0 when that is not known.
        monitored_items: Items that the server monitors in all; 0 when that is not known.
    """

    name: str = "generic"
    limits: RequestLimits = RequestLimits()
    items_per_subscription: int = 10_000
    subscriptions: int = 0
    monitored_items: int = 0


# By what stands in BuildInfo. Controllers share one small processor between their program and OPC UA, so they are
# asked for little at a time: an S7-1500 refuses more than 1,000 nodes in all requests under way, and takes 1,000 items
# in a subscription; an S7-1200 monitors 1,000 in all. Servers on PCs take what any server takes; Beckhoff's takes 1,000
# items in a subscription unless somebody configured more. What a server tells of itself goes before any of this.
_KNOWN = (
    (
        re.compile(r"s7-1200|6es7 ?21|cpu 12\d\d", re.IGNORECASE),
        ServerProfile(
            name="S7-1200",
            limits=RequestLimits(browse=50, read=100, history=50, items=100),
            items_per_subscription=1_000,
            monitored_items=1_000,
        ),
    ),
    (
        re.compile(r"s7-1500|6es7 ?5|cpu 15\d\d|simatic", re.IGNORECASE),
        ServerProfile(
            name="S7-1500",
            limits=RequestLimits(browse=100, read=250, history=50, items=250),
            items_per_subscription=1_000,
        ),
    ),
    (re.compile(r"kepware|kepserver", re.IGNORECASE), ServerProfile(name="Kepware", items_per_subscription=5_000)),
    (re.compile(r"ignition|inductive ?automation", re.IGNORECASE), ServerProfile(name="Ignition")),
    (
        re.compile(r"beckhoff|twincat|tcopcua", re.IGNORECASE),
        ServerProfile(name="Beckhoff", items_per_subscription=1_000),
    ),
)

_BUILD_INFO = (
    ObjectIds.Server_ServerStatus_BuildInfo_ProductUri,
    ObjectIds.Server_ServerStatus_BuildInfo_ManufacturerName,
    ObjectIds.Server_ServerStatus_BuildInfo_ProductName,
)
_LIMITS = {
    "browse": ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
    "read": ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    "history": ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData,
    "items": ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
}
_CAPABILITIES = {
    "items_per_subscription": ObjectIds.Server_ServerCapabilities_MaxMonitoredItemsPerSubscription,
    "subscriptions": ObjectIds.Server_ServerCapabilities_MaxSubscriptionsPerSession,
    "monitored_items": ObjectIds.Server_ServerCapabilities_MaxMonitoredItems,
}


async def read_profile(client: Client, at_most: int = MOST) -> ServerProfile:
    """Return how much the server of *client* is asked for.

    What it tells of itself wins; what it does not tell is by its product, or generic.

    Args:
        client: The connected client.
        at_most: Never more than so many nodes or items in one request: what experience with this server says.
    """
    asked = (*_BUILD_INFO, *_LIMITS.values(), *_CAPABILITIES.values())
    told = dict(zip(asked, await _values(client, asked, at_most), strict=True))
    product = " ".join(str(told[node] or "") for node in _BUILD_INFO)
    known = next((profile for pattern, profile in _KNOWN if pattern.search(product)), ServerProfile())
    numbers = {node: value for node, value in told.items() if isinstance(value, int) and value > 0}
    limits = {
        service: min(getattr(known.limits, service), numbers.get(node, MOST), at_most)
        for service, node in _LIMITS.items()
    }
    capabilities = {key: numbers.get(node, getattr(known, key)) for key, node in _CAPABILITIES.items()}
    return replace(known, limits=RequestLimits(**limits), **capabilities)


def budget(profile: ServerProfile, wanted: int) -> str:
    """Return what is wrong with wanting so many monitored items of a server, as a sentence; nothing if it may do."""
    most = profile.monitored_items
    if profile.subscriptions:
        in_all = profile.subscriptions * profile.items_per_subscription
        most = min(most, in_all) if most else in_all
    if not most or wanted <= most:
        return ""
    return (
        f"{wanted:,} wanted, server monitors {most:,}; the other {wanted - most:,} are refused and tried again:"
        ' want fewer, or read some with mode = "poll"'
    )


async def _values(client: Client, nodes: Sequence[int], at_most: int) -> list[object]:
    """Return what each of the standard *nodes* holds, or None; one by one where the server takes no more."""
    try:
        return [value for some in chunks(nodes, at_most) for value in await _read(client, some)]
    except UaStatusCodeError as error:
        if error.code not in TOO_LARGE:
            raise
    if len(nodes) == 1:
        return [None]
    return [value for node in nodes for value in await _values(client, [node], 1)]


async def _read(client: Client, nodes: Sequence[int]) -> list[object]:
    ids = [ua.NodeId(ua.Int32(node)) for node in nodes]
    values = await client.uaclient.read_attributes(ids, AttributeIds.Value)
    return [value.Value.Value if value.Value is not None else None for value in values]


def chunks(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield *whole* in pieces of *size*."""
    return (whole[i : i + size] for i in range(0, len(whole), size))
