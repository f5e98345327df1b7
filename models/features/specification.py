"""What a bundle's models look at: channels, windows, and the features computed of each window.

A bundle ships its specification as ``features.json`` with a hash. The hash covers the specification, the names of the
features, the revision beside each feature function, and the features of a made-up reference window, so that code which
computes something else has another hash even where somebody forgot to raise a revision.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from models.records import Channel

MAX_CHANNELS = 256
MAX_CONTEXT_WINDOWS = 1000
MAX_WINDOW_S = 366 * 86400.0
MAX_OVERLAP = 1000
SPEED_CHANNEL = "speed_rpm"

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_LONGEST_CHANNEL = 100


class FeatureError(ValueError):
    """A specification or what belongs to it cannot be used; nothing is computed with it."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpecification:
    """How windows are cut and which channels their features are of.

    Attributes:
        asset_class: The class of assets this is for.
        channels: Their channels, in the order of the features.
        window_s: Length of a window in seconds of source time.
        step_s: Windows end at multiples of this since 1970; at most ``window_s``.
        late_s: How far the asset runs ahead of a silent channel before a window closes without that channel.
        context_windows: Over how many windows the models' inputs look back, at least 2.
        expected_counts: Observations of each channel that a whole window has at least, in the order of ``channels``;
            see ``models.features.windows.typical_counts``. Empty: a channel with any observation counts as whole.

    Raises:
        FeatureError: If a number is outside its range or the channels cannot be told apart.
    """

    asset_class: str
    channels: tuple[Channel, ...]
    window_s: float
    step_s: float
    late_s: float
    context_windows: int
    expected_counts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_channels(self)
        if not 1e-3 <= self.step_s <= self.window_s <= MAX_WINDOW_S or self.window_s > MAX_OVERLAP * self.step_s:
            raise FeatureError(f"{self.asset_class}: window_s {self.window_s:g} and step_s {self.step_s:g} do not fit")
        if not 0.0 <= self.late_s <= MAX_WINDOW_S:
            raise FeatureError(f"{self.asset_class}: late_s {self.late_s:g} is not 0 to {MAX_WINDOW_S:g}")
        if not 2 <= self.context_windows <= MAX_CONTEXT_WINDOWS:
            raise FeatureError(f"{self.asset_class}: context_windows must be 2 to {MAX_CONTEXT_WINDOWS}")
        if self.expected_counts and len(self.expected_counts) != len(self.channels):
            raise FeatureError(f"{self.asset_class}: expected_counts needs one number for each channel")
        if not all(0.0 <= count <= 1e9 for count in self.expected_counts):
            raise FeatureError(f"{self.asset_class}: expected_counts must be 0 or more")

    @property
    def window_ns(self) -> int:
        """Length of a window in nanoseconds."""
        return round(self.window_s * 1e9)

    @property
    def step_ns(self) -> int:
        """Distance between the ends of two windows in nanoseconds."""
        return round(self.step_s * 1e9)

    @property
    def late_ns(self) -> int:
        """Longest wait for a silent channel in nanoseconds of source time."""
        return round(self.late_s * 1e9)


def is_waveform(channel: Channel) -> bool:
    """Return whether the observations of *channel* are waveforms."""
    return channel.sample_rate_hz > 0.0


def _check_channels(spec: FeatureSpecification) -> None:
    names = [channel.name for channel in spec.channels]
    if not _NAME.fullmatch(spec.asset_class):
        raise FeatureError(f"asset class {spec.asset_class!r} is not a plain name")
    if not 1 <= len(names) <= MAX_CHANNELS or len(set(names)) != len(names):
        raise FeatureError(f"{spec.asset_class}: 1 to {MAX_CHANNELS} channels with different names are needed")
    for channel in spec.channels:
        # A browse name is what the machine's maker wrote: spaces, brackets, letters of any script.
        if not channel.name.isprintable() or not 1 <= len(channel.name) <= _LONGEST_CHANNEL:
            raise FeatureError(
                f"{spec.asset_class}: channel {channel.name!r} is no name of 1 to 100 printable characters"
            )
        if not 0.0 <= channel.sample_rate_hz <= 1e7:
            raise FeatureError(f"{spec.asset_class}: channel {channel.name!r} has sample rate {channel.sample_rate_hz}")
        if not (math.isfinite(channel.low) and math.isfinite(channel.high)):
            raise FeatureError(f"{spec.asset_class}: channel {channel.name!r} needs a finite range")
