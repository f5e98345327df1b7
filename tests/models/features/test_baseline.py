"""Deviations: how far a feature is from what is ordinary for its asset and regime."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.baseline import Baseline, decode_baseline, deviations, encode_baseline, fit_baseline, ordinary
from models.features.extraction import extract
from models.features.names import feature_names, mean_columns
from models.features.specification import FeatureError, FeatureSpecification
from models.features.windower import windows_of
from models.records import FloatArray, Observations


@pytest.fixture(scope="session")
def features(spec: FeatureSpecification, recording: Callable[..., Observations]) -> FloatArray:
    return extract(spec, windows_of(spec, recording(hours=60), ["a-1"]))


@pytest.fixture(scope="session")
def baseline(spec: FeatureSpecification, features: FloatArray) -> Baseline:
    return fit_baseline(spec, {"a-1": features, "a-2": features + 5.0}, 40)


def of_two_regimes(spec: FeatureSpecification, rows: int, seed: int = 1) -> FloatArray:
    """Return features of a machine whose every number is 100 higher, and scatters ten times as much, at high speed."""
    rng = np.random.default_rng(seed)
    fast = np.arange(rows) % 2
    features: FloatArray = (
        rng.normal(size=(rows, len(feature_names(spec)))) * (1.0 + 9.0 * fast[:, None]) + 100.0 * fast[:, None]
    )
    features[:, mean_columns(spec)["speed_rpm"]] = np.where(fast, 2000.0, 1000.0) + rng.normal(size=rows)
    return features


def test_healthy_windows_deviate_by_about_one(
    spec: FeatureSpecification, features: FloatArray, baseline: Baseline
) -> None:
    rows = deviations(spec, features, ["a-1"] * len(features), baseline)

    assert rows.dtype == np.float32
    assert 0.5 < np.nanmedian(np.abs(rows)) < 1.0
    moved = deviations(spec, features + 5.0, ["a-2"] * len(features), baseline)
    np.testing.assert_allclose(moved, rows, rtol=1e-4, atol=1e-5)


def test_a_scale_is_a_standard_deviation_and_outliers_leave_it_alone(full_spec: FeatureSpecification) -> None:
    """Of a normal distribution it is its own, with a twentieth of wild windows nearly so; of two levels it is not 0."""
    rows = of_two_regimes(full_spec, 4000)
    wild = rows.copy()
    wild[::21] += 1e6
    wild[:, mean_columns(full_spec)["speed_rpm"]] = rows[:, mean_columns(full_spec)["speed_rpm"]]
    levels = np.where(np.random.default_rng(2).random(rows.shape) < 0.2, 1.0, 0.0)
    levels[:, mean_columns(full_spec)["speed_rpm"]] = 1000.0
    place = feature_names(full_spec).index("flow_m3_h.mean")

    scale, scale_of_wild, scale_of_levels = (
        fit_baseline(full_spec, {"a": one}, 10**6).scales[:, place] for one in (rows, wild, levels)
    )

    assert scale == pytest.approx([1.0, 10.0], rel=0.1)
    assert scale_of_wild == pytest.approx([1.0, 10.0], rel=0.25)
    assert 0.2 < scale_of_levels[0] < 0.6


def test_each_regime_has_its_own_ordinary(full_spec: FeatureSpecification) -> None:
    """The same number is ordinary in one regime and far off in the other."""
    healthy = of_two_regimes(full_spec, 400)
    baseline = fit_baseline(full_spec, {"a": healthy}, 400)
    places = [feature_names(full_spec).index(name) for name in ("flow_m3_h.mean", "flow_m3_h.max")]
    slow, fast = healthy[:1].copy(), healthy[1:2].copy()
    slow[:, places] = fast[:, places] = 100.0

    assert np.abs(deviations(full_spec, fast, ["a"], baseline)[0, places]).max() < 1.0
    assert deviations(full_spec, slow, ["a"], baseline)[0, places].min() == 50.0


def test_without_a_regime_there_is_no_deviation(full_spec: FeatureSpecification) -> None:
    """Nobody knows what would be ordinary where the speed is not known; control: with it there is."""
    rows = of_two_regimes(full_spec, 20)
    baseline = fit_baseline(full_spec, {"a": rows}, 20)
    unknown = rows.copy()
    unknown[:, mean_columns(full_spec)["speed_rpm"]] = np.nan

    assert np.isnan(deviations(full_spec, unknown, ["a"] * 20, baseline)).all()
    assert np.isfinite(deviations(full_spec, rows, ["a"] * 20, baseline)).all()


def test_a_regime_with_few_windows_borrows(full_spec: FeatureSpecification) -> None:
    """An asset from its class, the class from all its windows: nothing is 0, nothing is missing."""
    place = feature_names(full_spec).index("flow_m3_h.mean")
    rows = of_two_regimes(full_spec, 200)
    slow, fast = rows[::2], rows[1::2]
    rarely = np.concatenate([slow + 3.0, fast[:2] + 3.0])
    rarely[:, mean_columns(full_spec)["speed_rpm"]] -= 3.0

    borrowing = fit_baseline(full_spec, {"often": rows, "rarely": rarely}, 10**6)
    nobody = fit_baseline(full_spec, {"a": np.concatenate([slow, fast[:2]])}, 10**6)

    own = np.array(borrowing.centre["rarely"])[:, place]
    assert own[0] == pytest.approx(3.0, abs=0.5)
    assert own[1] == borrowing.centres[0, 1, place] == pytest.approx(100.0, abs=3.0)
    assert nobody.centres[0, 1, place] == pytest.approx(0.0, abs=0.5)
    assert np.isfinite(nobody.centres).all()
    assert (nobody.scales > 0.0).all()


def test_of_a_class_there_is_one_centre(spec: FeatureSpecification, features: FloatArray) -> None:
    """Whose scale is of all assets around it, so that an unknown asset is not far off by being another machine."""
    by_asset = {"a-1": features, "a-2": features + 5.0}
    of_class = fit_baseline(spec, by_asset, 40, "class")
    of_asset = fit_baseline(spec, by_asset, 40)

    assert of_class.centre == {}
    assert (of_class.scales[0] > of_asset.scales[0])[:5].all()
    np.testing.assert_array_equal(of_class.places_of(["a-1", "new"]), [0, 0])
    np.testing.assert_array_equal(of_asset.places_of(["a-2", "new"]), [2, 0])


def test_an_unknown_asset_is_held_against_its_class(
    spec: FeatureSpecification, features: FloatArray, baseline: Baseline
) -> None:
    between = deviations(spec, features + 2.5, ["new"] * len(features), baseline)

    np.testing.assert_allclose(between, deviations(spec, features, ["a-1"] * len(features), baseline), atol=1e-3)


def test_deviations_are_clipped_and_missing_stays_missing(
    spec: FeatureSpecification, features: FloatArray, baseline: Baseline
) -> None:
    wild = features[:2].copy()
    wild[0], wild[1] = 1e300, np.nan

    rows = deviations(spec, wild, ["a-1", "a-1"], baseline)

    assert (rows[0] == 50.0).all()
    assert np.isnan(rows[1]).all()


def test_scaling_is_in_double_precision(spec: FeatureSpecification, features: FloatArray) -> None:
    """A feature of 1e8 with a scatter of 1 keeps its digits. Control: in single precision they are gone."""
    large = 1e8 + np.random.default_rng(1).normal(size=features.shape)
    baseline = fit_baseline(
        replace(spec, channels=tuple(replace(one, high=one.low + 1.0) for one in spec.channels)), {"a": large}, 40
    )
    centre, scale = ordinary(spec, large, ["a"] * len(large), baseline)
    exact = (large - centre) / scale
    single = (large.astype(np.float32) - centre.astype(np.float32)) / scale.astype(np.float32)

    np.testing.assert_allclose(deviations(spec, large, ["a"] * len(large), baseline), exact, rtol=1e-6)
    assert np.abs(single - exact).max() > 0.5


def test_a_channel_nobody_had_stays_missing(spec: FeatureSpecification, features: FloatArray) -> None:
    """Through the file too, which has no NaN."""
    holed = features.copy()
    holed[:, 0] = np.nan
    baseline = decode_baseline(encode_baseline(fit_baseline(spec, {"a-1": holed}, 40)), spec)

    rows = deviations(spec, features, ["a-1"] * len(features), baseline)

    assert np.isnan(rows[:, 0]).all()
    assert np.isfinite(rows[:, 1:]).all()


def test_a_constant_feature_has_a_scale(full_spec: FeatureSpecification) -> None:
    baseline = fit_baseline(full_spec, {"a-1": np.ones((20, len(feature_names(full_spec))))}, 40)

    assert baseline.scales.min() > 0.0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), holes=st.floats(0.0, 0.9), assets=st.integers(1, 4))
def test_centres_are_medians(full_spec: FeatureSpecification, seed: int, holes: float, assets: int) -> None:
    """Whatever is missing: where an asset has three values in a regime, the centre is their median."""
    rng = np.random.default_rng(seed)
    by_asset = {}
    for number in range(assets):
        rows = of_two_regimes(full_spec, 30, seed + number)
        speed = mean_columns(full_spec)["speed_rpm"]
        rows[rng.random(rows.shape) < holes] = np.nan
        rows[:, speed] = np.where(np.arange(30) % 2, 2000.0, 1000.0)
        by_asset[f"a-{number}"] = rows
    baseline = fit_baseline(full_spec, by_asset, 30)

    for asset_id, rows in by_asset.items():
        for regime in (0, 1):
            own = rows[regime::2]
            enough = (~np.isnan(own)).sum(axis=0) >= 3
            expected = np.nanmedian(own[:, enough], axis=0)
            np.testing.assert_allclose(np.array(baseline.centre[asset_id])[regime, enough], expected, rtol=1e-12)


def test_a_baseline_comes_back_from_its_file(
    spec: FeatureSpecification, full_spec: FeatureSpecification, baseline: Baseline
) -> None:
    of_regimes = fit_baseline(full_spec, {"a": of_two_regimes(full_spec, 40)}, 40)

    assert decode_baseline(encode_baseline(baseline), spec) == baseline
    assert decode_baseline(encode_baseline(of_regimes), full_spec) == of_regimes


def test_a_baseline_of_other_features_is_refused(
    spec: FeatureSpecification, full_spec: FeatureSpecification, baseline: Baseline
) -> None:
    with pytest.raises(FeatureError, match="numbers in 1 regimes for each"):
        decode_baseline(encode_baseline(baseline), replace(spec, channels=spec.channels[:2]))
    with pytest.raises(FeatureError, match="in 2 regimes"):
        decode_baseline(encode_baseline(baseline), full_spec)
    nothing = tuple((0.0,) * len(row) for row in baseline.class_scale)
    with pytest.raises(FeatureError, match="0 or below"):
        decode_baseline(encode_baseline(replace(baseline, class_scale=nothing)), spec)
    for damaged in (b'{"centre": 3}', b'{"centre": {"\xff": []}}', b'{"a": ' + b"[" * 5000):
        with pytest.raises(FeatureError, match="does not decode"):
            decode_baseline(damaged, spec)
    with pytest.raises(FeatureError, match="no commissioning window"):
        fit_baseline(spec, {}, 40)
