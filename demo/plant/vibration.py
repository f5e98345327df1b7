"""Vibration of a rotating machine: what the sensor's RMS and its waveform show of each fault."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from demo.plant.channels import WAVEFORM_RATE_HZ, WAVEFORM_SAMPLES
from models.records import BoolArray, Float32Array, FloatArray

RESONANCE_HZ: Final = 2300.0  # of the bearing seat, rung by every impact
DECAY_S: Final = 0.0012
OUTER_RACE_ORDER: Final = 3.58  # BPFO of a 6205: 9 balls, d/D 0.204, no contact angle: 9/2 * (1 - 0.204)
CUTTING_EDGES: Final = 4


@dataclass(frozen=True, kw_only=True)
class Vibration:
    """What a machine's vibration is made of at each point of a time grid; all arrays have shape ``(n,)``.

    Attributes:
        rotation_hz: Rotational frequency.
        one_x_mm_s: RMS velocity at rotational frequency: imbalance, growing with the square of speed.
        two_x_mm_s: RMS velocity at twice that: alignment and looseness.
        rough_m_s2: RMS acceleration of broad noise: flow, cutting, rolling.
        impact_m_s2: Peak acceleration of outer-race impacts, one each ``1 / (3.58 * rotation_hz)``.
        hiss_m_s2: RMS acceleration of collapsing bubbles: noise that rises with frequency, in bursts.
        tooth_m_s2: Peak acceleration at the cutting edges' passing frequency.
    """

    rotation_hz: FloatArray
    one_x_mm_s: FloatArray
    two_x_mm_s: FloatArray
    rough_m_s2: FloatArray
    impact_m_s2: FloatArray
    hiss_m_s2: FloatArray
    tooth_m_s2: FloatArray

    def at(self, rows: BoolArray) -> Vibration:
        """Return the vibration at the chosen points of the grid."""
        return Vibration(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def velocity_rms_mm_s(self) -> FloatArray:
        """Return the overall RMS velocity (10 to 1000 Hz) that a vibration transmitter reports, in mm/s."""
        # Broad noise, ringing and hiss lie high in frequency; integrating them to velocity leaves these shares.
        return np.sqrt(
            self.one_x_mm_s**2
            + self.two_x_mm_s**2
            + (0.9 * self.rough_m_s2) ** 2
            + (0.22 * self.impact_m_s2) ** 2
            + (0.45 * self.hiss_m_s2) ** 2
            + (0.35 * self.tooth_m_s2) ** 2
        )

    def waveforms(self, draw: np.random.Generator) -> Float32Array:
        """Return one waveform of acceleration for each point, shape ``(n, 512)``, in m/s², at 6400 Hz."""
        count = len(self.rotation_hz)
        time_s = np.arange(WAVEFORM_SAMPLES) / WAVEFORM_RATE_HZ
        phase = draw.uniform(0.0, 2 * np.pi, (4, count, 1))
        omega = 2 * np.pi * self.rotation_hz[:, None]
        # a = v * omega for a sine; RMS to peak is the root of two; mm to m.
        one_x = self.one_x_mm_s[:, None] * omega * np.sqrt(2.0) / 1000.0 * np.sin(omega * time_s + phase[0])
        two_x = self.two_x_mm_s[:, None] * 2 * omega * np.sqrt(2.0) / 1000.0 * np.sin(2 * omega * time_s + phase[1])
        tooth = self.tooth_m_s2[:, None] * np.sin(CUTTING_EDGES * omega * time_s + phase[2])
        noise = draw.standard_normal((2, count, WAVEFORM_SAMPLES + 1))
        rough = self.rough_m_s2[:, None] * noise[0, :, 1:]
        # A first difference lifts the high end, as bubbles do; the slow envelope makes the bursts.
        bursts = 1.0 + 0.7 * np.sin(0.37 * omega * time_s + phase[3])
        hiss = self.hiss_m_s2[:, None] * np.diff(noise[1], axis=1) / np.sqrt(2.0) * bursts
        total = one_x + two_x + tooth + rough + hiss + self._ringing(time_s, draw)
        return np.asarray(total, np.float32)

    def _ringing(self, time_s: FloatArray, draw: np.random.Generator) -> FloatArray:
        """Return the ringing of the last impact at each moment; earlier ones have died away by then."""
        period_s = 1.0 / (OUTER_RACE_ORDER * np.maximum(self.rotation_hz[:, None], 1.0))
        since_s = (time_s + draw.uniform(0.0, 1.0, (len(period_s), 1)) * period_s) % period_s
        strength = draw.uniform(0.85, 1.15, (len(period_s), 1)) * self.impact_m_s2[:, None]
        return np.asarray(strength * np.exp(-since_s / DECAY_S) * np.sin(2 * np.pi * RESONANCE_HZ * since_s))
