"""What is kept of the assets of a class, as one table: a row an asset, its newest windows at the right end of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.features.names import history_columns, sequence_columns
from models.features.residuals import feature_limits
from models.features.specification import FeatureError, FeatureSpecification
from models.features.standing import NEVER
from models.records import BoolArray, FloatArray, Int64Array

# Nobody counts or waits so long, and what two smaller times are apart is still a number.
_MOST = 2**62


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums of raw features over windows, and over how many: ``(..., regimes, columns)``, as `remembered_columns`."""

    total: FloatArray
    number: FloatArray

    def where(self, chosen: BoolArray) -> Sums:
        """Return these sums, and 0 in the rows that are not *chosen*, shape ``(rows,)``."""
        return Sums(
            total=np.where(chosen[:, None, None], self.total, 0.0),
            number=np.where(chosen[:, None, None], self.number, 0.0),
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Windows by asset and time.

    Attributes:
        asset: Whose they are, ascending, shape ``(n,)``.
        features: Those that are remembered, shape ``(n, columns)``.
        end_ns: Ends, shape ``(n,)``.
        regime: Regimes, shape ``(n,)``.
        silent: Which have no value at all, shape ``(n,)``.
    """

    asset: Int64Array
    features: FloatArray
    end_ns: Int64Array
    regime: Int64Array
    silent: BoolArray

    def take(self, rows: BoolArray | NDArray[np.intp]) -> Rows:
        """Return the given *rows*."""
        return Rows(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """Return *parts*, one after the other."""
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__}
        )


@lru_cache(maxsize=64)
def remembered_columns(spec: FeatureSpecification) -> NDArray[np.intp]:
    """Return the features, as columns, of which the past is remembered."""
    history = spec.history
    looked_at = set(sequence_columns(spec)) if history.sequence_windows else set()
    if history.rolling or history.since_start or history.first_windows:
        looked_at |= set(history_columns(spec))
    return np.array(sorted(looked_at), np.intp)


@dataclass(kw_only=True)
class Memory:
    """What is kept, by asset.

    Attributes:
        features: Remembered features of the newest windows of the present life, shape ``(assets, kept, columns)``.
        end_ns: Their ends, shape ``(assets, kept)``.
        regime: Their regimes.
        silent: Which of them have no value at all.
        kept: How many of them there are, at the right end, shape ``(assets,)``.
        gone: How many windows of the life came before these.
        cycles: How many of those gone were not silent.
        newest: End of the newest window of all.
        life_start: Start of the present life as it was told; NEVER: it was not.
        whole: Whether all windows since that start are known.
        events: End of the newest window with an event, shape ``(assets, kinds)``.
        total: Sums over the windows gone, shape ``(assets, regimes, columns)``; no regime where nobody asks.
        number: Over how many.
        first_total: Sums over those gone that are among the life's first windows.
        first_number: Over how many.
    """

    features: FloatArray
    end_ns: Int64Array
    regime: Int64Array
    silent: BoolArray
    kept: Int64Array
    gone: Int64Array
    cycles: Int64Array
    newest: Int64Array
    life_start: Int64Array
    whole: BoolArray
    events: Int64Array
    total: FloatArray
    number: FloatArray
    first_total: FloatArray
    first_number: FloatArray

    @classmethod
    def empty(cls, spec: FeatureSpecification, assets: int, *, kept: int | None = None) -> Memory:
        """Return the memory of *assets* of which nothing is known.

        Args:
            spec: What is remembered.
            assets: How many.
            kept: How many windows of each there is room for; None: as many as *spec* looks back on.
        """
        return cls(**{name: one.empty(assets) for name, one in _columns(spec, kept).items()})

    def __len__(self) -> int:
        return len(self.kept)

    def reach(self, spec: FeatureSpecification, assets: int) -> None:
        """Make room for *assets*."""
        if assets > len(self):
            for name, one in _columns(spec).items():
                more = one.empty(max(assets, 2 * len(self)) - len(self))
                setattr(self, name, np.concatenate([getattr(self, name), more]))

    def rows_of(self, assets: Int64Array) -> Rows:
        """Return the windows that are kept of *assets*, which must be different and ascending."""
        most = self.end_ns.shape[1]
        chosen = np.arange(most) >= most - self.kept[assets][:, None]
        return Rows(
            asset=np.repeat(assets, self.kept[assets]),
            features=self.features[assets][chosen],
            end_ns=self.end_ns[assets][chosen],
            regime=self.regime[assets][chosen],
            silent=self.silent[assets][chosen],
        )

    def life_sums(self, assets: Int64Array) -> Sums:
        """Return the sums over the windows gone."""
        return Sums(total=self.total[assets], number=self.number[assets])

    def first_sums(self, assets: Int64Array) -> Sums:
        """Return the sums over the windows gone that are among the first."""
        return Sums(total=self.first_total[assets], number=self.first_number[assets])

    def begin(self, assets: Int64Array) -> None:
        """Forget the lives of *assets*; events happened to the asset, whatever its life."""
        self.kept[assets] = self.gone[assets] = self.cycles[assets] = 0
        for sums in (self.total, self.number, self.first_total, self.first_number):
            sums[assets] = 0.0

    def begin_among_kept(self, asset: int, start_ns: int, window_ns: int, latest_ns: int) -> None:
        """Begin a life of *asset* at *start_ns*, of which there are windows already.

        It is whole if all its windows are kept and the first of them starts at *latest_ns* or before.
        """
        most, kept = self.end_ns.shape[1], int(self.kept[asset])
        starts = self.end_ns[asset, most - kept :] - window_ns
        of_life = int(np.count_nonzero(starts >= start_ns))
        complete = of_life < kept or self.gone[asset] == 0
        self.whole[asset] = complete and bool((starts[kept - of_life :] <= latest_ns).any())
        self.begin(np.array([asset]))
        self.kept[asset], self.life_start[asset] = of_life, start_ns

    def keep(self, spec: FeatureSpecification, rows: Rows, cycles: Int64Array) -> None:
        """Keep the newest of *rows*, which are all that is known one by one of the lives of their assets.

        Args:
            spec: How much is kept.
            rows: Kept and new windows of some assets; the older ones leave and live on in the sums.
            cycles: Number of windows of the life up to each that were not silent, shape ``(n,)``.
        """
        if not len(rows.asset):
            return
        most = self.end_ns.shape[1]
        assets, first, counts = np.unique(rows.asset, return_index=True, return_counts=True)
        from_end = np.repeat(first + counts, counts) - np.arange(len(rows.asset))
        leaves = from_end > most
        self._add(spec, rows, leaves, cycles)
        self.kept[assets] = np.minimum(counts, most)
        self.newest[assets] = rows.end_ns[first + counts - 1]
        stay = np.flatnonzero(~leaves)
        cell = (rows.asset[stay], most - from_end[stay])
        self.features[cell], self.end_ns[cell] = rows.features[stay], rows.end_ns[stay]
        self.regime[cell], self.silent[cell] = rows.regime[stay], rows.silent[stay]

    def _add(self, spec: FeatureSpecification, rows: Rows, leaves: BoolArray, cycles: Int64Array) -> None:
        """Add the rows that leave to the sums, one after the other."""
        np.add.at(self.gone, rows.asset[leaves], 1)
        np.add.at(self.cycles, rows.asset[leaves & ~rows.silent], 1)
        known = leaves & (rows.regime >= 0)
        _add_rows(self.total, self.number, spec, rows, known)
        _add_rows(self.first_total, self.first_number, spec, rows, known & (cycles <= spec.history.first_windows))

    def saved(self, assets: int) -> dict[str, bytes]:
        """Return the first *assets* rows as bytes."""
        return {name: getattr(self, name)[:assets].tobytes() for name in self.__dataclass_fields__}

    @classmethod
    def of_saved(cls, spec: FeatureSpecification, assets: int, saved: Mapping[str, bytes]) -> Memory:
        """Return the memory that gave *saved*.

        Raises:
            FeatureError: If it does not fit *spec*, or a number cannot be.
        """
        wanted = _columns(spec)
        if saved.keys() != wanted.keys() or any(len(saved[name]) != one.nbytes(assets) for name, one in wanted.items()):
            raise FeatureError(f"{spec.asset_class}: saved histories do not fit together; start anew")
        memory = cls(
            **{
                name: np.frombuffer(saved[name], one.dtype).reshape((assets, *one.shape)).copy()
                for name, one in wanted.items()
            }
        )
        if not memory._is_possible(spec):
            raise FeatureError(f"{spec.asset_class}: saved histories hold what cannot be; start anew")
        return memory

    def _is_possible(self, spec: FeatureSpecification) -> bool:
        finite = (self.total, self.number, self.first_total, self.first_number)
        times = (self.end_ns, self.newest, self.life_start, self.events)
        within = (
            ~np.isinf(self.features),
            (self.kept >= 0) & (self.kept <= self.end_ns.shape[1]),
            (self.gone >= 0) & (self.gone < _MOST),
            (self.cycles >= 0) & (self.cycles <= self.gone),
            (self.regime >= -1) & (self.regime < spec.regimes.count),
            self.number >= 0.0,
            self.first_number >= 0.0,
            self.silent.view(np.uint8) <= 1,
            self.whole.view(np.uint8) <= 1,
            *(np.isfinite(numbers) for numbers in finite),
            *((time == NEVER) | (np.abs(time) < _MOST) for time in times),
        )
        return all(one.all() for one in within)


@dataclass(frozen=True, kw_only=True)
class _Column:
    dtype: type[np.generic]
    shape: tuple[int, ...]
    fill: int = 0

    def nbytes(self, assets: int) -> int:
        return assets * math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def empty(self, assets: int) -> NDArray[Any]:
        return np.full((assets, *self.shape), self.fill, self.dtype)


def _columns(spec: FeatureSpecification, kept: int | None = None) -> dict[str, _Column]:
    """Return what each array of a memory holds of one asset."""
    history = spec.history
    kept, width = history.kept_windows if kept is None else kept, len(remembered_columns(spec))
    life = (spec.regimes.count if history.since_start else 0, width)
    first = (spec.regimes.count if history.first_windows else 0, width)
    return {
        "features": _Column(dtype=np.float64, shape=(kept, width)),
        "end_ns": _Column(dtype=np.int64, shape=(kept,)),
        "regime": _Column(dtype=np.int64, shape=(kept,)),
        "silent": _Column(dtype=np.bool_, shape=(kept,)),
        "kept": _Column(dtype=np.int64, shape=()),
        "gone": _Column(dtype=np.int64, shape=()),
        "cycles": _Column(dtype=np.int64, shape=()),
        "newest": _Column(dtype=np.int64, shape=(), fill=NEVER),
        "life_start": _Column(dtype=np.int64, shape=(), fill=NEVER),
        "whole": _Column(dtype=np.bool_, shape=()),
        "events": _Column(dtype=np.int64, shape=(len(history.events),), fill=NEVER),
        "total": _Column(dtype=np.float64, shape=life),
        "number": _Column(dtype=np.float64, shape=life),
        "first_total": _Column(dtype=np.float64, shape=first),
        "first_number": _Column(dtype=np.float64, shape=first),
    }


def summed(spec: FeatureSpecification, features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return what *features*, ``(n, columns)``, count in sums, within limits and 0 where missing; and which count."""
    present = np.isfinite(features)
    limits = feature_limits(spec)[remembered_columns(spec)]
    return np.where(present, np.clip(features, -limits, limits), 0.0), present.astype(np.float64)


def _add_rows(total: FloatArray, number: FloatArray, spec: FeatureSpecification, rows: Rows, chosen: BoolArray) -> None:
    """Add *chosen* rows to the sums of their assets and regimes, in their order: that keeps every bit the same."""
    if not total.size or not chosen.any():
        return
    values, present = summed(spec, rows.features[chosen])
    regimes, width = total.shape[1:]
    cell = (rows.asset[chosen] * regimes + rows.regime[chosen])[:, None] * width + np.arange(width)
    np.add.at(total.reshape(-1), cell.ravel(), values.ravel())
    np.add.at(number.reshape(-1), cell.ravel(), present.ravel())
