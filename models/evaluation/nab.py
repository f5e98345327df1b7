"""The score of the Numenta Anomaly Benchmark, for change points and for labelled windows.

An alarm inside a window counts up to 1, the earlier the more; an alarm outside all windows costs a little, a window
without an alarm costs 1 (2 in the profile that dislikes misses). 0 is what a detector gets that never alarms, 100 what
one gets that alarms at the start of each window and nowhere else.

The score is easily pleased: where windows are dense, a clock that alarms once a window length finds most of them, and
what it pays for the rest is small. So numbers of alarms outside windows and of windows missed belong beside it.

Source:
    A. Lavin, S. Ahmad, *Evaluating Real-time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark*, ICMLA 2015.
    For change points as in SKAB (I. Katser, V. Kozitsin, 2020): a window of 60 s to the right of each change point.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.records import BoolArray, FloatArray, Int64Array


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What an alarm at a window's very start gains, and what one outside and a missed window cost."""

    hit: float
    false_alarm: float
    miss: float


PROFILES: Final = {
    "standard": Profile(hit=1.0, false_alarm=0.11, miss=1.0),
    "low_fp": Profile(hit=1.0, false_alarm=0.22, miss=1.0),
    "low_fn": Profile(hit=1.0, false_alarm=0.11, miss=2.0),
}
_STEPS = 1000
_Gain = Callable[[FloatArray, FloatArray, Profile], float]


@dataclass(frozen=True, kw_only=True)
class Alarmed:
    """One file: when alarms were raised, and its windows, all ns since 1970.

    Attributes:
        alarm_ns: Times of alarms, ascending, shape ``(alarms,)``.
        start_ns: Starts of windows, ascending, shape ``(windows,)``.
        end_ns: Their ends, inclusive, shape ``(windows,)``.
    """

    alarm_ns: Int64Array
    start_ns: Int64Array
    end_ns: Int64Array


@dataclass(frozen=True, kw_only=True)
class NabScore:
    """Scores by profile, 100 for a perfect detector and 0 for one that never alarms; and what they are made of.

    ``windows`` is how many there were, ``missed`` how many had no alarm, ``false_alarms`` how many alarms lay outside.
    """

    standard: float
    low_fp: float
    low_fn: float
    windows: int
    missed: int
    false_alarms: int


def changepoint_windows(changepoint_ns: Int64Array, window_s: float) -> tuple[Int64Array, Int64Array]:
    """Return starts and ends of the windows after each of *changepoint_ns*, ascending, shape ``(windows,)``.

    A window lasts *window_s* from its change point on: nobody can know of a change before it happens. Where it would
    reach into the one before, it starts when that one ends.
    """
    start = np.asarray(changepoint_ns, np.int64).copy()
    end = start + round(window_s * 1e9)
    for place in range(1, len(start)):
        start[place] = max(start[place], end[place - 1])
    return start, np.maximum(end, start)


def changepoint_score(files: Sequence[Alarmed]) -> NabScore:
    """Return the score as SKAB's leaderboard counts it, over all windows of all *files*.

    The first alarm in a window counts, by a hyperbolic tangent from ``hit`` at its start to ``-false_alarm`` at its
    end; every alarm outside costs, wherever it lies. A window that another one ends in may be empty; it is missed.

    Raises:
        ValueError: If there is no window at all: there is nothing to score by.
    """
    return _score(files, _tanh, "changepoint")


def window_score(files: Sequence[Alarmed]) -> NabScore:
    """Return the score as NAB counts it for labelled windows, over all *files*.

    The first alarm in a window counts, by a sigmoid of its place in the window; an alarm after a window costs the more
    the later it comes, up to ``false_alarm``; before the first window it costs that at once.

    Raises:
        ValueError: If there is no window at all: there is nothing to score by.
    """
    return _score(files, _sigmoid, "window")


def _score(files: Sequence[Alarmed], gain: _Gain, what: str) -> NabScore:
    windows = sum(len(file.start_ns) for file in files)
    if not windows:
        raise ValueError(f"no {what} in {len(files)} files; there is nothing to score by")
    placed = [_place(file) for file in files]
    found = np.concatenate([one.found for one in placed])
    beside = np.concatenate([one.beside for one in placed])
    missed = windows - len(found)
    told = {
        name: 100.0 * (gain(found, beside, profile) + profile.miss * len(found)) / (windows * (1.0 + profile.miss))
        for name, profile in PROFILES.items()
    }
    return NabScore(**told, windows=windows, missed=missed, false_alarms=len(beside))


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """Of a file: where in its window, 0 to 1, each found window was first alarmed; where alarms lie that hit none.

    ``beside`` counts window lengths since the end of the last window, infinite before the first.
    """

    found: FloatArray
    beside: FloatArray


def _place(file: Alarmed) -> _Placed:
    alarms, start, end = file.alarm_ns, file.start_ns, file.end_ns
    first = np.searchsorted(alarms, start, side="left")
    after = np.searchsorted(alarms, end, side="right")
    hit = after > first
    length = np.maximum(end - start, 1)
    found = (alarms[first[hit]] - start[hit]) / length[hit]
    # A window of no length is found at its end.
    found = np.where((end - start)[hit] > 0, found, 1.0)
    inside = np.zeros(len(alarms), np.bool_)
    for low, high in zip(first, after, strict=True):
        inside[low:high] = True
    outside = alarms[~inside]
    last = np.searchsorted(end, outside, side="left") - 1
    known = last >= 0
    beside = np.full(len(outside), np.inf)
    beside[known] = (outside[known] - end[last[known]]) / length[last[known]]
    return _Placed(found=found, beside=beside)


def _tanh(found: FloatArray, beside: FloatArray, profile: Profile) -> float:
    # In steps of a thousandth of the window, as the leaderboard's own code goes.
    place = np.minimum((found * _STEPS).astype(np.int64), _STEPS - 1)
    along = np.linspace(-np.pi / 2.0, np.pi / 2.0, _STEPS)[place]
    half = (profile.hit + profile.false_alarm) / 2.0
    gained = half * -np.tanh(along) / np.tanh(np.pi / 2.0) + half - profile.false_alarm
    return float(gained.sum()) - profile.false_alarm * len(beside)


def _sigmoid(found: FloatArray, beside: FloatArray, profile: Profile) -> float:
    # A window runs from -1 to 0; behind it the same curve goes on below 0.
    best = 2.0 / (1.0 + np.exp(-5.0)) - 1.0
    gained = (2.0 / (1.0 + np.exp(5.0 * (found - 1.0))) - 1.0) / best
    lost = np.where(beside <= 3.0, 1.0 - 2.0 / (1.0 + np.exp(5.0 * np.minimum(beside, 3.0))), 1.0)
    return float(profile.hit * gained.sum() - profile.false_alarm * lost.sum())


def alarm_starts(flagged: BoolArray, time_ns: Int64Array, dead_time_s: float) -> Int64Array:
    """Return when alarms start, ns, ascending: where *flagged* holds and none has started within *dead_time_s*.

    Args:
        flagged: In time order, shape ``(n,)``.
        time_ns: Shape ``(n,)``.
        dead_time_s: After an alarm so long nothing is told again.
    """
    starts, free = list[int](), np.iinfo(np.int64).min
    for moment in time_ns[flagged].tolist():
        if moment >= free:
            starts.append(moment)
            free = moment + round(dead_time_s * 1e9)
    return np.array(starts, np.int64)
