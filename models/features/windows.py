"""Windows: the observations of one asset over a stretch of source time.

Windows end at multiples of the step since 1970 and overlap when they are longer than it. A window closes at the very
row of the log where every channel of its asset has reached its end, or where the asset has run ``late_s`` ahead of a
channel that keeps silent. So the same rows in the same order give the same windows, however they are cut into pages.
What comes later than that still counts for the windows that are open, and is counted as late.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.features.buffer import FAR, NEVER, AssetBuffer, Cut, Rows, SavedBuffer, clock, first_end, samples_of
from models.features.specification import FeatureError, FeatureSpecification, is_waveform
from models.records import BoolArray, Float32Array, FloatArray, Int64Array, Observations, Stream, is_good

# Source times outside 1970 to 2096 are no times; their rows take part in no window.
_LATEST = 4_000_000_000_000_000_000
_MAX_INBOX_ROWS = 500_000
_OTHERS = (-1, -1)
_UNSEEN = -2


@dataclass(frozen=True, kw_only=True)
class Window:
    """The observations of one asset with ``start_ns <= time < end_ns``, by channel in the specification's order.

    Attributes:
        asset_id: Whose they are.
        start_ns: Start, ns since 1970 UTC, inclusive.
        end_ns: End, exclusive.
        times: Source times of each channel's observations, ascending.
        values: Their values; NaN for waveforms.
        good: Which of them are good: status Good, and a finite value or finite samples.
        waveforms: Their samples; no entry for plain channels.
        good_share: Mean over the channels of good observations against all, or against those expected if these are
            more, 0 to 1.
    """

    asset_id: str
    start_ns: int
    end_ns: int
    times: tuple[Int64Array, ...]
    values: tuple[FloatArray, ...]
    good: tuple[BoolArray, ...]
    waveforms: tuple[tuple[Float32Array, ...], ...]
    good_share: float


@dataclass(frozen=True, kw_only=True)
class ChannelRows:
    """The observations of one channel that windows hold: asset by asset, by time in each.

    A window is a range of rows, and windows that overlap share them. Where a row came too late for one window but in
    time for the next, the first has a copy of its rows at the end, without the late one.

    Attributes:
        time: Source times, ns since 1970 UTC, shape ``(rows,)``.
        value: Values in the channel's unit, shape ``(rows,)``; NaN for waveforms.
        good: Which are good: status Good, and a finite value or finite samples, shape ``(rows,)``.
        sample_count: Number of samples of a waveform, 0 for plain values, shape ``(rows,)``.
        samples: The waveforms' samples, one after the other in row order, shape ``(sum(sample_count),)``.
        first: Each window's first row, shape ``(n_windows,)``.
        last: The row after its last, shape ``(n_windows,)``; equal to ``first`` where the window has none.
    """

    time: Int64Array
    value: FloatArray
    good: BoolArray
    sample_count: Int64Array
    samples: Float32Array
    first: Int64Array
    last: Int64Array

    @property
    def counts(self) -> Int64Array:
        """Number of observations in each window, shape ``(n_windows,)``."""
        return self.last - self.first

    @property
    def good_counts(self) -> Int64Array:
        """Number of good observations in each window, shape ``(n_windows,)``."""
        before = np.concatenate([[0], np.cumsum(self.good, dtype=np.int64)])
        return np.asarray(before[self.last] - before[self.first], np.int64)

    def take(self, windows: NDArray[np.intp]) -> ChannelRows:
        """Return the rows of the given *windows* alone, in the order they stand in."""
        first, last = self.first[windows], self.last[windows]
        # +1 where a window begins, -1 where it ends: above 0 is what any of them needs.
        edges = np.zeros(len(self.time) + 1, np.int64)
        np.add.at(edges, first, 1)
        np.subtract.at(edges, last, 1)
        needed = np.cumsum(edges[:-1]) > 0
        before = np.concatenate([[0], np.cumsum(needed, dtype=np.int64)])
        return ChannelRows(
            time=self.time[needed],
            value=self.value[needed],
            good=self.good[needed],
            sample_count=self.sample_count[needed],
            samples=self.samples[np.repeat(needed, self.sample_count)] if self.samples.size else self.samples,
            first=before[first],
            last=before[first] + (last - first),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[ChannelRows]) -> ChannelRows:
        """Return the windows of *parts*, at least one, one after the other."""
        lengths = [len(part.time) for part in parts]
        windows = [len(part.first) for part in parts]
        shift = np.repeat(np.cumsum(lengths) - lengths, windows)
        joint = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("time", "value", "good", "sample_count", "samples", "first", "last")
        }
        joint["first"] = joint["first"] + shift
        joint["last"] = joint["last"] + shift
        return cls(**joint)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of one asset class as columns; row ``i`` holds what one asset told while ``start_ns <= time < end_ns``.

    Attributes:
        asset_ids: The assets that ``asset`` points into; at least those that occur.
        asset: Whose they are, shape ``(n,)``.
        start_ns: Starts, ns since 1970 UTC, inclusive, shape ``(n,)``.
        end_ns: Ends, exclusive, shape ``(n,)``.
        good_share: Mean over the channels of good observations against all, or against those expected if these are
            more, 0 to 1, shape ``(n,)``.
        channels: Their observations, in the order of the specification's channels.
    """

    asset_ids: tuple[str, ...]
    asset: Int64Array
    start_ns: Int64Array
    end_ns: Int64Array
    good_share: FloatArray
    channels: tuple[ChannelRows, ...]

    def __len__(self) -> int:
        return len(self.asset)

    @property
    def asset_id_of_rows(self) -> list[str]:
        """The asset of each window."""
        return list(map(self.asset_ids.__getitem__, self.asset.tolist()))

    @property
    def counts(self) -> Int64Array:
        """Number of observations of each channel in each window, shape ``(n, channels)``."""
        return np.stack([channel.counts for channel in self.channels], axis=1)

    @property
    def good_counts(self) -> Int64Array:
        """Number of good observations of each channel in each window, shape ``(n, channels)``."""
        return np.stack([channel.good_counts for channel in self.channels], axis=1)

    def take(self, rows: BoolArray | NDArray[np.intp]) -> Windows:
        """Return the given *rows* (a mask or indices), in the order given, with no more observations than theirs."""
        indices = np.flatnonzero(rows) if rows.dtype == np.bool_ else np.asarray(rows, np.intp)
        return Windows(
            asset_ids=self.asset_ids,
            asset=self.asset[indices],
            start_ns=self.start_ns[indices],
            end_ns=self.end_ns[indices],
            good_share=self.good_share[indices],
            channels=tuple(channel.take(indices) for channel in self.channels),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Windows]) -> Windows:
        """Return the windows of *parts*, at least one, of the same channels, over one joint table of assets."""
        if len(parts) == 1:
            return parts[0]
        index: dict[str, int] = {}
        places: dict[int, Int64Array] = {}  # windows of one windower often share their table
        for part in parts:
            if id(part.asset_ids) not in places:
                found = [index.setdefault(asset_id, len(index)) for asset_id in part.asset_ids]
                places[id(part.asset_ids)] = np.array(found, np.int64)
        return cls(
            asset_ids=tuple(index),
            asset=np.concatenate([places[id(part.asset_ids)][part.asset] for part in parts]),
            start_ns=np.concatenate([part.start_ns for part in parts]),
            end_ns=np.concatenate([part.end_ns for part in parts]),
            good_share=np.concatenate([part.good_share for part in parts]),
            channels=tuple(
                ChannelRows.concatenate(of_channel)
                for of_channel in zip(*(part.channels for part in parts), strict=True)
            ),
        )

    @classmethod
    def empty(cls, spec: FeatureSpecification) -> Windows:
        """Return no windows of *spec*."""
        return windows_of_table(
            spec, (), np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, len(spec.channels)))
        )


@dataclass(kw_only=True)
class WindowCounters:
    """What a windower did: rows it took, rows that came too late for a closed window, rows given up, windows made."""

    rows: int = 0
    late_rows: int = 0
    dropped_rows: int = 0
    windows: int = 0


class Windower:
    """Cuts the observations of one asset class into windows.

    Args:
        spec: Channels, lengths and lateness.
        asset_ids: The assets to look at, or None for every asset that has one of the channels.
    """

    def __init__(self, spec: FeatureSpecification, asset_ids: Collection[str] | None = None) -> None:
        self.spec = spec
        self._counters = WindowCounters()
        self._wanted = None if asset_ids is None else frozenset(asset_ids)
        self._channels = {channel.name: number for number, channel in enumerate(spec.channels)}
        self._waveform = np.array([is_waveform(channel) for channel in spec.channels])
        self._assets: dict[str, int] = {}
        self._places: dict[Stream, tuple[int, int]] = {}
        self._table_streams: tuple[Stream, ...] = ()
        self._table = np.empty((2, 0), np.int64)
        self._buffers: list[AssetBuffer] = []
        # Newest time by asset and channel, next window end and oldest time by asset: enough to see that nothing closes.
        self._newest = np.empty((0, len(spec.channels)), np.int64)
        self._next_end = np.empty(0, np.int64)
        self._oldest = np.empty(0, np.int64)
        self._inbox: list[Rows] = []
        self._inbox_rows = 0

    def push(self, observations: Observations) -> list[Window]:
        """Take *observations* and return the windows that they close, by end and then by asset."""
        rows = self._rows(observations)
        if not len(rows):
            return []
        self._inbox.append(rows)
        self._inbox_rows += len(rows)
        np.maximum.at(self._newest, (rows.asset, rows.channel), rows.time)
        np.minimum.at(self._oldest, rows.asset, rows.time)
        touched = np.flatnonzero(np.bincount(rows.asset, minlength=len(self._buffers)))
        next_end = self._next_end[touched]
        next_end = np.where(next_end == NEVER, first_end(self.spec, self._oldest[touched]), next_end)
        closing = clock(self._newest[touched], self.spec.late_ns) >= next_end
        return self._distribute() if closing.any() or self._inbox_rows > _MAX_INBOX_ROWS else []

    @property
    def counters(self) -> WindowCounters:
        """What the windower did since it first started from nothing."""
        self._distribute()  # closes nothing: what could close has closed
        return replace(
            self._counters,
            late_rows=self._counters.late_rows + sum(buffer.late_rows for buffer in self._buffers),
            dropped_rows=self._counters.dropped_rows + sum(buffer.dropped_rows for buffer in self._buffers),
        )

    def state(self) -> bytes:
        """Return all that the next windows depend on, for `restore`."""
        saved = _Saved(
            key=_key(self.spec),
            counters=self.counters,  # which leaves nothing in the inbox
            assets={asset_id: self._buffers[place].saved() for asset_id, place in self._assets.items()},
        )
        return msgspec.msgpack.encode(saved)

    def restore(self, state: bytes) -> None:
        """Go on where the windower that gave *state* was.

        Raises:
            FeatureError: If the state is of other channels or windows, or does not decode; nothing has changed then.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
            buffers = [AssetBuffer.of_saved(self.spec, one) for one in saved.assets.values()]
        except (msgspec.DecodeError, ValueError) as error:
            raise FeatureError(f"{self.spec.asset_class}: saved windows do not decode ({error}); start anew") from error
        if saved.key != _key(self.spec):
            raise FeatureError(f"{self.spec.asset_class}: saved windows are of another specification; start anew")
        self._assets = {asset_id: place for place, asset_id in enumerate(saved.assets)}
        self._places, self._inbox, self._inbox_rows, self._table_streams = {}, [], 0, ()
        self._buffers = buffers
        self._newest = np.array([buffer.newest for buffer in buffers], np.int64).reshape(-1, len(self._channels))
        self._next_end = np.array([buffer.next_end for buffer in buffers], np.int64)
        self._oldest = np.array([buffer.oldest for buffer in buffers], np.int64)
        self._counters = saved.counters

    def _rows(self, observations: Observations) -> Rows:
        """Return the rows of the class's assets and channels, in their order."""
        asset, channel = self._places_of(observations)
        time = observations.source_time
        ours = asset >= 0
        known_time = (time >= 0) & (time < _LATEST)
        self._counters.rows += int(np.count_nonzero(ours))
        self._counters.dropped_rows += int(np.count_nonzero(ours & ~known_time))
        good = is_good(observations.status) & ((observations.sample_count > 0) == self._waveform[channel])
        good &= np.isfinite(observations.value) | self._waveform[channel]
        rows = Rows(
            asset=asset,
            channel=channel,
            time=time,
            value=observations.value,
            good=good,
            samples=np.empty(len(time), np.object_),
        )
        self._take_samples(observations, rows)
        return rows.take(ours & known_time)

    def _places_of(self, observations: Observations) -> tuple[Int64Array, Int64Array]:
        """Return asset and channel number of each row. The same table of streams comes page after page."""
        if observations.streams != self._table_streams:
            self._table_streams = observations.streams
            self._table = np.full((2, len(observations.streams)), _UNSEEN, np.int64)
        used = np.bincount(observations.stream, minlength=len(observations.streams)) > 0
        for number in np.flatnonzero(used & (self._table[0] == _UNSEEN)):
            stream = observations.streams[number]
            known = self._places.get(stream)
            self._table[:, number] = self._place(stream) if known is None else known
        return self._table[0][observations.stream], self._table[1][observations.stream]

    def _take_samples(self, observations: Observations, rows: Rows) -> None:
        """Put waveforms into *rows*; one that is not finite is not good."""
        ends = np.cumsum(observations.sample_count, dtype=np.int64)
        for row in np.flatnonzero(observations.sample_count):
            if rows.asset[row] >= 0 and self._waveform[rows.channel[row]]:
                samples = observations.samples[ends[row] - observations.sample_count[row] : ends[row]].copy()
                rows.samples[row] = samples
                rows.good[row] &= bool(np.isfinite(samples).all())

    def _place(self, stream: Stream) -> tuple[int, int]:
        """Return asset and channel number of a stream that was not met before."""
        channel = self._channels.get(stream.channel)
        if channel is None or (self._wanted is not None and stream.asset_id not in self._wanted):
            place = _OTHERS
        else:
            asset = self._assets.get(stream.asset_id)
            if asset is None:
                asset = self._assets[stream.asset_id] = len(self._buffers)
                self._buffers.append(AssetBuffer(self.spec))
                self._newest = np.vstack([self._newest, self._buffers[-1].newest])
                self._next_end = np.append(self._next_end, NEVER)
                self._oldest = np.append(self._oldest, FAR)
            place = (asset, channel)
        self._places[stream] = place
        return place

    def _distribute(self) -> list[Window]:
        """Hand the rows that came in to their assets, and return the windows that close."""
        if not self._inbox:
            return []
        rows = Rows.concatenate(self._inbox)
        self._inbox, self._inbox_rows = [], 0
        order = np.argsort(rows.asset, kind="stable")
        rows = rows.take(order)
        ids = list(self._assets)
        windows: list[Window] = []
        assets, firsts = np.unique(rows.asset, return_index=True)
        for asset, first, last in zip(assets.tolist(), firsts, [*firsts[1:], len(rows)], strict=True):
            buffer = self._buffers[asset]
            windows += [_window(self.spec, ids[asset], cut) for cut in buffer.push(rows.take(slice(first, last)))]
            self._next_end[asset] = buffer.next_end
        self._counters.windows += len(windows)
        return sorted(windows, key=lambda window: (window.end_ns, window.asset_id))


@dataclass(frozen=True, kw_only=True)
class _Saved:
    key: str
    counters: WindowCounters
    assets: dict[str, SavedBuffer]


def windows_of(
    spec: FeatureSpecification, observations: Observations, asset_ids: Collection[str] | None = None
) -> list[Window]:
    """Return all whole windows of a recording, whose rows may stand in any order: they are taken by source time.

    The last windows, which nothing closes, are not among them. A gateway that got every row in time has made the same.
    """
    order = np.argsort(observations.source_time, kind="stable")
    return Windower(spec, asset_ids).push(observations.take(order))


def windows_of_table(
    spec: FeatureSpecification, asset_ids: Sequence[str], asset: Int64Array, end_ns: Int64Array, values: FloatArray
) -> Windows:
    """Return one window for each row of a table that tells each channel once a window, as one operating cycle.

    The observation stands at the beginning of the window's last step, which is the window's start where windows do not
    overlap. Windows come out in the order of the rows.

    Args:
        spec: Channels and lengths.
        asset_ids: The assets.
        asset: Index into *asset_ids*, shape ``(n,)``.
        end_ns: Ends of the windows, ns since 1970 UTC, shape ``(n,)``.
        values: Shape ``(n, channels)``; NaN: no observation. An infinite one is there but not good.

    Raises:
        FeatureError: If the shapes do not fit, or a waveform channel has a value.
    """
    channels = len(spec.channels)
    if asset.shape != end_ns.shape or values.shape != (len(asset), channels):
        raise FeatureError(f"{spec.asset_class}: a table of shape {values.shape} is not {len(asset)} x {channels}")
    if len(asset) and not 0 <= asset.min() <= asset.max() < len(asset_ids):
        raise FeatureError(f"{spec.asset_class}: the table has rows of none of its {len(asset_ids)} assets")
    told = ~np.isnan(values)
    for number, channel in enumerate(spec.channels):
        if is_waveform(channel) and told[:, number].any():
            raise FeatureError(f"{spec.asset_class}: {channel.name} is a waveform; a table has single values")
    rows = tuple(_table_rows(end_ns - spec.step_ns, values[:, number]) for number in range(channels))
    counts = np.stack([one.counts for one in rows], axis=1)
    good = np.stack([one.good_counts for one in rows], axis=1)
    return Windows(
        asset_ids=tuple(asset_ids),
        asset=np.asarray(asset, np.int64),
        start_ns=end_ns - spec.window_ns,
        end_ns=np.asarray(end_ns, np.int64),
        good_share=good_shares(good, counts, spec.expected_counts),
        channels=rows,
    )


def _table_rows(time: Int64Array, value: FloatArray) -> ChannelRows:
    """Return one channel of a table, a row for each window that has a value."""
    told = ~np.isnan(value)
    last = np.cumsum(told, dtype=np.int64)
    return ChannelRows(
        time=time[told],
        value=np.asarray(value[told], np.float64),
        good=np.isfinite(value[told]),
        sample_count=np.zeros(int(told.sum()), np.int64),
        samples=np.empty(0, np.float32),
        first=last - told,
        last=last,
    )


def good_shares(good: Int64Array, counts: Int64Array, expected: Sequence[float]) -> FloatArray:
    """Return the mean share of good observations over channels, 0 to 1, shape ``(n,)``.

    A channel of which nothing is expected and nothing came does not count; without any other the share is 0.

    Args:
        good: Number of good observations, shape ``(n, channels)``.
        counts: Number of observations, shape ``(n, channels)``.
        expected: Least number in a whole window by channel; empty: 1 each.
    """
    wanted = np.maximum(counts, np.array(expected or (1.0,) * counts.shape[1]))
    shares = np.divide(good, wanted, out=np.zeros(counts.shape), where=wanted > 0)
    total = np.zeros(len(counts))
    for channel in shares.T:  # one after the other: the sum is the same however many windows there are
        total += channel
    telling = np.count_nonzero(wanted > 0, axis=1)
    return np.asarray(np.divide(total, telling, out=np.zeros(len(counts)), where=telling > 0), np.float64)


def window_counts(windows: Sequence[Window]) -> Int64Array:
    """Return how many observations each of *windows* has of each channel, shape ``(n, channels)``."""
    return np.array([[len(times) for times in window.times] for window in windows], np.int64)


def typical_counts(counts: Int64Array) -> tuple[float, ...]:
    """Return, by channel, what nine of ten windows have at least of *counts*: ``expected_counts`` of a class."""
    return tuple(np.quantile(counts, 0.1, axis=0, method="lower").astype(float).tolist())


def good_share(good: Sequence[int], counts: Sequence[int], expected: Sequence[float]) -> float:
    """Return the mean share of good observations over channels, 0 to 1.

    A channel of which nothing is expected and nothing came does not count.
    """
    shares = [
        number / max(count, wanted)
        for number, count, wanted in zip(good, counts, expected, strict=True)
        if count or wanted
    ]
    return sum(shares) / len(shares) if shares else 0.0


def _window(spec: FeatureSpecification, asset_id: str, cut: Cut) -> Window:
    channels = cut.channels
    return Window(
        asset_id=asset_id,
        start_ns=cut.start,
        end_ns=cut.end,
        times=tuple(rows.time for rows in channels),
        values=tuple(rows.value for rows in channels),
        good=tuple(rows.good for rows in channels),
        waveforms=tuple(
            samples_of(rows) if is_waveform(channel) else ()
            for channel, rows in zip(spec.channels, channels, strict=True)
        ),
        good_share=good_share(
            [int(np.count_nonzero(rows.good)) for rows in channels],
            [len(rows) for rows in channels],
            spec.expected_counts or (1.0,) * len(channels),
        ),
    )


def _key(spec: FeatureSpecification) -> str:
    """Return what saved windows must have in common with the windower that goes on with them."""
    names = ",".join(channel.name for channel in spec.channels)
    return f"1 {spec.asset_class} {spec.window_ns} {spec.step_ns} {spec.late_ns} {names}"
