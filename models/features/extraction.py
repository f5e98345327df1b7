"""Features of windows. Only good values count; where a channel has none, its features are NaN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.features.buffer import ranges
from models.features.names import GOOD_SHARE, feature_names
from models.features.plain import NS_PER_HOUR, PLAIN_FEATURES, Segments
from models.features.residuals import with_physics
from models.features.specification import SPEED_CHANNEL, FeatureSpecification, is_waveform
from models.features.vibration import (
    SHORTEST_WAVEFORM,
    VELOCITY,
    VELOCITY_ZONE,
    Waveforms,
    velocity_zone,
    waveform_features,
)
from models.features.windows import ChannelRows, Windows
from models.records import FloatArray, Int64Array

# Values and samples that are looked at together: what many windows need more memory than this for comes in parts.
_VALUES_AT_ONCE = 4_000_000
_SAMPLES_AT_ONCE = 1 << 20


def extract(spec: FeatureSpecification, windows: Windows) -> FloatArray:
    """Return the features of *windows*, shape ``(n_windows, n_features)``, columns as `feature_names`.

    A feature is NaN where its channel has no good value, and where numbers are too large to compute with. It depends
    on its own window alone: in which company a window is computed does not change a bit of it.
    """
    features = np.full((len(windows), len(feature_names(spec))), np.nan)
    if not len(windows):
        return features
    places = {name: place for place, name in enumerate(feature_names(spec))}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        rotation_hz = np.full(len(windows), np.nan)
        for part in _parts(windows.counts.sum(axis=1), _VALUES_AT_ONCE):
            rotation_hz[part] = _plain_features(spec, windows, part, features[part], places)
        for number, channel in enumerate(spec.channels):
            if is_waveform(channel):
                _waveform_features(spec, number, windows.channels[number], rotation_hz, features, places)
    if spec.quality:
        _good_shares(spec, windows, features, places)
    features[~np.isfinite(features)] = np.nan
    return with_physics(spec, features)


def _parts(sizes: Int64Array, most: int) -> list[slice]:
    """Return *sizes* cut into runs that add up to about *most* each."""
    number = np.cumsum(sizes) // most
    firsts = np.flatnonzero(np.diff(number, prepend=-1))
    return [slice(first, last) for first, last in zip(firsts, [*firsts[1:], len(sizes)], strict=True)]


def _plain_features(
    spec: FeatureSpecification, windows: Windows, part: slice, out: FloatArray, places: dict[str, int]
) -> FloatArray:
    """Fill *out* with the features of plain channels; return the rotational frequency, NaN without a good speed.

    All channels are computed at once, one behind the other.
    """
    numbers = [number for number, channel in enumerate(spec.channels) if not is_waveform(channel)]
    start_ns = windows.start_ns[part]
    rotation_hz = np.full(len(start_ns), np.nan)
    if not numbers:
        return rotation_hz
    gathered = [_good_values(windows.channels[number], part, start_ns) for number in numbers]
    counts = np.stack([one.counts for one in gathered])
    filled = counts > 0
    segments = Segments(
        hours=np.concatenate([one.hours for one in gathered]),
        values=np.concatenate([one.values for one in gathered]),
        counts=counts[filled],
    )
    if not segments.counts.size:
        return rotation_hz
    answer = np.full(counts.shape, np.nan)
    by_name = {feature.name: feature for feature in PLAIN_FEATURES}
    for name in spec.statistics:
        answer[filled] = by_name[name].compute(segments)
        out[:, [places[f"{spec.channels[number].name}.{name}"] for number in numbers]] = answer.T
    for place, number in enumerate(numbers):
        if spec.channels[number].name == SPEED_CHANNEL:
            answer[filled] = by_name["mean"].compute(segments)
            rotation_hz = answer[place] / 60.0
    return rotation_hz


@dataclass(frozen=True, kw_only=True)
class _GoodValues:
    hours: FloatArray
    values: FloatArray
    counts: Int64Array


def _good_values(rows: ChannelRows, part: slice, start_ns: Int64Array) -> _GoodValues:
    """Return the good values of one plain channel in the windows of *part*, window by window."""
    before = np.concatenate([[0], np.cumsum(rows.good, dtype=np.int64)])
    first = before[rows.first[part]]
    counts = before[rows.last[part]] - first
    chosen = np.flatnonzero(rows.good)[ranges(first, counts)]
    return _GoodValues(
        hours=(rows.time[chosen] - np.repeat(start_ns, counts)) / NS_PER_HOUR,
        values=rows.value[chosen],
        counts=counts,
    )


def _waveform_features(
    spec: FeatureSpecification,
    number: int,
    rows: ChannelRows,
    rotation_hz: FloatArray,
    out: FloatArray,
    places: dict[str, int],
) -> None:
    """Fill *out* with means, over each window's good waveforms, of the features of one channel."""
    channel = spec.channels[number]
    row = ranges(rows.first, rows.counts)
    window = np.repeat(np.arange(len(rows.first)), rows.counts)
    usable = rows.good[row] & (rows.sample_count[row] >= SHORTEST_WAVEFORM)
    row, window = row[usable], window[usable]
    features = [feature for feature in waveform_features(spec, channel) if feature.name != VELOCITY_ZONE]
    sums, counts = np.zeros((len(out), len(features))), np.zeros((len(out), len(features)))
    offsets = np.cumsum(rows.sample_count) - rows.sample_count
    lengths = rows.sample_count[row]
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        for part in _parts(np.full(len(alike), length, np.int64), _SAMPLES_AT_ONCE):
            pairs = alike[part]
            samples = rows.samples[offsets[row[pairs]][:, None] + np.arange(length)].astype(np.float64)
            waveforms = Waveforms(samples, channel.sample_rate_hz, rotation_hz[window[pairs]])
            values = np.stack([feature.compute(waveforms) for feature in features], axis=1)
            present = np.isfinite(values)
            np.add.at(sums, window[pairs], np.where(present, values, 0.0))
            np.add.at(counts, window[pairs], present)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    for place, feature in enumerate(features):
        out[:, places[f"{channel.name}.{feature.name}"]] = means[:, place]
        if feature.name == VELOCITY and spec.velocity_zones is not None:
            out[:, places[f"{channel.name}.{VELOCITY_ZONE}"]] = velocity_zone(spec.velocity_zones, means[:, place])


def _good_shares(spec: FeatureSpecification, windows: Windows, out: FloatArray, places: dict[str, int]) -> None:
    """Fill in what share of each channel is good: of what came, or of what a whole window has if that is more.

    NaN for a channel of which nothing is expected and nothing came.
    """
    counts, good = windows.counts, windows.good_counts
    wanted = np.maximum(counts, np.array(spec.expected_counts or (1.0,) * len(spec.channels)))
    shares = np.divide(good, wanted, out=np.full(counts.shape, np.nan), where=wanted > 0)
    own: NDArray[np.intp] = np.array([places[f"{channel.name}.{GOOD_SHARE}"] for channel in spec.channels])
    out[:, own] = shares
