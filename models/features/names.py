"""Names and units of the features that a specification asks for, and which channel each is of."""

from __future__ import annotations

from models.features.plain import PLAIN_FEATURES
from models.features.specification import FeatureSpecification, is_waveform
from models.features.vibration import WAVEFORM_FEATURES
from models.records import Channel


def feature_names(spec: FeatureSpecification) -> tuple[str, ...]:
    """Return the names of the features, ``channel.feature``, in the order of the columns of `extract`."""
    return tuple(f"{channel.name}.{name}" for channel in spec.channels for name, _ in _of(channel))


def feature_channels(spec: FeatureSpecification) -> tuple[int, ...]:
    """Return for each feature the index of its channel in ``spec.channels``."""
    return tuple(number for number, channel in enumerate(spec.channels) for _ in _of(channel))


def feature_units(spec: FeatureSpecification) -> tuple[str, ...]:
    """Return the unit of each feature, ``"1"`` for a number without one."""
    return tuple(unit for channel in spec.channels for _, unit in _of(channel))


def input_names(spec: FeatureSpecification) -> tuple[str, ...]:
    """Return the names of the models' inputs: each feature's deviation, its mean over the context, and its trend."""
    names = feature_names(spec)
    return (*names, *(f"{name}:mean" for name in names), *(f"{name}:trend" for name in names))


def revisions() -> dict[str, int]:
    """Return the revision of every feature function by kind and name."""
    plain = {f"plain.{feature.name}": feature.revision for feature in PLAIN_FEATURES}
    return plain | {f"waveform.{feature.name}": feature.revision for feature in WAVEFORM_FEATURES}


def _of(channel: Channel) -> list[tuple[str, str]]:
    """Return name and unit of each feature of *channel*."""
    if is_waveform(channel):
        return [(feature.name, channel.unit if feature.has_unit else "1") for feature in WAVEFORM_FEATURES]
    return [(feature.name, channel.unit + feature.unit) for feature in PLAIN_FEATURES]
