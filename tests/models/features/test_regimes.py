"""Operating regimes: how many there are, and which a window is of."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.names import feature_names, mean_columns
from models.features.regimes import UNKNOWN_REGIME, fit_regimes, regimes_of
from models.features.specification import FeatureSpecification, Regimes
from models.records import FloatArray

SETTINGS = ("speed_rpm", "flow_m3_h")


@pytest.fixture(scope="session")
def unfitted(spec: FeatureSpecification) -> FeatureSpecification:
    return replace(spec, regimes=Regimes(channels=SETTINGS))


def features_of(spec: FeatureSpecification, speed: FloatArray, flow: FloatArray) -> FloatArray:
    features = np.zeros((len(speed), len(feature_names(spec))))
    features[:, mean_columns(spec)["speed_rpm"]], features[:, mean_columns(spec)["flow_m3_h"]] = speed, flow
    return features


def clusters(
    spec: FeatureSpecification, count: int, rows: int, seed: int, scatter: float = 0.02
) -> tuple[FloatArray, FloatArray]:
    """Return features of *count* load points on a diagonal, and which each is of."""
    rng = np.random.default_rng(seed)
    own = np.concatenate([np.arange(count), rng.integers(0, count, rows - count)])
    at = (own + 1) / (count + 1) + rng.normal(scale=scatter / count, size=(2, rows))
    return features_of(spec, 3600.0 * at[0], 150.0 * at[1]), own


@settings(max_examples=8, deadline=None)
@given(count=st.integers(2, 9), seed=st.integers(0, 1000))
def test_there_are_as_many_regimes_as_load_points(unfitted: FeatureSpecification, count: int, seed: int) -> None:
    """And every window is of its own, whatever the draws."""
    features, own = clusters(unfitted, count, 900, seed)

    fitted = fit_regimes(unfitted, features, seed)

    assert fitted.regimes.count == count
    np.testing.assert_array_equal(regimes_of(fitted, features), own)  # centres are in the order of the settings
    assert fit_regimes(unfitted, features, seed) == fitted
    assert fit_regimes(fitted, features[:50], seed) == fitted


@pytest.mark.parametrize("kind", ["constant", "trembling", "normal", "uniform", "stepped trembling", "none"])
def test_settings_without_gaps_are_one_regime(unfitted: FeatureSpecification, kind: str) -> None:
    """A setting that trembles within a hundredth of its range is constant, even where it does so in steps."""
    rng = np.random.default_rng(4)
    speed, flow = {
        "constant": (np.full(800, 1500.0), np.full(800, 50.0)),
        "trembling": (rng.normal(1500.0, 5.0, 800), rng.normal(50.0, 0.1, 800)),
        "normal": (rng.normal(1500.0, 300.0, 800), rng.normal(50.0, 10.0, 800)),
        "uniform": (rng.uniform(500.0, 3000.0, 800), rng.uniform(10.0, 100.0, 800)),
        "stepped trembling": (rng.integers(1498, 1503, 800).astype(np.float64), np.full(800, 50.0)),
        "none": (np.full(800, np.nan), np.full(800, np.nan)),
    }[kind]

    fitted = fit_regimes(unfitted, features_of(unfitted, speed, flow), 1)

    assert fitted == unfitted
    assert fitted.regimes.count == 1
    np.testing.assert_array_equal(regimes_of(fitted, features_of(unfitted, speed, flow)), np.zeros(800))


def test_a_few_wild_windows_are_no_regime(unfitted: FeatureSpecification) -> None:
    """They belong to the regime they are nearest to. Control: as a tenth of all windows they are one."""
    features, own = clusters(unfitted, 3, 600, 1)
    wild = features_of(unfitted, np.full(60, 9000.0), np.full(60, 400.0))

    few = fit_regimes(unfitted, np.concatenate([features, wild[:4]]), 1)
    many = fit_regimes(unfitted, np.concatenate([features, wild]), 1)

    assert (few.regimes.count, many.regimes.count) == (3, 4)
    np.testing.assert_array_equal(regimes_of(few, features), own)
    assert (regimes_of(few, wild) == 2).all()


def test_a_setting_that_is_missing_leaves_the_others_to_decide(unfitted: FeatureSpecification) -> None:
    features, own = clusters(unfitted, 4, 400, 2)
    fitted = fit_regimes(unfitted, features, 1)
    without_flow, without_any = features.copy(), features.copy()
    without_flow[:, mean_columns(unfitted)["flow_m3_h"]] = np.nan
    without_any[:] = np.nan

    np.testing.assert_array_equal(regimes_of(fitted, without_flow), own)
    assert (regimes_of(fitted, without_any) == UNKNOWN_REGIME).all()


def test_a_constant_setting_does_not_decide(unfitted: FeatureSpecification) -> None:
    """Later it may move without making every window one of the same regime."""
    features, own = clusters(unfitted, 3, 300, 3)
    features[:, mean_columns(unfitted)["flow_m3_h"]] = 40.0
    fitted = fit_regimes(unfitted, features, 1)
    features[:, mean_columns(unfitted)["flow_m3_h"]] = 60.0

    assert fitted.regimes.count == 3
    np.testing.assert_array_equal(regimes_of(fitted, features), own)
