"""Windows: the observations of an asset over a stretch of source time, many windows as columns.

They come of a windower, which cuts a log of observations, or of a table that has a row for each window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.features.specification import FeatureError, FeatureSpecification, is_waveform
from models.records import BoolArray, Float32Array, FloatArray, Int64Array


@dataclass(frozen=True, kw_only=True)
class ChannelRows:
    """The observations of one channel that windows hold: asset by asset, by time in each.

    A window is a range of rows, and windows that overlap share them; there may be rows of no window between. Where a
    row came too late for one window but in time for the next, the first has a copy of its rows at the end, without the
    late one.

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
        none, no_rows = np.empty(0, np.int64), _table_rows(np.empty(0, np.int64), np.empty(0))
        channels = (no_rows,) * len(spec.channels)
        return cls(asset_ids=(), asset=none, start_ns=none, end_ns=none, good_share=np.empty(0), channels=channels)


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


def typical_counts(counts: Int64Array) -> tuple[float, ...]:
    """Return, by channel, what nine of ten windows have at least of *counts*: ``expected_counts`` of a class."""
    return tuple(np.quantile(counts, 0.1, axis=0, method="lower").astype(float).tolist())
