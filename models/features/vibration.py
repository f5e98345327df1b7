"""Features of waveform channels: what a vibration's samples show of bearings, balance and flow.

Each function takes many waveforms of one length at once. A window's feature is the mean over its good waveforms of at
least 16 samples; it is NaN where there is none, or where none has the feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.features.specification import (
    ACCELERATION_M_S2,
    Bearing,
    FeatureSpecification,
    VelocityZones,
    is_acceleration,
)
from models.records import Channel, FloatArray

# Bands of the spectrum, as shares of its upper end: shafts; blades and cutting; bearing seats; bubbles.
BAND_EDGES = (0.0, 0.05, 0.2, 0.5, 1.0)
SHORTEST_WAVEFORM = 16
# Harmonics of a bearing's fault frequency that count, and repeats a waveform must hold to tell it from a drift.
HARMONICS = 3
LEAST_REPEATS = 2.0


class Waveforms:
    """Waveforms of one length with what several features need of them.

    Args:
        samples: Shape ``(waveforms, samples)``, finite, in the channel's unit. The mean is taken off here.
        sample_rate_hz: Of all of them.
        rotation_hz: Rotational frequency during each, shape ``(waveforms,)``; NaN where unknown.
    """

    def __init__(self, samples: FloatArray, sample_rate_hz: float, rotation_hz: FloatArray) -> None:
        self.samples = samples - samples.mean(axis=1, keepdims=True)
        self.sample_rate_hz = sample_rate_hz
        self.rotation_hz = rotation_hz

    @cached_property
    def rms(self) -> FloatArray:
        """Root mean square of each, NaN where nothing varies: a flat line has no shape."""
        mean_square = np.mean(self.samples**2, axis=1)
        return np.sqrt(np.where(mean_square > 0.0, mean_square, np.nan))

    @cached_property
    def taper(self) -> FloatArray:
        """Hann window, so that a strong line does not leak over the spectrum."""
        return np.hanning(self.samples.shape[1])

    @cached_property
    def power(self) -> FloatArray:
        """Power spectrum of each tapered waveform without scale, shape ``(waveforms, samples // 2 + 1)``."""
        return np.abs(np.fft.rfft(self.samples * self.taper, axis=1)) ** 2

    @cached_property
    def envelope(self) -> FloatArray:
        """Magnitude of the analytic signal above a quarter of the band, where impacts make the structure ring."""
        count = self.samples.shape[1]
        spectrum = np.fft.fft(self.samples, axis=1)
        spectrum[:, : count // 8] = 0.0
        spectrum[:, count // 2 :] = 0.0
        return np.abs(np.fft.ifft(2.0 * spectrum, axis=1))

    @cached_property
    def envelope_swing(self) -> FloatArray:
        """The envelope less its mean."""
        return np.asarray(self.envelope - self.envelope.mean(axis=1, keepdims=True), np.float64)


def ratio(numbers: FloatArray, of: FloatArray) -> FloatArray:
    """Return *numbers* over *of*, NaN where *of* is not above 0."""
    quotient: FloatArray = np.divide(numbers, of, out=np.full(len(of), np.nan), where=of > 0.0)
    return quotient


WaveformFunction = Callable[[Waveforms], FloatArray]


@dataclass(frozen=True, kw_only=True)
class WaveformFeature:
    """A feature of a waveform channel; ``revision`` is raised whenever ``compute`` answers differently.

    ``unit`` is empty where the feature is in the channel's.
    """

    name: str
    revision: int
    compute: WaveformFunction
    unit: str = "1"


def rms(waveforms: Waveforms) -> FloatArray:
    """Return the root mean square of each."""
    return waveforms.rms


def peak(waveforms: Waveforms) -> FloatArray:
    """Return the largest magnitude of each."""
    return np.where(np.isnan(waveforms.rms), np.nan, np.abs(waveforms.samples).max(axis=1))


def crest_factor(waveforms: Waveforms) -> FloatArray:
    """Return the peak over the root mean square, 1 or more.

    It climbs early in bearing wear, while impacts are sharp and rare, and sinks again once the damage has spread.

    Source:
        R. B. Randall, *Vibration-based Condition Monitoring*, Wiley, 2011.
    """
    return np.asarray(np.abs(waveforms.samples).max(axis=1) / waveforms.rms, np.float64)


def kurtosis(waveforms: Waveforms) -> FloatArray:
    """Return the fourth moment over the squared second: 1.5 for a sine, 3 for noise, more for impacts."""
    scaled = waveforms.samples / waveforms.rms[:, None]
    return np.asarray(np.mean(scaled**4, axis=1), np.float64)


def band_share(number: int) -> WaveformFunction:
    """Return the function for the share, 0 to 1, of the spectrum's power in band *number* of ``BAND_EDGES``."""

    def share(waveforms: Waveforms) -> FloatArray:
        power = waveforms.power
        low, high = (round(edge * (power.shape[1] - 1)) for edge in BAND_EDGES[number : number + 2])
        total = power[:, 1:].sum(axis=1)
        inside = power[:, low + 1 : high + 1].sum(axis=1)
        return ratio(inside, total)

    return share


def envelope_peak_ratio(waveforms: Waveforms) -> FloatArray:
    """Return how far the envelope's strongest line stands above its mean line, 1 or more.

    Impacts that repeat, as from a damaged race, make one line and its harmonics; noise makes many alike.
    It says nothing on a waveform shorter than a few repeats.

    Source:
        R. B. Randall, J. Antoni, *Rolling element bearing diagnostics: a tutorial*, MSSP 25 (2011) 485-520.
    """
    power = np.abs(np.fft.rfft(waveforms.envelope_swing * waveforms.taper, axis=1)) ** 2
    # The taper spreads what is constant over the first two lines; above a quarter there are only harmonics.
    lines = power[:, 2 : max(power.shape[1] // 4, 4)]
    mean = lines.mean(axis=1)
    return ratio(lines.max(axis=1), mean)


def amplitude(signals: FloatArray, taper: FloatArray, turns: FloatArray) -> FloatArray:
    """Return the amplitude of each signal's line at *turns*, which need not fall on the spectrum's grid.

    Args:
        signals: Shape ``(n, samples)``, without their mean.
        taper: Shape ``(samples,)``.
        turns: Frequency over sample rate, shape ``(n,)``, finite.
    """
    # The phase in steps of a block and in steps inside it, so that sines are taken of few numbers.
    count = signals.shape[1]
    block = math.isqrt(count - 1) + 1
    blocks = -(-count // block)
    padded = np.zeros((len(signals), blocks * block))
    padded[:, :count] = signals * taper
    inside = _phasors(turns, block, 1)
    total = (padded.reshape(len(signals), blocks, block) * inside[:, None, :]).sum(axis=2)
    total = total * _phasors(turns, blocks, block)
    return np.asarray(2.0 * np.abs(total.sum(axis=1)) / taper.sum(), np.float64)


def order_ratio(order: int) -> WaveformFunction:
    """Return the function for the amplitude at *order* times the rotational frequency over the root mean square.

    0 to about 1.5; NaN without a speed, and where the line is above half the sample rate. Order 1 is imbalance, order
    2 misalignment, the number of blades what they push.
    """

    def ratio_of(waveforms: Waveforms) -> FloatArray:
        turns = order * waveforms.rotation_hz / waveforms.sample_rate_hz
        known = np.isfinite(turns) & (turns > 0.0) & (turns < 0.5)
        line = amplitude(waveforms.samples, waveforms.taper, np.where(known, turns, 0.0))
        return np.where(known, line / waveforms.rms, np.nan)

    return ratio_of


def fault_orders(bearing: Bearing) -> dict[str, float]:
    """Return a bearing's fault frequencies over the rotational frequency of its inner race.

    ``bpfo`` of the outer race, ``bpfi`` of the inner, ``bsf`` of a rolling element's spin, ``ftf`` of the cage.

    Source:
        R. B. Randall, J. Antoni, *Rolling element bearing diagnostics: a tutorial*, MSSP 25 (2011) 485-520, eq. 1-4.
    """
    slope = bearing.element_diameter_mm / bearing.pitch_diameter_mm * math.cos(math.radians(bearing.contact_angle_deg))
    return {
        "bpfo": bearing.elements / 2.0 * (1.0 - slope),
        "bpfi": bearing.elements / 2.0 * (1.0 + slope),
        "bsf": bearing.pitch_diameter_mm / (2.0 * bearing.element_diameter_mm) * (1.0 - slope**2),
        "ftf": 0.5 * (1.0 - slope),
    }


def envelope_order_ratio(order: float) -> WaveformFunction:
    """Return the function for what of the envelope swings with *order* times the rotational frequency.

    The root sum of squares of the amplitudes at that frequency and its next two harmonics, over the root mean square
    of the envelope about its mean: 0 to about 1.4. A damaged race or element hits at its own frequency. Real ones slip
    by one or two hundredths, so a waveform much longer than 50 repeats sees less. NaN without a speed, where the
    waveform holds fewer than two repeats, and where the frequency is above half the sample rate; a harmonic above that
    counts as 0.
    """

    def ratio_of(waveforms: Waveforms) -> FloatArray:
        turns = order * waveforms.rotation_hz / waveforms.sample_rate_hz
        repeats = turns * waveforms.samples.shape[1]
        known = np.isfinite(turns) & (repeats >= LEAST_REPEATS) & (turns < 0.5)
        swing = waveforms.envelope_swing
        power = np.zeros(len(turns))
        for harmonic in range(1, HARMONICS + 1):
            there = known & (harmonic * turns < 0.5)
            line = amplitude(swing, waveforms.taper, np.where(there, harmonic * turns, 0.0))
            power += np.where(there, line, 0.0) ** 2
        swing_rms = np.sqrt(np.mean(swing**2, axis=1))
        return np.where(known, ratio(np.sqrt(power), swing_rms), np.nan)

    return ratio_of


def velocity_rms_mm_s(zones: VelocityZones, factor: float) -> WaveformFunction:
    """Return the function for the root mean square of velocity between the zones' limits of frequency, in mm/s.

    The spectrum of the tapered acceleration is divided by the angular frequency, line by line, which integrates it
    without drift. NaN for a waveform shorter than one period of the lower limit, which has no line there; below three
    periods the lowest lines are only roughly parted from what is slower.

    Args:
        zones: Whose band.
        factor: From the channel's unit to m/s².

    Source:
        ISO 20816-1:2016, which measures broad-band velocity from 10 to 1000 Hz; Parseval's theorem.
    """

    def velocity(waveforms: Waveforms) -> FloatArray:
        count = waveforms.samples.shape[1]
        step_hz = waveforms.sample_rate_hz / count
        inside = slice(math.ceil(zones.low_hz / step_hz), math.floor(zones.high_hz / step_hz) + 1)
        lines = waveforms.power[:, inside]
        if count * zones.low_hz < waveforms.sample_rate_hz or not lines.size:
            return np.full(len(waveforms.samples), np.nan)
        frequency_hz = (inside.start + np.arange(lines.shape[1])) * step_hz
        total = (lines / (2.0 * np.pi * frequency_hz) ** 2).sum(axis=1)
        return np.asarray(1e3 * factor * np.sqrt(2.0 * total / (count * (waveforms.taper**2).sum())), np.float64)

    return velocity


def velocity_zone(zones: VelocityZones, velocity_mm_s: FloatArray) -> FloatArray:
    """Return the zone of ISO 20816 that each velocity is in: 1 for A (as new) to 4 for D (damage); NaN stays NaN.

    A velocity on a limit is still in the better zone.
    """
    zone = 1.0 + sum((velocity_mm_s > limit).astype(np.float64) for limit in zones.limits_mm_s)
    return np.where(np.isnan(velocity_mm_s), np.nan, zone)


def waveform_features(spec: FeatureSpecification, channel: Channel) -> tuple[WaveformFeature, ...]:
    """Return the features of a waveform channel: those of every one, and what *spec* asks for beside them.

    `VELOCITY_ZONE` is among them with a function that is not called: it is the zone of a window's mean velocity.
    """
    asked = [
        WaveformFeature(name=f"order_{order}_ratio", revision=1, compute=order_ratio(order)) for order in spec.orders
    ]
    asked += [
        WaveformFeature(name=f"{bearing.name}_{fault}_ratio", revision=1, compute=envelope_order_ratio(order))
        for bearing in spec.bearings
        for fault, order in fault_orders(bearing).items()
    ]
    if spec.velocity_zones is not None and is_acceleration(channel):
        velocity = velocity_rms_mm_s(spec.velocity_zones, ACCELERATION_M_S2[channel.unit])
        asked.append(WaveformFeature(name=VELOCITY, revision=1, compute=velocity, unit="mm/s"))
        asked.append(WaveformFeature(name=VELOCITY_ZONE, revision=1, compute=velocity))
    return (*WAVEFORM_FEATURES, *asked)


def _phasors(turns: FloatArray, count: int, step: int) -> NDArray[np.complex128]:
    """Return ``exp(-2 pi i turns step k)`` for k below *count*, shape ``(n, count)``, complex."""
    phase = turns[:, None] * (step * np.arange(count))
    phase = 2.0 * np.pi * (phase - np.floor(phase))
    return np.cos(phase) - 1j * np.sin(phase)


VELOCITY = "velocity_rms"
VELOCITY_ZONE = "velocity_zone"
WAVEFORM_FEATURES = (
    WaveformFeature(name="rms", revision=1, compute=rms, unit=""),
    WaveformFeature(name="peak", revision=1, compute=peak, unit=""),
    WaveformFeature(name="crest_factor", revision=1, compute=crest_factor),
    WaveformFeature(name="kurtosis", revision=1, compute=kurtosis),
    *(
        WaveformFeature(name=f"band_{number + 1}_share", revision=1, compute=band_share(number))
        for number in range(len(BAND_EDGES) - 1)
    ),
    WaveformFeature(name="envelope_peak_ratio", revision=1, compute=envelope_peak_ratio),
    WaveformFeature(name="one_x_ratio", revision=2, compute=order_ratio(1)),
)
