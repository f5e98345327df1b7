"""A server's history as OPC UA has it: opaque continuation points, few of them, pages, and nodes that fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.server import Server
from asyncua.ua.status_codes import StatusCodes

from models.records import to_ns
from tests.gateway.data_acquisition.small_plant import NOON


def _never(*_: Any) -> int:
    return 0


@dataclass
class Historian:
    """Answers HistoryRead in place of asyncua's own.

    Attributes:
        page: Values of one node in one answer.
        points: How many continuation points there may be at a time.
        nodes_at_a_time: Above that a request is refused.
        refuses: Gives the status of a whole answer, 0 for good.
        fails: Gives the status of a node by its id, from and to, in seconds after noon; 0 for good.
        end_s: What is from there on is not in the history yet.
        values: Of each node, oldest first.
        asked: From and to of each request, in seconds after noon, and how many nodes.
    """

    page: int = 1000
    points: int = 100
    nodes_at_a_time: int = 1000
    refuses: Callable[[], int] = _never
    fails: Callable[[ua.NodeId, float, float], int] = _never
    end_s: float = 1e9
    values: dict[ua.NodeId, list[ua.DataValue]] = field(default_factory=dict)
    asked: list[tuple[float, float, int]] = field(default_factory=list)
    most_points: int = 0
    _open: dict[bytes, list[ua.DataValue]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    def install(self, server: Server) -> None:
        """Have *server* ask this one; what was there before is forgotten."""
        server.iserver.history_manager.read_history = self._read_history  # type: ignore[method-assign]  # a storage has no status

    def remember(self, node: ua.NodeId, seconds: Iterable[float], value: Callable[[float], Any] = float) -> None:
        """Have *node* have measured ``value(second)`` at each of *seconds* after noon."""
        for second in seconds:
            measured: Any = NOON + timedelta(seconds=second)
            kind = ua.VariantType.Float if isinstance(value(second), list) else ua.VariantType.Double
            data_value = ua.DataValue(ua.Variant(value(second), kind), SourceTimestamp=measured)
            self.values.setdefault(node, []).append(data_value)

    async def _read_history(self, params: ua.HistoryReadParameters) -> list[ua.HistoryReadResult]:
        if params.ReleaseContinuationPoints:
            for wanted in params.NodesToRead:
                self._open.pop(wanted.ContinuationPoint, None)
            return [ua.HistoryReadResult() for _ in params.NodesToRead]
        details: Any = params.HistoryReadDetails
        start, end = ((to_ns(t) - to_ns(NOON)) / 1e9 for t in (details.StartTime, details.EndTime))
        self.asked.append((start, end, len(params.NodesToRead)))
        if len(params.NodesToRead) > self.nodes_at_a_time:
            raise ServiceError(ua.UInt32(StatusCodes.BadTooManyOperations))
        if status := self.refuses():
            raise ServiceError(ua.UInt32(status))
        return [self._answer(wanted, start, end, details.NumValuesPerNode) for wanted in params.NodesToRead]

    def _answer(self, wanted: ua.HistoryReadValueId, start: float, end: float, most: int) -> ua.HistoryReadResult:
        if status := self.fails(wanted.NodeId, start, end):
            return _failure(status)
        if wanted.ContinuationPoint:
            if wanted.ContinuationPoint not in self._open:
                return ua.HistoryReadResult(
                    StatusCode=ua.StatusCode(ua.UInt32(StatusCodes.BadContinuationPointInvalid))
                )
            left = self._open.pop(wanted.ContinuationPoint)
        else:
            left = [v for v in self.values.get(wanted.NodeId, []) if start <= _second(v) < min(end, self.end_s)]
        size = min(self.page, most or self.page)
        point = None
        if len(left) > size:
            if len(self._open) >= self.points:
                return _failure(StatusCodes.BadNoContinuationPoints)
            point = f"point {next(self._numbers)}".encode()
            self._open[point] = left[size:]
            self.most_points = max(self.most_points, len(self._open))
        result = ua.HistoryReadResult(ContinuationPoint=point)
        result.HistoryData = ua.HistoryData(DataValues=left[:size])
        return result

    def open_points(self) -> int:
        """Return how many continuation points nobody gave back."""
        return len(self._open)


def _failure(status: int) -> ua.HistoryReadResult:
    return ua.HistoryReadResult(StatusCode=ua.StatusCode(ua.UInt32(status)))


def _second(value: ua.DataValue) -> float:
    assert value.SourceTimestamp is not None
    return (to_ns(value.SourceTimestamp) - to_ns(NOON)) / 1e9
