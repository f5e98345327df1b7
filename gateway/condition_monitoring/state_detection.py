"""Block three: in which zone each window lies.

A window that cannot be judged is ``unknown`` and says why. It is never taken for normal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from models.bundle.manifest import Thresholds
from models.records import ChannelShare, State, Zone


@dataclass(frozen=True, kw_only=True)
class Span:
    """Which window of which asset, and the share of its observations that were good, 0 to 1."""

    asset_id: str
    start: datetime
    end: datetime
    good_share: float


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Turns the detector's outputs into states by the bundle's thresholds."""

    asset_class: str
    thresholds: Thresholds
    model_version: int

    def trusted(self, spans: Sequence[Span]) -> list[int]:
        """Return which windows, by index, carry enough good observations to be scored at all."""
        return [i for i, span in enumerate(spans) if span.good_share >= self.thresholds.minimum_good_share]

    def detect(
        self, span: Span, output: float | None, top_channels: tuple[ChannelShare, ...] = (), failure: str = ""
    ) -> State:
        """Return the state of one window.

        Args:
            span: The window.
            output: The detector's output, which grows with the deviation; None where it was not computed.
            top_channels: What the deviation is made of; kept for windows out of normal.
            failure: Why the output is missing, if not for a lack of good observations.
        """
        share, limit = span.good_share, self.thresholds.minimum_good_share
        if share < limit:
            reason = f"{share:.0%} of the values are good, {limit:.0%} are needed"
            return unknown(span, self.asset_class, reason, self.model_version)
        if output is None or not np.isfinite(output):
            return unknown(span, self.asset_class, failure or "the detector gave no number", self.model_version)
        zone = self._zone(output)
        return State(
            asset_id=span.asset_id,
            asset_class=self.asset_class,
            window_start=span.start,
            window_end=span.end,
            zone=zone,
            score=self.score(output),
            good_share=share,
            reason="" if zone is Zone.NORMAL else _reason(top_channels),
            model_version=self.model_version,
            top_channels=() if zone is Zone.NORMAL else top_channels,
        )

    def score(self, output: float) -> float:
        """Return *output* in multiples of the warning threshold."""
        return float(output / self.thresholds.warning)

    def _zone(self, output: float) -> Zone:
        if output >= self.thresholds.alarm:
            return Zone.ALARM
        return Zone.WARNING if output >= self.thresholds.warning else Zone.NORMAL


def unknown(span: Span, asset_class: str, reason: str, model_version: int | None) -> State:
    """Return the state of a window that nothing can be said about, and why."""
    return State(
        asset_id=span.asset_id,
        asset_class=asset_class,
        window_start=span.start,
        window_end=span.end,
        zone=Zone.UNKNOWN,
        score=None,
        good_share=span.good_share,
        reason=reason,
        model_version=model_version,
    )


def _reason(top_channels: tuple[ChannelShare, ...]) -> str:
    return "deviates in " + ", ".join(f"{c.channel} ({c.share:.0%})" for c in top_channels[:3]) if top_channels else ""
