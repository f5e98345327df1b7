from collections.abc import Callable

import numpy as np
import pytest

from models.features.specification import (
    Bearing,
    Derived,
    FeatureSpecification,
    History,
    Regimes,
    Residual,
    VelocityZones,
)
from models.records import Channel, Observations, Stream

HOUR_NS = 3_600_000_000_000
START_NS = 1_772_409_600_000_000_000  # 2026-03-02, a whole hour


@pytest.fixture(scope="session")
def spec() -> FeatureSpecification:
    """Two plain channels, a speed and a waveform, in windows of two hours each hour."""
    return FeatureSpecification(
        asset_class="test_pump",
        channels=(
            Channel(name="speed_rpm", unit="rpm", low=0.0, high=3600.0),
            Channel(name="bearing_temperature_c", unit="°C", low=-20.0, high=150.0),
            Channel(name="flow_m3_h", unit="m³/h", low=0.0, high=150.0),
            Channel(name="vibration_m_s2", unit="m/s²", low=-160.0, high=160.0, sample_rate_hz=6400.0),
        ),
        window_s=7200.0,
        step_s=3600.0,
        late_s=3600.0,
        history=History(rolling=(6,)),
    )


@pytest.fixture(scope="session")
def full_spec(spec: FeatureSpecification) -> FeatureSpecification:
    """The same channels and one that counts errors, with everything that can be asked for; two regimes of speed."""
    return FeatureSpecification(
        asset_class="test_pump",
        channels=(*spec.channels, Channel(name="errors", unit="1", low=0.0, high=10.0)),
        window_s=spec.window_s,
        step_s=spec.step_s,
        late_s=spec.late_s,
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
        quality=True,
        derived=(Derived(name="work", unit="m³", kind="product", first="flow_m3_h", second="speed_rpm", factor=0.01),),
        residuals=(
            Residual(
                name="flow", target="flow_m3_h", predictors=("speed_rpm",), degree=2, coefficients=(1.0, 0.02, 0.0)
            ),
        ),
        regimes=Regimes(channels=("speed_rpm",), centres=((1000.0,), (2000.0,)), scales=(500.0,)),
        bearings=(Bearing(name="drive_end", elements=9, element_diameter_mm=7.94, pitch_diameter_mm=39.04),),
        orders=(1, 2),
        velocity_zones=VelocityZones(),
        history=History(
            rolling=(3, 6),
            statistics=("mean", "std", "trend"),
            since_start=True,
            first_windows=4,
            cycles=True,
            events=("errors",),
            sequence_windows=8,
        ),
    )


@pytest.fixture(scope="session")
def recording(spec: FeatureSpecification) -> Callable[..., Observations]:
    """Return what makes some hours of two assets, plain values each ten minutes, waveforms each hour, by time."""

    def make(hours: int = 12, *, seed: int = 1, bad_share: float = 0.0, shuffle_rows: int = 0) -> Observations:
        rng = np.random.default_rng(seed)
        streams = tuple(Stream(asset, channel.name) for asset in ("a-1", "a-2") for channel in spec.channels)
        parts = []
        for number, stream in enumerate(streams):
            every = HOUR_NS if stream.channel == "vibration_m_s2" else HOUR_NS // 6
            times = START_NS + np.arange(hours * HOUR_NS // every, dtype=np.int64) * every
            parts.append((np.full(len(times), number, np.uint32), times))
        stream_of = np.concatenate([part[0] for part in parts])
        times = np.concatenate([part[1] for part in parts])
        # A row may overtake those up to shuffle_rows before it.
        order = np.argsort(times, kind="stable")
        order = order[
            np.argsort(np.arange(len(order)) + rng.uniform(0, shuffle_rows + 1e-9, len(order)), kind="stable")
        ]
        stream_of, times = stream_of[order], times[order]
        wave = np.array([stream.channel == "vibration_m_s2" for stream in streams])[stream_of]
        counts = np.where(wave, 256, 0).astype(np.uint32)
        speed = np.array([stream.channel == "speed_rpm" for stream in streams])[stream_of]
        values = np.where(speed, 1500.0, 60.0) + rng.normal(size=len(times))
        return Observations(
            streams=streams,
            stream=stream_of,
            source_time=times,
            value=np.where(wave, np.nan, values),
            status=np.where(rng.random(len(times)) < bad_share, 0x80000000, 0).astype(np.uint32),
            sample_count=counts,
            samples=rng.normal(size=int(counts.sum())).astype(np.float32),
        )

    return make
