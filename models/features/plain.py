"""Features of plain channels: one number a window from the good values of one channel.

All windows of all channels are computed at once: their values stand one after the other, and ``counts`` says how many
each window has. Every window has at least one value here.

Every value counts alike, however far apart they are: a mean is one of values, not of time. Where values come as they
change, ask the server for a sampling interval. Only the slope looks at times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.records import FloatArray, Int64Array

NS_PER_HOUR = 3.6e12


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Values in many windows.

    Attributes:
        hours: Time of each value since its window's start, shape ``(n,)``.
        values: In the channel's unit, shape ``(n,)``.
        counts: Values of each window, 1 or more, shape ``(windows,)``.
    """

    hours: FloatArray
    values: FloatArray
    counts: Int64Array

    @property
    def starts(self) -> Int64Array:
        """Index of each window's first value."""
        return np.cumsum(self.counts) - self.counts

    def sums(self, numbers: FloatArray) -> FloatArray:
        """Return the sum of *numbers*, shape ``(n,)``, in each window."""
        return np.asarray(np.add.reduceat(numbers, self.starts), np.float64)

    def centred(self, numbers: FloatArray) -> FloatArray:
        """Return *numbers*, shape ``(n,)``, less their mean in each window."""
        return numbers - np.repeat(self.sums(numbers) / self.counts, self.counts)


PlainFunction = Callable[[Segments], FloatArray]


@dataclass(frozen=True, kw_only=True)
class PlainFeature:
    """A feature of a plain channel; ``revision`` is raised whenever ``compute`` answers differently.

    ``unit`` is what follows the channel's unit in the feature's.
    """

    name: str
    revision: int
    compute: PlainFunction
    unit: str = ""


def mean(segments: Segments) -> FloatArray:
    """Return the mean of each window."""
    return segments.sums(segments.values) / segments.counts


def std(segments: Segments) -> FloatArray:
    """Return the population standard deviation of each window, NaN for a single value."""
    deviation = np.sqrt(segments.sums(segments.centred(segments.values) ** 2) / segments.counts)
    return np.where(segments.counts > 1, deviation, np.nan)


def minimum(segments: Segments) -> FloatArray:
    """Return the smallest value of each window."""
    return np.asarray(np.minimum.reduceat(segments.values, segments.starts), np.float64)


def maximum(segments: Segments) -> FloatArray:
    """Return the largest value of each window."""
    return np.asarray(np.maximum.reduceat(segments.values, segments.starts), np.float64)


def slope_per_h(segments: Segments) -> FloatArray:
    """Return the least-squares slope of each window per hour, NaN where all values are of one moment."""
    # Not by the spread: equal times less their rounded mean need not be 0.
    moves = np.maximum.reduceat(segments.hours, segments.starts) > np.minimum.reduceat(segments.hours, segments.starts)
    hours = segments.centred(segments.hours)
    spread = segments.sums(hours**2)
    rise = segments.sums(hours * segments.centred(segments.values))
    slope: FloatArray = np.divide(rise, spread, out=np.full(len(spread), np.nan), where=moves)
    return slope


def median(segments: Segments) -> FloatArray:
    """Return the median of each window; of an even number of values the mean of the middle two."""
    window = np.repeat(np.arange(len(segments.counts)), segments.counts)
    ordered = segments.values[np.lexsort((segments.values, window))]
    low = segments.starts + (segments.counts - 1) // 2
    high = segments.starts + segments.counts // 2
    return np.asarray(ordered[low] / 2.0 + ordered[high] / 2.0, np.float64)


def rms(segments: Segments) -> FloatArray:
    """Return the root mean square of each window, the mean not taken off."""
    return np.asarray(np.sqrt(segments.sums(segments.values**2) / segments.counts), np.float64)


def peak_to_peak(segments: Segments) -> FloatArray:
    """Return the largest value less the smallest of each window, 0 for a single value."""
    return maximum(segments) - minimum(segments)


def roughness(segments: Segments) -> FloatArray:
    """Return the mean absolute difference of one value and the next in each window, NaN for a single value.

    A signal that flickers has a high one, a slow swing of the same height a low one; a gap between two values counts
    as one step. It grows with the sampling interval as long as the signal moves within it.
    """
    steps = np.abs(np.diff(segments.values, prepend=0.0))
    steps[segments.starts] = 0.0
    between = segments.counts - 1
    rough: FloatArray = np.divide(segments.sums(steps), between, out=np.full(len(between), np.nan), where=between > 0)
    return rough


def last(segments: Segments) -> FloatArray:
    """Return the newest value of each window."""
    return np.asarray(segments.values[segments.starts + segments.counts - 1], np.float64)


PLAIN_FEATURES = (
    PlainFeature(name="mean", revision=1, compute=mean),
    PlainFeature(name="std", revision=1, compute=std),
    PlainFeature(name="min", revision=1, compute=minimum),
    PlainFeature(name="max", revision=1, compute=maximum),
    PlainFeature(name="slope_per_h", revision=2, compute=slope_per_h, unit="/h"),
    PlainFeature(name="median", revision=1, compute=median),
    PlainFeature(name="rms", revision=1, compute=rms),
    PlainFeature(name="peak_to_peak", revision=1, compute=peak_to_peak),
    PlainFeature(name="roughness", revision=1, compute=roughness),
    PlainFeature(name="last", revision=1, compute=last),
)
