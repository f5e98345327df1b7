"""What is remembered of every asset: the newest windows one by one, the rest of its life as sums.

Sums are of raw features, by regime: what is ordinary may change with every release, and a mean deviation over a life
follows from them under any baseline, as it is linear in the features within a regime.

A life begins where an asset is commissioned or repaired, or, when nobody told, with the first window that is known.
Silent windows, which have no good value of any channel, are no operating cycles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from models.features.memory import Memory, Rows, Sums, remembered_columns
from models.features.names import mean_columns, quality_columns
from models.features.plain import NS_PER_HOUR
from models.features.regimes import regimes_of
from models.features.specification import FeatureError, FeatureSpecification, specification_digest
from models.features.standing import LATEST, NEVER
from models.records import UNDECODABLE, BoolArray, FloatArray, Int64Array

MAX_ASSETS = 100_000
MAX_STARTS = 1000
# How much of a life may be missing before its first known window without its being called cut.
MAX_MISSING_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Past:
    """New windows among those before them, as columns; what inputs and sequences are computed from.

    Rows stand run by run, by time in each: a run is one life of an asset, first what is remembered of it one by one,
    then what is new.

    Attributes:
        asset_ids: The asset of each new window.
        features: Of the new windows, shape ``(n, f)``.
        place: The row of each new window, shape ``(n,)``.
        rows: Remembered features of all rows, their ends and regimes, and which are silent, shape ``(m, ...)``.
        run: The run of each row, from 0, shape ``(m,)``.
        first: The first row of each run, shape ``(runs,)``.
        run_of: A new window of the asset of each run, shape ``(runs,)``.
        before: Sums over the windows of each run's life that are before its first row.
        first_before: The same over those among the life's first windows.
        cycles: Number of windows of the life up to each row that were not silent, shape ``(m,)``.
        hours_since: Hours since the newest event of each kind at each new window, shape ``(n, events)``, NaN: none.
        whole: Whether the life of each new window is known from its start, shape ``(n,)``.
    """

    asset_ids: Sequence[str]
    features: FloatArray
    place: Int64Array
    rows: Rows
    run: Int64Array
    first: Int64Array
    run_of: Int64Array
    before: Sums
    first_before: Sums
    cycles: Int64Array
    hours_since: FloatArray
    whole: BoolArray

    def __len__(self) -> int:
        return len(self.place)

    @property
    def windows_known(self) -> Int64Array:
        """Number of windows of its life that are known at each new window, itself included, shape ``(n,)``."""
        return self.cycles[self.place]


class Histories:
    """Remembers the past of every asset of a class.

    Windows of one asset must come by end, as a windower gives them; in how many calls makes no difference to a single
    bit. Memory is bounded by ``kept_windows`` and the number of regimes, for each asset.

    Args:
        spec: Which features, and how far back.
    """

    def __init__(self, spec: FeatureSpecification) -> None:
        self._spec = spec
        self._places: dict[str, int] = {}
        self._starts: dict[int, list[int]] = {}
        self._memory = Memory.empty(spec, 0)

    def push(self, asset_ids: Sequence[str], end_ns: Int64Array, features: FloatArray) -> Past:
        """Take new windows and return them among those before them.

        Args:
            asset_ids: The asset of each window.
            end_ns: The end of each window, ns since 1970, shape ``(n,)``, ascending for each asset.
            features: Raw features, shape ``(n, f)``.

        Raises:
            FeatureError: If there would be more than 100,000 assets.
        """
        asset: Int64Array = np.fromiter(map(self._place, asset_ids), np.int64, len(asset_ids))
        life, whole = self._lives(asset, end_ns)
        past = past_of(self._spec, self._memory, asset_ids, asset, life, end_ns, features)
        past = replace(past, whole=whole)
        self._remember(past, asset, life, end_ns)
        return past

    def begin_life(self, asset_id: str, start_ns: int) -> None:
        """Begin a life of *asset_id*: it was commissioned or repaired at *start_ns*, ns since 1970.

        Windows that start then or later are of the new life; those in which the repair happened are of the old one.
        It may be told before or after the windows: as long as all windows of the new life are remembered one by one,
        the result is the same. Told later than that, the life is known from the windows that are remembered, and is
        not whole; nor is it when the first window that is known starts more than `MAX_MISSING_STEPS` steps after it. A
        start that is not after the present life's is ignored, and so is one from 2096 on, where there are no windows.

        Raises:
            FeatureError: If there would be more than 100,000 assets.
        """
        place = self._place(asset_id)
        if not self._memory.life_start[place] < start_ns < LATEST:
            return
        starts = self._starts.get(place, [])
        newest = int(self._memory.newest[place])
        if newest != NEVER and newest - self._spec.window_ns >= start_ns:
            self._memory.begin_among_kept(place, start_ns, self._spec.window_ns, latest_ns(self._spec, start_ns))
            self._set_starts(place, [start for start in starts if start > start_ns])
        else:
            self._set_starts(place, sorted({*starts, start_ns})[-MAX_STARTS:])

    def state(self) -> bytes:
        """Return all that the next windows' inputs depend on, for `restore`."""
        return msgspec.msgpack.encode(
            _Saved(
                digest=specification_digest(self._spec),
                asset_ids=tuple(self._places),
                starts={place: tuple(starts) for place, starts in self._starts.items()},
                columns=self._memory.saved(len(self._places)),
            )
        )

    def restore(self, state: bytes) -> None:
        """Go on where the histories that gave *state* were.

        Raises:
            FeatureError: If the state is of another specification or does not decode; nothing has changed then.
        """
        what = f"{self._spec.asset_class}: saved histories"
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except UNDECODABLE as error:
            raise FeatureError(f"{what} do not decode ({error}); start anew") from error
        if saved.digest != specification_digest(self._spec):
            raise FeatureError(f"{what} are of another specification; start anew")
        count = len(saved.asset_ids)
        if count > MAX_ASSETS or len(set(saved.asset_ids)) != count:
            raise FeatureError(f"{what} are not of up to {MAX_ASSETS} different assets; start anew")
        if any(not 0 <= place < count or not 0 < len(starts) <= MAX_STARTS for place, starts in saved.starts.items()):
            raise FeatureError(f"{what} have starts of no asset; start anew")
        if not all(NEVER < start < LATEST for starts in saved.starts.values() for start in starts):
            raise FeatureError(f"{what} have starts at no time; start anew")
        self._memory = Memory.of_saved(self._spec, count, saved.columns)
        self._places = {asset_id: place for place, asset_id in enumerate(saved.asset_ids)}
        self._starts = {place: sorted(starts) for place, starts in saved.starts.items()}

    def _place(self, asset_id: str) -> int:
        place = self._places.get(asset_id)
        if place is None:
            place = len(self._places)
            if place >= MAX_ASSETS:
                raise FeatureError(f"{self._spec.asset_class}: more than {MAX_ASSETS} assets; {asset_id} is left out")
            self._places[asset_id] = place
            self._memory.reach(self._spec, place + 1)
        return place

    def _lives(self, asset: Int64Array, end_ns: Int64Array) -> tuple[Int64Array, BoolArray]:
        """Return how many lives of its asset begin up to each window, and whether it is whole; starts are rare."""
        life, whole = np.zeros(len(asset), np.int64), self._memory.whole[asset]
        for place in self._starts.keys() & set(asset.tolist()) if self._starts else ():
            starts, own = np.array(self._starts[place]), np.flatnonzero(asset == place)
            begins_ns = end_ns[own] - self._spec.window_ns
            life[own] = np.maximum.accumulate(np.searchsorted(starts, begins_ns, side="right"))
            for number, first in zip(*np.unique(life[own], return_index=True), strict=True):
                if number:
                    known_in_time = begins_ns[first] <= latest_ns(self._spec, int(starts[number - 1]))
                    whole[own[life[own] == number]] = known_in_time
        return life, whole

    def _remember(self, past: Past, asset: Int64Array, life: Int64Array, end_ns: Int64Array) -> None:
        """Keep the rows of each asset's newest life, and note which lives began."""
        memory, rows = self._memory, past.rows
        begun = np.flatnonzero(life)
        for place in set(asset[begun].tolist()):
            starts, reached = self._starts[place], int(life[asset == place].max())
            memory.begin(np.array([place]))
            memory.life_start[place] = starts[reached - 1]
            memory.whole[place] = past.whole[np.flatnonzero(asset == place)[-1]]
            self._set_starts(place, starts[reached:])
        newest_run = np.zeros(len(past.first), np.bool_)
        newest_run[past.run[np.flatnonzero(np.append(np.diff(rows.asset) != 0, True))] if len(rows.asset) else []] = (
            True
        )
        chosen = newest_run[past.run]
        memory.keep(self._spec, rows.take(chosen), past.cycles[chosen])
        for kind, place in enumerate(mean_columns(self._spec)[name] for name in self._spec.history.events):
            happened = past.features[:, place] > 0.0
            np.maximum.at(memory.events[:, kind], asset[happened], end_ns[happened])

    def _set_starts(self, place: int, starts: list[int]) -> None:
        self._starts.pop(place, None)
        if starts:
            self._starts[place] = starts


@dataclass(frozen=True, kw_only=True)
class _Saved:
    digest: str
    asset_ids: tuple[str, ...]
    starts: dict[int, tuple[int, ...]]
    columns: dict[str, bytes]


def latest_ns(spec: FeatureSpecification, start_ns: int) -> int:
    """Return when, at the latest, the first known window of a whole life that began at *start_ns* starts."""
    return start_ns + MAX_MISSING_STEPS * spec.step_ns


def past_of(
    spec: FeatureSpecification,
    memory: Memory,
    asset_ids: Sequence[str],
    asset: Int64Array,
    life: Int64Array,
    end_ns: Int64Array,
    features: FloatArray,
) -> Past:
    """Return new windows among those that are remembered.

    Args:
        spec: Which features.
        memory: What is remembered.
        asset_ids: The asset of each window, by name.
        asset: The same as a row of *memory*, shape ``(n,)``.
        life: How many lives of its asset begin up to each window, shape ``(n,)``; 0: the present one goes on.
        end_ns: Ends, ascending for each asset, shape ``(n,)``.
        features: Raw features, shape ``(n, f)``.
    """
    touched, first_new = np.unique(asset, return_index=True)
    kept = memory.rows_of(touched)
    new = Rows(
        asset=asset,
        features=features[:, remembered_columns(spec)],
        end_ns=end_ns,
        regime=regimes_of(spec, features),
        silent=_silent(spec, features),
    )
    joint = Rows.concatenate([kept, new])
    # Assets one after the other, in each what is kept before what is new.
    order = np.argsort(joint.asset, kind="stable")
    rows = joint.take(order)
    row_life = np.concatenate([np.zeros(len(kept.asset), np.int64), life])[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (np.diff(rows.asset) != 0) | (np.diff(row_life) != 0)
    first = np.flatnonzero(begins)
    run = np.cumsum(begins) - 1
    goes_on = row_life[first] == 0
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    counted = np.cumsum(~rows.silent)
    return Past(
        asset_ids=asset_ids,
        features=features,
        place=place[len(kept.asset) :],
        rows=rows,
        run=run,
        first=first,
        run_of=first_new[np.searchsorted(touched, rows.asset[first])],
        before=memory.life_sums(rows.asset[first]).where(goes_on),
        first_before=memory.first_sums(rows.asset[first]).where(goes_on),
        cycles=counted
        + (np.where(goes_on, memory.cycles[rows.asset[first]], 0) - counted[first] + ~rows.silent[first])[run],
        hours_since=_hours_since(spec, memory, asset, end_ns, features),
        whole=memory.whole[asset],
    )


def _silent(spec: FeatureSpecification, features: FloatArray) -> BoolArray:
    """Return which rows have no value; the share of good values is always known."""
    known = np.isfinite(features)
    known[:, list(quality_columns(spec))] = False
    return np.asarray(~known.any(axis=1), np.bool_)


def _hours_since(
    spec: FeatureSpecification, memory: Memory, asset: Int64Array, end_ns: Int64Array, features: FloatArray
) -> FloatArray:
    """Return hours from the end of the newest window with an event to each window's end, shape ``(n, events)``."""
    hours = np.full((len(asset), len(spec.history.events)), np.nan)
    order = np.argsort(asset, kind="stable")
    number = np.arange(len(order))
    begins = np.diff(asset[order], prepend=-1) != 0
    own_first = np.maximum.accumulate(np.where(begins, number, 0))
    for kind, name in enumerate(spec.history.events):
        happened = features[order, mean_columns(spec)[name]] > 0.0
        newest = np.maximum.accumulate(np.where(happened, number, -1))
        here = newest >= own_first
        since = np.where(here, end_ns[order][np.maximum(newest, 0)], memory.events[asset[order], kind])
        known = since != NEVER
        hours[order[known], kind] = (end_ns[order][known] - since[known]) / NS_PER_HOUR
    return hours
