"""What is known of each tag that is read from a server, in columns: row i is the tag with client handle i."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.config import Deadband, Mode, Sampling
from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.resolution import FoundChannel
from models.records import BoolArray, FloatArray, Int64Array, Stream, UInt32Array

NEVER = -(2**62)  # before every source time, and far enough from the end to reckon with
_ZERO_AT_FIRST = (
    "active", "ready", "status", "evidence", "silence_s", "patience_s", "heartbeat_s", "told", "suspect", "suspect_at",
    "band", "by_value",
)  # fmt: skip
_PATIENCE_S = 0.5  # for an answer on its way


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
        patience_s: How late a value may be told after it was measured, shape ``(n,)``.
        heartbeat_s: How often its last value is told while nothing new comes; 0 for never, shape ``(n,)``.
        told: When its last value or heartbeat was told, by the event loop's clock, in s, shape ``(n,)``.
        suspect: Whether the last look at it found what the subscription had not told, shape ``(n,)``.
        suspect_at: Since when it is suspect, by the event loop's clock, in s, shape ``(n,)``.
        band: How far its value may go untold, in its unit; 0 without a deadband, shape ``(n,)``.
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
        self.patience_s: FloatArray = np.zeros(0, np.float64)
        self.heartbeat_s: FloatArray = np.zeros(0, np.float64)
        self.told: FloatArray = np.zeros(0, np.float64)
        self.suspect: BoolArray = np.zeros(0, np.bool_)
        self.suspect_at: FloatArray = np.zeros(0, np.float64)
        self.band: FloatArray = np.zeros(0, np.float64)
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
            patience_s = _patience_s(channel.sampling)
            self.patience_s[handle] = patience_s
            # A tag is not quiet before the next value could have come.
            self.silence_s[handle] = max(channel.sampling.silence_s, patience_s)
            self.heartbeat_s[handle] = channel.sampling.heartbeat_s
            self.band[handle] = _band(channel)
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
        if self.heartbeat_s.any():
            # The same again, of a polled tag, is not stored, and so not told.
            new = (values.source_time != self.time[handles]) | (values.status != self.status[handles])
            self.told[handles[new]] = now
        # Of a handle that occurs more than once the last row counts, which is its newest.
        self.time[handles] = values.source_time
        self.value[handles] = values.value
        self.status[handles] = values.status
        self.evidence[handles] = now
        self.suspect[handles] = False

    def named(self, handles: NDArray[np.intp]) -> tuple[str, ...]:
        """Return ``asset/channel`` of *handles*."""
        return tuple("/".join(self.streams[handle]) for handle in handles.tolist())


def _patience_s(sampling: Sampling) -> float:
    """Return how late a value may be told after it was measured, in s."""
    interval_ms = sampling.sampling_interval_ms
    if sampling.mode is not Mode.POLL:
        interval_ms += sampling.publishing_interval_ms
    return 1.5 * interval_ms / 1000 + _PATIENCE_S


def _band(found: FoundChannel) -> float:
    """Return how far a value may go without being told, in the unit of *found*; endless when its range is."""
    sampling, channel = found.sampling, found.channel
    if sampling.mode is Mode.POLL or sampling.deadband is Deadband.NONE:
        return 0.0
    if sampling.deadband is Deadband.ABSOLUTE:
        return sampling.deadband_value
    return sampling.deadband_value / 100 * (channel.high - channel.low)
