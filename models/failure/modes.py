"""What a bundle tells of its classifier beside the graph: when a probability counts, and what it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np

from models.features.names import input_names
from models.features.specification import FeatureSpecification
from models.records import UNDECODABLE, BoolArray, FloatArray

MAX_MODES = 64
MAX_HORIZON_H = 10.0 * 366 * 24
MAX_BYTES = 16 * 2**20
_LONGEST_NAME = 100
_ROUNDING = 1e-3


class FailureError(ValueError):
    """What a bundle says of its failure modes cannot be used; the bundle is refused."""


@dataclass(frozen=True, kw_only=True)
class FailureModes:
    """How the classifier's probabilities are read. A failure mode is one that is foretold; ``normal`` is none.

    Attributes:
        names: The failure modes, in the order of the probabilities after ``normal``.
        horizon_h: A mode's probability is that of failing by it within so many hours; 0: of having failed by it, where
            windows are independent cases.
        thresholds: Probability of each mode from which it counts as foretold; infinite: it never does, since what was
            learnt of it tells too little.
        importance: For each mode the share, 0 to 1, that each input has in its probability: the mean magnitude of
            its contributions in windows the fit had not seen. All 0 where that could not be measured.
        band_low: 5 of 100 healthy windows had less of that input, shape as the inputs; NaN where none had any.
        band_high: 5 of 100 had more.
    """

    names: tuple[str, ...]
    horizon_h: float
    thresholds: tuple[float, ...]
    importance: tuple[tuple[float, ...], ...]
    band_low: tuple[float, ...]
    band_high: tuple[float, ...]

    @cached_property
    def weights(self) -> FloatArray:
        """The importance, shape ``(modes, inputs)``."""
        return np.array(self.importance, np.float64).reshape(len(self.names), len(self.band_low))

    @cached_property
    def band(self) -> FloatArray:
        """The reference band, low and high, shape ``(2, inputs)``."""
        return np.array([self.band_low, self.band_high], np.float64)


def foretold(modes: FailureModes, probabilities: FloatArray) -> BoolArray:
    """Return which modes are foretold, shape ``(n, modes)``.

    Args:
        modes: Says from which probability on.
        probabilities: Of ``normal`` and of the modes, shape ``(n, 1 + modes)``.
    """
    return np.asarray(probabilities[:, 1:] >= np.array(modes.thresholds), np.bool_)


def encode_failure_modes(modes: FailureModes) -> bytes:
    """Return ``failure.json``; a threshold that is never reached, and a number that is not known, is null."""
    return msgspec.json.encode(modes, order="sorted")


def decode_failure_modes(data: bytes, spec: FeatureSpecification) -> FailureModes:
    """Return what *data* tells of the failure modes.

    Args:
        data: ``failure.json`` of a bundle.
        spec: The bundle's; there are as many inputs as it has names.

    Raises:
        FailureError: If it does not decode, or a number of it is not what it says.
    """
    if len(data) > MAX_BYTES:
        raise FailureError(f"{spec.asset_class}: failure modes of {len(data)} bytes are more than {MAX_BYTES}")
    try:
        told = msgspec.json.decode(data, type=_Told)
    except UNDECODABLE as error:
        raise FailureError(f"{spec.asset_class}: failure modes do not decode ({error})") from error
    modes = FailureModes(
        names=told.names,
        horizon_h=told.horizon_h,
        thresholds=tuple(math.inf if limit is None else limit for limit in told.thresholds),
        importance=told.importance,
        band_low=tuple(math.nan if value is None else value for value in told.band_low),
        band_high=tuple(math.nan if value is None else value for value in told.band_high),
    )
    if problem := _problem(modes, len(input_names(spec))):
        raise FailureError(f"{spec.asset_class}: failure modes {problem}")
    return modes


@dataclass(frozen=True, kw_only=True)
class _Told:
    names: tuple[str, ...]
    horizon_h: float
    thresholds: tuple[float | None, ...]
    importance: tuple[tuple[float, ...], ...]
    band_low: tuple[float | None, ...]
    band_high: tuple[float | None, ...]


def _problem(modes: FailureModes, inputs: int) -> str:  # noqa: PLR0911 - a list of what must hold
    """Return what is wrong with *modes*, or nothing."""
    count = len(modes.names)
    if not 1 <= count <= MAX_MODES or len(set(modes.names)) != count:
        return f"are {count}, not 1 to {MAX_MODES} with a name each"
    if not all(0 < len(name) <= _LONGEST_NAME for name in modes.names) or "normal" in modes.names:
        return "have a name that no mode can have"
    if not 0.0 <= modes.horizon_h <= MAX_HORIZON_H:
        return f"are foretold within {modes.horizon_h} hours, which is no horizon"
    if len(modes.thresholds) != count or not all(limit > 0.0 for limit in modes.thresholds):
        return "do not have a threshold above 0 each"
    if not len(modes.band_low) == len(modes.band_high) == inputs:
        return f"do not have a reference band for each of {inputs} inputs"
    if len(modes.importance) != count or {len(row) for row in modes.importance} != {inputs}:
        return f"do not have a share for each of {inputs} inputs"
    if not all(_are_shares(row) for row in modes.weights):
        return "have shares of inputs that are not 0 to 1, or do not add up to 1 or 0"
    low, high = modes.band
    if not np.array_equal(np.isnan(low), np.isnan(high)) or np.isinf(modes.band).any() or (low > high).any():
        return "have a reference band that is none"
    return ""


def _are_shares(row: FloatArray) -> bool:
    total = float(row.sum())
    return bool(np.isfinite(row).all() and (row >= 0.0).all() and (total == 0.0 or abs(total - 1.0) < _ROUNDING))
