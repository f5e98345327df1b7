"""What a bundle says of its detector: how rare each member's output is in good health, and how members count together.

A member's output has no meaning by itself: path lengths, distances and errors cannot be compared. So each is told as
*decades*: minus the base-10 logarithm of the share of healthy windows that lie as far out or further. One decade is one
healthy window in ten, five are one in a hundred thousand. Within what was seen it is a rank, beyond it an exponential
tail. Decades of different members can be compared, and are put together by their median, mean or maximum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

import msgspec
import numpy as np

from models.records import UNDECODABLE, FloatArray

MAX_MEMBERS: Final = 16
MAX_KNOTS: Final = 64
MAX_FORECAST: Final = 8192
MAX_BYTES: Final = 1024 * 1024
# Where the exponential tail says less than this, nothing more is to be learnt from it.
MOST_DECADES: Final = 300.0

Combination = Literal["median", "mean", "max"]
Role = Literal["state", "change"]

SEQUENCE: Final = "sequence"
"""The member that is no column of ``detector.onnx``: what the sequence model did not foresee; always the last."""


class DetectionError(ValueError):
    """What a bundle says of its detector cannot be used; the bundle is refused, the live one stays."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """How rare one member's output is in good health.

    Attributes:
        name: Of the method: ``largest``, ``pca``, ``forest``, ``autoencoder``, ``sequence``, ``change``.
        role: ``state`` members say how far a window is from ordinary, ``change`` members that it just became other.
        outputs: Outputs of healthy windows, ascending, in the member's own unit; all grow with the deviation.
        decades: Of each of ``outputs``, ascending, 0 or more; in between it is interpolated.
        slope: Decades for each unit beyond the last of ``outputs``, above 0.
    """

    name: str
    role: Role = "state"
    outputs: tuple[float, ...]
    decades: tuple[float, ...]
    slope: float

    def __post_init__(self) -> None:
        if not 1 <= len(self.outputs) <= MAX_KNOTS or len(self.outputs) != len(self.decades):
            raise DetectionError(f"member {self.name!r}: needs 1 to {MAX_KNOTS} outputs with as many decades")
        if not all(math.isfinite(number) for number in (*self.outputs, *self.decades, self.slope)):
            raise DetectionError(f"member {self.name!r}: a number is not finite")
        if not all(low < high for low, high in pairwise(self.outputs)):
            raise DetectionError(f"member {self.name!r}: outputs must be ascending")
        if not all(low <= high for low, high in pairwise((0.0, *self.decades))) or self.slope <= 0.0:
            raise DetectionError(f"member {self.name!r}: decades must be ascending from 0 on, with a slope above 0")


@dataclass(frozen=True, kw_only=True)
class AdaptationBounds:
    """How far a gateway may fit the models to one asset; see ``models.detection.adaptation``.

    Attributes:
        largest_shift: Of a feature's centre, in the class's scales.
        largest_factor: By which an asset's score may be divided or multiplied, 1 or more.
        least_windows: Confirmed-healthy windows below which nothing is adapted.
    """

    largest_shift: float = 3.0
    largest_factor: float = 1.5
    least_windows: int = 48

    def __post_init__(self) -> None:
        if not 0.0 <= self.largest_shift <= 50.0 or not 1.0 <= self.largest_factor <= 10.0:
            raise DetectionError("adaptation: a shift of 0 to 50 scales and a factor of 1 to 10 are allowed")
        if not 8 <= self.least_windows <= 1_000_000:
            raise DetectionError("adaptation: 8 to 1000000 windows are asked at least")


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How the detector's outputs are read.

    Attributes:
        members: In the order of the columns of ``detector.onnx``; ``sequence``, when there is one, is the last.
        combination: Of the decades of the state members.
        change_limit: Decades of a change member from which a window counts as a change; NaN: nobody asks.
        usual: Below what `combine` says of 95 of 100 healthy windows of the class, above 0; an asset's own is held
            against it when a gateway adapts.
        forecast_scale: Usual errors of the sequence model's forecast, one a deviation; empty without that member.
        stray: How far each feature strays in good health by what the members take for it, in the class's scales,
            above 0; empty: as far as its scale. Channels are named by it.
        adaptation: How far a gateway may fit the models to one asset.
    """

    members: tuple[Member, ...]
    combination: Combination = "median"
    change_limit: float = math.nan
    usual: float = 1.0
    forecast_scale: tuple[float, ...] = ()
    stray: tuple[float, ...] = ()
    adaptation: AdaptationBounds = field(default_factory=AdaptationBounds)

    def __post_init__(self) -> None:
        names = [member.name for member in self.members]
        if not 1 <= len(names) <= MAX_MEMBERS or len(set(names)) != len(names):
            raise DetectionError(f"1 to {MAX_MEMBERS} members with different names are needed")
        if not any(member.role == "state" for member in self.members):
            raise DetectionError("no member says how far a window is from ordinary")
        if SEQUENCE in names[:-1]:
            raise DetectionError(f"member {SEQUENCE!r} is not the last")
        if len(self.forecast_scale) > MAX_FORECAST or (SEQUENCE in names) != bool(self.forecast_scale):
            raise DetectionError(f"usual errors of the forecast are needed with member {SEQUENCE!r}, and only then")
        if not all(0.0 < scale < math.inf for scale in self.forecast_scale):
            raise DetectionError("usual errors of the forecast must be finite and above 0")
        if not all(0.0 < stray < math.inf for stray in self.stray):
            raise DetectionError("what features stray must be finite and above 0")
        if math.isinf(self.change_limit) or not 0.0 < self.usual < math.inf:
            raise DetectionError("the limit of a change or the usual score is not finite, or the latter not above 0")

    @property
    def columns(self) -> int:
        """Columns of ``detector.onnx``."""
        return sum(member.name != SEQUENCE for member in self.members)

    @property
    def has_sequence(self) -> bool:
        """Whether the residual of the sequence model is a member."""
        return self.members[-1].name == SEQUENCE


def decades_of(member: Member, outputs: FloatArray) -> FloatArray:
    """Return the decades of *outputs*, shape ``(n,)``: 0 for the most ordinary, NaN where the output is."""
    inside = np.interp(outputs, np.array(member.outputs), np.array(member.decades))
    beyond = np.maximum(np.asarray(outputs, np.float64) - member.outputs[-1], 0.0) * member.slope
    return np.asarray(np.minimum(inside + beyond, MOST_DECADES), np.float64)


def combine(detection: Detection, outputs: FloatArray) -> FloatArray:
    """Return how far each window is from ordinary, in decades, shape ``(n,)``; it grows with the deviation.

    Args:
        detection: How outputs are read.
        outputs: Of the members, shape ``(n, members)``. A member without an answer (NaN) does not count; where none has
            one the result is NaN.
    """
    chosen = [
        decades_of(member, outputs[:, place])
        for place, member in enumerate(detection.members)
        if member.role == "state"
    ]
    return together(np.stack(chosen, axis=1), detection.combination)


def together(decades: FloatArray, combination: Combination) -> FloatArray:
    """Return the *combination* of *decades*, shape ``(n, members)``, over the members that have an answer."""
    whole: dict[Combination, Callable[..., FloatArray]] = {"median": np.median, "mean": np.mean, "max": np.max}
    known: dict[Combination, Callable[..., FloatArray]] = {"median": np.nanmedian, "mean": np.nanmean, "max": np.nanmax}
    missing = np.isnan(decades)
    if not missing.any():
        return np.asarray(whole[combination](decades, axis=1), np.float64)
    answer = np.full(len(decades), np.nan)
    some = ~missing.all(axis=1)
    answer[some] = known[combination](decades[some], axis=1)
    return answer


def change_decades(detection: Detection, outputs: FloatArray) -> FloatArray:
    """Return how unusual the change into each window is, in decades, shape ``(n,)``; NaN without a change member.

    Args:
        detection: How outputs are read.
        outputs: Of the members, shape ``(n, members)``.
    """
    chosen = [
        decades_of(member, outputs[:, place])
        for place, member in enumerate(detection.members)
        if member.role == "change"
    ]
    return together(np.stack(chosen, axis=1), "max") if chosen else np.full(len(outputs), np.nan)


def encode_detection(detection: Detection) -> bytes:
    """Return ``detection.json``; a change limit that nobody asks for is null."""
    told = _Told(
        members=detection.members,
        combination=detection.combination,
        change_limit=None if math.isnan(detection.change_limit) else detection.change_limit,
        usual=detection.usual,
        forecast_scale=detection.forecast_scale,
        stray=detection.stray,
        adaptation=detection.adaptation,
    )
    return msgspec.json.encode(told, order="sorted")


def decode_detection(data: bytes) -> Detection:
    """Return what ``detection.json`` says.

    Raises:
        DetectionError: If it is too long, does not decode, or a number is out of range.
    """
    if len(data) > MAX_BYTES:
        raise DetectionError(f"{len(data)} bytes are more than {MAX_BYTES}; the bundle is refused, the live one stays")
    try:
        told = msgspec.json.decode(data, type=_Told)
    except UNDECODABLE as error:  # also what __post_init__ of a part refuses
        raise DetectionError(f"does not decode ({error}); the bundle is refused, the live one stays") from error
    return Detection(
        members=told.members,
        combination=told.combination,
        change_limit=math.nan if told.change_limit is None else told.change_limit,
        usual=told.usual,
        forecast_scale=told.forecast_scale,
        stray=told.stray,
        adaptation=told.adaptation,
    )


@dataclass(frozen=True, kw_only=True)
class _Told:
    members: tuple[Member, ...]
    combination: Combination
    change_limit: float | None
    usual: float
    forecast_scale: tuple[float, ...]
    adaptation: AdaptationBounds
    stray: tuple[float, ...] = ()
