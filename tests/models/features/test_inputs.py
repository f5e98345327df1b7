"""Deviations and context: what the models are given."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.baseline import Baseline, decode_baseline, deviations, encode_baseline, fit_baseline
from models.features.context import Context
from models.features.extraction import extract
from models.features.names import feature_names
from models.features.specification import FeatureError, FeatureSpecification
from models.features.windower import windows_of
from models.records import Float32Array, FloatArray, Int64Array, Observations

HOUR_NS = 3_600_000_000_000


@pytest.fixture(scope="session")
def features(spec: FeatureSpecification, recording: Callable[..., Observations]) -> FloatArray:
    return extract(spec, windows_of(spec, recording(hours=60), ["a-1"]))


@pytest.fixture(scope="session")
def baseline(spec: FeatureSpecification, features: FloatArray) -> Baseline:
    return fit_baseline(spec, {"a-1": features, "a-2": features + 5.0}, 40)


def test_healthy_windows_deviate_by_about_one(features: FloatArray, baseline: Baseline) -> None:
    rows = deviations(features, ["a-1"] * len(features), baseline)

    assert rows.dtype == np.float32
    assert 0.5 < np.nanmedian(np.abs(rows)) < 1.0
    np.testing.assert_array_equal(deviations(features + 5.0, ["a-2"] * len(features), baseline), rows)


def test_an_unknown_asset_is_held_against_its_class(features: FloatArray, baseline: Baseline) -> None:
    between = deviations(features + 2.5, ["new"] * len(features), baseline)

    np.testing.assert_allclose(between, deviations(features, ["a-1"] * len(features), baseline), atol=1e-3)


def test_deviations_are_clipped_and_missing_stays_missing(features: FloatArray, baseline: Baseline) -> None:
    wild = features[:2].copy()
    wild[0], wild[1] = 1e300, np.nan

    rows = deviations(wild, ["a-1", "a-1"], baseline)

    assert (rows[0] == 50.0).all()
    assert np.isnan(rows[1]).all()


def test_a_channel_nobody_had_stays_missing(spec: FeatureSpecification, features: FloatArray) -> None:
    """Through the file too, which has no NaN."""
    holed = features.copy()
    holed[:, 0] = np.nan
    baseline = decode_baseline(encode_baseline(fit_baseline(spec, {"a-1": holed}, 40)), spec)

    rows = deviations(features, ["a-1"] * len(features), baseline)

    assert np.isnan(rows[:, 0]).all()
    assert np.isfinite(rows[:, 1:]).all()


def test_a_constant_feature_has_a_scale(spec: FeatureSpecification, features: FloatArray) -> None:
    baseline = fit_baseline(spec, {"a-1": np.ones_like(features)}, 40)

    assert min(baseline.class_scale) > 0.0


def test_a_baseline_comes_back_from_its_file(spec: FeatureSpecification, baseline: Baseline) -> None:
    assert decode_baseline(encode_baseline(baseline), spec) == baseline


def test_a_baseline_of_other_features_is_refused(spec: FeatureSpecification, baseline: Baseline) -> None:
    with pytest.raises(FeatureError, match="numbers for each"):
        decode_baseline(encode_baseline(baseline), replace(spec, channels=spec.channels[:2]))
    with pytest.raises(FeatureError, match="0 or below"):
        decode_baseline(encode_baseline(replace(baseline, class_scale=(0.0,) * len(baseline.class_scale))), spec)
    with pytest.raises(FeatureError, match="no commissioning window"):
        fit_baseline(spec, {}, 40)


def history(spec: FeatureSpecification, seed: int) -> tuple[list[str], Int64Array, Float32Array]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(60, len(feature_names(spec)))).astype(np.float32)
    rows[rng.random(rows.shape) < 0.05] = np.nan
    rows[rng.random(60) < 0.5] = np.nan
    assets = [f"a-{number}" for number in rng.integers(0, 3, 60)]
    return assets, np.cumsum(rng.integers(1, 4, 60)) * HOUR_NS, rows


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 60), max_size=8), restart=st.booleans())
def test_calls_and_restarts_make_no_difference(
    spec: FeatureSpecification, seed: int, cuts: list[int], *, restart: bool
) -> None:
    """The gateway asks window by window, training all at once: the inputs are equal to the last bit."""
    assets, ends, rows = history(spec, seed)
    expected = Context(spec).inputs(assets, ends, rows)

    context, parts = Context(spec), []
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        parts.append(context.inputs(assets[first:last], ends[first:last], rows[first:last]))
        if restart:
            state = context.state()
            context = Context(spec)
            context.restore(state)

    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_mean_and_trend_are_of_the_last_windows(spec: FeatureSpecification) -> None:
    width = len(feature_names(spec))
    rows = np.repeat(np.arange(20, dtype=np.float32)[:, None], width, axis=1)
    inputs = Context(spec).inputs(["a"] * 20, np.arange(20) * HOUR_NS, rows)

    assert inputs[19, 0] == 19.0
    assert inputs[19, width] == 16.5  # of 14 to 19
    assert inputs[19, 2 * width] == 3.0  # 17 to 19 less 14 to 16
    assert inputs[0, width] == 0.0
    assert np.isnan(inputs[0, 2 * width])


def test_a_long_stop_starts_a_new_history(spec: FeatureSpecification) -> None:
    width = len(feature_names(spec))
    rows = np.ones((2, width), np.float32) * np.array([[10.0], [1.0]], np.float32)

    soon = Context(spec).inputs(["a", "a"], np.array([0, 5]) * HOUR_NS, rows)
    later = Context(spec).inputs(["a", "a"], np.array([0, 6]) * HOUR_NS, rows)

    assert soon[1, width] == 5.5
    assert later[1, width] == 1.0


@pytest.mark.parametrize(("silent", "mean"), [(2, 5.5), (3, 1.0)])
def test_a_stop_starts_a_new_history(spec: FeatureSpecification, silent: int, mean: float) -> None:
    """What was before a repair says nothing of the machine after it; a short silence is no repair."""
    width = len(feature_names(spec))
    rows = np.full((silent + 2, width), np.nan, np.float32)
    rows[0], rows[-1] = 10.0, 1.0
    ends = np.arange(silent + 2) * HOUR_NS

    inputs = Context(spec).inputs(["a"] * len(rows), ends, rows)

    assert inputs[-1, width] == mean


def test_context_of_other_features_is_refused(spec: FeatureSpecification) -> None:
    assets, ends, rows = history(spec, 1)
    context = Context(spec)
    context.inputs(assets, ends, rows)

    with pytest.raises(FeatureError, match="start anew"):
        Context(replace(spec, channels=spec.channels[:2])).restore(context.state())
