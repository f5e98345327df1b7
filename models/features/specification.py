"""What a bundle's models look at: channels, windows, the features computed of each window, and how far they look back.

A bundle ships its specification as ``features.json`` with a hash. The hash covers the specification, the names of the
features, the revision beside each feature function, and the features of a made-up reference window, so that code which
computes something else has another hash even where somebody forgot to raise a revision.

What a specification learns from data (regime centres, coefficients of residuals, expected counts) is fitted once and
is then part of it: a later training of the class takes it over, so that what a gateway remembers of a machine's life
stays valid under the next release. What is ordinary (centres and scales) is in the bundle's baseline and may change
with every release.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import msgspec

from models.records import Channel

MAX_CHANNELS = 256
MAX_HISTORY_WINDOWS = 1000
MAX_ROLLING = 8
MAX_WINDOW_S = 366 * 86400.0
MAX_OVERLAP = 1000
MAX_REGIMES = 32
MAX_SETTINGS = 8
MAX_PARTS = 64
MAX_BEARINGS = 16
MAX_ORDER = 100
# Features of one window, and numbers that are remembered of one asset (at eight bytes).
MAX_FEATURES = 8192
MAX_REMEMBERED = 2_000_000
SPEED_CHANNEL = "speed_rpm"
ACCELERATION_M_S2 = {"m/s²": 1.0, "m/s^2": 1.0, "m/s2": 1.0, "g": 9.80665}

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_LONGEST_CHANNEL = 100
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 1e-3, 1e7


PlainStatistic = Literal[
    "mean", "std", "min", "max", "slope_per_h", "median", "rms", "peak_to_peak", "roughness", "last"
]
RollingStatistic = Literal["mean", "std", "trend"]


class FeatureError(ValueError):
    """A specification or what belongs to it cannot be used; nothing is computed with it."""


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A physical quantity of two channels, computed of their means in a window; NaN where one has none.

    ``product`` is ``factor * first * second``, ``ratio`` ``factor * first / second`` (NaN where the second is 0),
    ``difference`` ``factor * (first - second)``. It is a feature ``name.value``.
    """

    name: str
    unit: str
    kind: Literal["product", "ratio", "difference"]
    first: str
    second: str
    factor: float = 1.0

    def __post_init__(self) -> None:
        _check_name("derived quantity", self.name)
        if not (math.isfinite(self.factor) and self.factor != 0.0):
            raise FeatureError(
                f"derived quantity {self.name}: factor {self.factor} is not a finite number other than 0"
            )
        _check_choice(f"derived quantity {self.name}: kind", [self.kind], ("product", "ratio", "difference"))


@dataclass(frozen=True, kw_only=True)
class Residual:
    """What a channel's mean has that others do not explain: ``target - polynomial(predictors)``; flow against speed.

    Attributes:
        name: The feature is ``name.residual``, in the target's unit.
        target: A plain channel.
        predictors: One or two plain channels.
        degree: 1 or 2, of the polynomial, with the product of two predictors at degree 2.
        coefficients: Of 1, p, q, p², q², pq as far as they exist, fitted to healthy windows; empty: not fitted yet.
    """

    name: str
    target: str
    predictors: tuple[str, ...]
    degree: Literal[1, 2] = 1
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_name("residual", self.name)
        if self.degree not in {1, 2}:
            raise FeatureError(f"residual {self.name}: degree {self.degree} is not 1 or 2")
        if len(self.predictors) not in {1, 2} or len({self.target, *self.predictors}) != 1 + len(self.predictors):
            raise FeatureError(f"residual {self.name}: needs one or two predictors other than its target")
        if self.coefficients and len(self.coefficients) != self.terms:
            raise FeatureError(f"residual {self.name}: needs {self.terms} coefficients, not {len(self.coefficients)}")
        if not all(math.isfinite(number) for number in self.coefficients):
            raise FeatureError(f"residual {self.name}: a coefficient is not finite")

    @property
    def terms(self) -> int:
        """Number of coefficients of the polynomial."""
        return {(1, 1): 2, (2, 1): 3, (1, 2): 3, (2, 2): 6}[len(self.predictors), self.degree]


@dataclass(frozen=True, kw_only=True)
class Regimes:
    """Operating regimes: clusters of the means of setting channels; normalisation is by regime.

    Attributes:
        channels: The settings; empty: there is one regime.
        centres: One row a regime, a number a channel, in the channels' units; empty: not fitted yet, or one regime.
        scales: What counts as far in each channel, above 0.
    """

    channels: tuple[str, ...] = ()
    centres: tuple[tuple[float, ...], ...] = ()
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        width = len(self.channels)
        if width > MAX_SETTINGS or len(set(self.channels)) != width:
            raise FeatureError(f"regimes: 0 to {MAX_SETTINGS} different setting channels are needed")
        widths = {len(row) for row in self.centres}
        if len(self.centres) > MAX_REGIMES or widths - {width} or (widths and not width):
            raise FeatureError(f"regimes: needs up to {MAX_REGIMES} centres of {width} numbers each")
        if len(self.scales) not in ({width} if self.centres else {0, width}):
            raise FeatureError(f"regimes: needs {width} scales beside the centres")
        if not all(math.isfinite(number) for row in self.centres for number in row):
            raise FeatureError("regimes: a centre is not finite")
        if not all(math.isfinite(number) and number > 0.0 for number in self.scales):
            raise FeatureError("regimes: scales must be finite and above 0")

    @property
    def count(self) -> int:
        """Number of regimes, at least 1."""
        return max(len(self.centres), 1)


@dataclass(frozen=True, kw_only=True)
class Bearing:
    """Geometry of a rolling bearing; its fault frequencies are looked for in the envelope of every waveform channel.

    Source of the frequencies:
        R. B. Randall, J. Antoni, *Rolling element bearing diagnostics: a tutorial*, MSSP 25 (2011) 485-520.
    """

    name: str
    elements: int
    element_diameter_mm: float
    pitch_diameter_mm: float
    contact_angle_deg: float = 0.0

    def __post_init__(self) -> None:
        _check_name("bearing", self.name)
        if not 3 <= self.elements <= 200:
            raise FeatureError(f"bearing {self.name}: {self.elements} rolling elements are not 3 to 200")
        if not 0.0 < self.element_diameter_mm < self.pitch_diameter_mm <= 1e5:
            raise FeatureError(f"bearing {self.name}: diameters of element and pitch circle do not fit")
        if not 0.0 <= self.contact_angle_deg < 90.0:
            raise FeatureError(f"bearing {self.name}: contact angle {self.contact_angle_deg} is not 0 to 90 degrees")


@dataclass(frozen=True, kw_only=True)
class VelocityZones:
    """Limits of ISO 20816 between zones A and B, B and C, C and D, in mm/s RMS, 10 to 1000 Hz.

    They depend on the machine's group and support; the defaults are those of ISO 20816-3 for medium machines (15 to
    300 kW) on rigid supports.
    """

    limits_mm_s: tuple[float, float, float] = (1.4, 2.8, 4.5)
    low_hz: float = 10.0
    high_hz: float = 1000.0

    def __post_init__(self) -> None:
        if not 0.0 < self.low_hz < self.high_hz <= 1e6:
            raise FeatureError(f"velocity zones: {self.low_hz} to {self.high_hz} Hz is no band")
        if not all(low < high for low, high in pairwise((0.0, *self.limits_mm_s, 1e6))):
            raise FeatureError("velocity zones: needs three ascending limits above 0, in mm/s")


@dataclass(frozen=True, kw_only=True)
class History:
    """What the models are told of an asset's past beside its newest window.

    Attributes:
        rolling: Lengths, in windows (operating cycles), of the rolling statistics, ascending; the newest window counts.
        statistics: Which of them: ``mean``, ``std``, ``trend`` (mean of the newer half less that of the older).
        of: Only features whose name ends in one of these (``mean``, ``residual``...) have a history; empty: all.
        since_start: Whether the mean since the start of the asset's life is told.
        first_windows: Windows from the start of life that later ones are compared with; 0: no such input.
        cycles: Whether the number of windows since the start of life is told.
        events: Channels that are counts of events (errors, services): hours since the last one, NaN before the first.
        sequence_windows: Length of what sequence models look at; 0: there are none.
    """

    rolling: tuple[int, ...] = ()
    statistics: tuple[RollingStatistic, ...] = ("mean", "trend")
    of: tuple[str, ...] = ()
    since_start: bool = False
    first_windows: int = 0
    cycles: bool = False
    events: tuple[str, ...] = ()
    sequence_windows: int = 0

    def __post_init__(self) -> None:
        if len(self.rolling) > MAX_ROLLING or not all(low < high for low, high in pairwise((1, *self.rolling))):
            raise FeatureError(f"history: needs up to {MAX_ROLLING} ascending rolling lengths of 2 windows or more")
        _check_choice("history: statistic", self.statistics, get_args(RollingStatistic))
        if self.rolling and not self.statistics:
            raise FeatureError("history: rolling lengths need a statistic")
        longest = max((*self.rolling, self.first_windows, self.sequence_windows, 0))
        if (
            longest > MAX_HISTORY_WINDOWS
            or self.first_windows < 0
            or self.sequence_windows not in {0, *range(2, longest + 1)}
        ):
            raise FeatureError(f"history: lengths must be at most {MAX_HISTORY_WINDOWS} windows, a sequence 2 or more")
        if len(self.of) > MAX_PARTS or not all(1 <= len(ending) <= _LONGEST_CHANNEL for ending in self.of):
            raise FeatureError("history: of must name up to 64 endings of feature names")
        if len(self.events) > MAX_PARTS or len(set(self.events)) != len(self.events):
            raise FeatureError("history: events must be up to 64 different channels")

    @property
    def kept_windows(self) -> int:
        """How many windows before the newest one the models are told of one by one."""
        return max((*self.rolling, self.sequence_windows, 1)) - 1


@dataclass(frozen=True, kw_only=True)
class FeatureSpecification:
    """How windows are cut, which features they have, and how far back the models look.

    Attributes:
        asset_class: The class of assets this is for.
        channels: Their channels, in the order of the features.
        window_s: Length of a window in seconds of source time.
        step_s: Windows end at multiples of this since 1970; at most ``window_s``.
        late_s: How far the asset runs ahead of a silent channel before a window closes without that channel.
        history: What the models are told of the past.
        statistics: Of plain channels.
        quality: Whether the share of good values of each channel is a feature, ``channel.good_share``.
        derived: Physical quantities of two channels.
        residuals: What channels have that others do not explain.
        regimes: Operating regimes.
        bearings: Whose fault frequencies are looked for.
        orders: Multiples of the rotational frequency whose amplitude is a feature of waveform channels.
        velocity_zones: Whether and by which limits velocity and its ISO zone are features of acceleration waveforms.
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
    history: History = field(default_factory=History)
    statistics: tuple[PlainStatistic, ...] = ("mean", "std", "min", "max", "slope_per_h")
    quality: bool = False
    derived: tuple[Derived, ...] = ()
    residuals: tuple[Residual, ...] = ()
    regimes: Regimes = field(default_factory=Regimes)
    bearings: tuple[Bearing, ...] = ()
    orders: tuple[int, ...] = ()
    velocity_zones: VelocityZones | None = None
    expected_counts: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_channels(self)
        _check_windows(self)
        _check_parts(self)
        _check_size(self)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # What is derived from a specification is looked up by it for every window.
        return hash(tuple(getattr(self, name) for name in self.__dataclass_fields__))

    def __getstate__(self) -> dict[str, object]:
        # Another process hashes strings otherwise.
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

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


def specification_digest(spec: FeatureSpecification) -> str:
    """Return the SHA-256, in hexadecimal, of *spec*; equal ones have equal digests: 0, 0.0 and -0.0 are one number."""
    return hashlib.sha256(msgspec.json.encode(canonical(spec), order="sorted")).hexdigest()


def canonical(spec: FeatureSpecification) -> object:
    """Return *spec* in plain values such that equal ones are told alike."""
    typed = msgspec.json.decode(msgspec.json.encode(spec), type=FeatureSpecification)
    return _unsigned_zero(msgspec.to_builtins(typed))


def _unsigned_zero(told: object) -> object:
    if isinstance(told, dict):
        return {name: _unsigned_zero(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [_unsigned_zero(value) for value in told]
    return told + 0.0 if isinstance(told, float) else told


def is_waveform(channel: Channel) -> bool:
    """Return whether the observations of *channel* are waveforms."""
    return channel.sample_rate_hz > 0.0


def is_acceleration(channel: Channel) -> bool:
    """Return whether *channel* has waveforms of acceleration, of which velocity is an integral."""
    return is_waveform(channel) and channel.unit in ACCELERATION_M_S2


def _check_channels(spec: FeatureSpecification) -> None:
    names = [channel.name for channel in spec.channels]
    _check_name("asset class", spec.asset_class)
    if not 1 <= len(names) <= MAX_CHANNELS or len(set(names)) != len(names):
        raise FeatureError(f"{spec.asset_class}: 1 to {MAX_CHANNELS} channels with different names are needed")
    for channel in spec.channels:
        # A browse name is what the machine's maker wrote: spaces, brackets, letters of any script.
        if not channel.name.isprintable() or not 1 <= len(channel.name) <= _LONGEST_CHANNEL:
            raise FeatureError(
                f"{spec.asset_class}: channel {channel.name!r} is no name of 1 to 100 printable characters"
            )
        if channel.sample_rate_hz != 0.0 and not _LOWEST_RATE_HZ <= channel.sample_rate_hz <= _HIGHEST_RATE_HZ:
            raise FeatureError(f"{spec.asset_class}: channel {channel.name!r} has sample rate {channel.sample_rate_hz}")
        if not (math.isfinite(channel.low) and math.isfinite(channel.high)):
            raise FeatureError(f"{spec.asset_class}: channel {channel.name!r} needs a finite range")


def _check_windows(spec: FeatureSpecification) -> None:
    if not 1e-3 <= spec.step_s <= spec.window_s <= MAX_WINDOW_S or spec.window_s > MAX_OVERLAP * spec.step_s:
        raise FeatureError(f"{spec.asset_class}: window_s {spec.window_s:g} and step_s {spec.step_s:g} do not fit")
    if not 0.0 <= spec.late_s <= MAX_WINDOW_S:
        raise FeatureError(f"{spec.asset_class}: late_s {spec.late_s:g} is not 0 to {MAX_WINDOW_S:g}")
    if spec.expected_counts and len(spec.expected_counts) != len(spec.channels):
        raise FeatureError(f"{spec.asset_class}: expected_counts needs one number for each channel")
    if not all(0.0 <= count <= 1e9 for count in spec.expected_counts):
        raise FeatureError(f"{spec.asset_class}: expected_counts must be 0 or more")


def _check_parts(spec: FeatureSpecification) -> None:
    plain = {channel.name for channel in spec.channels if not is_waveform(channel)}
    _check_choice(f"{spec.asset_class}: statistic", spec.statistics, get_args(PlainStatistic))
    parts = [*(part.name for part in spec.derived), *(part.name for part in spec.residuals)]
    if len(parts) > MAX_PARTS or len({*parts, *(channel.name for channel in spec.channels)}) != len(parts) + len(
        spec.channels
    ):
        raise FeatureError(
            f"{spec.asset_class}: up to {MAX_PARTS} derived quantities and residuals with names of their own"
        )
    named = {
        **{f"derived quantity {one.name}": (one.first, one.second) for one in spec.derived},
        **{f"residual {one.name}": (one.target, *one.predictors) for one in spec.residuals},
        "regimes": spec.regimes.channels,
        "events": spec.history.events,
    }
    for what, channels in named.items():
        for channel in channels:
            if channel not in plain:
                raise FeatureError(f"{spec.asset_class}: {what}: {channel!r} is no plain channel of the class")
    if any(named.values()) and "mean" not in spec.statistics:
        raise FeatureError(f"{spec.asset_class}: derived quantities, residuals, regimes and events need statistic mean")
    _check_vibration(spec, plain)


def _check_vibration(spec: FeatureSpecification, plain: set[str]) -> None:
    bearings = [bearing.name for bearing in spec.bearings]
    if len(bearings) > MAX_BEARINGS or len(set(bearings)) != len(bearings):
        raise FeatureError(f"{spec.asset_class}: up to {MAX_BEARINGS} bearings with different names are allowed")
    if not all(low < high for low, high in pairwise((0, *spec.orders, MAX_ORDER + 1))):
        raise FeatureError(f"{spec.asset_class}: orders must be ascending, 1 to {MAX_ORDER}")
    if (spec.bearings or spec.orders) and SPEED_CHANNEL not in plain:
        raise FeatureError(f"{spec.asset_class}: bearings and orders need a plain channel {SPEED_CHANNEL}")
    if (spec.bearings or spec.orders) and not any(is_waveform(channel) for channel in spec.channels):
        raise FeatureError(f"{spec.asset_class}: bearings and orders need a waveform channel")
    if spec.velocity_zones and not any(is_acceleration(channel) for channel in spec.channels):
        raise FeatureError(f"{spec.asset_class}: velocity zones need waveforms in {' or '.join(ACCELERATION_M_S2)}")


def _check_size(spec: FeatureSpecification) -> None:
    """Refuse what would need too much memory; a waveform channel is counted with 16 features beside what is asked."""
    waveforms = sum(is_waveform(channel) for channel in spec.channels)
    features = (
        (len(spec.channels) - waveforms) * len(spec.statistics)
        + waveforms * (16 + len(spec.orders) + 4 * len(spec.bearings))
        + len(spec.channels) * spec.quality
        + len(spec.derived)
        + len(spec.residuals)
    )
    if not 1 <= features <= MAX_FEATURES:
        raise FeatureError(f"{spec.asset_class}: {features} features of a window are not 1 to {MAX_FEATURES}")
    if (remembered := features * (spec.history.kept_windows + 4 * spec.regimes.count)) > MAX_REMEMBERED:
        raise FeatureError(f"{spec.asset_class}: {remembered} numbers of each asset are over {MAX_REMEMBERED}")


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise FeatureError(f"{what} {name!r} is not a plain name")


def _check_choice(what: str, chosen: Sequence[str], known: Iterable[str]) -> None:
    if set(chosen) - set(known) or len(set(chosen)) != len(chosen):
        raise FeatureError(f"{what} {', '.join(map(repr, chosen))}: each once, and of {', '.join(known)}")
