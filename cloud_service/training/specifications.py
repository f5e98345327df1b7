"""What is looked at and how it is learnt, by asset class; a class without an entry gets the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cloud_service.training.estimators import BoostingSettings, ForestSettings
from cloud_service.training.labels import Horizons
from models.features.specification import FeatureSpecification, History
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
        forest: The detector.
        classifier: The failure modes' booster.
        life: The life's boosters.
        life_margin_h: Hours by which the life interval may widen whatever life is told.
        false_alarms_per_asset_day: Budget the warning limit is set by.
        minimum_good_share: Below it a window's state is unknown; such windows are not learnt from either.
        on_delay_windows: Windows in a row out of normal before an advisory is raised.
        off_delay_windows: Windows in a row in normal before it returns.
        minimum_confidence: Below it a failure mode is reported as unclassified.
        least_lives: Failures, in training assets, below which no classifier and no life model are made.
        validity_days: A bundle is not installed later than so long after its training.
        seed: Of every draw.
    """

    horizons: Horizons
    baseline_windows: int = 96
    baseline_scope: Literal["asset", "class"] = "asset"
    forest: ForestSettings = field(default_factory=ForestSettings)
    classifier: BoostingSettings = field(default_factory=BoostingSettings)
    life: BoostingSettings = field(default_factory=BoostingSettings)
    life_margin_h: float = 6.0
    false_alarms_per_asset_day: float = 0.003
    minimum_good_share: float = 0.6
    on_delay_windows: int = 3
    off_delay_windows: int = 6
    minimum_confidence: float = 0.5
    least_lives: int = 3
    validity_days: float = 365.0
    seed: int = 1


def specification_for(asset_class: str, channels: Sequence[Channel]) -> FeatureSpecification:
    """Return the windows and channels that the models of *asset_class* look at."""
    window_s, step_s, late_s, context_windows = _WINDOWS.get(asset_class, _WINDOWS[""])
    return FeatureSpecification(
        asset_class=asset_class,
        channels=tuple(channels),
        window_s=window_s,
        step_s=step_s,
        late_s=late_s,
        history=History(rolling=(context_windows,)),
    )


def settings_for(asset_class: str) -> TrainingSettings:
    """Return how the models of *asset_class* are learnt."""
    return _SETTINGS.get(asset_class, _SETTINGS[""])


# window_s, step_s, late_s, context_windows
_WINDOWS = {
    "": (2 * _HOUR_S, _HOUR_S, _HOUR_S, 24),
    # One flight cycle is told as one hour.
    "turbofan": (5 * _HOUR_S, _HOUR_S, _HOUR_S, 60),
    # The test bed answers about once a second.
    "pump_rig": (60.0, 10.0, 10.0, 12),
}

_SETTINGS = {
    "": TrainingSettings(horizons=Horizons(fault_h=60.0, clear_h=120.0, life_cap_h=96.0)),
    "turbofan": TrainingSettings(
        horizons=Horizons(fault_h=60.0, clear_h=125.0, life_cap_h=125.0),
        baseline_windows=15,
        baseline_scope="class",
        life=BoostingSettings(rounds=100, leaves=16, rate=0.06, rows_per_leaf=40, inputs_share=0.3),
        false_alarms_per_asset_day=0.02,
    ),
    "pump_rig": TrainingSettings(
        horizons=Horizons(fault_h=0.01, clear_h=0.02, life_cap_h=1.0),
        baseline_windows=34,
        false_alarms_per_asset_day=144.0,  # an experiment lasts twenty minutes; two alarms in it are little
        off_delay_windows=6,
    ),
}
