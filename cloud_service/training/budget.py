"""Limits on a score that keep false alarms within a budget, from the scores of healthy windows alone.

Where the budget allows several alarms among the healthy windows, they are counted. Where it allows fewer than that (a
budget of one a day, and seven minutes of healthy running), the tail beyond what was seen has to be told: exponential,
as scores in decades have by their making, or a generalised Pareto tail where the largest score is too far out for that.
A few runs of windows do not tell how wide a tail is: it is taken as wide as they allow, with the confidence asked.

Source:
    S. Coles, *An Introduction to Statistical Modeling of Extreme Values*, Springer, 2001, chapter 4.
    J. R. M. Hosking, J. R. Wallis, *Parameter and quantile estimation for the generalized Pareto distribution*,
    Technometrics 29 (1987) 339-349 (probability-weighted moments).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.stats import chi2

from models.export.parity import clear_of
from models.records import BoolArray, FloatArray

Method = Literal["counted", "exponential", "generalised_pareto", "largest"]

HOURS_PER_DAY: Final = 24.0
# Alarms that the budget must allow among the healthy windows before they are counted rather than extrapolated.
LEAST_COUNTED: Final = 5.0
LEAST_EXCESSES: Final = 20
TAIL_SHARE: Final = 0.1
# How unlikely the largest score must be under an exponential tail before a heavier one is fitted.
UNLIKELY: Final = 0.01
MOST_SHAPE: Final = 0.5
# Healthy windows beyond a limit, as a share, above which it is none.
MOST_PASSING: Final = 0.2
_BEYOND: Final = 1e-3
_FOUND: Final[dict[Method, str]] = {
    "exponential": "follows from an exponential tail",
    "generalised_pareto": "follows from a generalised Pareto tail",
    "largest": "lies well beyond the largest score",
}


@dataclass(frozen=True, kw_only=True)
class AlarmLimits:
    """Scores from which a window is in zone warning and in zone alarm, and how they were found.

    Attributes:
        warning: Of the budget.
        alarm: Above it.
        method: How the warning was found.
        allowed: False alarms that the budget allows among the healthy windows.
    """

    warning: float
    alarm: float
    method: Method
    allowed: float

    @property
    def doubt(self) -> str:
        """What is to be known of the budget, a sentence without its full stop; empty where alarms were counted."""
        if self.method == "counted":
            return ""
        return (
            f"The budget allows {self.allowed:.2g} false alarms in the healthy time that was learnt from, too few to "
            f"be counted: the warning limit {_FOUND[self.method]}, and there may be several times as many"
        )


def fit_alarm_limits(
    scores: FloatArray,
    breaks: BoolArray,
    *,
    step_h: float,
    on_delay_windows: int,
    false_alarms_per_asset_day: float,
    tail_confidence: float | None = None,
) -> AlarmLimits:
    """Return the lowest warning limit that stays within the budget on healthy windows, and the alarm limit above it.

    An alarm takes *on_delay_windows* windows in a row; what counts is the least score among them. When the tail is
    told, each window beyond the limit counts as an alarm, which is on the careful side.

    Args:
        scores: Of healthy windows, by asset and time, by models that have not seen them, shape ``(n,)``; n at least 1.
        breaks: Where a new run of adjacent windows starts, shape ``(n,)``.
        step_h: Hours from one window to the next.
        on_delay_windows: Windows in a row above the limit that make one alarm, 1 or more.
        false_alarms_per_asset_day: The budget, above 0.
        tail_confidence: With which a tail that is told is no wider than taken, between 0 and 1; None: it is taken to be
            as wide as it is likeliest to be.
    """
    lasting = _least_of_last(scores, breaks, on_delay_windows)
    allowed = false_alarms_per_asset_day * len(scores) * step_h / HOURS_PER_DAY
    warning, method = (
        _counted(scores, lasting, breaks, allowed)
        if allowed >= LEAST_COUNTED
        # Where no run is as long as an alarm takes, each window counts as one.
        else _extrapolated(known if len(known := lasting[np.isfinite(lasting)]) else scores, allowed, tail_confidence)
    )
    warning = clear_of(warning, scores)
    # A third of the way further out than the warning lies from the ordinary window.
    alarm = warning + (warning - float(np.median(scores))) / 3.0
    alarm = clear_of(max(alarm, warning + _BEYOND), scores)
    return AlarmLimits(warning=warning, alarm=alarm, method=method, allowed=allowed)


def _least_of_last(scores: FloatArray, breaks: BoolArray, windows: int) -> FloatArray:
    """Return the least of each window and those before it in its run, *windows* in all; -inf where there are fewer."""
    place = np.arange(len(scores))
    began = np.maximum.accumulate(np.where(breaks | (place == 0), place, 0))
    padded = np.concatenate([np.full(windows - 1, np.inf), scores])
    least = np.lib.stride_tricks.sliding_window_view(padded, windows).min(axis=1)
    return np.asarray(np.where(place - began >= windows - 1, least, -np.inf), np.float64)


def _counted(scores: FloatArray, lasting: FloatArray, breaks: BoolArray, allowed: float) -> tuple[float, Method]:
    # An alarm begins where the limit is passed and was not passed one window before: those that pass, less the pairs.
    passing = np.sort(lasting)
    pairs = np.sort(np.where(breaks[1:], -np.inf, np.minimum(lasting[1:], lasting[:-1])))
    warning = float(scores.max()) + _BEYOND
    for limit in np.quantile(scores, 1.0 - np.geomspace(1.0 / (len(scores) + 1.0), MOST_PASSING, 400)):
        beyond = len(passing) - int(np.searchsorted(passing, limit))
        alarms = beyond - (len(pairs) - int(np.searchsorted(pairs, limit)))
        # One more alarm than was counted: the next window has the same chance as those that were seen. And where many
        # scores are the same, an alarm that never ends is no single one.
        if 1 + alarms > allowed or beyond > MOST_PASSING * len(scores):
            break
        warning = float(limit)
    return warning, "counted"


def _extrapolated(lasting: FloatArray, allowed: float, confidence: float | None) -> tuple[float, Method]:
    largest = float(lasting.max())
    threshold = float(np.quantile(lasting, 1.0 - TAIL_SHARE))
    excesses = lasting[lasting > threshold] - threshold
    if len(excesses) < LEAST_EXCESSES or excesses.mean() <= 0.0:
        return largest + max(largest - float(np.median(lasting)), 0.05 * abs(largest), 1e-3), "largest"
    rarer = len(excesses) / max(allowed, 1e-12)
    scale = float(excesses.mean())
    wider = 1.0 if confidence is None else _widening(lasting > threshold, confidence)
    if excesses.max() <= scale * np.log(len(excesses) / UNLIKELY):
        return max(threshold + wider * scale * float(np.log(max(rarer, 1.0))), largest), "exponential"
    shape, scale = _pareto(excesses)
    beyond = wider * scale * (float(np.expm1(shape * np.log(max(rarer, 1.0)))) / shape)
    return max(threshold + beyond, largest), "generalised_pareto"


def _widening(beyond: BoolArray, confidence: float) -> float:
    """Return by how much an exponential tail may be wider than its mean excess; windows in a row count as one draw."""
    runs = int(np.count_nonzero(np.diff(beyond.astype(np.int8), prepend=0) == 1))
    return float(2 * runs / chi2.ppf(1.0 - confidence, 2 * runs))


def _pareto(excesses: FloatArray) -> tuple[float, float]:
    """Return shape (above 0, where it is fitted at all) and scale by probability-weighted moments."""
    ordered = np.sort(excesses)
    weights = 1.0 - (np.arange(1, len(ordered) + 1) - 0.35) / len(ordered)
    first, second = float(ordered.mean()), float((weights * ordered).mean())
    shape = float(np.clip(2.0 - first / max(first - 2.0 * second, 1e-12), 1e-3, MOST_SHAPE))
    return shape, first * (1.0 - shape)
