"""What models are given: a window's deviations, and where they came from.

One window says little of a life. Beside each deviation stand its mean, scatter and trend over the asset's last windows,
its mean since the life's start, its change from the life's first windows, and how long that has been. Every number is
computed by the same additions in the same order however windows come, so a gateway that gets them one by one and a
training that has them all agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.features.baseline import Baseline, clipped, deviation, deviations
from models.features.history import Past
from models.features.memory import Sums, remembered_columns, summed
from models.features.names import history_columns, sequence_columns, sequence_names
from models.features.specification import FeatureSpecification
from models.records import BoolArray, Float32Array, FloatArray, Int64Array

# A machine that told nothing good for so many windows in a row may have been changed meanwhile.
STOP_WINDOWS = 3
# Numbers that are looked at together, so that they stay in a processor's cache.
_NUMBERS_AT_ONCE = 1 << 16


def inputs_of(spec: FeatureSpecification, baseline: Baseline, past: Past) -> Float32Array:
    """Return the models' inputs, shape ``(n, inputs)``, columns as `input_names`; NaN where nothing is known.

    Rolling statistics are over the windows that ended less than so many steps ago, since the last stop (three silent
    windows in a row) and since the life's start; a missing or silent window counts for nothing. The mean since the
    start is not clipped window by window, as it is made of sums. A change is from the mean of the life's first windows
    to the mean over the shortest rolling length, or to now where there is none.

    Args:
        spec: Which inputs.
        baseline: What is ordinary.
        past: The new windows among those before them.
    """
    return Deviating(spec, baseline, past).inputs()


def sequences_of(
    spec: FeatureSpecification, baseline: Baseline, past: Past, chosen: NDArray[np.intp] | None = None
) -> Float32Array | None:
    """Return the last windows as sequences, shape ``(n, channels, windows)``, oldest first; None where none are asked.

    Channels are `sequence_names`: deviations, and their means since the life's start up to each window. What is
    missing, and what would be before the start, is 0. Windows without an observation take no place.

    Args:
        spec: Which channels, and how many windows.
        baseline: What is ordinary.
        past: The new windows among those before them.
        chosen: Of which new windows, as indices; None: of all. Sequences of a whole data set are large.
    """
    return Deviating(spec, baseline, past).sequences(chosen)


class Deviating:
    """New windows and those before them under a baseline; see `inputs_of` and `sequences_of`."""

    def __init__(self, spec: FeatureSpecification, baseline: Baseline, past: Past) -> None:
        self._spec, self._baseline, self._past = spec, baseline, past

    def inputs(self) -> Float32Array:
        """Return the models' inputs."""
        spec, past, history = self._spec, self._past, self._spec.history
        blocks = [deviations(spec, past.features, past.asset_ids, self._baseline)]
        own = np.searchsorted(remembered_columns(spec), history_columns(spec))
        rolled: list[dict[str, FloatArray]] = []
        if history.rolling:
            rows, stops = self._rows[:, own].astype(np.float64), _stops(past)
            rolled = [_rolling(spec, past, rows, stops, length) for length in history.rolling]
        blocks += [one[statistic].astype(np.float32) for one in rolled for statistic in history.statistics]
        if history.since_start:
            blocks.append(self._since_start[past.place][:, own])
        if history.first_windows:
            among_first = past.cycles <= history.first_windows
            first = clipped(self._mean(past.first_before, among_first))[past.place]
            recent = rolled[0]["mean"] if rolled else self._rows[past.place][:, own]
            blocks.append((recent - first[:, own]).astype(np.float32))
        if history.cycles:
            blocks.append(past.windows_known[:, None].astype(np.float32))
        blocks.append(past.hours_since.astype(np.float32))
        return np.concatenate(blocks, axis=1)

    def sequences(self, chosen: NDArray[np.intp] | None = None) -> Float32Array | None:
        """Return the last windows of all new ones, or of those that are *chosen*, as sequences."""
        spec, past = self._spec, self._past
        length = spec.history.sequence_windows
        if not length:
            return None
        own = np.searchsorted(remembered_columns(spec), sequence_columns(spec))
        rows = [self._rows[:, own], *([self._since_start[:, own]] if spec.history.since_start else [])]
        # Each run gets so many windows of zeros before it that no sequence reaches into the run before.
        shift = (length - 1) * (past.run + 1)
        padded = np.zeros((len(sequence_names(spec)), len(past.run) + (length - 1) * len(past.first)), np.float32)
        padded[:, np.arange(len(past.run)) + shift] = np.nan_to_num(np.concatenate(rows, axis=1), nan=0.0).T
        place = past.place if chosen is None else past.place[chosen]
        if not len(place):
            return np.zeros((0, len(padded), length), np.float32)
        windows = sliding_window_view(padded, length, axis=1).transpose(1, 0, 2)
        sequences: Float32Array = windows[place + shift[place] - (length - 1)]
        return sequences

    @cached_property
    def _rows(self) -> Float32Array:
        """Deviations of all rows, shape ``(m, columns)``."""
        past, columns = self._past, remembered_columns(self._spec)
        centre = self._baseline.centres[:, :, columns][self._centre_rows[past.run], past.rows.regime]
        scaled = deviation(past.rows.features, centre, self._baseline.scales[:, columns][past.rows.regime])
        scaled[past.rows.regime < 0] = np.nan
        return scaled

    @cached_property
    def _since_start(self) -> Float32Array:
        """Mean deviations since the life's start up to each row, shape ``(m, columns)``."""
        return clipped(self._mean(self._past.before, np.ones(len(self._past.run), np.bool_)))

    @cached_property
    def _summed(self) -> tuple[FloatArray, FloatArray]:
        return summed(self._spec, self._past.rows.features)

    @cached_property
    def _centre_rows(self) -> Int64Array:
        """Which centres of the baseline are those of each run."""
        return self._baseline.places_of([self._past.asset_ids[row] for row in self._past.run_of.tolist()])

    def _mean(self, before: Sums, counted: BoolArray) -> FloatArray:
        """Return the mean deviation over the *counted* windows of its life up to each row, shape ``(m, columns)``.

        It is made of sums by regime: (sum - number * centre) / scale, over all regimes, over the number of windows;
        NaN where there is none.

        Args:
            before: Sums over each run's life before its first row.
            counted: Which rows count, shape ``(m,)``.
        """
        past, columns = self._past, remembered_columns(self._spec)
        values, present = self._summed
        centres = self._baseline.centres[:, :, columns][self._centre_rows]
        scales = self._baseline.scales[:, columns]
        total, number = np.zeros_like(values), np.zeros_like(values)
        for regime in range(self._spec.regimes.count):
            known = np.isfinite(centres[:, regime]) & np.isfinite(scales[regime])
            centre, scale = np.where(known, centres[:, regime], 0.0), np.where(known, scales[regime], 1.0)
            inside = (counted & (past.rows.regime == regime))[:, None]
            if inside.any():
                both = np.concatenate([np.where(inside, values, 0.0), np.where(inside, present, 0.0)], axis=1)
                initial = np.concatenate([before.total[:, regime], before.number[:, regime]], axis=1)
                added = _running_sums(both, past.first, initial)
                sums, numbers = added[:, : len(columns)], added[:, len(columns) :]
                run = past.run
                total += np.where(known[run], (sums - numbers * centre[run]) / scale[run], 0.0)
                number += np.where(known[run], numbers, 0.0)
            elif before.number[:, regime].any():
                # Nothing is added to it in these rows.
                sums, numbers = before.total[:, regime], before.number[:, regime]
                total += np.where(known, (sums - numbers * centre) / scale, 0.0)[past.run]
                number += np.where(known, numbers, 0.0)[past.run]
        return _divide(total, number)


def _stops(past: Past) -> Int64Array:
    """Return how many stops there were up to each row."""
    silent = past.rows.silent
    stop = silent.copy()
    for lag in range(1, STOP_WINDOWS):
        stop[lag:] &= silent[:-lag]
        stop[:lag] = False
    return np.cumsum(stop)


def _rolling(
    spec: FeatureSpecification, past: Past, rows: FloatArray, stops: Int64Array, length: int
) -> dict[str, FloatArray]:
    """Return mean, scatter and trend over the last *length* windows of each new one, by name, ``(n, columns)`` each."""
    # A row of nothing stands at the end: what is not near enough points there.
    missing = np.isnan(rows)
    filled = np.concatenate([np.where(missing, 0.0, rows), np.zeros((1, rows.shape[1]))])
    present = np.concatenate([~missing, np.zeros((1, rows.shape[1]), np.bool_)])
    told = {name: np.empty((len(past), rows.shape[1])) for name in ("mean", "std", "trend")}
    half = (length + 1) // 2
    for block in _blocks(len(past), rows.shape[1]):
        sources = list(_sources(spec, past, stops, length, past.place[block]))
        newer, newer_number = _total(filled, present, sources[:half])
        older, older_number = _total(filled, present, sources[half:])
        mean = _divide(newer + older, newer_number + older_number)
        told["mean"][block] = mean
        told["trend"][block] = _divide(newer, newer_number) - _divide(older, older_number)
        if "std" in spec.history.statistics:
            square = np.zeros_like(mean)
            for source in sources:
                square += np.where(present[source], filled[source] - mean, 0.0) ** 2
            told["std"][block] = np.sqrt(_divide(square, newer_number + older_number))
    return told


def _sources(
    spec: FeatureSpecification, past: Past, stops: Int64Array, length: int, place: Int64Array
) -> Iterator[Int64Array]:
    """Yield, for each lag below *length*, the row so many before each of *place*; the last where it does not count."""
    end_ns, first = past.rows.end_ns, past.first[past.run[place]]
    for lag in range(length):
        source = np.maximum(place - lag, 0)
        near = (place - lag >= first) & ~past.rows.silent[source] & (stops[source] == stops[place])
        near &= end_ns[place] - end_ns[source] < length * spec.step_ns
        yield np.where(near, source, len(past.run))


def _total(filled: FloatArray, present: BoolArray, sources: list[Int64Array]) -> tuple[FloatArray, FloatArray]:
    """Return sum and number of what is present in rows *sources*, added one source after the other."""
    shape = (len(sources[0]), filled.shape[1])
    total, number = np.zeros(shape), np.zeros(shape)
    for source in sources:
        total += filled[source]
        number += present[source]
    return total, number


def _running_sums(values: FloatArray, first: Int64Array, initial: FloatArray) -> FloatArray:
    """Return the sum of each run's values up to each row, beginning from *initial*, added in their order.

    Runs of similar length are added side by side, so that the cost is of the rows and not of the runs.

    Args:
        values: Shape ``(m, columns)``.
        first: First row of each run, shape ``(runs,)``.
        initial: Shape ``(runs, columns)``.
    """
    sums = np.empty_like(values)
    lengths = np.diff(first, append=len(values))
    sizes = np.ceil(np.log2(lengths)).astype(np.int64)
    for size in np.unique(sizes):
        runs = np.flatnonzero(sizes == size)
        step = np.arange(lengths[runs].max())
        row = np.minimum(first[runs, None] + step, len(values) - 1)
        side_by_side = values[row]
        side_by_side[:, 0] += initial[runs]
        np.add.accumulate(side_by_side, axis=1, out=side_by_side)
        inside = step < lengths[runs, None]
        sums[row[inside]] = side_by_side[inside]
    return sums


def _blocks(rows: int, columns: int) -> list[slice]:
    most = max(_NUMBERS_AT_ONCE // max(columns, 1), 1)
    return [slice(first, first + most) for first in range(0, rows, most)]


def _divide(total: FloatArray, number: FloatArray) -> FloatArray:
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
