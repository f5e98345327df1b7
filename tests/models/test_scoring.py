"""From observations to what models are given, as it comes and all at once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.baseline import Baseline, fit_baseline
from models.features.extraction import extract
from models.features.history import Histories
from models.features.specification import Bearing, FeatureSpecification, History, Regimes, VelocityZones
from models.features.windower import Windower
from models.records import Channel, FloatArray, Observations, Stream
from models.scoring import Prepared, prepare, prepare_table

MINUTE_NS = 60 * 10**9
SPEC = FeatureSpecification(
    asset_class="test_fan",
    channels=(
        Channel(name="speed_rpm", unit="rpm", low=0.0, high=3600.0),
        Channel(name="current", unit="A", low=0.0, high=50.0),
        Channel(name="vibration", unit="m/s²", low=-100.0, high=100.0, sample_rate_hz=3200.0),
    ),
    window_s=1200.0,
    step_s=600.0,
    late_s=600.0,
    statistics=("mean", "std", "roughness"),
    quality=True,
    regimes=Regimes(channels=("speed_rpm",), centres=((1000.0,), (2000.0,)), scales=(500.0,)),
    bearings=(Bearing(name="de", elements=8, element_diameter_mm=8.0, pitch_diameter_mm=40.0),),
    orders=(1, 2),
    velocity_zones=VelocityZones(),
    history=History(rolling=(3, 5), since_start=True, first_windows=3, cycles=True, sequence_windows=4),
)


def recording(seed: int, hours: int = 6) -> Observations:
    """Return some hours of two fans by time: bad values, values that are none, a silence, changing speed."""
    rng = np.random.default_rng(seed)
    streams = tuple(Stream(asset_id, channel.name) for asset_id in ("f-1", "f-2") for channel in SPEC.channels)
    minutes = np.arange(hours * 60)
    minutes = minutes[(minutes < 150) | (minutes > 210)]
    stream = np.tile(np.arange(len(streams), dtype=np.uint32), len(minutes))
    time = np.repeat(minutes, len(streams)).astype(np.int64) * MINUTE_NS
    kept = rng.random(len(time)) < np.where(stream % 3 == 2, 0.1, 0.9)
    stream, time = stream[kept], time[kept]
    wave, speed = stream % 3 == 2, stream % 3 == 0
    value = np.where(speed, np.where(time // (40 * MINUTE_NS) % 2, 1000.0, 2000.0), 20.0) + rng.normal(size=len(time))
    value[rng.random(len(time)) < 0.05] = np.nan
    counts = np.where(wave, rng.choice([256, 512], len(time)), 0).astype(np.uint32)
    return Observations(
        streams=streams,
        stream=stream,
        source_time=time + 1_772_409_600 * 10**9,
        value=np.where(wave, np.nan, value),
        status=np.where(rng.random(len(time)) < 0.1, 0x80000000, 0).astype(np.uint32),
        sample_count=counts,
        samples=rng.normal(size=int(counts.sum())).astype(np.float32),
    )


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    windows = Windower(SPEC).push(recording(0, 12))
    features = extract(SPEC, windows)
    of_first: FloatArray = features[windows.asset == 0]
    return fit_baseline(SPEC, {"f-1": of_first}, 100)


def by_asset(parts: list[tuple[Prepared, list[str]]]) -> dict[str, dict[str, object]]:
    """Return all columns of each asset's windows: the order between assets follows the pages."""
    names = [asset_id for _, asset_ids in parts for asset_id in asset_ids]
    joint = {
        name: np.concatenate([getattr(prepared, name) for prepared, _ in parts])
        for name in ("features", "deviations", "inputs", "sequences", "windows_known", "whole")
    }
    return {
        asset_id: {name: column[np.array(names) == asset_id] for name, column in joint.items()}
        for asset_id in set(names)
    }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 2000), max_size=12), restart=st.booleans())
def test_pages_and_restarts_change_nothing(baseline: Baseline, seed: int, cuts: list[int], *, restart: bool) -> None:
    """From observations to inputs and sequences, waveforms, regimes, silences and all: equal to the last bit."""
    observations = recording(seed)
    windows = Windower(SPEC).push(observations)
    expected = by_asset([(prepare(SPEC, baseline, Histories(SPEC), windows), windows.asset_id_of_rows)])

    windower, histories, parts = Windower(SPEC), Histories(SPEC), []
    for first, last in pairwise([0, *sorted(cut % len(observations) for cut in cuts), len(observations)]):
        closed = windower.push(observations.take(np.arange(first, last)))
        parts.append((prepare(SPEC, baseline, histories, closed), closed.asset_id_of_rows))
        if restart:
            states = windower.state(), histories.state()
            windower, histories = Windower(SPEC), Histories(SPEC)
            windower.restore(states[0])
            histories.restore(states[1])

    assert len(windows) > 40
    for asset_id, columns in by_asset(parts).items():
        for name, column in columns.items():
            np.testing.assert_array_equal(column, expected[asset_id][name], err_msg=name)


def test_training_makes_of_features_what_a_gateway_makes_of_windows(baseline: Baseline) -> None:
    windows = Windower(SPEC).push(recording(3))
    features = extract(SPEC, windows)

    gateway = prepare(SPEC, baseline, Histories(SPEC), windows)
    table = prepare_table(SPEC, baseline, windows.asset_ids, windows.asset, windows.end_ns, features)
    bare = prepare_table(
        SPEC, baseline, windows.asset_ids, windows.asset, windows.end_ns, features, sequences=False, whole=False
    )

    np.testing.assert_array_equal(table.inputs, gateway.inputs)
    np.testing.assert_array_equal(table.sequences, gateway.sequences)
    np.testing.assert_array_equal(table.inputs[:, : features.shape[1]], table.deviations)
    assert bare.sequences is None
    assert table.whole.all()
    assert not bare.whole.any()
    assert table.features.dtype == np.float64
    assert table.inputs.dtype == np.float32


def test_rows_are_taken_together(baseline: Baseline) -> None:
    windows = Windower(SPEC).push(recording(4))
    prepared = prepare(SPEC, baseline, Histories(SPEC), windows)
    chosen = np.arange(len(prepared)) % 3 == 0

    some = prepared.take(chosen)

    assert len(some) == chosen.sum()
    np.testing.assert_array_equal(some.inputs, prepared.inputs[chosen])
    np.testing.assert_array_equal(some.windows_known, prepared.windows_known[chosen])
