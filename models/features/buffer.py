"""Rows that windows still need, of all assets of a class, and how they are kept until then.

Rows lie in parts, each sorted by place, that is by asset and then by channel, and in the order of the log at one place.
Parts are merged as they grow, so that there are few, and the rows of the assets whose windows close can be taken out
without a look at those of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.records import BoolArray, Float32Array, FloatArray, Int64Array

Int32Array = NDArray[np.int32]

# Larger parts are left as they are: merging them would move much for little.
_MAX_PART_ROWS = 4_000_000
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
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """Return *parts*, at least one, one after the other."""
        if len(parts) == 1:
            return parts[0]
        joint = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("place", "number", "time", "value", "good")
        }
        sizes = [part.samples.size for part in parts]
        if not sum(sizes):
            return cls(**joint, sample_first=_NO_NUMBERS, sample_count=_NO_NUMBERS, samples=_NO_SAMPLES)
        shifts = np.cumsum(sizes) - sizes
        firsts = [_filled(part.sample_first, part) + shift for part, shift in zip(parts, shifts, strict=True)]
        return cls(
            **joint,
            sample_first=np.concatenate(firsts),
            sample_count=np.concatenate([_filled(part.sample_count, part) for part in parts]),
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
        """Keep *rows*, in the order of the log."""
        if not len(rows):
            return
        self._grow(int(rows.place.max()) // self._channels + 1)
        self._append(rows.take(stable_order(rows.place)))
        while len(self._parts) > 1:
            older, newer = self._parts[-2:]
            if older.alive >= 2 * newer.alive or older.alive + newer.alive > _MAX_PART_ROWS:
                break
            del self._parts[-2:]
            both = Rows.concatenate([self._alive(older), self._alive(newer)])
            self._parts.append(
                _Part(rows=both.take(stable_order(both.place)), serial=newer.serial, alive=len(both))
            )  # fmt: skip

    def take_out(self, assets: Int64Array) -> Rows:
        """Return, and keep no longer, the rows of *assets*, at each place in the order of the log."""
        self._grow(int(assets.max(initial=-1)) + 1)
        found = [Rows.empty()]
        for part in self._parts:
            ours = assets[self._since[assets] <= part.serial]
            first = np.searchsorted(part.rows.place, (ours * self._channels).astype(np.int32))
            last = np.searchsorted(part.rows.place, ((ours + 1) * self._channels).astype(np.int32))
            rows = part.rows.take(ranges(first, last - first)).packed()
            part.alive -= len(rows)
            found.append(rows)
        self._since[assets] = self._serial + 1
        self._tidy()
        return Rows.concatenate(found)

    def rows(self) -> Rows:
        """Return all rows, at each place in the order of the log."""
        return Rows.concatenate([Rows.empty(), *(self._alive(part) for part in self._parts)])

    def _append(self, rows: Rows) -> None:
        self._serial += 1
        self._parts.append(_Part(rows=rows, serial=self._serial, alive=len(rows)))

    def _alive(self, part: _Part) -> Rows:
        """Return the rows of *part* that were not taken out."""
        if part.alive == len(part.rows):
            return part.rows
        return part.rows.take(self._since[part.rows.place // self._channels] <= part.serial).packed()

    def _tidy(self) -> None:
        """Let go of parts of which more than half was taken out."""
        self._parts = [part for part in self._parts if part.alive]
        for part in self._parts:
            if 2 * part.alive < len(part.rows):
                part.rows = self._alive(part)

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


def _filled(column: Int64Array, part: Rows) -> Int64Array:
    """Return a column of samples, zeros where no row of *part* has any."""
    return column if column.size else np.zeros(len(part), np.int64)
