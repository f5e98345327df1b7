"""Quantities that pairs of channels make, and limits that single precision would blur."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from cloud_service.training.quantities import centred_at_limits, quantities_of
from models.features.baseline import Baseline, deviations
from models.features.specification import FeatureSpecification
from models.records import Channel

SPEED = Channel(name="spindle speed", unit="rpm", low=0.0, high=3000.0)
TORQUE = Channel(name="torque", unit="Nm", low=0.0, high=100.0)
AIR = Channel(name="air", unit="K", low=290.0, high=310.0)
PROCESS = Channel(name="process", unit="K", low=290.0, high=320.0)


def test_units_say_what_a_pair_makes() -> None:
    """A difference of one unit, power of torque and speed, else a product; names are plain."""
    power, warmer = quantities_of([SPEED, TORQUE])[0], quantities_of([AIR, PROCESS])[0]
    assert (power.name, power.kind, power.unit) == ("spindle_speed_x_torque", "product", "W")
    assert math.isclose(power.factor, 2.0 * math.pi / 60.0)
    assert (warmer.name, warmer.kind, warmer.first, warmer.second) == (
        "process_less_air",
        "difference",
        "process",
        "air",
    )
    assert quantities_of([AIR, TORQUE])[0].unit == "K·Nm"


def test_many_channels_make_none() -> None:
    """Pairs of nine channels would outnumber what rows can tell apart."""
    assert quantities_of([replace(AIR, name=f"t{number}") for number in range(9)]) == ()


def test_names_that_would_be_alike_are_numbered() -> None:
    """What is not plain in a name is cut out of it, and two may then be one."""
    odd = [replace(AIR, name=name) for name in ("a b", "a_b", "c")]
    assert [one.name for one in quantities_of(odd)] == ["quantity_0", "quantity_1", "quantity_2"]


def test_what_lies_close_to_a_limit_stays_apart_in_single_precision() -> None:
    """Control: around the median both sides of the limit are one number."""
    spec = FeatureSpecification(
        asset_class="rows", channels=(AIR,), window_s=1.0, step_s=1.0, late_s=1.0, statistics=("mean",)
    )
    near = np.array([300.0, 300.0 + 1e-9])
    rows = np.concatenate([np.linspace(290.0, 300.0, 60), near, np.linspace(300.5, 310.0, 60)])[:, None]
    failed = rows > 300.0
    middle = Baseline(centre={}, class_centre=((298.0,),), class_scale=((3.0,),))

    def sides(baseline: Baseline) -> set[float]:
        return set(deviations(spec, near[:, None], ["", ""], baseline).ravel().tolist())

    assert len(sides(middle)) == 1
    assert len(sides(centred_at_limits(middle, rows, failed, 1))) == 2
