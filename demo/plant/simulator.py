"""The simulator: observations of an asset over any span of time, the same whatever pieces they are asked in.

Everything is computed in whole days. A day depends on the asset, its seed and the date alone: what came before
enters through a warm-up of half a day, far longer than the slowest heat capacity remembers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from demo.plant.channels import (
    CHANNELS,
    FAILURE_MODES,
    PLAIN_INTERVAL_S,
    WAVEFORM,
    WAVEFORM_INTERVAL_S,
    WAVEFORM_SAMPLES,
)
from demo.plant.conditions import Conditions, batch_phase, generator, hall_temperature, shift_load
from demo.plant.faults import Fault, severity
from demo.plant.machines import MACHINES
from models.records import BoolArray, Channel, FloatArray, Int64Array, Observations, Stream, UInt32Array

SECOND_NS: Final = 1_000_000_000
DAY_NS: Final = 86_400 * SECOND_NS
WARM_UP_S: Final = 43_200
TEST_RUN_NS: Final = 3 * 3600 * SECOND_NS  # a repaired machine runs warm before its sensors are back in service

GOOD: Final = 0x00000000
UNCERTAIN_SENSOR_NOT_ACCURATE: Final = 0x40930000
BAD_NO_COMMUNICATION: Final = 0x80310000
BAD_SENSOR_FAILURE: Final = 0x808C0000
BAD_OUT_OF_SERVICE: Final = 0x808D0000


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One machine of the plant: its class, the seed of its make and noise, and its faults."""

    asset_id: str
    asset_class: str
    seed: int
    faults: tuple[Fault, ...] = ()

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels of its class."""
        return CHANNELS[self.asset_class]


def simulate(asset: Asset, start_ns: int, end_ns: int) -> Observations:
    """Return all observations of *asset* with ``start_ns <= source_time < end_ns``, by time, then by channel.

    A value with Bad status is NaN, a waveform with Bad status has no samples: the server tells nothing else.
    """
    days = [_day(asset, day) for day in range(start_ns // DAY_NS, -(-end_ns // DAY_NS))]
    whole = Observations.concatenate(days)
    return whole.take((whole.source_time >= start_ns) & (whole.source_time < end_ns))


def _meets(asset: Asset, time_s: Int64Array) -> Conditions:
    time_ns, seconds = time_s * SECOND_NS, time_s.astype(np.float64)
    draw = generator(asset.seed, asset.asset_id, "load")
    batch = batch_phase(seconds, draw)
    load = shift_load(seconds, batch, draw)
    for fault in asset.faults:
        load = np.where((time_ns >= fault.failure) & (time_ns < fault.repaired - TEST_RUN_NS), 0.0, load)
    return Conditions(
        step_s=PLAIN_INTERVAL_S,
        load=load,
        batch=batch,
        ambient_c=hall_temperature(seconds),
        severity={mode: severity(asset.faults, mode, time_ns) for mode in FAILURE_MODES[asset.asset_class]},
    )


def _day(asset: Asset, day: int) -> Observations:
    start_s = day * 86_400
    grid_s = np.arange(start_s - WARM_UP_S, start_s + 86_400, PLAIN_INTERVAL_S, dtype=np.int64)
    readings = MACHINES[asset.asset_class](_meets(asset, grid_s), generator(asset.seed, asset.asset_id, "make"))
    today = grid_s >= start_s
    hourly = today & (grid_s % WAVEFORM_INTERVAL_S == 0)
    silent = _silence(asset, day, int(today.sum()))
    parts: list[Observations] = []
    for index, channel in enumerate(asset.channels):
        draw = generator(asset.seed, asset.asset_id, day, channel.name)
        rows = hourly if channel.name == WAVEFORM else today
        time_ns = grid_s[rows] * SECOND_NS
        status = _status(asset, time_ns, silent[np.flatnonzero(rows[today])], draw)
        if channel.name == WAVEFORM:
            waves = np.clip(readings.vibration.at(rows).waveforms(draw), channel.low, channel.high)
            parts.append(_waveforms(asset, index, time_ns, status, np.asarray(waves, np.float32)))
        else:
            noise = np.broadcast_to(np.asarray(readings.noise[channel.name], np.float64), grid_s.shape)[rows]
            value = readings.values[channel.name][rows] + noise * draw.standard_normal(len(time_ns))
            # An inaccurate sensor drifts by a few sigma; it is still worth storing.
            value = value + np.where(status == UNCERTAIN_SENSOR_NOT_ACCURATE, 4.0 * noise, 0.0)
            parts.append(_plain(asset, index, time_ns, status, np.clip(value, channel.low, channel.high)))
    whole = Observations.concatenate(parts)
    return whole.take(np.lexsort((whole.stream, whole.source_time)))


def _run(draw: np.random.Generator, count: int, chance: float, longest: int) -> BoolArray:
    """Return at most one run of up to *longest* rows out of *count*, there with *chance*."""
    rows = np.zeros(count, np.bool_)
    happens, where, length = draw.random(), int(draw.integers(count)), int(draw.integers(1, longest + 1))
    if happens < chance:
        rows[where : where + length] = True
    return rows


def _silence(asset: Asset, day: int, count: int) -> BoolArray:
    """Return when the asset's terminal box does not answer: all channels at once, up to 40 min, one day in eight."""
    return _run(generator(asset.seed, asset.asset_id, day, "silence"), count, 0.125, 4)


def _status(asset: Asset, time_ns: Int64Array, silent: BoolArray, draw: np.random.Generator) -> UInt32Array:
    count = len(time_ns)
    longest = max(count // 24, 1)
    status = np.full(count, GOOD, np.uint32)
    status[_run(draw, count, 0.15, longest)] = UNCERTAIN_SENSOR_NOT_ACCURATE
    status[_run(draw, count, 0.20, longest)] = BAD_SENSOR_FAILURE
    status[silent] = BAD_NO_COMMUNICATION
    for fault in asset.faults:
        status[fault.stands(time_ns)] = BAD_OUT_OF_SERVICE
    return status


def _bad(status: UInt32Array) -> BoolArray:
    return np.asarray(status >> np.uint32(30) == 2, np.bool_)


def _plain(asset: Asset, index: int, time_ns: Int64Array, status: UInt32Array, value: FloatArray) -> Observations:
    return Observations.of_values(
        _streams(asset),
        np.full(len(time_ns), index, np.uint32),
        time_ns,
        np.where(_bad(status), np.nan, value),
        status,
    )


def _waveforms(
    asset: Asset,
    index: int,
    time_ns: Int64Array,
    status: UInt32Array,
    waves: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> Observations:
    told = ~_bad(status)
    return Observations(
        streams=_streams(asset),
        stream=np.full(len(time_ns), index, np.uint32),
        source_time=time_ns,
        value=np.full(len(time_ns), np.nan),
        status=status,
        sample_count=np.where(told, WAVEFORM_SAMPLES, 0).astype(np.uint32),
        samples=waves[told].reshape(-1),
    )


def _streams(asset: Asset) -> tuple[Stream, ...]:
    return tuple(Stream(asset.asset_id, channel.name) for channel in asset.channels)
