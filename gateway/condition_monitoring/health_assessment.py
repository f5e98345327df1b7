"""Block four: how healthy the asset is, and which failure mode is likeliest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models.bundle.manifest import Thresholds
from models.records import Float32Array, FloatArray, Health, State, Zone

UNCLASSIFIED = "unclassified"
NORMAL = "normal"
# The index in each zone: normal 100 to 80, warning 80 to 50, alarm below, falling by half per alarm width.
_INDEX_AT_WARNING, _INDEX_AT_ALARM = 80.0, 50.0
_GRADES = ((80.0, "A"), (50.0, "B"), (25.0, "C"))


@dataclass(frozen=True, kw_only=True)
class Assessor:
    """Grades windows by their score and names the failure mode by the classifier's probabilities."""

    thresholds: Thresholds
    failure_modes: tuple[str, ...]
    model_version: int

    def assess(self, state: State, probabilities: FloatArray | Float32Array | None) -> Health:
        """Return the health of one window.

        Args:
            state: Its state; an unknown one gives grade U and no index.
            probabilities: The classifier's, in the order of ``failure_modes``, or None where there is none.
        """
        known = state.zone is not Zone.UNKNOWN and state.score is not None
        index = self.index(state.score) if known and state.score is not None else None
        by_mode = {} if probabilities is None or not known else self._by_mode(probabilities)
        mode, confidence = self._mode(state.zone, by_mode)
        return Health(
            asset_id=state.asset_id,
            window_end=state.window_end,
            index=index,
            grade="U" if index is None else grade(index),
            failure_mode=mode,
            confidence=confidence,
            probabilities=by_mode,
            model_version=self.model_version,
        )

    def index(self, score: float) -> float:
        """Return the health index, 100 (as new) to 0 (failed), of a *score*; it never rises with the score."""
        alarm = self.thresholds.alarm / self.thresholds.warning
        if score < 1.0:
            # To the fourth: detectors give healthy windows half the warning level and more, and that is still A.
            return 100.0 - (100.0 - _INDEX_AT_WARNING) * max(score, 0.0) ** 4
        if score < alarm:
            return _INDEX_AT_WARNING - (_INDEX_AT_WARNING - _INDEX_AT_ALARM) * (score - 1.0) / (alarm - 1.0)
        width = max(alarm - 1.0, 0.05)
        return _INDEX_AT_ALARM * math.exp2(-min(score - alarm, 1e6) / width)

    def _by_mode(self, probabilities: FloatArray | Float32Array) -> dict[str, float]:
        return {mode: float(p) for mode, p in zip(self.failure_modes, np.asarray(probabilities), strict=True)}

    def _mode(self, zone: Zone, by_mode: dict[str, float]) -> tuple[str | None, float]:
        """Return the failure mode and the probability behind it, as far as the zone gives cause to name one."""
        if zone not in {Zone.WARNING, Zone.ALARM}:
            return None, by_mode.get(NORMAL, 0.0)
        faults = {mode: p for mode, p in by_mode.items() if mode != NORMAL}
        best = max(faults, key=lambda mode: faults[mode], default=UNCLASSIFIED)
        confidence = faults.get(best, 0.0)
        return (best if confidence >= self.thresholds.minimum_confidence else UNCLASSIFIED), confidence


def grade(index: float) -> str:
    """Return the grade of a health *index*: A, B, C or D."""
    return next((letter for limit, letter in _GRADES if index > limit), "D")
