"""What asyncua's server lacks of a plant's: history that says where it ends, overflow bits, limits, one user."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.history import HistoryManager, HistoryStorageInterface
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes

_OVERFLOW = 0x480
_FEW = {"read": ("NodesToRead", 2), "browse": ("NodesToBrowse", 2), "history_read": ("NodesToRead", 1),
       "create_monitored_items": ("ItemsToCreate", 3)}  # fmt: skip
_LIMITS = {"MaxNodesPerRead": 2, "MaxNodesPerBrowse": 2, "MaxNodesPerHistoryReadData": 1, "MaxMonitoredItemsPerCall": 3}


def status_code(code: int) -> ua.StatusCode:
    """Return *code* as asyncua has it."""
    return ua.StatusCode(ua.UInt32(code))


@dataclass
class Past(HistoryStorageInterface):
    """What was measured, in time order, given out page by page, forwards and backwards."""

    page: int
    values: dict[ua.NodeId, list[ua.DataValue]] = field(default_factory=dict)

    async def read_node_history(
        self, node_id: ua.NodeId, start: datetime | None, end: datetime | None, nb_values: int
    ) -> tuple[list[ua.DataValue], datetime | None]:
        assert start is not None
        assert end is not None
        all_values, key = self.values[node_id], lambda value: value.SourceTimestamp
        oldest, newest = sorted((start, end))
        asked = all_values[
            bisect.bisect_left(all_values, oldest, key=key) : bisect.bisect_right(all_values, newest, key=key)
        ]
        if start > end:
            asked.reverse()
        if nb_values:
            asked = asked[:nb_values]
        return asked[: self.page], asked[self.page].SourceTimestamp if len(asked) > self.page else None

    async def stop(self) -> None:
        """Nothing to close."""


class History(HistoryManager):
    """Says of a node without history that it has none, as servers must; asyncua's own says it is empty."""

    def __init__(self, iserver: InternalServer, past: Past) -> None:
        super().__init__(iserver)
        self.storage = self._past = past

    async def _read_history(self, details: Any, rv: ua.HistoryReadValueId) -> ua.HistoryReadResult:
        if rv.NodeId not in self._past.values:
            return ua.HistoryReadResult(StatusCode=status_code(StatusCodes.BadHistoryOperationUnsupported))
        return await super()._read_history(details, rv)


class OneUser(UserManager):
    """Lets in ``gateway`` with ``secret``; whoever comes without encryption may be anonymous."""

    def __init__(self, *, is_open: bool) -> None:
        self._is_open = is_open

    def get_user(
        self,
        iserver: Any,  # noqa: ARG002 - asyncua's signature
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,  # noqa: ARG002 - the same
    ) -> User | None:
        fits = (username, password) == ("gateway", "secret") or (self._is_open and username is None)
        return User(role=UserRole.User) if fits else None


async def take_few(server: Server) -> None:
    """Have *server* say that it takes few nodes in one request, and refuse more."""
    for name, most in _LIMITS.items():
        node = ua.NodeId(ua.Int32(getattr(ObjectIds, f"Server_ServerCapabilities_OperationLimits_{name}")))
        await server.write_attribute_value(node, ua.DataValue(ua.Variant(most, ua.VariantType.UInt32)))
    for service, (nodes, most) in _FEW.items():
        setattr(InternalSession, service, _limited(getattr(InternalSession, service), nodes, most))


def tell_overflows() -> None:
    """Have every queue of this process tell by the overflow bit that it dropped values; asyncua's own does not."""
    InternalSubscription._enqueue_event = _enqueue  # type: ignore[assignment, method-assign]


def _limited(answer: Callable[..., Awaitable[Any]], nodes: str, most: int) -> Callable[..., Awaitable[Any]]:
    """Return *answer* for clients that ask for no more than *most* nodes."""

    async def checked(self: InternalSession, parameters: Any) -> Any:
        if self.external and len(getattr(parameters, nodes)) > most:
            raise ServiceError(ua.UInt32(StatusCodes.BadTooManyOperations))
        return await answer(self, parameters)

    return checked


async def _enqueue(self: Any, item: int, event: Any, size: int, queue: dict[int, list[Any]]) -> None:
    """Queue *event*; asyncua's own drops the oldest without the overflow bit that tells so."""
    waiting = queue.get(item)
    if waiting is None:
        queue[item] = [event]
        await self._trigger_publish()
        return
    waiting.append(event)
    if 0 < size < len(waiting):
        waiting.pop(0)
        oldest = waiting[0]
        told = dataclasses.replace(oldest.Value, StatusCode=status_code(oldest.Value.StatusCode.value | _OVERFLOW))
        waiting[0] = ua.MonitoredItemNotification(ClientHandle=oldest.ClientHandle, Value=told)
