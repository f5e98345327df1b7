"""Rows that windows still need, of all assets of a class, and how they are kept until then.

Rows lie in parts, each sorted by place, that is by asset and then by channel, and in the order of the log at one place.
Parts are merged as they grow, so that there are few, and the rows of the assets whose windows close can be taken out
without a look at those of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.records import BoolArray, Float32Array, FloatArray, Int64Array

Int32Array = NDArray[np.int32]

# Larger parts are left as they are: merging them would move much for little.
_MAX_PART_ROWS = 1_000_000
_KEY_BITS = 16
_NO_SAMPLES = np.empty(0, np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Observations as columns of shape ``(n,)``.

    Attributes:
        place: Number of the asset times the number of channels, plus the number of the channel.
        number: How many rows of the asset came before this one.
        time: Source time, ns since 1970 UTC.
        value: The value; NaN for waveforms.
        good: Status Good, and a finite value or finite samples.
        sample_first: Where a waveform begins in ``samples``; shape ``(0,)`` where no row has samples.
        sample_count: How many samples it has; shape ``(0,)`` where no row has samples.
        samples: Samples, in any order and perhaps with some that are no row's.
    """

    place: Int32Array
    number: Int64Array
    time: Int64Array
    value: FloatArray
    good: BoolArray
    sample_first: Int64Array
    sample_count: Int64Array
    samples: Float32Array

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: BoolArray | NDArray[np.intp] | slice) -> Rows:
        """Return the given *rows*, with all samples."""
        return Rows(
            place=self.place[rows],
            number=self.number[rows],
            time=self.time[rows],
            value=self.value[rows],
            good=self.good[rows],
            sample_first=self.sample_first[rows] if self.sample_first.size else self.sample_first,
            sample_count=self.sample_count[rows] if self.sample_count.size else self.sample_count,
            samples=self.samples,
        )

    def packed(self) -> Rows:
        """Return the same rows with no more samples than theirs, in their order."""
        if not self.samples.size:
            return self
        last = np.cumsum(self.sample_count)
        return replace(
            self,
            sample_first=last - self.sample_count,
            samples=self.samples[ranges(self.sample_first, self.sample_count)],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Rows], order: NDArray[np.intp] | None = None) -> Rows:
        """Return *parts*, at least one, one after the other, or those of these rows that *order* names.

        With an order this needs less memory than `take` afterwards.
        """
        if len(parts) == 1:
            return parts[0] if order is None else parts[0].take(order)
        columns = {
            name: _joint([getattr(part, name) for part in parts], order)
            for name in ("place", "number", "time", "value", "good")
        }
        sizes = [part.samples.size for part in parts]
        if not sum(sizes):
            return cls(**columns, sample_first=_NO_NUMBERS, sample_count=_NO_NUMBERS, samples=_NO_SAMPLES)
        shifts = np.cumsum(sizes) - sizes
        firsts = [_filled(part.sample_first, part) + shift for part, shift in zip(parts, shifts, strict=True)]
        return cls(
            **columns,
            sample_first=_joint(firsts, order),
            sample_count=_joint([_filled(part.sample_count, part) for part in parts], order),
            samples=np.concatenate([part.samples for part in parts]),
        )

    @classmethod
    def empty(cls) -> Rows:
        """Return no rows."""
        return cls(
            place=np.empty(0, np.int32),
            number=_NO_NUMBERS,
            time=_NO_NUMBERS,
            value=np.empty(0, np.float64),
            good=np.empty(0, np.bool_),
            sample_first=_NO_NUMBERS,
            sample_count=_NO_NUMBERS,
            samples=_NO_SAMPLES,
        )


_NO_NUMBERS = np.empty(0, np.int64)


@dataclass(kw_only=True)
class _Part:
    """Sorted rows; those of an asset count only where they were added after the asset's rows were last taken out."""

    rows: Rows
    serial: int
    alive: int


class RowStore:
    """Rows of many assets, added in the order of the log and taken out asset by asset.

    Args:
        channels: Number of channels of the class.
    """

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._parts: list[_Part] = []
        self._serial = 0
        self._since = np.empty(0, np.int64)  # by asset: rows in parts before this serial have been taken out

    def add(self, rows: Rows) -> None:
        """Keep *rows*, at each place in the order of the log."""
        if not len(rows):
            return
        if (rows.place[1:] < rows.place[:-1]).any():
            rows = rows.take(stable_order(rows.place))
        self._grow(int(rows.place[-1]) // self._channels + 1)
        self._serial += 1
        self._parts.append(_Part(rows=rows, serial=self._serial, alive=len(rows)))
        while len(self._parts) > 1:
            older, newer = self._parts[-2:]
            if older.alive >= 2 * newer.alive or older.alive + newer.alive > _MAX_PART_ROWS:
                break
            pair = [self._alive(older), self._alive(newer)]
            both = Rows.concatenate(pair, stable_order(np.concatenate([one.place for one in pair])))
            self._parts[-2:] = [_Part(rows=both, serial=newer.serial, alive=len(both))]

    def take_out(self, assets: NDArray[np.integer]) -> tuple[Rows, Int64Array]:
        """Return, and keep no longer, the rows of *assets*: channel by channel, in each asset by asset as given.

        Rows at one place are in the order of the log. With them come the bounds of the places, shape
        ``(channels * assets + 1,)``.
        """
        self._grow(int(assets.max(initial=-1)) + 1)
        places = (np.arange(self._channels)[:, None] + assets * self._channels).astype(np.int32).ravel()
        taken: list[Rows] = [Rows.empty()]
        firsts, sizes = [np.zeros(len(places), np.int64)], [np.zeros(len(places), np.int64)]
        for part in self._parts:
            first, size = self._found(part, assets, places)
            rows, total = part.rows, int(size.sum())
            part.alive -= total
            if total < len(rows):
                rows = rows.take(ranges(first, size)).packed()
                first = np.cumsum(size) - size
            firsts.append(first + sum(map(len, taken)))
            sizes.append(size)
            taken.append(rows)
        self._since[assets] = self._serial + 1
        self._parts = [part for part in self._parts if part.alive]
        for part in self._parts:
            if 2 * part.alive < len(part.rows):
                part.rows = self._alive(part)
        order = ranges(np.stack(firsts, axis=1).ravel(), np.stack(sizes, axis=1).ravel())
        bounds = np.concatenate([[0], np.cumsum(np.sum(sizes, axis=0))])
        return Rows.concatenate(taken, order), bounds

    def rows(self) -> Rows:
        """Return all rows, at each place in the order of the log."""
        return Rows.concatenate([Rows.empty(), *(self._alive(part) for part in self._parts)])

    def _found(
        self, part: _Part, assets: NDArray[np.integer], places: Int32Array
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return where the rows at *places*, of *assets*, begin in *part*, and how many there are that count."""
        first = np.searchsorted(part.rows.place, places)
        size = np.searchsorted(part.rows.place, places, side="right") - first
        return first, size * np.tile(self._since[assets] <= part.serial, self._channels)

    def _alive(self, part: _Part) -> Rows:
        """Return the rows of *part* that were not taken out."""
        if part.alive == len(part.rows):
            return part.rows
        return part.rows.take(self._since[part.rows.place // self._channels] <= part.serial).packed()

    def _grow(self, assets: int) -> None:
        if assets > len(self._since):
            self._since = np.concatenate([self._since, np.zeros(assets - len(self._since), np.int64)])


def stable_order(keys: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the order that sorts *keys*, 0 to 2³² - 1, and leaves equal ones as they stand.

    Sixteen bits at a time, which NumPy sorts by counting.
    """
    order = np.argsort((keys & (2**_KEY_BITS - 1)).astype(np.uint16), kind="stable")
    high = keys >> _KEY_BITS
    if high.any():
        order = order[np.argsort(high.astype(np.uint16)[order], kind="stable")]
    return order


def ranges(first: NDArray[np.integer], sizes: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the numbers ``first[i] … first[i] + sizes[i] - 1`` of all ``i``, one range after the other."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(np.asarray(first - before, np.intp), sizes) + np.arange(int(np.sum(sizes)))


def _joint(columns: list[NDArray[Any]], order: NDArray[np.intp] | None) -> NDArray[Any]:
    joint = np.concatenate(columns)
    return joint if order is None else joint[order]


def _filled(column: Int64Array, part: Rows) -> Int64Array:
    """Return a column of samples, zeros where no row of *part* has any."""
    return column if column.size else np.zeros(len(part), np.int64)
