"""The windower: cuts the observations of an asset class into windows.

Windows end at multiples of the step since 1970 and overlap when they are longer than it. A window closes at the very
row of the log where every channel of its asset has reached its end, or where the asset has run ``late_s`` ahead of a
channel that keeps silent. So the same rows in the same order give the same windows, however they are cut into pages.
What comes later than that still counts for the windows that are open, and is counted as late.

Missing data is missing: a window has the observations that came, none are filled in, and its ``good_share`` says how
much that is of what a whole window has. A channel without any has no rows in it; a window without any rows is not made,
so a stop of the machine makes no windows. Nor is sampling assumed to be regular: observations keep their own times, two
of one channel may have the same one, and both count, in the order of the log. A row whose status is not good, or whose
number is not finite, is in the window but not good.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.features.buffer import Int32Array, Rows, RowStore, stable_order
from models.features.closing import clock, close_windows, first_end
from models.features.specification import FeatureSpecification, is_waveform
from models.features.standing import (
    LATEST,
    MAX_ASSET_ROWS,
    NEVER,
    Standing,
    WindowCounters,
    decode_standing,
    encode_standing,
)  # fmt: skip
from models.features.windows import Windows
from models.records import BoolArray, Int64Array, Observations, Stream, is_good

_MAX_INBOX_ROWS = 1_000_000
# Of an asset, so many rows more than windows look at are let lie before they are removed.
_SLACK_ROWS = MAX_ASSET_ROWS // 4
_OTHERS = -1
_UNSEEN = -2


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
        self._none = Windows.empty(spec)
        self._assets: dict[str, int] = {}
        self._places: dict[Stream, int] = {}
        self._table_streams: tuple[Stream, ...] = ()
        self._table = np.empty(0, np.int32)
        self._standing = Standing.of_new([], len(spec.channels))
        self._store = RowStore(len(spec.channels))
        self._kept = np.empty(0, np.int64)  # rows by asset, in store and inbox
        self._inbox: list[Rows] = []
        self._inbox_rows = 0

    def push(self, observations: Observations) -> Windows:
        """Take *observations* and return the windows that they close, by end and then by asset."""
        rows = self._rows(observations)
        if not len(rows):
            return self._none
        asset = rows.place // len(self._channels)
        before = self._standing.take(slice(None))
        rows = self._advance(rows, asset)
        closing = self._closing(asset, rows.time)
        if closing.size:
            closes = np.zeros(len(self._assets), np.bool_)
            closes[closing] = True
            closes = closes[asset]
            windows = self._close(closing, before.take(closing), asset[closes], rows.take(closes))
            rows, asset = rows.take(~closes), asset[~closes]
        else:
            windows = self._none
        self._keep(rows, asset)
        return windows

    @property
    def counters(self) -> WindowCounters:
        """What the windower did since it first started from nothing."""
        return self._counters_and_rows()[0]

    def state(self) -> bytes:
        """Return all that the next windows depend on, for `restore`."""
        counters, rows = self._counters_and_rows()
        return encode_standing(self.spec, counters, self._standing, rows)

    def restore(self, state: bytes) -> None:
        """Go on where the windower that gave *state* was.

        Raises:
            FeatureError: If the state is of other channels or windows, does not decode, or holds what no windower has;
                nothing has changed then.
        """
        self._counters, self._standing, rows = decode_standing(self.spec, state)
        self._assets = {asset_id: number for number, asset_id in enumerate(self._standing.asset_ids.tolist())}
        self._places, self._inbox, self._inbox_rows, self._table_streams = {}, [], 0, ()
        self._kept = self._by_asset(rows.place // len(self._channels))
        self._store = RowStore(len(self._channels))
        self._store.add(rows)

    def _rows(self, observations: Observations) -> Rows:
        """Return the rows of the class's assets and channels, in their order, not yet numbered."""
        place = self._places_of(observations)
        time = observations.source_time
        ours = place >= 0
        taken = ours & (time >= 0) & (time < LATEST)
        self._counters.rows += int(np.count_nonzero(ours))
        self._counters.dropped_rows += int(np.count_nonzero(ours) - np.count_nonzero(taken))
        good, count = self._judged(observations, place)
        rows = Rows(
            place=place,
            number=time,
            time=time,
            value=observations.value,
            good=good,
            sample_first=np.cumsum(observations.sample_count, dtype=np.int64) - observations.sample_count,
            sample_count=count,
            samples=observations.samples,
        )
        return (rows if taken.all() else rows.take(taken)).packed()

    def _judged(self, observations: Observations, place: Int32Array) -> tuple[BoolArray, Int64Array]:
        """Return which rows are good, and how many samples each has that its channel may have."""
        good = is_good(observations.status)
        if not (self._waveform.any() or observations.samples.size):
            return good & np.isfinite(observations.value), np.zeros(len(place), np.int64)
        waveform = self._waveform[place % len(self._channels)]
        good &= (observations.sample_count > 0) == waveform
        good &= np.isfinite(observations.value) | waveform
        ends = np.cumsum(observations.sample_count, dtype=np.int64)
        bad_before = np.concatenate([[0], np.cumsum(~np.isfinite(observations.samples), dtype=np.int64)])
        good &= bad_before[ends] == bad_before[ends - observations.sample_count]
        return good, np.where(waveform & (place >= 0), observations.sample_count, 0).astype(np.int64)

    def _places_of(self, observations: Observations) -> Int32Array:
        """Return the place of each row. The same table of streams comes page after page."""
        streams = observations.streams
        if streams is not self._table_streams and streams != self._table_streams:
            self._table = np.full(len(streams), _UNSEEN, np.int32)
        self._table_streams = streams
        place = self._table[observations.stream]
        if (place == _UNSEEN).any():
            known = len(self._assets)
            for number in np.unique(observations.stream[place == _UNSEEN]):
                self._table[number] = self._place(streams[number])
            self._standing = self._standing.and_new(list(self._assets)[known:])
            self._kept = np.append(self._kept, np.zeros(len(self._assets) - known, np.int64))
            place = self._table[observations.stream]
        return place

    def _place(self, stream: Stream) -> int:
        """Return the place of a stream; where it is new, its asset may be, too."""
        if stream not in self._places:
            channel = self._channels.get(stream.channel)
            if channel is None or (self._wanted is not None and stream.asset_id not in self._wanted):
                self._places[stream] = _OTHERS
            else:
                asset = self._assets.setdefault(stream.asset_id, len(self._assets))
                self._places[stream] = asset * len(self._channels) + channel
        return self._places[stream]

    def _advance(self, rows: Rows, asset: Int32Array) -> Rows:
        """Take the times of *rows* into account, and return them numbered."""
        standing = self._standing
        np.maximum.at(standing.newest.reshape(-1), rows.place, rows.time)
        np.minimum.at(standing.oldest, asset, rows.time)
        order = stable_order(asset)
        came = self._by_asset(asset)
        number = np.empty(len(rows), np.int64)
        number[order] = np.arange(len(rows)) + (standing.count - np.cumsum(came) + came)[asset[order]]
        standing.count[:] += came
        return replace(rows, number=number)

    def _closing(self, asset: Int32Array, time: Int64Array) -> NDArray[np.intp]:
        """Return the assets, by name, that have come so far that a window closes."""
        standing = self._standing
        due = time >= standing.next_end[asset]  # no other row can bring an asset there
        if not due.any():
            return np.empty(0, np.intp)
        assets = np.flatnonzero(self._by_asset(asset[due]))
        next_end = standing.next_end[assets]
        next_end = np.where(next_end == NEVER, first_end(self.spec, standing.oldest[assets]), next_end)
        assets = assets[clock(standing.newest[assets], self.spec.late_ns) >= next_end]
        return assets[np.argsort(standing.asset_ids[assets])]

    def _keep(self, rows: Rows, asset: Int32Array) -> None:
        """Hold *rows*, which close nothing, for later windows."""
        next_end = self._standing.next_end[asset]
        behind = rows.time < next_end - self.spec.step_ns
        behind &= next_end != NEVER
        if behind.any():
            self._counters.late_rows += int(np.count_nonzero(behind))
            needed = ~behind | (rows.time >= next_end - self.spec.window_ns)
            rows, asset = rows.take(needed), asset[needed]
        if not len(rows):
            return
        self._inbox.append(rows)
        self._inbox_rows += len(rows)
        self._kept += self._by_asset(asset)
        # Only now: rows that came with these may have closed windows that still look at what is then given up.
        if self._inbox_rows > _MAX_INBOX_ROWS:
            self._flush()
            self._give_up()

    def _flush(self) -> None:
        if self._inbox:
            self._store.add(Rows.concatenate(self._inbox))
            self._inbox, self._inbox_rows = [], 0

    def _give_up(self) -> None:
        """Let go of what is given up of assets that hold too much of it."""
        crowded = np.flatnonzero(self._kept > MAX_ASSET_ROWS + _SLACK_ROWS)
        if crowded.size:
            rows, _ = self._store.take_out(crowded)
            given_up = self._given_up(rows)
            self._counters.dropped_rows += int(np.count_nonzero(given_up))
            self._hold(crowded, rows.take(~given_up).packed())

    def _given_up(self, rows: Rows) -> BoolArray:
        """Return which of *rows* no window will look at, so many of their asset have come since."""
        count = self._standing.count[rows.place // len(self._channels)]
        return np.asarray(rows.number < count - MAX_ASSET_ROWS, np.bool_)

    def _counters_and_rows(self) -> tuple[WindowCounters, Rows]:
        """Return the counters, and the rows that windows may still look at."""
        self._flush()
        rows = self._store.rows()
        given_up = self._given_up(rows)
        dropped = self._counters.dropped_rows + int(np.count_nonzero(given_up))
        return replace(self._counters, dropped_rows=dropped), rows.take(~given_up) if given_up.any() else rows

    def _close(self, closing: NDArray[np.intp], before: Standing, asset: Int32Array, rows: Rows) -> Windows:
        """Return the windows of the assets *closing*, which stood at *before*, when *rows*, of *asset*, come."""
        self._inbox.append(rows)
        self._flush()
        held, bounds = self._store.take_out(closing)
        number = np.zeros(len(self._assets), np.int32)
        number[closing] = np.arange(len(closing))
        closed = close_windows(
            self.spec, before, self._standing.take(closing), held, bounds, number[asset], rows
        )  # fmt: skip
        self._standing.next_end[closing] = closed.next_end
        self._hold(closing, closed.rows)
        self._counters.windows += len(closed.windows)
        self._counters.late_rows += closed.late_rows
        self._counters.dropped_rows += closed.dropped_rows
        return closed.windows

    def _hold(self, assets: NDArray[np.intp], rows: Rows) -> None:
        """Hold *rows* as all there are of *assets*."""
        self._store.add(rows)
        self._kept[assets] = self._by_asset(rows.place // len(self._channels))[assets]

    def _by_asset(self, asset: Int32Array) -> Int64Array:
        """Return how often each asset occurs in *asset*."""
        return np.bincount(asset, minlength=len(self._assets)).astype(np.int64)


def windows_of(
    spec: FeatureSpecification, observations: Observations, asset_ids: Collection[str] | None = None
) -> Windows:
    """Return all whole windows of a recording, whose rows may stand in any order: they are taken by source time.

    The last windows, which nothing closes, are not among them. A gateway that got every row in time has made the same.
    """
    order = np.argsort(observations.source_time, kind="stable")
    return Windower(spec, asset_ids).push(observations.take(order))
