"""Rows of one asset that windows still need, and the cutting of windows from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.features.specification import FeatureSpecification, is_waveform
from models.records import BoolArray, Float32Array, FloatArray, Int64Array

NEVER = int(np.iinfo(np.int64).min)
FAR = int(np.iinfo(np.int64).max) // 2
# An asset whose channels are all silent but one closes no window; its rows are given up beyond this.
MAX_BUFFER_ROWS = 2_000_000
_PIECE_ROWS = 100_000
_NO_SAMPLES = np.empty(0, np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Observations as columns of shape ``(n,)``; ``samples`` holds a waveform's samples and None else."""

    asset: Int64Array
    channel: Int64Array
    time: Int64Array
    value: FloatArray
    good: BoolArray
    samples: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: BoolArray | NDArray[np.intp] | slice) -> Rows:
        """Return the given *rows*."""
        return Rows(
            asset=self.asset[rows],
            channel=self.channel[rows],
            time=self.time[rows],
            value=self.value[rows],
            good=self.good[rows],
            samples=self.samples[rows],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """Return *parts*, at least one, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__})


@dataclass(frozen=True, kw_only=True)
class SavedBuffer:
    """An asset's rows and position as bytes."""

    newest: tuple[int, ...]
    oldest: int
    next_end: int
    channel: bytes
    time: bytes
    value: bytes
    good: bytes
    sample_counts: bytes
    samples: bytes


@dataclass(frozen=True, kw_only=True)
class Cut:
    """One closed window: for each channel the rows that belong to it."""

    start: int
    end: int
    channels: tuple[Rows, ...]


def clock(newest: Int64Array, late_ns: int) -> Int64Array:
    """Return up to where each asset's windows may close, shape ``(n,)``.

    That is the oldest of the channels' newest times or, when it is later, ``late_ns`` before the second newest. The
    second, so that a single channel with a wrong clock closes nothing.

    Args:
        newest: Newest time of each channel, shape ``(n, channels)``.
        late_ns: How long a silent channel is waited for.
    """
    channels = newest.shape[1]
    rank = channels - min(2, (channels + 1) // 2)
    ahead = np.partition(newest, rank, axis=1)[:, rank]
    ahead = np.where(ahead > NEVER + late_ns, ahead - late_ns, NEVER)
    return np.asarray(np.maximum(newest.min(axis=1), ahead), np.int64)


def first_end(spec: FeatureSpecification, oldest: Int64Array) -> Int64Array:
    """Return the end of the first window that starts at or after each of *oldest*."""
    return -(-(oldest + spec.window_ns) // spec.step_ns) * spec.step_ns


class AssetBuffer:
    """The rows of one asset, and where its windows stand.

    ``newest`` is the newest time of each channel, ``oldest`` the oldest of all, ``next_end`` the end of the next
    window. Before the first window has closed that is `NEVER`: it will be the first that starts at or after the oldest
    row until then.
    """

    def __init__(self, spec: FeatureSpecification) -> None:
        self._spec = spec
        self.newest = np.full(len(spec.channels), NEVER, np.int64)
        self.next_end = NEVER
        self.late_rows = 0
        self.dropped_rows = 0
        self.oldest = FAR
        self._parts: list[Rows] = []
        self._size = 0

    def push(self, rows: Rows) -> Iterator[Cut]:
        """Take *rows*, in the order of the log, and yield the windows that they close, by end."""
        for first in range(0, len(rows), _PIECE_ROWS):
            yield from self._push(rows.take(slice(first, first + _PIECE_ROWS)))

    def saved(self) -> SavedBuffer:
        """Return everything as bytes."""
        rows = Rows.concatenate(self._parts) if self._parts else None
        columns = {name: b"" if rows is None else getattr(rows, name).tobytes() for name in _SAVED_COLUMNS}
        counts, samples = (np.zeros(0, np.int64), []) if rows is None else self._waveforms(rows)
        return SavedBuffer(
            newest=tuple(self.newest.tolist()),
            oldest=self.oldest,
            next_end=self.next_end,
            **columns,
            sample_counts=counts.tobytes(),
            samples=b"".join(np.ascontiguousarray(one, np.float32).tobytes() for one in samples),
        )

    def _waveforms(self, rows: Rows) -> tuple[Int64Array, list[Float32Array]]:
        """Return the number of samples of each row, and the waveforms; of the many plain rows none is looked at."""
        counts = np.zeros(len(rows), np.int64)
        is_wave = np.array([is_waveform(channel) for channel in self._spec.channels])
        places = [row for row in np.flatnonzero(is_wave[rows.channel]) if rows.samples[row] is not None]
        waveforms = [rows.samples[row] for row in places]
        counts[places] = [one.size for one in waveforms]
        return counts, waveforms

    @classmethod
    def of_saved(cls, spec: FeatureSpecification, saved: SavedBuffer) -> AssetBuffer:
        """Return the buffer that gave *saved*.

        Raises:
            ValueError: If the columns do not fit together.
        """
        buffer = cls(spec)
        buffer.newest = np.array(saved.newest, np.int64)
        buffer.oldest, buffer.next_end = saved.oldest, saved.next_end
        columns = {name: np.frombuffer(getattr(saved, name), dtype) for name, dtype in _SAVED_COLUMNS.items()}
        counts = np.frombuffer(saved.sample_counts, np.int64)
        samples = np.frombuffer(saved.samples, np.float32)
        if len({len(counts), *(len(column) for column in columns.values())}) != 1 or counts.sum() != samples.size:
            raise ValueError("columns of different lengths")
        cells = np.empty(len(counts), np.object_)
        ends = np.cumsum(counts)
        for row in np.flatnonzero(counts):
            cells[row] = samples[ends[row] - counts[row] : ends[row]]
        if len(counts):
            buffer._keep(Rows(asset=np.zeros(len(counts), np.int64), samples=cells, **columns))
        return buffer

    def _push(self, rows: Rows) -> Iterator[Cut]:
        step = self._spec.step_ns
        before, closed_end = self.newest.copy(), self._closed_end()
        np.maximum.at(self.newest, rows.channel, rows.time)
        oldest = np.minimum(np.minimum.accumulate(rows.time), self.oldest)
        self.oldest = int(oldest[-1])
        next_end = self.next_end if self.next_end != NEVER else int(first_end(self._spec, oldest[-1:])[0])
        if clock(self.newest[None], self._spec.late_ns)[0] < next_end:
            self._count_late(rows.time < closed_end)
            self._keep(rows)
            return
        until = np.maximum(self._running_clock(before, rows), 0) // step * step
        if self.next_end == NEVER and not self._begin(until, oldest):
            self._keep(rows)
            return
        closed = np.concatenate([[closed_end], np.where(until >= self.next_end, until, closed_end)[:-1]])
        late = rows.time < closed
        self._count_late(late)
        kept = Rows.concatenate([*self._parts, rows])
        arrival = np.concatenate([np.full(self._size, -1), np.arange(len(rows))])
        self._parts, self._size = [], 0
        yield from self._cut(kept, arrival, until, has_late=bool(late.any()))

    def _begin(self, until: Int64Array, oldest: Int64Array) -> bool:
        """Settle which window is the first, at the first row that closes one; return whether one does."""
        first = first_end(self._spec, oldest)
        closes = np.flatnonzero(until >= first)
        if closes.size:
            self.next_end = int(first[closes[0]])
        return bool(closes.size)

    def _running_clock(self, before: Int64Array, rows: Rows) -> Int64Array:
        """Return the clock after each row."""
        newest = np.full((len(rows), len(self.newest)), NEVER, np.int64)
        newest[np.arange(len(rows)), rows.channel] = rows.time
        newest[0] = np.maximum(newest[0], before)
        return clock(np.maximum.accumulate(newest, axis=0), self._spec.late_ns)

    def _cut(self, rows: Rows, arrival: Int64Array, until: Int64Array, *, has_late: bool) -> Iterator[Cut]:
        """Yield the windows that end at or before the last of *until*, and keep what the next ones need."""
        step, length = self._spec.step_ns, self._spec.window_ns
        order = np.lexsort((rows.time, rows.channel))
        rows, arrival = rows.take(order), arrival[order]
        ends = self._ends(rows.time, int(until[-1]))
        closing = np.searchsorted(until, ends, side="left")
        bounds = np.searchsorted(rows.channel, np.arange(len(self.newest) + 1))
        spans = []
        for first, last in pairwise(bounds.tolist()):
            time = rows.time[first:last]
            spans.append((first + np.searchsorted(time, ends - length), first + np.searchsorted(time, ends)))
        for place, end in enumerate(ends.tolist()):
            channels = [rows.take(slice(low[place], high[place])) for low, high in spans]
            if has_late:
                seen = [arrival[low[place] : high[place]] <= closing[place] for low, high in spans]
                channels = [part.take(mask) for part, mask in zip(channels, seen, strict=True)]
            if any(len(part) for part in channels):
                yield Cut(start=end - length, end=end, channels=tuple(channels))
        self.next_end = int(until[-1]) + step
        self._keep(rows)

    def _ends(self, time: Int64Array, last_end: int) -> Int64Array:
        """Return the ends, from the next to *last_end*, of windows with rows at *time*: a long gap costs nothing."""
        step = self._spec.step_ns
        steps = np.unique(time // step)
        overlap = -(-self._spec.window_ns // step)
        ends = np.unique((steps[:, None] + np.arange(1, overlap + 1)) * step)
        return ends[(ends >= self.next_end) & (ends <= last_end)]

    def _keep(self, rows: Rows) -> None:
        if self.next_end != NEVER:
            rows = rows.take(rows.time >= self.next_end - self._spec.window_ns)
        if len(rows):
            self._parts.append(rows)
            self._size += len(rows)
        if self._size > MAX_BUFFER_ROWS:
            held = Rows.concatenate(self._parts)
            self._parts = [held.take(slice(len(held) // 2, None))]
            self.dropped_rows += len(held) // 2
            self._size = len(self._parts[0])

    def _closed_end(self) -> int:
        """Return the end of the last window that has closed."""
        return self.next_end - self._spec.step_ns if self.next_end != NEVER else NEVER

    def _count_late(self, late: BoolArray) -> None:
        self.late_rows += int(np.count_nonzero(late))


_SAVED_COLUMNS: dict[str, Any] = {"channel": np.int64, "time": np.int64, "value": np.float64, "good": np.bool_}


def samples_of(rows: Rows) -> tuple[Float32Array, ...]:
    """Return each row's samples, an empty array where there are none."""
    return tuple(_NO_SAMPLES if one is None else one for one in rows.samples)
