"""Derived quantities and residuals."""

from dataclasses import replace

import numpy as np
import pytest

from models.features.fitting import fit_specification
from models.features.names import feature_names, mean_columns
from models.features.residuals import feature_limits, fit_residuals, with_physics
from models.features.specification import Derived, FeatureSpecification, Regimes, Residual
from models.records import FloatArray

FLOW = Residual(name="flow", target="flow_m3_h", predictors=("speed_rpm",))


def features_of(spec: FeatureSpecification, rows: int, seed: int = 1) -> FloatArray:
    """Return features of a pump whose flow follows its speed and temperature."""
    rng = np.random.default_rng(seed)
    features = np.full((rows, len(feature_names(spec))), 7.0)
    means = mean_columns(spec)
    speed, temperature = rng.uniform(1000.0, 3000.0, rows), rng.uniform(20.0, 80.0, rows)
    features[:, means["speed_rpm"]], features[:, means["bearing_temperature_c"]] = speed, temperature
    features[:, means["flow_m3_h"]] = 5.0 + 0.03 * speed + 0.1 * temperature + 1e-5 * speed * temperature
    return features


@pytest.mark.parametrize(
    ("kind", "expected"), [("product", 0.5 * 60.0 * 1500.0), ("ratio", 0.5 * 60.0 / 1500.0), ("difference", -720.0)]
)
def test_a_quantity_of_two_channels(spec: FeatureSpecification, kind: str, expected: float) -> None:
    one = Derived(name="d", unit="1", kind=kind, first="flow_m3_h", second="speed_rpm", factor=0.5)  # type: ignore[arg-type]
    asked = replace(spec, derived=(one,))
    features = np.full((3, len(feature_names(asked))), np.nan)
    means = mean_columns(asked)
    features[:, means["flow_m3_h"]], features[:, means["speed_rpm"]] = 60.0, (1500.0, np.nan, 0.0)

    computed = with_physics(asked, features)[:, -1]

    assert computed[0] == pytest.approx(expected)
    assert np.isnan(computed[1])
    assert np.isnan(computed[2]) == (kind == "ratio")  # over nothing
    assert np.isnan(features[:, -1]).all()  # what is given is left alone


def test_a_residual_is_what_others_do_not_explain(spec: FeatureSpecification) -> None:
    """With both predictors and their product nothing is left; a leak of 3 m³/h is left whatever the speed."""
    full = replace(FLOW, predictors=("speed_rpm", "bearing_temperature_c"), degree=2)
    asked = replace(spec, residuals=(full,))
    features = features_of(asked, 200)
    assert np.isnan(with_physics(asked, features)[:, -1]).all()  # not fitted yet

    fitted = fit_residuals(asked, features)
    leaking = features_of(asked, 50, seed=2)
    leaking[:, mean_columns(asked)["flow_m3_h"]] -= 3.0

    assert with_physics(fitted, features)[:, -1] == pytest.approx(0.0, abs=1e-6)
    assert with_physics(fitted, leaking)[:, -1] == pytest.approx(-3.0, abs=1e-6)
    assert fitted.residuals[0].coefficients == pytest.approx((5.0, 0.03, 0.1, 0.0, 0.0, 1e-5), abs=1e-6)


def test_a_wild_value_decides_no_fit(spec: FeatureSpecification) -> None:
    """What is far outside a channel's range is left out; where most is, the range is wrong and all counts."""
    asked = replace(spec, residuals=(FLOW,), regimes=Regimes(channels=("speed_rpm",)))
    features = features_of(asked, 200)
    speed = mean_columns(asked)["speed_rpm"]
    features[::2, speed] = 1000.0 + 0.01 * features[::2, speed]
    wild = np.concatenate([features, features[:2]])
    wild[200:, speed] = 3e38, -1e308
    narrow = replace(asked, channels=(replace(asked.channels[0], high=1.0), *asked.channels[1:]))

    assert fit_specification(asked, wild, 0) == fit_specification(asked, features, 0)
    assert fit_residuals(narrow, features).residuals == fit_residuals(asked, features).residuals


def test_a_missing_channel_leaves_no_residual(spec: FeatureSpecification) -> None:
    asked = replace(spec, residuals=(replace(FLOW, coefficients=(1.0, 2.0)),))
    features = features_of(asked, 2)
    features[0, mean_columns(asked)["speed_rpm"]] = np.nan

    np.testing.assert_array_equal(np.isnan(with_physics(asked, features)[:, -1]), [True, False])


def test_a_predictor_that_stands_still_explains_nothing(spec: FeatureSpecification) -> None:
    """And too few windows, or none, make no polynomial that follows their noise."""
    asked = replace(spec, residuals=(FLOW,))
    features = features_of(asked, 60)
    constant = features.copy()
    constant[:, mean_columns(asked)["speed_rpm"]] = 1500.0
    flow = features[:, mean_columns(asked)["flow_m3_h"]]

    assert fit_residuals(asked, constant).residuals[0].coefficients == pytest.approx((flow.mean(), 0.0))
    assert fit_residuals(asked, features[:9]).residuals[0].coefficients == pytest.approx((flow[:9].mean(), 0.0))
    assert fit_residuals(asked, features[:0]).residuals[0].coefficients == ()


def test_what_is_fitted_is_kept(spec: FeatureSpecification) -> None:
    """A later training takes over regimes and residuals, so that gateways' memory stays valid."""
    asked = replace(spec, residuals=(FLOW,), regimes=Regimes(channels=("speed_rpm",)))
    features = features_of(asked, 300)
    features[:, mean_columns(asked)["speed_rpm"]] = np.where(np.arange(300) % 2, 1000.0, 2000.0)

    fitted = fit_specification(asked, features, seed=1)

    assert (fitted.regimes.count, len(fitted.residuals[0].coefficients)) == (2, 2)
    assert fit_specification(fitted, features_of(asked, 300, seed=9), seed=2) == fitted


def test_sums_over_a_life_have_limits(full_spec: FeatureSpecification) -> None:
    """A channel of 0 to 150 counts up to 600; numbers without a unit are not limited by a channel's range."""
    limits = dict(zip(feature_names(full_spec), feature_limits(full_spec).tolist(), strict=True))

    assert limits["flow_m3_h.mean"] == limits["flow_m3_h.roughness"] == limits["flow.residual"] == 600.0
    assert limits["flow_m3_h.slope_per_h"] == 300.0
    assert limits["vibration_m_s2.kurtosis"] == 1e100


def test_a_channel_without_a_unit_limits_what_is_in_its_own_numbers_alone(full_spec: FeatureSpecification) -> None:
    """A waveform in counts of -1 to 1 has a kurtosis of any size."""
    counts = replace(full_spec.channels[3], unit="1", low=-1.0, high=1.0)
    spec = replace(full_spec, channels=(*full_spec.channels[:3], counts, full_spec.channels[4]), velocity_zones=None)
    limits = dict(zip(feature_names(spec), feature_limits(spec).tolist(), strict=True))

    assert limits["vibration_m_s2.peak"] == 6.0
    assert limits["vibration_m_s2.kurtosis"] == 1e100
