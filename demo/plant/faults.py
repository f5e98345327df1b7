"""Faults of the plant's machines and the truth about them: when they begin, how bad they are, when they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.records import FloatArray, Int64Array

GROWTH: Final[dict[str, float]] = {
    # Exponent of severity over the share of the time from onset to failure. A spall grows by its own impacts,
    # so late and fast; lost balance weights, deposits, blocked coolers and worn edges grow nearly steadily.
    "bearing_outer_race": 1.5,
    "imbalance": 1.2,
    "cavitation": 1.3,
    "seal_leak": 1.3,
    "cooling_loss": 1.2,
    "tool_wear": 1.2,
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of one asset, from its first trace to the end of its repair; times in ns since 1970 UTC.

    Severity is 0 up to ``onset``, grows to 1 at ``failure``, and is 0 again from then on: the machine stands
    until ``repaired`` and then runs as it did before.
    """

    asset_id: str
    mode: str
    onset: int
    failure: int
    repaired: int

    def severity(self, time_ns: Int64Array) -> FloatArray:
        """Return the severity, 0 to 1, at *time_ns*, shape ``(n,)``."""
        share = (time_ns - self.onset) / (self.failure - self.onset)
        grown: FloatArray = np.clip(share, 0.0, 1.0) ** GROWTH[self.mode]
        return np.where(time_ns < self.failure, grown, 0.0)

    def stands(self, time_ns: Int64Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return at which of *time_ns* the machine stands after this failure."""
        return np.asarray((time_ns >= self.failure) & (time_ns < self.repaired), np.bool_)


def severity(faults: Sequence[Fault], mode: str, time_ns: Int64Array) -> FloatArray:
    """Return the severity of one *mode* at *time_ns*, shape ``(n,)``; 0 where none of *faults* is of it."""
    total = np.zeros(len(time_ns))
    for fault in faults:
        if fault.mode == mode:
            total = np.maximum(total, fault.severity(time_ns))
    return total
