"""What a server can take: what it tells of itself, and what its product is known for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

MOST = 500  # nodes or items in one request; more saves no time


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
        subscriptions: Subscriptions of one session the server grants; 0 when it does not tell.
        monitored_items: Items the server monitors in all; 0 when it does not tell.
    """

    name: str = "generic"
    limits: RequestLimits = RequestLimits()
    items_per_subscription: int = 10_000
    subscriptions: int = 0
    monitored_items: int = 0


def chunks(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield *whole* in pieces of *size*."""
    return (whole[i : i + size] for i in range(0, len(whole), size))
