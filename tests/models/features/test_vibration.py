"""What a waveform shows: orders, bearing faults, velocity."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.extraction import extract
from models.features.names import feature_names
from models.features.specification import Bearing, FeatureSpecification, VelocityZones
from models.features.vibration import (
    WAVEFORM_FEATURES,
    Waveforms,
    amplitude,
    crest_factor,
    envelope_order_ratio,
    envelope_peak_ratio,
    fault_orders,
    kurtosis,
    order_ratio,
    velocity_rms_mm_s,
    velocity_zone,
    waveform_features,
)
from models.features.windows import ChannelRows, Windows
from models.records import Channel, FloatArray

SAMPLES = np.arange(512)
RATE_HZ = 6400.0
HOUR_NS = 3_600_000_000_000
# SKF 6205-2RS, as in the bearing data of Case Western Reserve University.
BEARING = Bearing(name="de", elements=9, element_diameter_mm=7.94, pitch_diameter_mm=39.04)


def waves(*signals: FloatArray, rotation_hz: float = np.nan) -> Waveforms:
    return Waveforms(np.stack(signals), RATE_HZ, np.full(len(signals), rotation_hz))


def sine(frequency_hz: float, count: int = 4096, phase: float = 0.3) -> FloatArray:
    return np.asarray(np.sin(2.0 * np.pi * frequency_hz / RATE_HZ * np.arange(count) + phase), np.float64)


def impacts(every_s: float, count: int = 8192) -> FloatArray:
    """A structure at 2300 Hz that is hit again and again and rings out within a few milliseconds."""
    since = np.mod(np.arange(count) / RATE_HZ, every_s)
    return np.asarray(np.exp(-since / 1.2e-3) * np.sin(2.0 * np.pi * 2300.0 * since), np.float64)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0.01, 100.0))
def test_gain_changes_the_size_of_a_waveform_not_its_shape(
    full_spec: FeatureSpecification, seed: int, gain: float
) -> None:
    """An amplifier scales what has a unit and leaves all else alone."""
    signal = np.random.default_rng(seed).normal(size=2048)
    plainly, amplified = (waves(one, rotation_hz=40.0) for one in (signal, gain * signal))

    for feature in waveform_features(full_spec, full_spec.channels[3]):
        expected = feature.compute(plainly) * (gain if feature.unit != "1" or feature.name == "velocity_zone" else 1.0)
        assert np.isfinite(expected).all(), feature.name
        assert feature.compute(amplified) == pytest.approx(expected, rel=1e-9), feature.name


def test_known_waveforms_have_known_features() -> None:
    tone, noise = sine(50.0, 512, 0.0), np.random.default_rng(3).normal(size=512)

    assert crest_factor(waves(tone)) == pytest.approx([np.sqrt(2.0)], rel=1e-3)
    assert kurtosis(waves(tone)) == pytest.approx([1.5], rel=1e-3)
    assert order_ratio(1)(waves(tone, rotation_hz=50.0)) == pytest.approx([np.sqrt(2.0)], rel=0.02)
    assert order_ratio(1)(waves(tone, rotation_hz=400.0))[0] < 0.05
    assert np.isnan(order_ratio(1)(waves(tone))[0])
    assert envelope_peak_ratio(waves(impacts(0.01, 512)))[0] > 2.0 * envelope_peak_ratio(waves(noise))[0]
    assert all(np.isnan(feature.compute(waves(np.ones(512)))[0]) for feature in WAVEFORM_FEATURES[:4])


@given(frequency_hz=st.floats(20.0, 3000.0), count=st.integers(1000, 3000), phase=st.floats(0.0, 6.0))
def test_a_line_is_measured_where_it_is(frequency_hz: float, count: int, phase: float) -> None:
    """Wherever the spectrum's grid lies. Control: three grid widths beside it there is next to nothing."""
    tone, taper = sine(frequency_hz, count, phase)[None], np.hanning(count)
    here = amplitude(tone, taper, np.array([frequency_hz / RATE_HZ]))
    beside = amplitude(tone, taper, np.array([frequency_hz / RATE_HZ + 3.0 / count]))

    assert here == pytest.approx([1.0], abs=0.02)
    assert beside[0] < 0.1


def test_orders_are_multiples_of_rotation() -> None:
    signal = 2.0 * sine(25.0) + 0.5 * sine(75.0)
    turning = waves(signal, rotation_hz=25.0)

    ratios = [order_ratio(order)(turning)[0] * turning.rms[0] for order in (1, 2, 3)]

    assert ratios == pytest.approx([2.0, 0.0, 0.5], abs=0.01)
    assert np.isnan(order_ratio(100)(waves(signal, rotation_hz=40.0))[0])  # above half the sample rate


def test_fault_frequencies_are_those_of_the_tables() -> None:
    """Of a bearing whose data sheet and literature give 3.5848, 5.4152, 0.39828 and 4.7135 (twice the spin)."""
    orders = fault_orders(BEARING)

    assert orders["bpfo"] == pytest.approx(3.5848, abs=2e-4)
    assert orders["bpfi"] == pytest.approx(5.4152, abs=2e-4)
    assert orders["ftf"] == pytest.approx(0.39828, abs=2e-4)
    assert 2.0 * orders["bsf"] == pytest.approx(4.7135, abs=2e-3)
    assert orders["bpfo"] + orders["bpfi"] == pytest.approx(BEARING.elements)


def swelling(frequency_hz: float, count: int = 8192) -> FloatArray:
    """Ringing that swells and fades, as where a worn cage lets the elements bunch."""
    return np.asarray((1.0 + 0.8 * sine(frequency_hz, count)) * sine(2300.0, count), np.float64)


@pytest.mark.parametrize("fault", ["bpfo", "bpfi", "bsf", "ftf"])
def test_a_damaged_part_shows_at_its_own_frequency(fault: str) -> None:
    """What repeats at one fault's frequency, between grid lines, beside noise; the other faults stay below."""
    orders, rotation_hz = fault_orders(BEARING), 29.17
    noise = 0.05 * np.random.default_rng(1).normal(size=8192)
    frequency_hz = orders[fault] * rotation_hz
    signal = swelling(frequency_hz) if fault == "ftf" else impacts(1.0 / frequency_hz)
    turning = waves(signal + noise, rotation_hz=rotation_hz)

    ratios = {name: envelope_order_ratio(order)(turning)[0] for name, order in orders.items()}

    assert ratios[fault] > 0.7
    assert ratios[fault] > 3.0 * max(ratio for name, ratio in ratios.items() if name != fault)
    assert np.isnan(envelope_order_ratio(orders[fault])(waves(noise))[0])  # without a speed


def test_a_fault_that_comes_less_than_twice_is_not_known() -> None:
    short = waves(impacts(0.01, 512), rotation_hz=25.0)

    assert np.isnan(envelope_order_ratio(0.4)(short)[0])
    assert np.isfinite(envelope_order_ratio(3.6)(short)[0])


@pytest.mark.parametrize(
    ("frequency_hz", "counts"), [(10.5, 1.0), (80.0, 1.0), (997.0, 1.0), (3.0, 0.0), (1100.0, 0.0)]
)
def test_velocity_is_the_integral_between_10_and_1000_hz(frequency_hz: float, counts: float) -> None:
    tone = sine(frequency_hz, 16384)
    expected = counts * 1000.0 / (2.0 * np.pi * frequency_hz) / np.sqrt(2.0)

    velocity = velocity_rms_mm_s(VelocityZones(), 1.0)(waves(tone))

    assert velocity == pytest.approx([expected], rel=0.04, abs=0.02 * 1000.0 / (2.0 * np.pi * frequency_hz))


def test_a_waveform_shorter_than_a_period_has_no_velocity() -> None:
    velocity = velocity_rms_mm_s(VelocityZones(), 1.0)

    assert np.isnan(velocity(waves(sine(50.0, 512)))[0])
    assert np.isfinite(velocity(waves(sine(50.0, 640)))[0])


def test_zones_begin_above_their_limits() -> None:
    told = velocity_zone(VelocityZones(), np.array([0.0, 1.4, 1.41, 2.8, 4.5, 4.6, np.nan]))

    np.testing.assert_array_equal(told, [1.0, 1.0, 2.0, 2.0, 3.0, 4.0, np.nan])


def one_window(channel: Channel, waveforms: list[FloatArray], speed_rpm: float) -> tuple[FeatureSpecification, Windows]:
    spec = FeatureSpecification(
        asset_class="fan",
        channels=(Channel(name="speed_rpm", unit="rpm", low=0.0, high=3600.0), channel),
        window_s=3600.0,
        step_s=3600.0,
        late_s=0.0,
        orders=(1,),
        velocity_zones=VelocityZones(),
    )
    count = len(waveforms)

    def rows(value: float, samples: list[FloatArray]) -> ChannelRows:
        return ChannelRows(
            time=np.arange(count) * 10**9,
            value=np.full(count, value),
            good=np.ones(count, np.bool_),
            sample_count=np.array([one.size for one in samples] or [0] * count, np.int64),
            samples=np.concatenate(samples).astype(np.float32) if samples else np.empty(0, np.float32),
            first=np.zeros(1, np.int64),
            last=np.full(1, count),
        )

    windows = Windows(
        asset_ids=("a",),
        asset=np.zeros(1, np.int64),
        start_ns=np.zeros(1, np.int64),
        end_ns=np.full(1, HOUR_NS),
        good_share=np.ones(1),
        channels=(rows(speed_rpm, []), rows(np.nan, waveforms)),
    )
    return spec, windows


@pytest.mark.parametrize(("unit", "gain"), [("m/s²", 1.0), ("g", 1.0 / 9.80665)])
def test_a_window_has_the_mean_of_its_waveforms_of_any_length_and_the_zone_of_that(unit: str, gain: float) -> None:
    """2 and 6 mm/s are 4 mm/s: zone C, though no waveform is in it. Whether told in m/s² or in g."""
    channel = Channel(name="vibration", unit=unit, low=-100.0, high=100.0, sample_rate_hz=RATE_HZ)
    amplitude_of = np.sqrt(2.0) * 2.0 * np.pi * 50.0 / 1000.0 * gain
    spec, windows = one_window(
        channel, [2.0 * amplitude_of * sine(50.0, 4096), 6.0 * amplitude_of * sine(50.0, 3000), sine(50.0, 8)], 3000.0
    )

    told = dict(zip(feature_names(spec), extract(spec, windows)[0].tolist(), strict=True))

    assert told["vibration.velocity_rms"] == pytest.approx(4.0, rel=0.02)
    assert told["vibration.velocity_zone"] == 3.0
    assert told["vibration.order_1_ratio"] == pytest.approx(np.sqrt(2.0), rel=0.01)


def test_velocity_is_of_acceleration_alone(full_spec: FeatureSpecification) -> None:
    """A waveform of current has no velocity, beside one of acceleration."""
    current = Channel(name="current", unit="A", low=-10.0, high=10.0, sample_rate_hz=RATE_HZ)
    names = feature_names(replace(full_spec, channels=(*full_spec.channels, current)))

    assert [name for name in names if "velocity" in name] == [
        "vibration_m_s2.velocity_rms",
        "vibration_m_s2.velocity_zone",
    ]
