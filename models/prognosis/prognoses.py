"""What a bundle says of its life models: how their answers become one, and how far the truth lies from it.

There are two variants of everything: one for assets whose life is known from its start, one for assets of which only
the last windows are known. Each blends the answers of its members, and puts quantiles around the blend. These are
offsets that depend on the blend alone: they were measured on whole lives that the members had not learned from
(conformal prediction), so they hold for the members as they are, good or bad.

No life is told above a cap: healthy machines carry no sign of how healthy they are. A P90 at the cap means "this long
or longer".

Source:
    J. Lei, M. G'Sell, A. Rinaldo, R. J. Tibshirani, L. Wasserman, *Distribution-free predictive inference for
    regression*, JASA 113 (2018): split conformal prediction; here cross-validated, by groups of predictions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import msgspec
import numpy as np

from models.records import UNDECODABLE, FloatArray, Int64Array

MAX_KNOTS: Final = 64
MAX_BYTES: Final = 64 * 1024
MAX_LIFE_H: Final = 1_000_000.0
MAX_WINDOWS: Final = 1_000_000
LARGEST_WEIGHT: Final = 10.0
_LARGEST_SPREAD: Final = 100.0

Member = Literal["trees", "kernels", "gru"]
"""``life.onnx``, the head ``life`` on ``kernels.onnx``, ``gru.onnx``; with ``_cut`` where the history is cut."""


class PrognosisError(ValueError):
    """What a bundle says of its life models cannot be used; the bundle is refused, the live one stays."""


@dataclass(frozen=True, kw_only=True)
class Offsets:
    """How far quantiles lie from a blend, by the blend: between knots in a straight line, beyond them as at the last.

    Attributes:
        life_h: Knots, ascending, in hours.
        p10_h: What is added for the P10 at each knot, in hours.
        p50_h: The same for the P50.
        p90_h: The same for the P90.
    """

    life_h: tuple[float, ...]
    p10_h: tuple[float, ...]
    p50_h: tuple[float, ...]
    p90_h: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = (self.p10_h, self.p50_h, self.p90_h)
        if not 1 <= len(self.life_h) <= MAX_KNOTS or {len(self.life_h)} != {len(column) for column in columns}:
            raise PrognosisError(f"1 to {MAX_KNOTS} knots are needed, each with an offset for P10, P50 and P90")
        numbers = [*self.life_h, *self.p10_h, *self.p50_h, *self.p90_h]
        if not all(math.isfinite(number) and abs(number) <= MAX_LIFE_H for number in numbers):
            raise PrognosisError(f"an offset or a knot is not within ±{MAX_LIFE_H:g} hours")
        if not all(low < high for low, high in pairwise(self.life_h)):
            raise PrognosisError("knots must be ascending")
        if not all(low <= middle <= high for low, middle, high in zip(*columns, strict=True)):
            raise PrognosisError("offsets must ascend from P10 over P50 to P90")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How the members for one kind of history are read.

    Attributes:
        weights: Of each member in the blend, 0 or more.
        offsets: From the blend to the quantiles.
        least_windows: With fewer known windows of the asset's life there is no prognosis.
        known_windows: Known windows, ascending, of which ``spread`` tells; in between it is interpolated.
        spread: What offsets are multiplied by with so many known windows: errors shrink as more is known.
    """

    weights: dict[Member, float]
    offsets: Offsets
    least_windows: int
    known_windows: tuple[int, ...] = (1,)
    spread: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        weights = self.weights.values()
        if not all(0.0 <= weight <= LARGEST_WEIGHT for weight in weights) or not any(weights):
            raise PrognosisError(f"one member at least needs a weight, from 0 to {LARGEST_WEIGHT:g}")
        if not 1 <= len(self.spread) <= MAX_KNOTS or len(self.spread) != len(self.known_windows):
            raise PrognosisError(f"1 to {MAX_KNOTS} numbers of known windows are needed, each with a spread")
        if not all(low < high for low, high in pairwise((0, *self.known_windows, MAX_WINDOWS + 1))):
            raise PrognosisError(f"numbers of known windows must be ascending, from 1 to {MAX_WINDOWS}")
        if not all(0.0 <= spread <= _LARGEST_SPREAD for spread in self.spread):
            raise PrognosisError(f"a spread is not from 0 to {_LARGEST_SPREAD:g}")
        if not 1 <= self.least_windows <= MAX_WINDOWS:
            raise PrognosisError(f"a prognosis needs 1 to {MAX_WINDOWS} windows, not {self.least_windows}")


@dataclass(frozen=True, kw_only=True)
class Prognoses:
    """How a bundle's life models are read; at least one variant.

    Attributes:
        cap_h: Longest life that is told, in hours.
        whole: For lives that are known from their start, or None.
        cut: For others, or None.
        largest_rise: Hours by which a told life may rise in an hour, for a monitor that smooths them (see
            ``models.prognosis.smoothing``); 0: told lives only sink. None: they are told as they come.
    """

    cap_h: float
    whole: Variant | None = None
    cut: Variant | None = None
    largest_rise: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.cap_h <= MAX_LIFE_H:
            raise PrognosisError(
                f"the longest life is {self.cap_h} hours; above 0 and up to {MAX_LIFE_H:g} are allowed"
            )
        if self.whole is None and self.cut is None:
            raise PrognosisError("no variant is told")
        if self.largest_rise is not None and not 0.0 <= self.largest_rise <= MAX_LIFE_H:
            raise PrognosisError(f"a rise of {self.largest_rise} hours an hour is not one")

    @property
    def members(self) -> dict[str, frozenset[Member]]:
        """The members that count in ``whole`` and in ``cut``."""
        variants = {"whole": self.whole, "cut": self.cut}
        return {
            name: frozenset(member for member, weight in variant.weights.items() if weight > 0.0)
            for name, variant in variants.items()
            if variant is not None
        }


def blend(prognoses: Prognoses, variant: Variant, answers: Mapping[Member, FloatArray]) -> FloatArray:
    """Return one life for each window, in hours from 0 to the cap, shape ``(n,)``.

    Args:
        prognoses: Says the cap.
        variant: Says the weights.
        answers: Of the members that have a weight, in hours, shape ``(n,)`` each.
    """
    parts = [weight * answers[member] for member, weight in variant.weights.items() if weight > 0.0]
    return np.clip(np.sum(parts, axis=0, dtype=np.float64), 0.0, prognoses.cap_h)


def quantiles(prognoses: Prognoses, variant: Variant, life_h: FloatArray, windows_known: Int64Array) -> FloatArray:
    """Return P10, P50 and P90 around *life_h*, in hours from 0 to the cap, ascending, shape ``(n, 3)``.

    Args:
        prognoses: Says the cap.
        variant: Says the offsets.
        life_h: The blend of each window, shape ``(n,)``.
        windows_known: How many windows of its life are known at each, shape ``(n,)``.
    """
    offsets = variant.offsets
    columns = [np.interp(life_h, offsets.life_h, column) for column in (offsets.p10_h, offsets.p50_h, offsets.p90_h)]
    spread = np.interp(windows_known, variant.known_windows, variant.spread)
    return np.clip(np.stack(columns, axis=1) * spread[:, None] + life_h[:, None], 0.0, prognoses.cap_h)


def encode_prognoses(prognoses: Prognoses) -> bytes:
    """Return ``prognosis.json``."""
    return msgspec.json.encode(prognoses, order="sorted")


def decode_prognoses(data: bytes) -> Prognoses:
    """Return what ``prognosis.json`` says.

    Raises:
        PrognosisError: If it is too long, does not decode, or a number is out of range.
    """
    if len(data) > MAX_BYTES:
        raise PrognosisError(f"{len(data)} bytes are more than {MAX_BYTES}; the bundle is refused, the live one stays")
    try:
        return msgspec.json.decode(data, type=Prognoses)
    except UNDECODABLE as error:  # also what __post_init__ of a part refuses
        raise PrognosisError(f"does not decode ({error}); the bundle is refused, the live one stays") from error
