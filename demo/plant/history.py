"""HistoryRead served from the timeline's columns: raw values of any channel, commissioning included."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.server.history import HistoryStorageInterface

from demo.plant.timeline import Timeline
from demo.plant.values import data_values
from models.records import Observations, from_ns, to_ns

RESPONSE_LIMIT: Final = 10_000
FOR_EVER_NS: Final = 2**63 - 1


class TimelineHistory(HistoryStorageInterface):
    """asyncua's history interface over a ``Timeline``; nothing is saved, for all of it is there already."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(RESPONSE_LIMIT)
        self._timeline = timeline
        self._streams: dict[ua.NodeId, int] = {}

    def serve(self, node_id: ua.NodeId, stream: int) -> None:
        """Serve the history of *stream* at *node_id*."""
        self._streams[node_id] = stream

    async def read_node_history(
        self, node_id: ua.NodeId, start: datetime | None, end: datetime | None, nb_values: int
    ) -> tuple[list[ua.DataValue], datetime | None]:
        """Return the values of a node in a span, both ends included, and where to go on if there are more.

        Without a start, or with a start after the end, the newest come first (OPC UA Part 11, 6.4.3).
        """
        if node_id not in self._streams:
            return [], None
        first, last = _moment(start), _moment(end)
        backward = first is None or (last is not None and first > last)
        low, high = (last, first) if backward and first is not None else (first, last)
        rows = self._timeline.history(
            self._streams[node_id], 0 if low is None else to_ns(low), FOR_EVER_NS if high is None else to_ns(high)
        )
        if backward:
            rows = rows.take(np.arange(len(rows))[::-1])
        if nb_values:
            rows = rows.take(np.arange(min(nb_values, len(rows))))
        return self._limited(rows)

    def _limited(self, rows: Observations) -> tuple[list[ua.DataValue], datetime | None]:
        if len(rows) <= self.max_history_data_response_size:
            return list(data_values(rows)), None
        more = from_ns(int(rows.source_time[self.max_history_data_response_size]))
        return list(data_values(rows.take(np.arange(self.max_history_data_response_size)))), more

    async def init(self) -> None:
        """Do nothing: the timeline is ready."""

    async def new_historized_node(self, node_id: ua.NodeId, period: timedelta | None, count: int = 0) -> None:
        """Do nothing: every channel has history."""

    async def save_node_value(self, node_id: ua.NodeId, datavalue: ua.DataValue) -> None:
        """Do nothing: the timeline holds the value already."""

    async def new_historized_event(self, *_args: Any, **_options: Any) -> None:
        """Do nothing: the plant has no events."""

    async def save_event(self, event: Any) -> None:
        """Do nothing: the plant has no events."""

    async def read_event_history(self, *_args: Any, **_options: Any) -> tuple[list[Any], datetime | None]:
        """Return no events."""
        return [], None

    async def stop(self) -> None:
        """Do nothing: there is nothing to close."""


def _moment(moment: datetime | None) -> datetime | None:
    """Return *moment* as an aware time, None where OPC UA's null time says it is not given."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None if aware <= ua.get_win_epoch() else aware
