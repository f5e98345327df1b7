"""What the advisor remembers of one asset: recent evidence, recent lives, and the advisories that are not closed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from gateway.advisory_generation.reason import UNCLASSIFIED
from models.records import Advisory, AdvisoryState, Basis, ChannelShare, Health, Prognosis, State

EVIDENCE_WINDOWS = 8  # what the failure mode, the confidence and the data trust are averaged over
LIFE_WINDOWS = 5  # life estimates jump from window to window; the median of a few does not
NORMAL = "normal"


@dataclass(kw_only=True)
class Evidence:
    """One window out of normal."""

    end: datetime
    good_share: float
    probabilities: dict[str, float]
    top_channels: tuple[ChannelShare, ...]


@dataclass(kw_only=True)
class Life:
    """One prognosis, as moments of failure instead of life left."""

    p10: datetime
    p50: datetime
    p90: datetime


@dataclass(kw_only=True)
class Open:
    """An advisory that is not closed.

    Attributes:
        advisory: Its last revision.
        told_windows: How many windows of evidence that had.
        raised_by: Model version that raised it, or raised it again.
    """

    advisory: Advisory
    told_windows: int
    raised_by: int


@dataclass(kw_only=True)
class AssetContext:
    """What the advisor remembers of one asset."""

    out_windows: int = 0
    normal_windows: int = 0
    evidence_windows: int = 0
    evidence_start: datetime | None = None
    evidence: list[Evidence] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    basis: Basis | None = None
    challenger: str = ""
    challenger_windows: int = 0
    opened: list[Open] = field(default_factory=list)


def active_in(context: AssetContext) -> list[Open]:
    """Return the advisories that have not returned."""
    return [o for o in context.opened if o.advisory.state is not AdvisoryState.RETURNED]


def remember(context: AssetContext, state: State, health: Health, prognosis: Prognosis | None) -> None:
    """Take in one window out of normal."""
    context.out_windows += 1
    context.normal_windows = 0
    context.evidence_windows += 1
    context.evidence_start = context.evidence_start or state.window_start
    evidence = Evidence(
        end=state.window_end,
        good_share=state.good_share,
        probabilities=health.probabilities,
        top_channels=state.top_channels,
    )
    context.evidence = [*context.evidence, evidence][-EVIDENCE_WINDOWS:]
    if prognosis is None:
        return
    context.basis = prognosis.basis
    quantiles = (prognosis.p10_s, prognosis.p50_s, prognosis.p90_s)
    if None not in quantiles:
        p10, p50, p90 = (prognosis.window_end + timedelta(seconds=s) for s in quantiles if s is not None)
        context.lives = [*context.lives, Life(p10=p10, p50=p50, p90=p90)][-LIFE_WINDOWS:]


def forget(context: AssetContext) -> None:
    """Let the evidence go, once the asset is well again; open and returned advisories stay known."""
    context.evidence, context.lives, context.basis = [], [], None
    context.evidence_windows, context.evidence_start = 0, None
    context.challenger, context.challenger_windows = "", 0


def confidence_in(context: AssetContext, mode: str) -> float:
    """Return the mean probability of *mode* over the evidence; of ``unclassified``, that of the likeliest mode."""
    if not context.evidence:
        return 0.0
    if mode == UNCLASSIFIED:
        return max((confidence_in(context, known) for known in modes_of(context)), default=0.0)
    return float(np.mean([e.probabilities.get(mode, 0.0) for e in context.evidence]))


def modes_of(context: AssetContext) -> list[str]:
    """Return the failure modes that the evidence has probabilities of, in alphabetical order."""
    return sorted({mode for e in context.evidence for mode in e.probabilities} - {NORMAL})


def life_left(context: AssetContext, now: datetime) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return the life left at *now* in seconds, as medians over the last prognoses, never below 0 and in order."""
    if not context.lives:
        return None, None, None
    left = np.array([[(m - now).total_seconds() for m in (v.p10, v.p50, v.p90)] for v in context.lives])
    p10, p50, p90 = np.maximum.accumulate(np.maximum(np.median(left, axis=0), 0.0)).tolist()
    return p10, p50, p90
