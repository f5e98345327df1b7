"""Physical quantities that two channels make together, as far as their units say so, and where they have limits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, Final

import lightgbm as lgb
import numpy as np

from cloud_service.training.tree_forms import FINE, tree_parameters
from models.features.baseline import Baseline
from models.features.specification import Derived
from models.records import BoolArray, Channel, FloatArray

MOST_CHANNELS: Final = 8
_RPM_TO_RAD_S: Final = 2.0 * math.pi / 60.0
_ROTATION: Final = frozenset({"rpm", "1/min", "r/min"})
_TORQUE: Final = frozenset({"Nm", "N·m", "N m"})
_FIRST_ROUNDS: Final = 20
_LONGEST_NAME: Final = 90


def quantities_of(channels: Sequence[Channel]) -> tuple[Derived, ...]:
    """Return what pairs of measured *channels* make: differences of one unit, else products; power of torque and speed.

    None where there are more than eight channels: pairs would outnumber what a data set can tell apart.

    Args:
        channels: Measured ones; codes of a category are no quantity.
    """
    if len(channels) > MOST_CHANNELS:
        return ()
    pairs = list(combinations(channels, 2))
    names = [re.sub(r"[^A-Za-z0-9_.-]+", "_", _name(*pair))[:_LONGEST_NAME] for pair in pairs]
    if len({*names, *(channel.name for channel in channels)}) != len(names) + len(channels):
        names = [f"quantity_{number}" for number in range(len(names))]
    return tuple(_quantity(name, *pair) for name, pair in zip(names, pairs, strict=True))


def _name(first: Channel, second: Channel) -> str:
    return f"{second.name}_less_{first.name}" if first.unit == second.unit else f"{first.name}_x_{second.name}"


def _quantity(name: str, first: Channel, second: Channel) -> Derived:
    if first.unit == second.unit:
        return Derived(name=name, unit=first.unit, kind="difference", first=second.name, second=first.name)
    units = {first.unit, second.unit}
    power = bool(units & _ROTATION) and bool(units & _TORQUE)
    return Derived(
        name=name,
        unit="W" if power else f"{first.unit}·{second.unit}",
        kind="product",
        first=first.name,
        second=second.name,
        factor=_RPM_TO_RAD_S if power else 1.0,
    )


def centred_at_limits(baseline: Baseline, features: FloatArray, hits: BoolArray, seed: int) -> Baseline:
    """Return *baseline* with each feature's centre where it parts failed rows from the others best.

    Models are given deviations in single precision, which is finest at 0. With 0 at the limit of a quantity, what lies
    on either side of it stays apart however close it is, as in the double precision that limits are applied in. A
    feature that parts nothing keeps its centre.

    Args:
        baseline: Of one regime, with a centre for the class alone.
        features: Of the rows that are learnt from, raw, shape ``(n, f)``.
        hits: Which mode each of them shows, shape ``(n, modes)``.
        seed: Of the first fit.
    """
    centre, gained = np.array(baseline.class_centre[0]), np.zeros(features.shape[1])
    for mode in range(hits.shape[1]):
        if not hits[:, mode].any():
            continue
        parameters = tree_parameters(FINE, seed)
        data = lgb.Dataset(features, hits[:, mode].astype(np.float64), params=parameters)
        for feature, limit, gain in _splits(lgb.train(parameters, data, _FIRST_ROUNDS)):
            if gain > gained[feature]:
                centre[feature], gained[feature] = limit, gain
    return replace(baseline, class_centre=(tuple(centre.tolist()),))


def _splits(booster: lgb.Booster) -> list[tuple[int, float, float]]:
    """Return each split as feature, limit, and its share in the gain of all."""
    found: list[tuple[int, float, float]] = []
    waiting: list[dict[str, Any]] = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    while waiting:
        node = waiting.pop()
        if "split_feature" in node:
            found.append((int(node["split_feature"]), float(node["threshold"]), float(node["split_gain"])))
            waiting += [node["left_child"], node["right_child"]]
    whole = sum(gain for _, _, gain in found)
    return [(feature, limit, gain / whole) for feature, limit, gain in found]
