"""Laws of the features."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features import extraction, plain
from models.features.extraction import extract
from models.features.hashing import feature_hash, reference_window
from models.features.names import feature_channels, feature_names, feature_units, input_names
from models.features.specification import FeatureError, FeatureSpecification, History
from models.features.vibration import (
    WAVEFORM_FEATURES,
    Waveforms,
    crest_factor,
    envelope_peak_ratio,
    kurtosis,
    one_x_ratio,
)
from models.features.windows import Window, windows_of
from models.records import Channel, FloatArray, Observations

Recording = Callable[..., Observations]
SAMPLES = np.arange(512)
RATE_HZ = 6400.0


def waves(*signals: FloatArray, rotation_hz: float = np.nan) -> Waveforms:
    return Waveforms(np.stack(signals), RATE_HZ, np.full(len(signals), rotation_hz))


@settings(deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0.01, 100.0))
def test_gain_changes_the_size_of_a_waveform_not_its_shape(seed: int, gain: float) -> None:
    """An amplifier scales what has a unit and leaves all else alone."""
    signal = np.random.default_rng(seed).normal(size=512)
    plainly, amplified = (waves(one, rotation_hz=40.0) for one in (signal, gain * signal))

    for feature in WAVEFORM_FEATURES:
        expected = feature.compute(plainly) * (gain if feature.has_unit else 1.0)
        assert feature.compute(amplified) == pytest.approx(expected, rel=1e-9), feature.name


def test_known_waveforms_have_known_features() -> None:
    sine = np.sin(2 * np.pi * 50.0 / RATE_HZ * SAMPLES)
    impacts = np.exp(-(SAMPLES % 64) / 8.0) * np.sin(2 * np.pi * 2300.0 / RATE_HZ * (SAMPLES % 64))
    noise = np.random.default_rng(3).normal(size=512)

    assert crest_factor(waves(sine)) == pytest.approx([np.sqrt(2.0)], rel=1e-3)
    assert kurtosis(waves(sine)) == pytest.approx([1.5], rel=1e-3)
    assert one_x_ratio(waves(sine, rotation_hz=50.0)) == pytest.approx([np.sqrt(2.0)], rel=0.02)
    assert one_x_ratio(waves(sine, rotation_hz=400.0))[0] < 0.05
    assert np.isnan(one_x_ratio(waves(sine))[0])
    assert envelope_peak_ratio(waves(impacts))[0] > 2.0 * envelope_peak_ratio(waves(noise))[0]
    assert all(np.isnan(feature.compute(waves(np.ones(512)))[0]) for feature in WAVEFORM_FEATURES[:4])


def spoiled(window: Window, seed: int, *, good: bool = False) -> Window:
    """Return *window* with wild values added in every channel, marked as *good* or not."""
    rng = np.random.default_rng(seed)
    wild = rng.normal(scale=1e6, size=256).astype(np.float32)
    return replace(
        window,
        times=tuple(np.append(times, window.start_ns + 5) for times in window.times),
        values=tuple(np.append(values, 1e6 * rng.normal()) for values in window.values),
        good=tuple(np.append(mask, good) for mask in window.good),
        waveforms=tuple((*samples, wild) if samples else () for samples in window.waveforms),
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_bad_value_never_changes_a_feature(spec: FeatureSpecification, recording: Recording, seed: int) -> None:
    """Whatever a Bad value says. Control: the same value, counted as good, changes every channel."""
    window = windows_of(spec, recording(hours=4))[0]
    expected = extract(spec, [window])
    counted = extract(spec, [spoiled(window, seed, good=True)])
    channels = np.array(feature_channels(spec))

    np.testing.assert_array_equal(extract(spec, [spoiled(window, seed)]), expected)
    assert {int(channel) for channel in channels[counted[0] != expected[0]]} == set(range(len(spec.channels)))


def test_bad_and_uncertain_status_and_numbers_that_are_none_are_not_good(
    spec: FeatureSpecification, recording: Recording
) -> None:
    observations = recording(hours=4)
    for status, value in ((0x80000000, 60.0), (0x40000000, 60.0), (0, np.nan), (0, np.inf)):
        window = windows_of(
            spec,
            replace(
                observations,
                status=np.full(len(observations), status, np.uint32),
                value=np.full(len(observations), value),
            ),
        )[0]
        assert not window.good[0].any()
        assert np.isnan(extract(spec, [window])[0, : len(plain.PLAIN_FEATURES)]).all()


def test_plain_features_are_what_numpy_says(spec: FeatureSpecification, recording: Recording) -> None:
    windows = windows_of(spec, recording(bad_share=0.2))
    names = feature_names(spec)
    features = extract(spec, windows)

    for row, window in enumerate(windows):
        values, hours = window.values[1][window.good[1]], (window.times[1][window.good[1]] - window.start_ns) / 3.6e12
        expected = (values.mean(), values.std(), values.min(), values.max(), np.polyfit(hours, values, 1)[0])
        first = names.index("bearing_temperature_c.mean")
        assert features[row, first : first + 5] == pytest.approx(expected, abs=1e-9)


def test_a_window_alone_has_the_features_it_has_among_others(spec: FeatureSpecification, recording: Recording) -> None:
    windows = windows_of(spec, recording(bad_share=0.1))

    alone = np.concatenate([extract(spec, [window]) for window in windows])

    np.testing.assert_allclose(alone, extract(spec, windows), rtol=1e-12)


def test_names_channels_and_units_go_together(spec: FeatureSpecification) -> None:
    names = feature_names(spec)

    assert len(names) == len(set(names)) == len(feature_channels(spec)) == len(feature_units(spec))
    assert all(
        name.startswith(spec.channels[channel].name + ".")
        for name, channel in zip(names, feature_channels(spec), strict=True)
    )
    assert len(input_names(spec)) == 3 * len(names)
    assert extract(spec, [reference_window(spec)]).shape == (1, len(names))
    assert np.isfinite(extract(spec, [reference_window(spec)])).all()
    assert extract(spec, []).shape == (0, len(names))


def changed(spec: FeatureSpecification) -> list[FeatureSpecification]:
    swapped = (spec.channels[1], spec.channels[0], *spec.channels[2:])
    renamed = (replace(spec.channels[0], unit="Hz"), *spec.channels[1:])
    return [
        replace(spec, window_s=3600.0),
        replace(spec, step_s=1800.0),
        replace(spec, late_s=0.0),
        replace(spec, history=History(rolling=(7,))),
        replace(spec, asset_class="other"),
        replace(spec, channels=swapped),
        replace(spec, channels=renamed),
        replace(spec, channels=spec.channels[:-1]),
        replace(spec, expected_counts=(1.0, 1.0, 1.0, 1.0)),
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
    with pytest.raises(FeatureError, match="printable"):
        replace(spec, channels=(replace(named, name="a\nb"), *spec.channels[1:]))


def test_the_hash_changes_with_the_code(spec: FeatureSpecification, monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula that answers differently is noticed, even when its revision was left as it was."""
    before = feature_hash(spec)
    features = plain.PLAIN_FEATURES
    other = replace(features[0], compute=lambda segments: plain.mean(segments) * 1.001)
    monkeypatch.setattr(extraction, "PLAIN_FEATURES", (other, *features[1:]))

    assert feature_hash(spec) != before


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": ()},
        {"asset_class": "../x"},
        {"window_s": 0.0},
        {"step_s": 7201.0},
        {"step_s": float("nan")},
        {"late_s": -1.0},
        {"expected_counts": (1.0,)},
        {"channels": (Channel(name="a\nb", unit="1", low=0.0, high=1.0),)},
        {"channels": (Channel(name="a", unit="1", low=0.0, high=float("inf")),)},
    ],
)
def test_a_specification_out_of_range_is_refused(spec: FeatureSpecification, wrong: dict[str, object]) -> None:
    with pytest.raises(FeatureError):
        replace(spec, **wrong)  # type: ignore[arg-type]  # that is the point


def test_features_need_numpy_alone() -> None:
    """Gateways carry no training library, and features not even the ONNX runtime."""
    code = (
        "import sys, models.features.hashing, models.features.context, models.features.baseline\n"
        "heavy = {'sklearn', 'onnxruntime', 'lightgbm', 'scipy', 'pandas', 'onnx', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
