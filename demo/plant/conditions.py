"""What a machine meets: its load over shifts and batches, the hall's temperature, its faults, its own make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np

from models.records import FloatArray

DAY_S: Final = 86400.0


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What acts on a machine at each point of an even time grid; all arrays have shape ``(n,)``.

    Attributes:
        step_s: Seconds between two points of the grid.
        load: Share of rated load, about 0.55 to 0.95; 0 while the machine stands.
        batch: Which part of a batch runs, -1 to 1.
        ambient_c: Temperature of the hall.
        severity: Severity 0 to 1 by failure mode.
    """

    step_s: float
    load: FloatArray
    batch: FloatArray
    ambient_c: FloatArray
    severity: dict[str, FloatArray]


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Return a generator that depends on *seed* and *parts* alone, never on what was drawn before."""
    return np.random.default_rng([seed, *(crc32(part.encode()) if isinstance(part, str) else part for part in parts)])


def batch_phase(time_s: FloatArray, draw: np.random.Generator) -> FloatArray:
    """Return the batch cycle, -1 (light part) to 1 (heavy part), with the asset's own period of 70 to 100 min."""
    period_s, phase = draw.uniform(4200.0, 6000.0), draw.uniform(0.0, 2 * np.pi)
    return np.asarray(np.tanh(3.0 * np.sin(2 * np.pi * time_s / period_s + phase)), np.float64)


def shift_load(time_s: FloatArray, batch: FloatArray, draw: np.random.Generator) -> FloatArray:
    """Return the share of rated load: three shifts a day, batches inside them, and a slow wandering.

    Every day has the same shifts, so ten days show all of a healthy machine's loads.
    """
    hour = (time_s % DAY_S) / 3600.0
    early = 0.5 * (np.tanh((hour - 6.0) / 0.4) - np.tanh((hour - 22.0) / 0.4))
    late = 0.5 * (np.tanh((hour - 14.0) / 0.4) - np.tanh((hour - 22.0) / 0.4))
    wander_h = draw.uniform(17.0, 41.0, 2)
    wander = np.sin(2 * np.pi * time_s / (3600.0 * wander_h[0])) + np.sin(2 * np.pi * time_s / (3600.0 * wander_h[1]))
    load: FloatArray = 0.68 + 0.14 * early - 0.05 * late + 0.05 * batch + 0.012 * wander
    return load


def hall_temperature(time_s: FloatArray) -> FloatArray:
    """Return the hall's temperature in °C: a daily swing, warmest at 15:00, and weather over four days."""
    hour = (time_s % DAY_S) / 3600.0
    return 21.0 + 2.2 * np.sin(2 * np.pi * (hour - 9.0) / 24.0) + 0.8 * np.sin(2 * np.pi * time_s / (3.7 * DAY_S))


def first_order(target: FloatArray, step_s: float, time_constant_s: float) -> FloatArray:
    """Return *target* as a body with one heat capacity follows it: ``tau dT/dt = target - T``.

    The first values are still those of the start; a caller lets some time constants pass before it looks.
    """
    keep = float(np.exp(-step_s / time_constant_s))
    follower = np.empty_like(target)
    state = float(target[0])
    for index, value in enumerate(target):
        state = keep * state + (1.0 - keep) * float(value)
        follower[index] = state
    return follower
