"""What is decided by a model's numbers: two answers that decide alike may differ in digits, never the other way round.

The conversion gate, the golden vectors and the choice among compressed variants all count these decisions, with the
thresholds of the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.bundle.manifest import Thresholds
from models.records import FloatArray, Int64Array

NORMAL, WARNING, ALARM, UNKNOWN = 0, 1, 2, -1
UNCLASSIFIED = -1
# By when a technician must come: within the shift, the day, the week-end, the week, the month.
HORIZONS_S = tuple(hours * 3600.0 for hours in (8.0, 24.0, 72.0, 168.0, 720.0))


def zones(output: FloatArray, thresholds: Thresholds) -> Int64Array:
    """Return the zone of each detector *output* ``(n,)``: 0 normal, 1 warning, 2 alarm, -1 where it is no number."""
    zone = (output >= thresholds.warning).astype(np.int64) + (output >= thresholds.alarm)
    return np.where(np.isfinite(output), zone, UNKNOWN)


def named_modes(probabilities: FloatArray, modes: Sequence[str], thresholds: Thresholds) -> Int64Array:
    """Return which of *modes* is named for each row of *probabilities* ``(n, modes)``, -1 for unclassified.

    It is the likeliest but ``normal``, when it reaches the manifest's ``minimum_confidence``.
    """
    faults = np.array([mode != "normal" for mode in modes], np.bool_)
    if not faults.any():
        return np.full(len(probabilities), UNCLASSIFIED, np.int64)
    among = np.where(faults & np.isfinite(probabilities), probabilities, -np.inf)
    sure = among.max(axis=1, initial=-np.inf) >= thresholds.minimum_confidence
    return np.where(sure, among.argmax(axis=1), UNCLASSIFIED).astype(np.int64)


def horizons(life_s: FloatArray) -> Int64Array:
    """Return how many of ``HORIZONS_S`` each of *life_s* ``(n, 3)`` outlives, -1 where it is not known."""
    beyond = np.searchsorted(np.array(HORIZONS_S), np.nan_to_num(life_s), side="right").astype(np.int64)
    return np.where(np.isnan(life_s), UNKNOWN, beyond)
