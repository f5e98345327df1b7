"""The quality gate: a candidate that is worse than what is live on the same held-out assets is not released."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A held-out figure the gate looks at, and how much worse a candidate may be: noise between two trainings.

    Attributes:
        name: Of the figure in a bundle's metrics.
        larger_is_better: Which way it counts.
        tolerance: Absolute, in the figure's unit.
        relative: The same as a share of the live figure; the larger allowance of the two holds.
    """

    name: str
    larger_is_better: bool
    tolerance: float
    relative: float = 0.0


MEASURES = (
    Measure(name="event_recall", larger_is_better=True, tolerance=0.02),
    Measure(name="detector_auc", larger_is_better=True, tolerance=0.02),
    Measure(name="false_alarms_per_asset_day", larger_is_better=False, tolerance=0.05),
    Measure(name="classifier_macro_f1", larger_is_better=True, tolerance=0.03),
    Measure(name="life_rmse_h", larger_is_better=False, tolerance=1.0, relative=0.1),
)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether a candidate may be released, and why, one reason a measure."""

    released: bool
    reasons: tuple[str, ...]


def decide(candidate: Mapping[str, float], live: Mapping[str, float] | None) -> Decision:
    """Compare *candidate* with *live*, both figures on the same held-out assets; no live bundle refuses nothing."""
    if live is None:
        return Decision(released=True, reasons=("first release of this asset class: nothing is live to compare with",))
    verdicts = [_verdict(measure, candidate.get(measure.name), live.get(measure.name)) for measure in MEASURES]
    said = [verdict for verdict in verdicts if verdict is not None]
    if not said:
        return Decision(released=False, reasons=("nothing could be compared with the live release: no common figure",))
    return Decision(released=all(good for good, _ in said), reasons=tuple(reason for _, reason in said))


def _verdict(measure: Measure, candidate: float | None, live: float | None) -> tuple[bool, str] | None:
    """Return whether *candidate* passes and the reason; None when there is nothing to compare with."""
    if live is None or math.isnan(live):
        return None
    if candidate is None or math.isnan(candidate):
        return False, f"{measure.name}: the live release has {live:.4g}, the candidate has no such figure"
    allowed = max(measure.tolerance, measure.relative * abs(live))
    worse_by = live - candidate if measure.larger_is_better else candidate - live
    word = "worse than" if worse_by > allowed else "holds against"
    return (
        worse_by <= allowed,
        f"{measure.name}: {candidate:.4g} {word} {live:.4g} of the live release (allowed {allowed:.4g})",
    )
