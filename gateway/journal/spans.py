"""Spans of source time in one stream in which something is missing.

The spans of a stream are in order and never overlap. Times are ns since 1970, each span is ``start <= t < end``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.records import BoolArray, Int64Array

Indices = NDArray[np.intp]


class Span(NamedTuple):
    """A stretch of source time in which something is missing.

    Attributes:
        start: Its first ns.
        end: The first ns after it.
        cause: Why.
        unknown: Whether rows may be stored in it from before it was opened.
    """

    start: int
    end: int
    cause: str = ""
    unknown: bool = False


def opened(spans: Sequence[Span], new: Span) -> tuple[Span, ...]:
    """Return *spans* and what *new* adds to them; what is open already keeps its cause."""
    pieces = [new]
    for span in spans:
        pieces = [part for piece in pieces for part in _without(piece, span.start, span.end)]
    return tuple(sorted([*spans, *pieces]))


def filled(spans: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    """Return what is left of *spans* outside of ``start <= t < end``."""
    return tuple([piece for span in spans for piece in _without(span, start, end)])


def _without(span: Span, cut: int, resumed: int) -> list[Span]:
    start, end, cause, unknown = span
    if resumed <= start or end <= cut:
        return [span]
    pieces = [Span(start, cut, cause, unknown)] if start < cut else []
    return [*pieces, Span(resumed, end, cause, unknown)] if resumed < end else pieces


class SpanTable(NamedTuple):
    """The spans of many streams in columns, sorted by stream and start."""

    stream: Indices
    start: Int64Array
    end: Int64Array
    unknown: BoolArray

    @classmethod
    def of(cls, streams: Sequence[tuple[int, Sequence[Span]]]) -> SpanTable:
        """Return the spans of streams with ascending indices."""
        rows = [(index, span[0], span[1], span[3]) for index, spans in streams for span in spans]
        columns = np.array(rows, np.int64).reshape(-1, 4).T
        return cls(columns[0].astype(np.intp), columns[1], columns[2], columns[3] == 1)

    def place(self, stream: Indices, time: Int64Array) -> Indices:
        """Return the row of the span in which each *time* of each *stream* lies, -1 where there is none."""
        count = len(self.stream)
        found = np.full(len(stream), -1, np.intp)
        if not count:
            return found
        # Spans stand before rows, and sorting is stable: a row at the start of a span comes after it.
        order = np.lexsort((np.concatenate([self.start, time]), np.concatenate([self.stream, stream])))
        before = np.maximum.accumulate(np.where(order < count, order, -1))
        of_rows = order >= count
        found[order[of_rows] - count] = before[of_rows]
        outside = (found < 0) | (self.stream[found] != stream) | (time >= self.end[found])
        found[outside] = -1
        return found
