"""Which windows close at which row of the log, and which rows they hold: for many assets at once.

Rows of an asset are numbered as they come. A window that ends at ``end`` closes at the first row after which every
channel has reached ``end``, or after which enough channels have reached ``end`` plus the wait for a silent one. That is
found from the window's end, not from the row: of each channel, the first row to come of those at or after a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.features.buffer import Rows, ranges, stable_order
from models.features.specification import FeatureSpecification, is_waveform
from models.features.standing import FAR, MAX_ASSET_ROWS, NEVER, Standing
from models.features.windows import ChannelRows, Windows, good_shares
from models.records import BoolArray, Int64Array


@dataclass(frozen=True, kw_only=True)
class Closed:
    """What comes of rows that close windows.

    Attributes:
        windows: By end, then by asset.
        next_end: End of each asset's next window, shape ``(assets,)``.
        rows: What the next windows may need.
        late_rows: How many of the new rows came after the first window that they belong to had closed.
        dropped_rows: How many rows were given up before the last window that they belong to had closed.
    """

    windows: Windows
    next_end: Int64Array
    rows: Rows
    late_rows: int
    dropped_rows: int


def clock(newest: Int64Array, late_ns: int) -> Int64Array:
    """Return up to where each asset's windows may close, shape ``(n,)``.

    That is the oldest of the channels' newest times or, when it is later, ``late_ns`` before the second newest. The
    second, so that a single channel with a wrong clock closes nothing.

    Args:
        newest: Newest time of each channel, shape ``(n, channels)``.
        late_ns: How long a silent channel is waited for.
    """
    channels = newest.shape[1]
    rank = channels - _needed_ahead(channels)
    ahead = np.partition(newest, rank, axis=1)[:, rank]
    ahead = np.where(ahead > NEVER + late_ns, ahead - late_ns, NEVER)
    return np.asarray(np.maximum(newest.min(axis=1), ahead), np.int64)


def first_end(spec: FeatureSpecification, oldest: Int64Array) -> Int64Array:
    """Return the end of the first window that starts at or after each of *oldest*."""
    return np.asarray(-(-(oldest + spec.window_ns) // spec.step_ns) * spec.step_ns, np.int64)


def close_windows(
    spec: FeatureSpecification,
    before: Standing,
    after: Standing,
    rows: Rows,
    bounds: Int64Array,
    new_asset: NDArray[np.integer],
    new: Rows,
) -> Closed:
    """Return the windows that *new* closes, and what remains.

    Args:
        spec: How windows are cut.
        before: Where the assets stood before *new*.
        after: Where they stand now, but for the end of their next window.
        rows: All rows of these assets, *new* among them: channel by channel, in each asset by asset as in *before*, in
            the order of the log.
        bounds: Where each asset's rows of a channel begin in *rows*, shape ``(channels * assets + 1,)``.
        new_asset: The assets of *new*, as numbers in *before*.
        new: Rows that come now, in the order of the log; each asset has some, and they close a window of it.
    """
    closing = _Closing(spec, before, after, rows, bounds)
    closing.begin(new_asset, new)
    return closing.closed()


def lower_bound(
    ascending: Int64Array, wanted: Int64Array, low: NDArray[np.integer], high: NDArray[np.integer]
) -> Int64Array:
    """Return the first place from *low*, before *high*, where *ascending* is not below *wanted*; *high* if none is.

    It need be ascending between each *low* and *high* only. Shapes are broadcast.
    """
    begin, end, wanted = np.broadcast_arrays(low, high, wanted)
    low, high = np.array(begin, np.int64), np.array(end, np.int64)
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        below = low < high
        below[below] = ascending[middle[below]] < wanted[below]
        high = np.where(below, high, middle)
        low = np.where(below, middle + 1, low)
    return np.asarray(low, np.int64)


def _needed_ahead(channels: int) -> int:
    """Return how many channels must be well past a window's end for it to close without the others."""
    return min(2, (channels + 1) // 2)


def _running_oldest(asset: NDArray[np.integer], time: Int64Array, before: Int64Array) -> Int64Array:
    """Return the oldest time of its asset up to each row, *before* included; *asset* is ascending."""
    youngest_first = np.lexsort((-time, asset))
    place = np.empty(len(time), np.intp)
    place[youngest_first] = np.arange(len(time))
    oldest = time[youngest_first[np.maximum.accumulate(place)]]
    return np.asarray(np.minimum(oldest, before[asset]), np.int64)


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """Windows that close, by asset and end: shapes ``(n,)``, places ``(n, channels)``, bounds ``(assets + 1,)``.

    ``place`` is where rows at or after the end begin, ``row`` the number of the row it closes with.
    """

    asset: Int64Array
    end: Int64Array
    place: Int64Array
    row: Int64Array
    bounds: NDArray[np.intp]


class _Closing:
    """The steps of `close_windows`.

    Rows stand by channel, asset and time; a stretch is the rows of one channel of one asset, a run those of them
    between two multiples of the step.
    """

    def __init__(
        self, spec: FeatureSpecification, before: Standing, after: Standing, rows: Rows, bounds: Int64Array
    ) -> None:
        self._spec = spec
        self._before = before
        self._count = after.count
        # End of the last window of each asset that has closed.
        self._until = clock(after.newest, spec.late_ns) // spec.step_ns * spec.step_ns
        self._assets = len(before.asset_ids)
        self._channels = len(spec.channels)
        self._bounds = bounds
        self._sizes = np.diff(bounds)
        self._rows = rows
        # Number of the first row to come of those at or after each row in its stretch.
        self._earliest = rows.number
        falling = np.flatnonzero(rows.time[1:] < rows.time[:-1]) + 1
        falling = falling[~np.isin(falling, bounds)]
        self._in_order = not falling.size
        if falling.size:
            self._put_in_order(np.unique(self._stretch(falling)))
        steps = self._rows.time // spec.step_ns
        begins = np.zeros(len(steps), np.bool_)
        begins[1:] = steps[1:] != steps[:-1]
        begins[bounds[:-1][self._sizes > 0]] = True
        self._run = np.flatnonzero(begins)
        self._run_asset, self._run_step = self._stretch(self._run) % self._assets, steps[self._run]
        # Of each asset, the end of the next window, and the row before which nothing closes.
        self._next_end = np.where(before.next_end == NEVER, FAR, before.next_end)
        self._begun = np.full(self._assets, -1, np.int64)

    def _put_in_order(self, stretches: NDArray[np.intp]) -> None:
        """Sort the rows of *stretches* by time."""
        places = ranges(self._bounds[stretches], self._sizes[stretches])
        by_time = np.arange(len(self._rows))
        by_time[places] = places[np.lexsort((self._rows.time[places], np.repeat(stretches, self._sizes[stretches])))]
        # Rows stood as they came, and those of the stretches before stood before: the least place is the first to come.
        self._earliest = self._rows.number[np.minimum.accumulate(by_time[::-1])[::-1]]
        self._rows = self._rows.take(by_time)

    def _stretch(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the stretch of each of *rows*."""
        return np.searchsorted(self._bounds, rows, side="right") - 1

    def begin(self, asset: NDArray[np.integer], new: Rows) -> None:
        """Settle which window is the first of assets that had none, at the first row that closes one.

        It is the first that starts at or after the oldest row until then.
        """
        beginning = np.flatnonzero(self._before.next_end[asset] == NEVER)
        if not beginning.size:
            return
        asset = asset[beginning]
        order = stable_order(asset)
        asset, number = asset[order], new.number[beginning[order]]
        oldest = _running_oldest(asset, new.time[beginning[order]], self._before.oldest)
        first = first_end(self._spec, oldest)
        changed = np.append(True, (asset[1:] != asset[:-1]) | (first[1:] != first[:-1]))
        asset, number, first = asset[changed], number[changed], first[changed]
        followed = np.append(np.where(asset[1:] == asset[:-1], number[1:], FAR), FAR)
        row = np.maximum(self._closing_rows(asset, first, self._places(asset, first)), number)
        settled = np.flatnonzero(row < followed)
        settled = settled[np.unique(asset[settled], return_index=True)[1]]
        self._next_end[asset[settled]] = first[settled]
        self._begun[asset[settled]] = row[settled]

    def closed(self) -> Closed:
        """Return what comes of it."""
        listed = self._ends()
        late = self._late(listed)
        unseen = self._unseen(listed, late)
        first, last = self._places(listed.asset, listed.end - self._spec.window_ns), listed.place
        extra, first, last = self._copies(listed.row, first, last, unseen)
        order = np.flatnonzero((last > first).any(axis=1))
        order = order[np.argsort(listed.end[order], kind="stable")]
        windows = self._windows(listed.asset[order], listed.end[order], first[order], last[order], extra)
        rows, dropped = self._remaining(listed)
        next_end = self._until + self._spec.step_ns
        return Closed(windows=windows, next_end=next_end, rows=rows, late_rows=len(late), dropped_rows=dropped)

    def _places(self, asset: NDArray[np.integer], time: Int64Array) -> Int64Array:
        """Return where rows of each channel at or after *time*, shape ``(n,)``, begin, shape ``(n, channels)``."""
        stretch = self._stretches(asset)
        return lower_bound(self._rows.time, time[:, None], self._bounds[stretch], self._bounds[stretch + 1])

    def _stretches(self, asset: NDArray[np.integer]) -> NDArray[np.intp]:
        """Return the stretch of each channel of *asset*, shape ``(n, channels)``."""
        return asset[:, None] + np.arange(self._channels) * self._assets

    def _closing_rows(self, asset: NDArray[np.integer], end: Int64Array, place: Int64Array) -> Int64Array:
        """Return with which row windows of *asset* close; `FAR` for those that stay open."""
        waited = end + self._spec.late_ns
        enough = _needed_ahead(self._channels) - 1
        ahead = np.partition(self._reached(asset, waited, self._places(asset, waited)), enough, axis=1)[:, enough]
        return np.asarray(np.minimum(self._reached(asset, end, place).max(axis=1), ahead), np.int64)

    def _reached(self, asset: NDArray[np.integer], time: Int64Array, place: Int64Array) -> Int64Array:
        """Return with which row each channel of *asset* reaches *time*: -1 before the new rows, `FAR` with none.

        *place* is where the rows from then on begin, shape ``(n, channels)``.
        """
        inside = place < self._bounds[self._stretches(asset) + 1]
        reached = np.full(place.shape, FAR)
        reached[inside] = self._earliest[place[inside]]
        reached[self._before.newest[asset] >= time[:, None]] = -1
        return reached

    def _ends(self) -> _Listed:
        """Return all windows that close and may have rows, by asset and end: a long gap costs nothing."""
        step = self._spec.step_ns
        order = np.lexsort((self._run_step, self._run_asset))
        asset, steps = self._run_asset[order], self._run_step[order]
        different = np.append(True, (asset[1:] != asset[:-1]) | (steps[1:] != steps[:-1]))
        asset, steps = asset[different], steps[different]
        # A row is in windows up to so many steps on; from the next row's step on, that one sees to it.
        to = steps + -(-self._spec.window_ns // step)
        to[:-1] = np.where(asset[1:] == asset[:-1], np.minimum(to[:-1], steps[1:]), to[:-1])
        to = np.minimum(to, self._until[asset] // step)
        begin = np.maximum(steps + 1, self._next_end[asset] // step)
        sizes = np.maximum(to - begin + 1, 0)
        asset, end = np.repeat(asset, sizes), ranges(begin, sizes) * step
        place = self._places(asset, end)
        row = np.maximum(self._closing_rows(asset, end, place), self._begun[asset])
        bounds = np.searchsorted(asset, np.arange(self._assets + 1))
        return _Listed(asset=np.asarray(asset, np.int64), end=end, place=place, row=row, bounds=bounds)

    def _closed_with(
        self, listed: _Listed, asset: NDArray[np.integer], end: Int64Array, still_open: Int64Array | int
    ) -> Int64Array:
        """Return with which row windows of *asset* that have rows closed, *still_open* for those that did not."""
        closed = np.array(np.broadcast_to(still_open, end.shape), np.int64)
        past = end <= self._until[asset]
        closed[past] = self._begun[asset[past]]
        past &= end >= self._next_end[asset]
        asset = asset[past]
        closed[past] = listed.row[lower_bound(listed.end, end[past], listed.bounds[asset], listed.bounds[asset + 1])]
        return closed

    def _late(self, listed: _Listed) -> NDArray[np.intp]:
        """Return the new rows that came after the first window that they belong to had closed."""
        closed = self._closed_with(listed, self._run_asset, (self._run_step + 1) * self._spec.step_ns, FAR)
        size = np.diff(np.append(self._run, len(self._rows)))
        # Runs with rows that came later than that, be it now or long ago; then their rows one by one.
        some = np.flatnonzero(np.maximum.reduceat(self._rows.number, self._run) > closed)
        rows = ranges(self._run[some], size[some])
        late = self._rows.number[rows] > np.repeat(closed[some], size[some])
        late &= self._rows.number[rows] >= np.repeat(self._before.count[self._run_asset[some]], size[some])
        return rows[late]

    def _unseen(self, listed: _Listed, late: NDArray[np.intp]) -> BoolArray:
        """Return of which windows and channels some rows in their time do not count, shape ``(n, channels)``."""
        edges = np.zeros((len(listed.asset) + 1, self._channels), np.int64)
        low, high = self._windows_over(listed, late)
        closed = lower_bound(listed.row, self._rows.number[late], low, high)
        crowded = self._crowded()
        from_low, to_high = self._windows_over(listed, crowded)
        given_up = lower_bound(listed.row, self._rows.number[crowded] + MAX_ASSET_ROWS, from_low, to_high)
        for rows, begin, end in ((late, low, closed), (crowded, given_up, to_high)):
            channel = self._stretch(rows) // self._assets
            np.add.at(edges, (begin, channel), 1)
            np.subtract.at(edges, (end, channel), 1)
        return np.asarray(np.cumsum(edges, axis=0)[:-1] > 0, np.bool_)

    def _windows_over(self, listed: _Listed, rows: NDArray[np.intp]) -> tuple[Int64Array, Int64Array]:
        """Return the first of *listed* in whose time each of *rows* lies, and the one after the last."""
        asset, time = self._stretch(rows) % self._assets, self._rows.time[rows]
        low = lower_bound(listed.end, time + 1, listed.bounds[asset], listed.bounds[asset + 1])
        return low, lower_bound(listed.end, time + self._spec.window_ns + 1, low, listed.bounds[asset + 1])

    def _crowded(self) -> NDArray[np.intp]:
        """Return the rows that were given up because so many of their asset came after them."""
        stretches = np.flatnonzero(self._sizes)
        limit = self._count[stretches % self._assets] - MAX_ASSET_ROWS
        some = self._earliest[self._bounds[stretches]] < limit
        stretches, limit = stretches[some], limit[some]
        rows = ranges(self._bounds[stretches], self._sizes[stretches])
        return rows[self._rows.number[rows] < np.repeat(limit, self._sizes[stretches])]

    def _copies(
        self, row: Int64Array, first: Int64Array, last: Int64Array, unseen: BoolArray
    ) -> tuple[list[NDArray[np.intp]], Int64Array, Int64Array]:
        """Return, by channel, the rows of windows that do not see all in their time, and where windows begin and end.

        Places are then counted from the channel's first row; the copies stand behind its last.
        """
        starts = self._bounds[np.arange(self._channels + 1) * self._assets]
        channel, window = np.nonzero(unseen.T)
        sizes = (last - first)[window, channel]
        rows, of = ranges(first[window, channel], sizes), np.repeat(np.arange(len(window)), sizes)
        number, closing = self._rows.number[rows], row[window][of]
        seen = (number <= closing) & (number + MAX_ASSET_ROWS > closing)
        rows, of = rows[seen], of[seen]
        bounds = np.searchsorted(channel[of], np.arange(self._channels + 1))
        sizes = np.bincount(of, minlength=len(window))
        first, last = first - starts[:-1], last - starts[:-1]
        last[window, channel] = np.cumsum(sizes) - bounds[channel] + np.diff(starts)[channel]
        first[window, channel] = last[window, channel] - sizes
        return [rows[bounds[one] : bounds[one + 1]] for one in range(self._channels)], first, last

    def _windows(
        self,
        asset: Int64Array,
        end: Int64Array,
        first: Int64Array,
        last: Int64Array,
        extra: Sequence[NDArray[np.intp]],
    ) -> Windows:
        channels = []
        for number, channel in enumerate(self._spec.channels):
            low, high = self._bounds[number * self._assets], self._bounds[(number + 1) * self._assets]
            rows = self._rows.take(slice(low, high))
            if extra[number].size:
                rows = Rows.concatenate([rows, self._rows.take(extra[number])])
            if is_waveform(channel):
                rows = rows.packed()
            filled = is_waveform(channel) and rows.sample_count.size > 0
            channels.append(
                ChannelRows(
                    time=rows.time,
                    value=rows.value,
                    good=rows.good,
                    sample_count=rows.sample_count if filled else np.zeros(len(rows), np.int64),
                    samples=rows.samples if filled else np.empty(0, np.float32),
                    first=first[:, number],
                    last=last[:, number],
                )
            )
        counts = np.stack([one.counts for one in channels], axis=1)
        good = np.stack([one.good_counts for one in channels], axis=1)
        return Windows(
            asset_ids=tuple(self._before.asset_ids.tolist()),
            asset=asset,
            start_ns=end - self._spec.window_ns,
            end_ns=end,
            good_share=good_shares(good, counts, self._spec.expected_counts),
            channels=tuple(channels),
        )

    def _remaining(self, listed: _Listed) -> tuple[Rows, int]:
        """Return the rows that the next windows may need, and how many were given up before they had their last."""
        step, length = self._spec.step_ns, self._spec.window_ns
        assets = np.arange(self._assets)
        first = self._places(assets, self._until + step - length).T.ravel()
        # By place, as they are kept: asset by asset, as these are numbered, and channel by channel.
        order = np.argsort(self._rows.place[self._bounds[:-1][self._sizes > 0]])
        order = np.flatnonzero(self._sizes)[order]
        rows = ranges(first[order], self._bounds[order + 1] - first[order])
        crowded = self._crowded()
        last_end = (self._rows.time[crowded] + length) // step * step
        asset = self._stretch(crowded) % self._assets
        closed = self._closed_with(listed, asset, last_end, self._count[asset] - 1)
        dropped = int(np.count_nonzero(self._rows.number[crowded] + MAX_ASSET_ROWS <= closed))
        if crowded.size:
            rows = rows[~np.isin(rows, crowded)]
        if not self._in_order:
            rows = rows[np.argsort(self._rows.number[rows], kind="stable")]
        return self._rows.take(rows).packed(), dropped
