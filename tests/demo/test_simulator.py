from __future__ import annotations

import itertools

import numpy as np
import pytest

from demo.plant.channels import CHANNELS, FAILURE_MODES, WAVEFORM
from demo.plant.fleet import CELLS, LIVE_START_NS, PLANT_START_NS, archive_assets, demo_fleet
from demo.plant.simulator import BAD_OUT_OF_SERVICE, DAY_NS, SECOND_NS, Asset, simulate
from models.records import FloatArray, Observations, is_good

HOUR_NS = 3600 * SECOND_NS
FLEET = {asset.asset_id: asset for asset in demo_fleet(seed=7)}


def good_values(asset: Asset, channel: str, start_ns: int, end_ns: int) -> FloatArray:
    rows = simulate(asset, start_ns, end_ns)
    stream = [s.channel for s in rows.streams].index(channel)
    return rows.take((rows.stream == stream) & is_good(rows.status)).value


def assert_equal(one: Observations, other: Observations) -> None:
    for name in ("stream", "source_time", "value", "status", "sample_count", "samples"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_pieces_of_a_span_are_the_span() -> None:
    """However a span is cut, the same observations come, to the last bit."""
    asset, start = FLEET["pump-02"], LIVE_START_NS + 3 * DAY_NS + 5 * HOUR_NS
    cuts = [start, start + HOUR_NS // 6, start + 7 * HOUR_NS, start + 2 * DAY_NS]
    pieces = [simulate(asset, a, b) for a, b in itertools.pairwise(cuts)]
    assert_equal(Observations.concatenate(pieces), simulate(asset, start, cuts[-1]))


def test_another_seed_makes_another_plant() -> None:
    first, second = (simulate(demo_fleet(seed)[0], LIVE_START_NS, LIVE_START_NS + DAY_NS) for seed in (1, 2))
    assert not np.array_equal(first.value, second.value, equal_nan=True)


def test_a_stream_is_sampled_at_its_interval_without_a_hole() -> None:
    rows = simulate(FLEET["spindle-03"], PLANT_START_NS, PLANT_START_NS + DAY_NS)
    for number, stream in enumerate(rows.streams):
        steps = np.diff(rows.source_time[rows.stream == number])
        assert (steps == (HOUR_NS if stream.channel == WAVEFORM else 600 * SECOND_NS)).all()


def test_rows_come_by_time() -> None:
    rows = simulate(FLEET["pump-01"], PLANT_START_NS, PLANT_START_NS + DAY_NS)
    assert (np.diff(rows.source_time) >= 0).all()


def test_a_bad_row_tells_neither_value_nor_samples() -> None:
    rows = simulate(FLEET["pump-01"], PLANT_START_NS, LIVE_START_NS)
    bad = rows.status >> 30 == 2
    assert 0.0 < bad.mean() < 0.03
    assert np.isnan(rows.value[bad]).all()
    assert not rows.sample_count[bad].any()


@pytest.mark.parametrize("asset_id", [name for name, asset in FLEET.items() if not asset.faults])
def test_a_healthy_machine_stays_where_commissioning_showed_it(asset_id: str) -> None:
    """Beyond the first ten days' range lies no more than a stray value of noise."""
    asset = FLEET[asset_id]
    for channel in asset.channels:
        if channel.name == WAVEFORM:
            continue
        before = good_values(asset, channel.name, PLANT_START_NS, LIVE_START_NS)
        after = good_values(asset, channel.name, LIVE_START_NS, LIVE_START_NS + 10 * DAY_NS)
        margin = 0.1 * np.ptp(before)
        assert ((after < before.min() - margin) | (after > before.max() + margin)).mean() < 0.002


SIGNS = {
    # Which plain channel each mode moves most, and whether up or down.
    ("centrifugal_pump", "bearing_outer_race"): ("bearing_temperature_c", 1),
    ("centrifugal_pump", "imbalance"): ("vibration_rms_mm_s", 1),
    ("centrifugal_pump", "cavitation"): ("discharge_pressure_bar", -1),
    ("centrifugal_pump", "seal_leak"): ("seal_temperature_c", 1),
    ("spindle_drive", "bearing_outer_race"): ("bearing_temperature_c", 1),
    ("spindle_drive", "imbalance"): ("vibration_rms_mm_s", 1),
    ("spindle_drive", "cooling_loss"): ("coolant_flow_l_min", -1),
    ("spindle_drive", "tool_wear"): ("torque_nm", 1),
}


@pytest.mark.parametrize("asset_id", [name for name, asset in FLEET.items() if asset.faults])
def test_a_fault_shows_a_day_before_failure(asset_id: str) -> None:
    """Three sigma of healthy life away, on the channel that its physics moves."""
    asset, fault = FLEET[asset_id], FLEET[asset_id].faults[0]
    channel, sign = SIGNS[asset.asset_class, fault.mode]
    healthy = good_values(asset, channel, PLANT_START_NS, LIVE_START_NS)
    shown = good_values(asset, channel, fault.failure - DAY_NS - 4 * HOUR_NS, fault.failure - DAY_NS)
    assert sign * (np.median(shown) - np.median(healthy)) > 3.0 * healthy.std()


def test_bearing_impacts_make_the_waveform_spiky() -> None:
    """Kurtosis of the waveform grows with an outer-race fault."""
    asset, fault = FLEET["pump-01"], FLEET["pump-01"].faults[0]

    def kurtosis(end_ns: int) -> float:
        rows = simulate(asset, end_ns - 12 * HOUR_NS, end_ns)
        waves = rows.samples.reshape(-1, 512).astype(np.float64)
        centred = waves - waves.mean(axis=1, keepdims=True)
        return float(np.median((centred**4).mean(1) / (centred**2).mean(1) ** 2))

    assert kurtosis(fault.onset) < 3.5
    assert kurtosis(fault.failure - DAY_NS) > 5.0


def test_a_failed_machine_is_out_of_service_until_repaired_and_then_as_before() -> None:
    asset, fault = FLEET["spindle-01"], FLEET["spindle-01"].faults[0]
    down = simulate(asset, fault.failure, fault.repaired)
    assert (down.status == BAD_OUT_OF_SERVICE).all()
    healthy = good_values(asset, "torque_nm", PLANT_START_NS, LIVE_START_NS)
    repaired = good_values(asset, "torque_nm", fault.repaired, fault.repaired + DAY_NS)
    assert repaired.max() < healthy.max() + healthy.std()


def test_the_demo_fleet_covers_all_modes_and_keeps_four_machines_healthy() -> None:
    for seed in range(20):
        fleet = demo_fleet(seed)
        faults = [fault for asset in fleet for fault in asset.faults]
        assert {fault.mode for fault in faults} == {mode for modes in FAILURE_MODES.values() for mode in modes}
        assert len(faults) >= 7
        assert sum(not asset.faults for asset in fleet) >= 4
        for fault in faults:
            assert LIVE_START_NS < fault.onset < fault.failure < LIVE_START_NS + int(9.5 * DAY_NS)
            assert fault.failure < fault.repaired


def test_cells_share_the_fleet_out() -> None:
    assert [a.asset_id for cell in CELLS for a in demo_fleet(7, cell)] == list(FLEET)
    with pytest.raises(ValueError, match="cell-9"):
        demo_fleet(7, "cell-9")


@pytest.mark.parametrize("asset_class", sorted(CHANNELS))
def test_the_archive_holds_whole_lives(asset_class: str) -> None:
    """12 to 16 days, a quarter never fails, each mode several times, eight healthy days at least."""
    lives = archive_assets(asset_class, 16, seed=7)
    modes = [fault.mode for life in lives for fault in life.asset.faults]
    assert all(12 * DAY_NS <= life.end - life.start <= 16 * DAY_NS for life in lives)
    assert {mode: modes.count(mode) for mode in FAILURE_MODES[asset_class]} == dict.fromkeys(
        FAILURE_MODES[asset_class], 3
    )
    for life in lives:
        for fault in life.asset.faults:
            assert fault.failure == life.end
            assert fault.onset >= life.start + 8 * DAY_NS


def test_severity_grows_from_onset_to_failure_and_ends_there() -> None:
    fault = FLEET["pump-04"].faults[0]
    middle = (fault.onset + fault.failure) // 2
    severity = fault.severity(np.array([fault.onset, middle, fault.failure - 1, fault.failure]))
    assert severity[0] == 0.0
    assert 0.0 < severity[1] < severity[2] <= 1.0
    assert severity[2] == pytest.approx(1.0, abs=1e-6)
    assert severity[3] == 0.0
