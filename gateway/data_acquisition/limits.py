"""How much one request to a server may ask for: what it tells of itself, and what it was found to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

T = TypeVar("T")

MOST = 500
_BROWSE, _READ, _HISTORY, _ITEMS = 100, 100, 50, MOST  # more saves no time
_OPERATION_LIMITS = (
    ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
    ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData,
    ObjectIds.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
)


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Nodes or items in one request, by service."""

    browse: int = _BROWSE
    read: int = _READ
    history: int = _HISTORY
    items: int = _ITEMS


async def read_limits(client: Client, at_most: int) -> RequestLimits:
    """Return what the server of *client* takes in one request, by its OperationLimits, and never more than *at_most*.

    One node a request, since a server may take no more. What it does not tell is not limited.
    """
    told = [await _told(client, limit) for limit in _OPERATION_LIMITS]
    browse, read, history, items = (
        min(usual, most, at_most) for usual, most in zip((_BROWSE, _READ, _HISTORY, _ITEMS), told, strict=True)
    )
    return RequestLimits(browse=browse, read=read, history=history, items=items)


async def _told(client: Client, limit: int) -> int:
    node = ua.NodeId(ua.Int32(limit))
    (value,) = await client.uaclient.read_attributes([node], AttributeIds.Value)
    told = value.Value.Value if value.Value is not None else None
    return told if isinstance(told, int) and told > 0 else MOST


def chunks(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield *whole* in pieces of *size*."""
    return (whole[i : i + size] for i in range(0, len(whole), size))
