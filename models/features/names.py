"""Names and units of the features that a specification asks for, of the models' inputs, and of sequences' channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from models.features.plain import PLAIN_FEATURES
from models.features.specification import FeatureSpecification, is_waveform
from models.features.vibration import waveform_features
from models.records import Channel

GOOD_SHARE = "good_share"
_SEQUENCE_ENDINGS = (".mean", ".value", ".residual")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One feature: its name, its unit (``"1"``: none), the channel it is of, as an index, and whether in its unit."""

    name: str
    unit: str
    channel: int
    in_channel_unit: bool = False


@lru_cache(maxsize=64)
def columns(spec: FeatureSpecification) -> tuple[Column, ...]:
    """Return the features in the order of the columns of `extract`.

    Channel by channel first, ``channel.feature``, the share of good values last in each; then derived quantities,
    ``name.value``, then residuals, ``name.residual``. Of these the channel is the first, or the target.
    """
    numbers = {channel.name: number for number, channel in enumerate(spec.channels)}
    of_channels = [
        Column(name=f"{channel.name}.{name}", unit=unit, channel=number, in_channel_unit=in_channel_unit)
        for number, channel in enumerate(spec.channels)
        for name, unit, in_channel_unit in _of(spec, channel)
    ]
    derived = [
        Column(name=f"{one.name}.value", unit=one.unit or "1", channel=numbers[one.first]) for one in spec.derived
    ]
    residuals = [
        Column(name=f"{one.name}.residual", unit=spec.channels[numbers[one.target]].unit, channel=numbers[one.target])
        for one in spec.residuals
    ]
    return (*of_channels, *derived, *residuals)


def feature_names(spec: FeatureSpecification) -> tuple[str, ...]:
    """Return the names of the features in the order of the columns of `extract`."""
    return tuple(column.name for column in columns(spec))


def feature_channels(spec: FeatureSpecification) -> tuple[int, ...]:
    """Return for each feature the index of its channel in ``spec.channels``."""
    return tuple(column.channel for column in columns(spec))


def feature_units(spec: FeatureSpecification) -> tuple[str, ...]:
    """Return the unit of each feature, ``"1"`` for a number without one."""
    return tuple(column.unit for column in columns(spec))


@lru_cache(maxsize=64)
def mean_columns(spec: FeatureSpecification) -> dict[str, int]:
    """Return the column of the mean of each plain channel; empty without the statistic."""
    places = {column.name: place for place, column in enumerate(columns(spec))}
    return {
        channel.name: places[f"{channel.name}.mean"]
        for channel in spec.channels
        if not is_waveform(channel) and f"{channel.name}.mean" in places
    }


@lru_cache(maxsize=64)
def quality_columns(spec: FeatureSpecification) -> tuple[int, ...]:
    """Return the columns of the shares of good values; a window in which only they are known tells nothing."""
    names = {f"{channel.name}.{GOOD_SHARE}" for channel in spec.channels} if spec.quality else set()
    return tuple(place for place, column in enumerate(columns(spec)) if column.name in names)


@lru_cache(maxsize=64)
def history_columns(spec: FeatureSpecification) -> tuple[int, ...]:
    """Return the columns whose past the inputs tell: see ``History.of``."""
    endings = spec.history.of or ("",)
    return tuple(place for place, column in enumerate(columns(spec)) if column.name.endswith(endings))


@lru_cache(maxsize=64)
def sequence_columns(spec: FeatureSpecification) -> tuple[int, ...]:
    """Return the columns that sequence models look at: those with a history that are means, derived or residuals."""
    told = columns(spec)
    return tuple(place for place in history_columns(spec) if told[place].name.endswith(_SEQUENCE_ENDINGS))


@lru_cache(maxsize=64)
def input_names(spec: FeatureSpecification) -> tuple[str, ...]:
    """Return the names of the models' inputs, in the order of the columns of ``inputs.inputs_of``.

    Each feature's deviation now; for each rolling length the statistics of those with a history; their means since
    the start, their changes from the first windows; the number of windows; hours since events.
    """
    history = spec.history
    names = feature_names(spec)
    past = [names[place] for place in history_columns(spec)]
    return (
        *names,
        *(
            f"{name}:{statistic}{length}"
            for length in history.rolling
            for statistic in history.statistics
            for name in past
        ),
        *(f"{name}:life_mean" for name in past if history.since_start),
        *(f"{name}:change" for name in past if history.first_windows),
        *(("cycles",) if history.cycles else ()),
        *(f"hours_since:{channel}" for channel in history.events),
    )


@lru_cache(maxsize=64)
def sequence_names(spec: FeatureSpecification) -> tuple[str, ...]:
    """Return the names of the channels of sequences; empty where there are none."""
    if not spec.history.sequence_windows:
        return ()
    names = [feature_names(spec)[place] for place in sequence_columns(spec)]
    return (*names, *(f"{name}:life_mean" for name in names if spec.history.since_start))


def revisions(spec: FeatureSpecification) -> dict[str, int]:
    """Return the revision of every feature function that *spec* may ask for, by kind and name."""
    told = {f"plain.{feature.name}": feature.revision for feature in PLAIN_FEATURES}
    for channel in spec.channels:
        if is_waveform(channel):
            told |= {f"waveform.{feature.name}": feature.revision for feature in waveform_features(spec, channel)}
    return told


def _of(spec: FeatureSpecification, channel: Channel) -> list[tuple[str, str, bool]]:
    """Return name and unit of each feature of *channel*, and whether that is the channel's."""
    if is_waveform(channel):
        features = waveform_features(spec, channel)
        told = [(feature.name, feature.unit or channel.unit, not feature.unit) for feature in features]
    else:
        by_name = {feature.name: feature for feature in PLAIN_FEATURES}
        told = [(name, channel.unit + by_name[name].unit, True) for name in spec.statistics]
    return [*told, (GOOD_SHARE, "1", False)] if spec.quality else told
