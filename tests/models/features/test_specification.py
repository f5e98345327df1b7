"""What a specification may ask for."""

import pickle
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from models.features.specification import (
    Bearing,
    Derived,
    FeatureError,
    FeatureSpecification,
    History,
    Regimes,
    Residual,
    VelocityZones,
    specification_digest,
)
from models.records import Channel

BEARING: dict[str, Any] = {"name": "b", "elements": 9, "element_diameter_mm": 8.0, "pitch_diameter_mm": 39.0}
RESIDUAL: dict[str, Any] = {"name": "r", "target": "flow_m3_h", "predictors": ("speed_rpm",)}
DERIVED: dict[str, Any] = {"name": "d", "unit": "kW", "kind": "product", "first": "flow_m3_h", "second": "speed_rpm"}
NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": ()},
        {"asset_class": "../x"},
        {"window_s": 0.0},
        {"step_s": 7201.0},
        {"step_s": NAN},
        {"late_s": -1.0},
        {"expected_counts": (1.0,)},
        {"channels": (Channel(name="a\nb", unit="1", low=0.0, high=1.0),)},
        {"channels": (Channel(name="a", unit="1", low=0.0, high=float("inf")),)},
        {"channels": (Channel(name="a", unit="1", low=0.0, high=1.0),), "statistics": ()},
        {"statistics": ("mean", "mean")},
        {"statistics": ("mode",)},
        {"derived": (Derived(**{**DERIVED, "first": "vibration_m_s2"}),)},
        {"derived": (Derived(**{**DERIVED, "name": "flow_m3_h"}),)},
        {"derived": (Derived(**DERIVED), Derived(**DERIVED))},
        {"residuals": (Residual(**{**RESIDUAL, "target": "unknown"}),)},
        {"residuals": (Residual(**RESIDUAL),), "statistics": ("min",)},
        {"regimes": Regimes(channels=("unknown",))},
        {"history": History(events=("vibration_m_s2",))},
        {"orders": (0,)},
        {"orders": (2, 1)},
        {"orders": (101,)},
        {"bearings": (Bearing(**BEARING), Bearing(**BEARING))},
        {"channels": (Channel(name="speed_rpm", unit="rpm", low=0.0, high=1.0),), "orders": (1,)},
        {"channels": (Channel(name="v", unit="g", low=0.0, high=1.0, sample_rate_hz=1e3),), "orders": (1,)},
        {
            "channels": (Channel(name="v", unit="A", low=0, high=1, sample_rate_hz=1e3),),
            "velocity_zones": VelocityZones(),
        },
    ],
)
def test_a_specification_out_of_range_is_refused(spec: FeatureSpecification, wrong: dict[str, Any]) -> None:
    with pytest.raises(FeatureError):
        replace(spec, **wrong)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (Derived, {**DERIVED, "factor": 0.0}),
        (Derived, {**DERIVED, "factor": NAN}),
        (Derived, {**DERIVED, "kind": "sum"}),
        (Derived, {**DERIVED, "name": "a b"}),
        (Residual, {**RESIDUAL, "predictors": ()}),
        (Residual, {**RESIDUAL, "predictors": ("flow_m3_h",)}),
        (Residual, {**RESIDUAL, "predictors": ("a", "b", "c")}),
        (Residual, {**RESIDUAL, "degree": 3}),
        (Residual, {**RESIDUAL, "coefficients": (1.0,)}),
        (Residual, {**RESIDUAL, "coefficients": (1.0, NAN)}),
        (Regimes, {"channels": ("a", "a")}),
        (Regimes, {"channels": (), "centres": ((), ())}),
        (Regimes, {"channels": ("a",), "centres": ((1.0,), (1.0, 2.0)), "scales": (1.0,)}),
        (Regimes, {"channels": ("a",), "centres": ((1.0,), (2.0,)), "scales": ()}),
        (Regimes, {"channels": ("a",), "centres": ((1.0,), (2.0,)), "scales": (0.0,)}),
        (Regimes, {"channels": ("a",), "centres": ((1.0,), (NAN,)), "scales": (1.0,)}),
        (Regimes, {"channels": ("a",), "centres": ((1.0,),) * 33, "scales": (1.0,)}),
        (Bearing, {**BEARING, "elements": 2}),
        (Bearing, {**BEARING, "element_diameter_mm": 39.0}),
        (Bearing, {**BEARING, "contact_angle_deg": 90.0}),
        (VelocityZones, {"limits_mm_s": (1.0, 1.0, 2.0)}),
        (VelocityZones, {"low_hz": 0.0}),
        (VelocityZones, {"low_hz": 1000.0}),
        (History, {"rolling": (1,)}),
        (History, {"rolling": (5, 3)}),
        (History, {"rolling": (1001,)}),
        (History, {"rolling": (5,), "statistics": ()}),
        (History, {"statistics": ("median",)}),
        (History, {"first_windows": -1}),
        (History, {"first_windows": 1001}),
        (History, {"sequence_windows": 1}),
        (History, {"sequence_windows": -3}),
        (History, {"events": ("a", "a")}),
        (History, {"of": ("",)}),
    ],
)
def test_a_part_out_of_range_is_refused(part: type[Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(FeatureError):
        part(**wrong)


def test_what_would_need_too_much_memory_is_refused(spec: FeatureSpecification) -> None:
    """A hostile or careless file must not fill a gateway's memory with one asset."""
    many = tuple(Channel(name=f"c{number}", unit="1", low=0.0, high=1.0) for number in range(256))

    with pytest.raises(FeatureError, match="numbers of each asset"):
        replace(
            spec,
            channels=many,
            statistics=(
                "mean",
                "std",
                "min",
                "max",
                "slope_per_h",
                "median",
                "rms",
                "peak_to_peak",
                "roughness",
                "last",
            ),
            history=History(rolling=(1000,), sequence_windows=1000),
            regimes=Regimes(channels=("c1",), centres=tuple((float(k),) for k in range(32)), scales=(1.0,)),
            quality=True,
        )


def test_a_specification_comes_back_from_its_file(full_spec: FeatureSpecification) -> None:
    through = msgspec.json.decode(msgspec.json.encode(full_spec), type=FeatureSpecification)

    assert through == full_spec
    assert specification_digest(through) == specification_digest(full_spec)
    assert specification_digest(replace(full_spec, quality=False)) != specification_digest(full_spec)


def test_a_specification_travels_to_other_processes(full_spec: FeatureSpecification) -> None:
    """Its hash, which is remembered, is not the same there."""
    hash(full_spec)
    copied = pickle.loads(pickle.dumps(full_spec))  # noqa: S301 - our own

    assert "_hash" not in full_spec.__getstate__()
    assert (copied, hash(copied)) == (full_spec, hash(full_spec))


def test_a_channel_may_have_the_name_its_maker_gave_it(spec: FeatureSpecification) -> None:
    """Browse names hold spaces, brackets and letters of any script; control characters are refused."""
    named = replace(spec.channels[0], name="Motor-Temperatur (Öl) [°C] / 1")
    assert replace(spec, channels=(named, *spec.channels[1:])).channels[0] == named

    with pytest.raises(FeatureError, match="sample rate"):
        replace(spec, channels=(*spec.channels, Channel(name="w", unit="g", low=0.0, high=1.0, sample_rate_hz=5e-324)))
    with pytest.raises(FeatureError, match="printable"):
        replace(spec, channels=(replace(named, name="a\nb"), *spec.channels[1:]))
