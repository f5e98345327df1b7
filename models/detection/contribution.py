"""Which channels a deviation is made of."""

from __future__ import annotations

import numpy as np

from models.bundle.loaded import LoadedBundle
from models.features.baseline import ordinary
from models.features.names import feature_channels, feature_names, feature_units
from models.records import ChannelShare, Float32Array, FloatArray

BAND_STRAYS = 3.0


def top_channels(
    bundle: LoadedBundle, asset_id: str, features_row: FloatArray, deviations_row: Float32Array, k: int = 3
) -> tuple[ChannelShare, ...]:
    """Return up to *k* channels that deviate most, the largest first.

    A feature counts in multiples of what it strays in good health: what wanders anyway is not named for wandering. A
    channel counts with the square of its most deviating feature, so that a waveform with a dozen features does not
    outweigh a thermometer with five; the shares of all channels add up to 1. The normal band is that feature's centre
    ± 3 times what it strays. Channels without a good value have no share.

    Args:
        bundle: Whose baseline the deviations are from.
        asset_id: Whose window it is.
        features_row: Shape ``(f,)``.
        deviations_row: Shape ``(f,)``.
        k: How many.
    """
    spec = bundle.specification
    names, units = feature_names(spec), feature_units(spec)
    channels = np.array(feature_channels(spec))
    centre, scale = (numbers[0] for numbers in ordinary(spec, features_row[None], [asset_id], bundle.baseline))
    stray = np.array(bundle.detection.stray or [1.0] * len(names))
    squares = np.where(np.isfinite(deviations_row), (np.asarray(deviations_row, np.float64) / stray) ** 2, -1.0)
    band = BAND_STRAYS * stray * scale
    leading = [
        int(np.flatnonzero(channels == number)[squares[channels == number].argmax()]) for number in set(channels)
    ]
    leading = sorted((feature for feature in leading if squares[feature] > 0.0), key=lambda feature: -squares[feature])
    total = sum(squares[feature] for feature in leading)
    return tuple(
        ChannelShare(
            channel=spec.channels[channels[feature]].name,
            share=float(squares[feature] / total),
            feature=names[feature].removeprefix(f"{spec.channels[channels[feature]].name}."),
            now=float(features_row[feature]),
            normal_low=float(centre[feature] - band[feature]),
            normal_high=float(centre[feature] + band[feature]),
            unit=units[feature],
        )
        for feature in leading[:k]
    )
