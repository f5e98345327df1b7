"""What is known of each tag that is read from a server, in columns: row i is the tag with client handle i."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.resolution import FoundChannel
from models.records import BoolArray, FloatArray, Int64Array, Stream, UInt32Array

NEVER = -(2**62)  # before every source time, and far enough from the end to reckon with
_ZERO_AT_FIRST = (
    "active", "ready", "status", "evidence", "silence_s", "heartbeat_s", "told", "suspect", "by_value"
)  # fmt: skip


class Watched:
    """The tags of one server, found once at least; a tag keeps its handle when its node moves.

    Attributes:
        found: Where each tag was found last.
        streams: Its stream, by handle.
        active: Whether the server was asked for it and agreed, shape ``(n,)``.
        ready: Whether a value came since it was asked for, shape ``(n,)``.
        time: Source time of its last value, ns, or `NEVER`, shape ``(n,)``.
        value: Its last value; NaN for a waveform, shape ``(n,)``.
        status: Its last status, shape ``(n,)``.
        evidence: When it was last known to be alive, by the event loop's clock, in s, shape ``(n,)``.
        silence_s: So long without evidence, and it is looked at, shape ``(n,)``.
        heartbeat_s: How often its last value is told while nothing new comes; 0 for never, shape ``(n,)``.
        told: When its last value or heartbeat was told, by the event loop's clock, in s, shape ``(n,)``.
        suspect: Whether the last look at it found what the subscription had not told, shape ``(n,)``.
        by_value: Whether its server gives every read a new source time, so that its value alone tells, shape ``(n,)``.
    """

    def __init__(self) -> None:
        self.found: list[FoundChannel] = []
        self.streams: tuple[Stream, ...] = ()
        self.active: BoolArray = np.zeros(0, np.bool_)
        self.ready: BoolArray = np.zeros(0, np.bool_)
        self.time: Int64Array = np.zeros(0, np.int64)
        self.value: FloatArray = np.zeros(0, np.float64)
        self.status: UInt32Array = np.zeros(0, np.uint32)
        self.evidence: FloatArray = np.zeros(0, np.float64)
        self.silence_s: FloatArray = np.zeros(0, np.float64)
        self.heartbeat_s: FloatArray = np.zeros(0, np.float64)
        self.told: FloatArray = np.zeros(0, np.float64)
        self.suspect: BoolArray = np.zeros(0, np.bool_)
        self.by_value: BoolArray = np.zeros(0, np.bool_)
        self._handles: dict[Stream, int] = {}

    def handle(self, stream: Stream) -> int | None:
        """Return the handle of *stream*, or None when it was never found."""
        return self._handles.get(stream)

    def add(self, found: Sequence[FoundChannel]) -> list[int]:
        """Take note of where tags were *found*, and return their handles."""
        new = [channel for channel in found if channel.stream not in self._handles]
        first, count = len(self.found), len(new)
        self.found += new
        self.streams += tuple(channel.stream for channel in new)
        self._handles |= {channel.stream: first + i for i, channel in enumerate(new)}
        for name in _ZERO_AT_FIRST:
            column = getattr(self, name)
            setattr(self, name, np.append(column, np.zeros(count, column.dtype)))
        self.time = np.append(self.time, np.full(count, NEVER))
        self.value = np.append(self.value, np.full(count, np.nan))
        handles = [self._handles[channel.stream] for channel in found]
        for handle, channel in zip(handles, found, strict=True):
            self.found[handle] = channel
            self.silence_s[handle] = channel.sampling.silence_s
            self.heartbeat_s[handle] = channel.sampling.heartbeat_s
        return handles

    def begin(self, handles: Iterable[int], now: float) -> None:
        """Expect a first value of *handles*: the server agreed to report them."""
        rows = np.fromiter(handles, np.intp)
        self.active[rows] = True
        self.ready[rows] = False
        self.evidence[rows] = self.told[rows] = now
        self.suspect[rows] = False

    def end(self, handles: Iterable[int]) -> None:
        """Expect nothing more of *handles*."""
        self.active[np.fromiter(handles, np.intp)] = False

    def note(self, values: Columns, now: float) -> None:
        """Take over the last of *values* of each tag."""
        handles = values.handle
        self.ready[handles] = True
        # Of a handle that occurs more than once the last row counts, which is its newest.
        self.time[handles] = values.source_time
        self.value[handles] = values.value
        self.status[handles] = values.status
        self.evidence[handles] = self.told[handles] = now

    def named(self, handles: NDArray[np.intp]) -> tuple[str, ...]:
        """Return ``asset/channel`` of *handles*."""
        return tuple("/".join(self.streams[handle]) for handle in handles.tolist())
