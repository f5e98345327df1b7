"""The hash by which a gateway knows that it computes the features a bundle was trained on."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from models.features.baseline import Baseline
from models.features.extraction import extract
from models.features.history import Histories
from models.features.inputs import inputs_of, sequences_of
from models.features.names import feature_names, input_names, mean_columns, revisions, sequence_names
from models.features.specification import FeatureSpecification, canonical, is_waveform
from models.features.windows import ChannelRows, Windows
from models.records import Channel, Float32Array, FloatArray

HISTORY_REVISION = 3
_ROWS = 24
_WAVEFORMS = 4
_SAMPLES = 4096
_LIFE = 18


def feature_hash(spec: FeatureSpecification) -> str:
    """Return the SHA-256, in hexadecimal, of what this code computes for *spec*.

    It covers the specification, the names of features, inputs and sequences, the revisions, the features of a reference
    window, and the inputs and sequences of two made-up lives, to six digits: two processors agree on those, two
    versions of a formula do not.
    """
    told = msgspec.json.encode(
        {
            "specification": canonical(spec),
            "features": feature_names(spec),
            "inputs": input_names(spec),
            "sequences": sequence_names(spec),
            "revisions": revisions(spec),
            "history_revision": HISTORY_REVISION,
            "reference": _digits(extract(spec, reference_window(spec))),
            "lives": _digits(*_lives(spec)),
        },
        order="sorted",
    )
    return hashlib.sha256(told).hexdigest()


def reference_window(spec: FeatureSpecification) -> Windows:
    """Return a made-up window of *spec* that no chance is part of."""
    start_ns = 1000 * spec.step_ns
    return Windows(
        asset_ids=("reference",),
        asset=np.zeros(1, np.int64),
        start_ns=np.full(1, start_ns),
        end_ns=np.full(1, start_ns + spec.window_ns),
        good_share=np.ones(1),
        channels=tuple(_rows(spec, channel, number) for number, channel in enumerate(spec.channels)),
    )


def _rows(spec: FeatureSpecification, channel: Channel, number: int) -> ChannelRows:
    wave = is_waveform(channel)
    count = _WAVEFORMS if wave else _ROWS
    return ChannelRows(
        time=1000 * spec.step_ns + np.arange(count, dtype=np.int64) * (spec.window_ns // count),
        value=np.full(count, np.nan) if wave else _values(channel, number),
        good=np.arange(count) % 5 != 3,
        sample_count=np.full(count, _SAMPLES if wave else 0, np.int64),
        samples=_samples(number) if wave else np.empty(0, np.float32),
        first=np.zeros(1, np.int64),
        last=np.full(1, count, np.int64),
    )


def _values(channel: Channel, number: int) -> FloatArray:
    wave = np.sin(0.37 * np.arange(_ROWS) * (number + 1)) + 0.01 * np.arange(_ROWS)
    return np.asarray((channel.low + channel.high) / 2.0 + (channel.high - channel.low) / 8.0 * wave, np.float64)


def _samples(number: int) -> Float32Array:
    """Return samples with lines, impacts and a hash for noise, rounded so that every machine has the same."""
    sample = np.arange(_SAMPLES)
    row = np.arange(_WAVEFORMS)[:, None]
    wave = (
        np.sin(0.05 * (number + 1) * sample + row)
        + 2.0 * np.exp(-0.2 * (sample % 40)) * np.sin(2.1 * sample)
        + (sample * (7919 + 2 * row) % 1009) / 1009.0
    )
    samples: Float32Array = np.round(wave, 6).astype(np.float32).ravel()
    return samples


def _lives(spec: FeatureSpecification) -> list[FloatArray]:
    """Return inputs and sequences of two lives of one asset, with holes, wild values, a stop, events and regimes.

    Features are whole numbers and eighths, so that every processor adds them alike.
    """
    width = len(feature_names(spec))
    row, column = np.arange(_LIFE)[:, None], np.arange(width)[None]
    features = ((row * 5 + column * 3 + row * column) % 16) / 8.0 + column % 7
    features[5, ::3] = np.nan
    features[12, 1::5] = 1e9  # beyond what counts in sums, and where deviations end
    means = mean_columns(spec)
    centres = spec.regimes.centres or ((),)
    for number in range(_LIFE):
        for name, setting in zip(spec.regimes.channels, centres[number % len(centres)], strict=False):
            features[number, means[name]] = setting
    for kind, name in enumerate(spec.history.events):
        features[:, means[name]] = (np.arange(_LIFE) % 4 == kind % 4).astype(np.float64)
    features[2:4] = np.nan  # silent
    features[7:10] = np.nan  # a stop
    flat = tuple(tuple(float(value % 5) for value in range(width)) for _ in range(spec.regimes.count))
    scale = tuple(tuple(1.0 + (value + number) % 3 for value in range(width)) for number in range(spec.regimes.count))
    baseline = Baseline(centre={}, class_centre=flat, class_scale=scale)
    histories = Histories(spec)
    end_ns = spec.window_ns + np.arange(_LIFE, dtype=np.int64) * spec.step_ns
    histories.begin_life("reference", int(end_ns[_LIFE - 4]) - spec.window_ns)
    past = histories.push(["reference"] * _LIFE, end_ns, features)
    sequences = sequences_of(spec, baseline, past)
    made = [inputs_of(spec, baseline, past).astype(np.float64)]
    # What is further back is before the lives.
    return made if sequences is None else [*made, sequences[:, :, -_LIFE:].astype(np.float64)]


def _digits(*numbers: FloatArray) -> list[str]:
    return [f"{value:.5e}" for block in numbers for value in block.ravel().tolist()]
