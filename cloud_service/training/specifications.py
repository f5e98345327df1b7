"""What is looked at and how it is learnt, by asset class; a class without an entry gets the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cloud_service.training.compression import CompressionLimits
from cloud_service.training.detection import DetectionSettings
from cloud_service.training.failure import FailureSettings
from cloud_service.training.labels import Horizons
from cloud_service.training.prognosis import PrognosisSettings, history_for
from models.features.specification import FeatureSpecification, History, PlainStatistic, Regimes
from models.records import Channel

_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the models of one asset class are learnt and when the gateway acts on them.

    Attributes:
        horizons: How long before a failure what is known.
        baseline_windows: First windows of an asset in good health that say what is normal for it.
        baseline_scope: Whether an asset is compared with itself or with the class: the latter where assets come that
            no training has met.
        records_from_start: Whether an asset's record begins with its life. After a failure it always does.
        detection: The detector, its budget of false alarms, and how many windows in a row make an alarm.
        failure: The failure modes' classifier; its horizon is ``horizons.fault_h``.
        prognosis: The life models; their cap is ``horizons.life_cap_h``.
        kernels: Random kernels for the sequence models, where the specification has sequences; 0: none. With them the
            life models get heads, and so does the detector where ``sequence`` is among its members.
        accuracy: Of instruments, as a share of their reading: a smaller difference is no evidence. A common transmitter
            is of class 0.5.
        compression: What a smaller form of a model may cost on assets that nothing was learnt from.
        minimum_good_share: Below it a window's state is unknown; such windows are not learnt from either.
        off_delay_windows: Windows in a row in normal before an advisory returns.
        minimum_confidence: Below it a failure mode is reported as unclassified.
        least_lives: Failures, in training assets, below which no classifier and no life model are made.
        validity_days: A bundle is not installed later than so long after its training.
        seed: Of every draw.
    """

    horizons: Horizons
    baseline_windows: int = 96
    baseline_scope: Literal["asset", "class"] = "asset"
    records_from_start: bool = False
    detection: DetectionSettings = field(default_factory=lambda: DetectionSettings(on_delay_windows=3))
    failure: FailureSettings = field(default_factory=FailureSettings)
    prognosis: PrognosisSettings = field(default_factory=PrognosisSettings)
    kernels: int = 500
    accuracy: float = 0.005
    compression: CompressionLimits = field(default_factory=CompressionLimits)
    minimum_good_share: float = 0.6
    off_delay_windows: int = 6
    minimum_confidence: float = 0.5
    least_lives: int = 3
    validity_days: float = 365.0
    seed: int = 1


def specification_for(asset_class: str, channels: Sequence[Channel]) -> FeatureSpecification:
    """Return the windows and channels that the models of *asset_class* look at, and how far back."""
    looks = _LOOKS.get(asset_class, _LOOKS[""])
    names = {channel.name for channel in channels}
    return FeatureSpecification(
        asset_class=asset_class,
        channels=tuple(channels),
        window_s=looks.window_s,
        step_s=looks.step_s,
        late_s=looks.late_s,
        statistics=looks.statistics,
        regimes=Regimes(channels=tuple(name for name in looks.settings if name in names)),
        history=looks.history,
    )


def settings_for(asset_class: str) -> TrainingSettings:
    """Return how the models of *asset_class* are learnt."""
    return _SETTINGS.get(asset_class, _SETTINGS[""])


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Windows, what is computed of plain channels, channels of operating settings, and how far back."""

    window_s: float
    step_s: float
    late_s: float
    history: History
    statistics: tuple[PlainStatistic, ...] = ("mean", "std", "min", "max", "slope_per_h")
    settings: tuple[str, ...] = ()


_LOOKS = {
    "": _Look(
        window_s=2 * _HOUR_S, step_s=_HOUR_S, late_s=_HOUR_S, history=History(rolling=(24,), sequence_windows=24)
    ),
    # One flight cycle is told as one hour, and has one value of each channel.
    "turbofan": _Look(
        window_s=_HOUR_S,
        step_s=_HOUR_S,
        late_s=_HOUR_S,
        statistics=("mean",),
        settings=("setting_1", "setting_2", "setting_3"),
        history=history_for(200.0),
    ),
    # The test bed answers about once a second.
    "pump_rig": _Look(window_s=60.0, step_s=10.0, late_s=10.0, history=History(rolling=(12,))),
}

_TURBOFAN_CAP_H = 125.0
_SETTINGS = {
    "": TrainingSettings(
        horizons=Horizons(fault_h=60.0, clear_h=120.0, life_cap_h=96.0),
        failure=FailureSettings(horizon_h=60.0),
        prognosis=PrognosisSettings(cap_h=96.0, rounds=(50, 100)),
    ),
    "turbofan": TrainingSettings(
        horizons=Horizons(fault_h=60.0, clear_h=_TURBOFAN_CAP_H, life_cap_h=_TURBOFAN_CAP_H),
        baseline_windows=15,
        baseline_scope="class",
        records_from_start=True,
        detection=DetectionSettings(on_delay_windows=3, false_alarms_per_asset_day=0.02),
        failure=FailureSettings(horizon_h=60.0),
        prognosis=PrognosisSettings(cap_h=_TURBOFAN_CAP_H),
    ),
    "pump_rig": TrainingSettings(
        horizons=Horizons(fault_h=0.01, clear_h=0.02, life_cap_h=1.0),
        baseline_windows=34,
        # An experiment lasts twenty minutes; two alarms in it are little, and nobody is called out by a third.
        detection=DetectionSettings(on_delay_windows=3, false_alarms_per_asset_day=144.0, tail_confidence=None),
    ),
}
