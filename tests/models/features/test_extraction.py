"""Laws of the features of a window, and their hash."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import baseline, extraction, inputs, plain
from models.features.extraction import extract
from models.features.hashing import feature_hash, reference_window
from models.features.history import Histories, Past
from models.features.names import (
    feature_channels,
    feature_names,
    feature_units,
    input_names,
    quality_columns,
    sequence_names,
)
from models.features.specification import (
    Bearing,
    Derived,
    FeatureSpecification,
    History,
    Regimes,
    Residual,
    VelocityZones,
)
from models.features.windower import windows_of
from models.features.windows import ChannelRows, Windows, windows_of_table
from models.records import FloatArray, Int64Array, Observations

Recording = Callable[..., Observations]
HOUR_NS = 3_600_000_000_000


def spoiled(window: Windows, seed: int, *, good: bool = False) -> Windows:
    """Return a single *window* with a wild value added to every channel, marked as *good* or not."""
    rng = np.random.default_rng(seed)

    def with_wild(rows: ChannelRows) -> ChannelRows:
        wild = rng.normal(scale=1e6, size=int(rows.sample_count.max())).astype(np.float32)
        return ChannelRows(
            time=np.append(rows.time, window.end_ns[0] - 5),
            value=np.append(rows.value, np.nan if wild.size else 1e6 * rng.normal()),
            good=np.append(rows.good, good),
            sample_count=np.append(rows.sample_count, wild.size),
            samples=np.append(rows.samples, wild),
            first=rows.first,
            last=rows.last + 1,
        )

    return replace(window, channels=tuple(with_wild(rows.take(np.array([0]))) for rows in window.channels))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_bad_value_never_changes_a_feature(full_spec: FeatureSpecification, recording: Recording, seed: int) -> None:
    """Whatever a Bad value says, only shares of good values change. Control: counted as good, every channel changes."""
    spec = replace(full_spec, channels=full_spec.channels[:-1], history=History())
    window = windows_of(spec, recording(hours=4)).take(np.array([0]))
    others = np.delete(np.arange(len(feature_names(spec))), quality_columns(spec))
    expected = extract(spec, window)[:, others]
    counted = extract(spec, spoiled(window, seed, good=True))[:, others]
    channels = np.array(feature_channels(spec))[others]

    np.testing.assert_array_equal(extract(spec, spoiled(window, seed))[:, others], expected)
    assert {int(channel) for channel in channels[counted[0] != expected[0]]} == set(range(len(spec.channels)))


def test_bad_and_uncertain_status_and_numbers_that_are_none_are_not_good(
    spec: FeatureSpecification, recording: Recording
) -> None:
    observations = recording(hours=4)
    for status, value in ((0x80000000, 60.0), (0x40000000, 60.0), (0, np.nan), (0, np.inf)):
        windows = windows_of(
            spec,
            replace(
                observations,
                status=np.full(len(observations), status, np.uint32),
                value=np.full(len(observations), value),
            ),
        )
        assert not windows.channels[0].good.any()
        assert np.isnan(extract(spec, windows)[:, : len(spec.statistics)]).all()


def test_plain_features_are_what_numpy_says(full_spec: FeatureSpecification, recording: Recording) -> None:
    windows = windows_of(full_spec, recording(bad_share=0.2))
    features = extract(full_spec, windows)
    rows = windows.channels[1]

    assert len(windows) > 8
    for number in range(len(windows)):
        inside = slice(rows.first[number], rows.last[number])
        values, hours = rows.value[inside][rows.good[inside]], rows.time[inside][rows.good[inside]] / 3.6e12
        expected = {
            "mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max(),
            "slope_per_h": np.polyfit(hours - hours.mean(), values, 1)[0], "median": np.median(values),
            "rms": np.sqrt(np.mean(values**2)), "peak_to_peak": np.ptp(values),
            "roughness": np.abs(np.diff(values)).mean(), "last": values[-1],
            "good_share": len(values) / (inside.stop - inside.start),
        }  # fmt: skip
        got = {
            name.removeprefix("bearing_temperature_c."): features[number, place]
            for place, name in enumerate(feature_names(full_spec))
            if name.startswith("bearing_temperature_c.")
        }
        assert got == pytest.approx(expected, abs=1e-9)


def test_a_single_value_has_a_level_and_no_movement(full_spec: FeatureSpecification) -> None:
    """As in a table with one row an operating cycle: what needs two values is not known, what needs none is 0."""
    values = np.full((1, 5), np.nan)
    values[0, 1] = 50.0
    windows = windows_of_table(full_spec, ["a"], np.zeros(1, np.int64), np.full(1, 9 * HOUR_NS), values)
    told = dict(zip(feature_names(full_spec), extract(full_spec, windows)[0].tolist(), strict=True))
    of_one = {name.removeprefix("bearing_temperature_c."): v for name, v in told.items() if "temperature" in name}

    assert [of_one[name] for name in ("mean", "min", "max", "median", "rms", "last")] == [50.0] * 6
    assert of_one["peak_to_peak"] == 0.0
    assert all(np.isnan(of_one[name]) for name in ("std", "slope_per_h", "roughness"))
    assert (of_one["good_share"], told["flow_m3_h.good_share"]) == (1.0, 0.0)
    assert all(np.isnan(told[name]) for name in ("flow_m3_h.mean", "work.value", "flow.residual"))


@pytest.mark.parametrize("minutes", [0, 6, 7, 20])
def test_values_of_one_moment_have_no_slope(spec: FeatureSpecification, recording: Recording, minutes: int) -> None:
    """Whatever the moment is: the mean of equal times need not be that time to the last bit."""
    hourly = replace(spec, window_s=spec.step_s)
    observations = recording(hours=5)
    time = observations.source_time // HOUR_NS * HOUR_NS + minutes * 60 * 10**9
    features = extract(hourly, windows_of(hourly, replace(observations, source_time=time)))

    assert len(features) >= 6
    assert np.isnan(features[:, feature_names(hourly).index("flow_m3_h.slope_per_h")]).all()


def test_values_count_alike_however_far_apart_they_are(spec: FeatureSpecification, recording: Recording) -> None:
    """Means look at values, slopes at times: half of the observations gone leaves a straight line's slope as it was."""
    observations = recording(hours=6)
    line = replace(observations, value=(observations.source_time - observations.source_time.min()) / 3.6e12)
    sparse = line.take(np.random.default_rng(2).random(len(line)) < 0.5)
    slope = feature_names(spec).index("flow_m3_h.slope_per_h")

    assert extract(spec, windows_of(spec, line))[:, slope] == pytest.approx(1.0)
    assert extract(spec, windows_of(spec, sparse))[:, slope] == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 22), max_size=8))
def test_a_window_has_the_same_features_in_any_company(
    full_spec: FeatureSpecification, recording: Recording, seed: int, cuts: list[int]
) -> None:
    """To the last bit, waveforms and all: a gateway computes them as they close, training all at once."""
    windows = windows_of(full_spec, recording(seed=seed, bad_share=0.2))
    bounds = [0, *sorted(cut % len(windows) for cut in cuts), len(windows)]

    parts = [extract(full_spec, windows.take(np.arange(first, last))) for first, last in pairwise(bounds)]

    np.testing.assert_array_equal(np.concatenate(parts), extract(full_spec, windows))


def test_many_values_are_computed_in_parts(
    full_spec: FeatureSpecification, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would need too much memory at once gives the same bits."""
    windows = windows_of(full_spec, recording())
    expected = extract(full_spec, windows)
    monkeypatch.setattr(extraction, "_VALUES_AT_ONCE", 50)
    monkeypatch.setattr(extraction, "_SAMPLES_AT_ONCE", 1000)

    np.testing.assert_array_equal(extract(full_spec, windows), expected)


def test_names_channels_and_units_go_together(spec: FeatureSpecification, full_spec: FeatureSpecification) -> None:
    names = feature_names(spec)

    assert len(names) == len(set(names)) == len(feature_channels(spec)) == len(feature_units(spec))
    assert all(
        name.startswith(spec.channels[channel].name + ".")
        for name, channel in zip(names, feature_channels(spec), strict=True)
    )
    assert len(input_names(spec)) == 3 * len(names)
    assert extract(spec, reference_window(spec)).shape == (1, len(names))
    assert np.isfinite(extract(spec, reference_window(spec))).all()
    assert extract(spec, Windows.empty(spec)).shape == (0, len(names))
    for many in (feature_names(full_spec), input_names(full_spec), sequence_names(full_spec)):
        assert len(many) == len(set(many)) > 0
    assert extract(full_spec, reference_window(full_spec)).shape == (1, len(feature_names(full_spec)))
    assert np.isfinite(extract(full_spec, reference_window(full_spec))).all()  # the hash is over every formula
    units = dict(zip(feature_names(full_spec), feature_units(full_spec), strict=True))
    assert units["flow.residual"] == "m³/h"
    assert units["work.value"] == "m³"
    assert units["vibration_m_s2.velocity_rms"] == "mm/s"
    assert units["flow_m3_h.roughness"] == "m³/h"


def changed(spec: FeatureSpecification) -> list[FeatureSpecification]:
    swapped = (spec.channels[1], spec.channels[0], *spec.channels[2:])
    renamed = (replace(spec.channels[0], unit="Hz"), *spec.channels[1:])
    flow = Residual(name="flow", target="flow_m3_h", predictors=("speed_rpm",))
    bearing = Bearing(name="b", elements=8, element_diameter_mm=5.0, pitch_diameter_mm=30.0)
    return [
        replace(spec, window_s=3600.0),
        replace(spec, step_s=1800.0),
        replace(spec, late_s=0.0),
        replace(spec, history=History(rolling=(7,))),
        replace(spec, history=History(rolling=(6,), statistics=("mean", "std"))),
        replace(spec, history=History(rolling=(6,), of=("mean",))),
        replace(spec, history=History(rolling=(6,), since_start=True)),
        replace(spec, history=History(rolling=(6,), first_windows=3)),
        replace(spec, history=History(rolling=(6,), cycles=True)),
        replace(spec, history=History(rolling=(6,), events=("flow_m3_h",))),
        replace(spec, history=History(rolling=(6,), sequence_windows=5)),
        replace(spec, asset_class="other"),
        replace(spec, channels=swapped),
        replace(spec, channels=renamed),
        replace(spec, channels=spec.channels[:-1]),
        replace(spec, expected_counts=(1.0, 1.0, 1.0, 1.0)),
        replace(spec, statistics=("mean",)),
        replace(spec, quality=True),
        replace(spec, derived=(Derived(name="d", unit="1", kind="ratio", first="flow_m3_h", second="speed_rpm"),)),
        replace(spec, residuals=(flow,)),
        replace(spec, residuals=(replace(flow, coefficients=(1.0, 2.0)),)),
        replace(spec, regimes=Regimes(channels=("speed_rpm",))),
        replace(spec, regimes=Regimes(channels=("speed_rpm",), centres=((1.0,), (2.0,)), scales=(1.0,))),
        replace(spec, bearings=(bearing,)),
        replace(spec, bearings=(replace(bearing, elements=9),)),
        replace(spec, orders=(2,)),
        replace(spec, velocity_zones=VelocityZones()),
        replace(spec, velocity_zones=VelocityZones(limits_mm_s=(2.3, 4.5, 7.1))),
    ]


def test_the_hash_changes_with_the_specification(spec: FeatureSpecification) -> None:
    hashes = {feature_hash(one) for one in [spec, *changed(spec)]}

    assert len(hashes) == 1 + len(changed(spec))
    assert feature_hash(replace(spec)) == feature_hash(spec)


def test_equal_specifications_hash_equally(spec: FeatureSpecification) -> None:
    """Whether a number was written 0, 0.0 or -0.0, and whether it went through JSON."""
    zeros = [replace(spec, channels=(replace(spec.channels[0], low=low), *spec.channels[1:])) for low in (0, 0.0, -0.0)]

    assert len({feature_hash(one) for one in zeros}) == 1
    through = msgspec.json.decode(msgspec.json.encode(zeros[0]), type=FeatureSpecification)
    assert feature_hash(through) == feature_hash(zeros[0])
    assert feature_hash(replace(spec, window_s=round(spec.window_s))) == feature_hash(spec)


def test_a_channel_may_have_the_name_its_maker_gave_it(spec: FeatureSpecification) -> None:
    """Browse names hold spaces, brackets and letters of any script; control characters are refused."""
    named = replace(spec.channels[0], name="Motor-Temperatur (Öl) [°C] / 1")
    assert feature_hash(replace(spec, channels=(named, *spec.channels[1:])))


def test_the_hash_changes_with_the_code(spec: FeatureSpecification, monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula that answers differently is noticed, even when its revision was left as it was."""
    before = feature_hash(spec)
    features = plain.PLAIN_FEATURES
    other = replace(features[0], compute=lambda segments: plain.mean(segments) * 1.001)
    monkeypatch.setattr(extraction, "PLAIN_FEATURES", (other, *features[1:]))

    assert feature_hash(spec) != before


def test_the_hash_changes_with_what_inputs_are(
    full_spec: FeatureSpecification, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only features: what is made of the past of a life is computed for the hash too."""
    before = feature_hash(full_spec)
    for module, name, value in ((inputs, "STOP_WINDOWS", 2), (baseline, "MAX_DEVIATION", 30.0)):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, value)
            assert feature_hash(full_spec) != before


def test_the_hash_changes_with_what_a_life_is(full_spec: FeatureSpecification, monkeypatch: pytest.MonkeyPatch) -> None:
    before = feature_hash(full_spec)
    push = Histories.push

    def other(self: Histories, asset_ids: list[str], end_ns: Int64Array, features: FloatArray) -> Past:
        past = push(self, asset_ids, end_ns, features)
        return replace(past, cycles=past.cycles + 1)

    monkeypatch.setattr(Histories, "push", other)

    assert feature_hash(full_spec) != before


def test_features_need_numpy_alone() -> None:
    """Gateways carry no training library, and features not even the ONNX runtime."""
    code = (
        "import sys, models.features.hashing, models.features.inputs\n"
        "heavy = {'sklearn', 'onnxruntime', 'lightgbm', 'scipy', 'pandas', 'onnx', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
