"""The clock guard: which time an observation gets, and what is known of a server's clock.

A server tells its time in ServerStatus; beside the gateway's own it gives an offset, and a jump of the offset is a
step of one of the two clocks. Source times are checked against it: a device whose clock starts anew at 1970 or 2000, or
runs far ahead, would otherwise be the newest of its stream for ever, and nothing of it would be backfilled again.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from gateway.config import ServerConfig, TimeSource
from gateway.data_acquisition.columns import Columns
from models.records import BoolArray, Int64Array, to_ns

EARLIEST_NS = to_ns(datetime(2001, 1, 1, tzinfo=UTC))  # clocks without a battery begin at 1970, 1980 or 2000
_STEP_NS = 2_000_000_000
_SECOND_NS = 1_000_000_000
_NOT_NOW = frozenset(
    {StatusCodes.BadServerTooBusy, StatusCodes.BadTcpServerTooBusy, StatusCodes.BadResourceUnavailable}
)


class ClockGuard:
    """One server's clock, and the choice of time for its values.

    Attributes:
        offset_ns: The server's clock less the gateway's; None before the server told its time.
        replaced: Values whose source time could not be one, since the start.
    """

    def __init__(self, server: ServerConfig) -> None:
        self._name = server.name
        self._choice = server.time
        self._tolerance_ns = round(server.clock_tolerance_s * _SECOND_NS)
        self.offset_ns: int | None = None
        self.replaced = 0

    def observe(self, server_time_ns: int, asked_ns: int, answered_ns: int) -> str:
        """Take note of the time the server told between *asked_ns* and *answered_ns* (gateway's clock).

        Returns:
            What is to be told of a step of the clock; nothing when there is none.
        """
        before, self.offset_ns = self.offset_ns, server_time_ns - (asked_ns + answered_ns) // 2
        unsure_ns = (answered_ns - asked_ns) // 2
        if before is None or abs(self.offset_ns - before) <= _STEP_NS + unsure_ns:
            return ""
        return (
            f"{self._name}: the server's clock went from {before / 1e9:+.1f} s to {self.offset_ns / 1e9:+.1f} s beside "
            "the gateway's; one of the two was set"
        )

    def timed(self, values: Columns, received_ns: int, *, counted: bool = True) -> Columns:
        """Return *values*, received at *received_ns*, with the time that the server's configuration chooses.

        A source time before 2001, or further ahead of the server's clock than the tolerance, is no source time: the
        server's time takes its place, or the time of arrival where that is none either. These are *counted*, unless
        *values* are for a look alone.
        """
        if self._choice is TimeSource.GATEWAY:
            return replace(values, source_time=np.full(len(values.handle), received_ns))
        times = values.source_time
        if self._choice is TimeSource.SERVER:
            times = np.where(values.server_time != 0, values.server_time, times)
        if self._tolerance_ns and len(times) and not self._all_plausible(times, received_ns):
            plausible = self._plausible(times, received_ns)
            self.replaced += int(np.count_nonzero(~plausible)) * counted
            instead = np.where(self._plausible(values.server_time, received_ns), values.server_time, received_ns)
            times = np.where(plausible, times, instead)
        return values if times is values.source_time else replace(values, source_time=times)

    def _latest(self, received_ns: int) -> int:
        return received_ns + (self.offset_ns or 0) + self._tolerance_ns

    def _all_plausible(self, times: Int64Array, received_ns: int) -> bool:
        return bool(times.min() >= EARLIEST_NS) and bool(times.max() <= self._latest(received_ns))

    def _plausible(self, times: Int64Array, received_ns: int) -> BoolArray:
        return (times >= EARLIEST_NS) & (times <= self._latest(received_ns))


async def read_server_time(client: Client) -> int | None:
    """Return the time that the server of *client* tells, ns since 1970, or None when it tells none.

    Raises:
        OSError, UaError: If the link is lost.
    """
    node = ua.NodeId(ua.Int32(ObjectIds.Server_ServerStatus_CurrentTime))
    try:
        (value,) = await client.uaclient.read_attributes([node], AttributeIds.Value)
    except UaStatusCodeError as error:
        if error.code in _NOT_NOW:
            return None
        raise
    told = value.Value.Value if value.Value is not None else None
    if not isinstance(told, datetime):
        return None
    return to_ns(told if told.tzinfo else told.replace(tzinfo=UTC))
