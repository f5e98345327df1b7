"""Features of waveform channels: what a vibration's samples show of bearings, balance and flow.

Each function takes many waveforms of one length at once. A window's feature is the mean over its waveforms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from models.records import FloatArray

# Bands of the spectrum, as shares of its upper end: shafts; blades and cutting; bearing seats; bubbles.
BAND_EDGES = (0.0, 0.05, 0.2, 0.5, 1.0)
SHORTEST_WAVEFORM = 16


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
        """Magnitude of the analytic signal of the upper half of the band, where impacts make the structure ring."""
        count = self.samples.shape[1]
        spectrum = np.fft.fft(self.samples, axis=1)
        spectrum[:, : count // 8] = 0.0
        spectrum[:, count // 2 :] = 0.0
        return np.abs(np.fft.ifft(2.0 * spectrum, axis=1))


def ratio(numbers: FloatArray, of: FloatArray) -> FloatArray:
    """Return *numbers* over *of*, NaN where *of* is not above 0."""
    quotient: FloatArray = np.divide(numbers, of, out=np.full(len(of), np.nan), where=of > 0.0)
    return quotient


WaveformFunction = Callable[[Waveforms], FloatArray]


@dataclass(frozen=True, kw_only=True)
class WaveformFeature:
    """A feature of a waveform channel; ``revision`` is raised whenever ``compute`` answers differently.

    ``has_unit`` says whether it is in the channel's unit or a number without one.
    """

    name: str
    revision: int
    compute: WaveformFunction
    has_unit: bool = False


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
    envelope = waveforms.envelope - waveforms.envelope.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(envelope * waveforms.taper, axis=1)) ** 2
    # The taper spreads what is constant over the first two lines; above a quarter there are only harmonics.
    lines = power[:, 2 : max(power.shape[1] // 4, 4)]
    mean = lines.mean(axis=1)
    return ratio(lines.max(axis=1), mean)


def one_x_ratio(waveforms: Waveforms) -> FloatArray:
    """Return the amplitude at rotational frequency over the root mean square, 0 to about 1.5; NaN without a speed.

    Imbalance lifts it. The line is measured at the exact frequency, which need not fall on the spectrum's grid.
    """
    turns = waveforms.rotation_hz / waveforms.sample_rate_hz
    known = np.isfinite(turns) & (turns > 0.0) & (turns < 0.5)
    phase = 2.0 * np.pi * np.where(known, turns, 0.0)[:, None] * np.arange(waveforms.samples.shape[1])
    tapered = waveforms.samples * waveforms.taper
    in_phase, quadrature = (tapered * np.cos(phase)).sum(axis=1), (tapered * np.sin(phase)).sum(axis=1)
    amplitude = 2.0 * np.hypot(in_phase, quadrature) / waveforms.taper.sum()
    return np.where(known, amplitude / waveforms.rms, np.nan)


WAVEFORM_FEATURES = (
    WaveformFeature(name="rms", revision=1, compute=rms, has_unit=True),
    WaveformFeature(name="peak", revision=1, compute=peak, has_unit=True),
    WaveformFeature(name="crest_factor", revision=1, compute=crest_factor),
    WaveformFeature(name="kurtosis", revision=1, compute=kurtosis),
    *(
        WaveformFeature(name=f"band_{number + 1}_share", revision=1, compute=band_share(number))
        for number in range(len(BAND_EDGES) - 1)
    ),
    WaveformFeature(name="envelope_peak_ratio", revision=1, compute=envelope_peak_ratio),
    WaveformFeature(name="one_x_ratio", revision=1, compute=one_x_ratio),
)
