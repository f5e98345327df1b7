"""The hash by which a gateway knows that it computes the features a bundle was trained on."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from models.features.extraction import extract
from models.features.names import feature_names, input_names, revisions
from models.features.specification import FeatureSpecification, is_waveform
from models.features.windows import Window
from models.records import Channel, Float32Array, FloatArray

CONTEXT_REVISION = 2
_ROWS = 24
_SAMPLES = 256


def feature_hash(spec: FeatureSpecification) -> str:
    """Return the SHA-256, in hexadecimal, of what this code computes for *spec*.

    It covers the specification, the names of features and inputs, the revisions, and the features of a reference
    window to six digits: two processors agree on those, two versions of a formula do not.
    """
    told = msgspec.json.encode(
        {
            "specification": _canonical(spec),
            "features": feature_names(spec),
            "inputs": input_names(spec),
            "revisions": revisions(),
            "context_revision": CONTEXT_REVISION,
            "reference": [f"{value:.5e}" for value in extract(spec, [reference_window(spec)])[0].tolist()],
        },
        order="sorted",
    )
    return hashlib.sha256(told).hexdigest()


def _canonical(spec: FeatureSpecification) -> object:
    """Return *spec* such that equal ones are told alike: 0, 0.0 and -0.0 are one number."""
    typed = msgspec.json.decode(msgspec.json.encode(spec), type=FeatureSpecification)
    return _unsigned_zero(msgspec.to_builtins(typed))


def _unsigned_zero(told: object) -> object:
    if isinstance(told, dict):
        return {name: _unsigned_zero(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [_unsigned_zero(value) for value in told]
    return told + 0.0 if isinstance(told, float) else told


def reference_window(spec: FeatureSpecification) -> Window:
    """Return a made-up window of *spec* that no chance is part of."""
    waveform = [is_waveform(channel) for channel in spec.channels]
    start_ns = 1000 * spec.step_ns
    times = start_ns + np.arange(_ROWS, dtype=np.int64) * (spec.window_ns // _ROWS)
    return Window(
        asset_id="reference",
        start_ns=start_ns,
        end_ns=start_ns + spec.window_ns,
        times=tuple(times for _ in waveform),
        values=tuple(_values(channel, number) for number, channel in enumerate(spec.channels)),
        good=tuple(np.arange(_ROWS) % 5 != 3 for _ in waveform),
        waveforms=tuple(_waveforms(number) if wave else () for number, wave in enumerate(waveform)),
        good_share=1.0,
    )


def _values(channel: Channel, number: int) -> FloatArray:
    wave = np.sin(0.37 * np.arange(_ROWS) * (number + 1)) + 0.01 * np.arange(_ROWS)
    return np.asarray((channel.low + channel.high) / 2.0 + (channel.high - channel.low) / 8.0 * wave, np.float64)


def _waveforms(number: int) -> tuple[Float32Array, ...]:
    """Return samples with lines, impacts and a hash for noise, rounded so that every machine has the same."""
    sample = np.arange(_SAMPLES)
    return tuple(
        np.round(
            np.sin(0.05 * (number + 1) * sample + row)
            + 2.0 * np.exp(-0.2 * (sample % 40)) * np.sin(2.1 * sample)
            + (sample * (7919 + 2 * row) % 1009) / 1009.0,
            6,
        ).astype(np.float32)
        for row in range(_ROWS)
    )
