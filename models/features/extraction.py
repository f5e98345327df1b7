"""Features of windows. Only good values count; where a channel has none, its features are NaN."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from models.features.names import feature_names
from models.features.plain import NS_PER_HOUR, PLAIN_FEATURES, Segments
from models.features.specification import SPEED_CHANNEL, FeatureSpecification, is_waveform
from models.features.vibration import SHORTEST_WAVEFORM, WAVEFORM_FEATURES, Waveforms
from models.features.windows import Window
from models.records import Float32Array, FloatArray


def extract(spec: FeatureSpecification, windows: Sequence[Window]) -> FloatArray:
    """Return the features of *windows*, shape ``(n_windows, n_features)``, columns as `feature_names`.

    A feature is NaN where its channel has no good value, and where numbers are too large to compute with.
    """
    features = np.full((len(windows), len(feature_names(spec))), np.nan)
    if not windows:
        return features
    rotation_hz = _rotation_hz(spec, windows)
    column = 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for number, channel in enumerate(spec.channels):
            if is_waveform(channel):
                width = len(WAVEFORM_FEATURES)
                _waveform_features(
                    features[:, column : column + width], windows, number, channel.sample_rate_hz, rotation_hz
                )
            else:
                width = len(PLAIN_FEATURES)
                _plain_features(features[:, column : column + width], windows, number)
            column += width
    features[~np.isfinite(features)] = np.nan
    return features


def _plain_features(out: FloatArray, windows: Sequence[Window], channel: int) -> None:
    """Fill *out*, shape ``(n_windows, len(PLAIN_FEATURES))``, with the features of one plain channel."""
    segments, filled = _segments(windows, channel)
    if filled.size:
        for place, feature in enumerate(PLAIN_FEATURES):
            out[filled, place] = feature.compute(segments)


def _segments(windows: Sequence[Window], channel: int) -> tuple[Segments, np.typing.NDArray[np.intp]]:
    """Return the good values of one plain channel, and the windows that have any."""
    good = np.concatenate([window.good[channel] for window in windows])
    totals = np.array([len(window.good[channel]) for window in windows])
    window_of = np.repeat(np.arange(len(windows)), totals)[good]
    counts = np.bincount(window_of, minlength=len(windows))
    times = np.concatenate([window.times[channel] for window in windows])[good]
    starts = np.array([window.start_ns for window in windows], np.int64)
    filled = np.flatnonzero(counts)
    segments = Segments(
        hours=(times - starts[window_of]) / NS_PER_HOUR,
        values=np.concatenate([window.values[channel] for window in windows])[good],
        counts=counts[filled],
    )
    return segments, filled


def _waveform_features(
    out: FloatArray, windows: Sequence[Window], channel: int, sample_rate_hz: float, rotation_hz: FloatArray
) -> None:
    """Fill *out*, shape ``(n_windows, len(WAVEFORM_FEATURES))``, with means over each window's waveforms."""
    by_length: dict[int, list[tuple[int, Float32Array]]] = defaultdict(list)
    for place, window in enumerate(windows):
        for good, samples in zip(window.good[channel], window.waveforms[channel], strict=True):
            if good and samples.size >= SHORTEST_WAVEFORM:
                by_length[samples.size].append((place, samples))
    sums, counts = np.zeros_like(out), np.zeros_like(out)
    for length in sorted(by_length):
        places = np.array([place for place, _ in by_length[length]])
        stacked: FloatArray = np.stack([one for _, one in by_length[length]]).astype(np.float64)
        waveforms = Waveforms(stacked, sample_rate_hz, rotation_hz[places])
        values = np.stack([feature.compute(waveforms) for feature in WAVEFORM_FEATURES], axis=1)
        present = np.isfinite(values)
        np.add.at(sums, places, np.where(present, values, 0.0))
        np.add.at(counts, places, present)
    out[:] = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _rotation_hz(spec: FeatureSpecification, windows: Sequence[Window]) -> FloatArray:
    """Return the mean rotational frequency in each window, NaN where no good speed is known."""
    rotation_hz = np.full(len(windows), np.nan)
    for number, channel in enumerate(spec.channels):
        if channel.name == SPEED_CHANNEL and not is_waveform(channel):
            segments, filled = _segments(windows, number)
            if filled.size:
                rotation_hz[filled] = segments.sums(segments.values) / segments.counts / 60.0
    return rotation_hz
