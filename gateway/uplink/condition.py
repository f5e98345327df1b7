"""How delivery is doing, for the gateway's health."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime

from gateway.uplink.client import Range

# What to do about a segment the cloud will not take, by the first word of the reason.
_NEXT_STEPS = {
    "conflict": "the cloud has other pages under these numbers: this journal was restored from a backup, or cloned; "
    "stop the gateway and run `wearsight-gateway journal repair --new-epoch`",
    "clone": "the cloud follows a newer journal of this gateway; stop the one of the two that should not run",
    "chain": "a segment beside it is not the one it names; compare `wearsight-gateway journal verify` with "
    "`wearsight-cloud ledger status`",
    "unreadable": "its file is damaged; see `wearsight-gateway journal verify`",
}


@dataclass(kw_only=True)
class UplinkCondition:
    """How delivery is doing.

    Attributes:
        connected: Whether the cloud answered last time.
        trouble: Why it is not connected; empty when it is.
        refused: The shelf: ranges of segments the cloud will not take, or that cannot be read, with the reason.
        restored: What the cloud's ledger says against this journal; empty when they agree.
        bytes_sent: Bytes of bodies sent since the start.
        segments_sent: Segments the cloud took since the start.
        express_sent: Pages of advisories and events it took ahead of their segments.
        express_waiting: Such pages that wait to be sent.
        backlog_segments: Segments that wait to be sent.
        backlog_bytes: Their bytes.
        backlog_age_s: How old the oldest of their values are, in seconds.
        live_latency_s: Seconds from the close of the last live segment until the cloud had it; None before the first.
        next_window: When the schedule lets raw data go next, local time; None when it may go now.
        budget_left_bytes: What is left of the budget for raw data; None when no channel has one.
    """

    connected: bool = False
    trouble: str = "not connected yet"
    refused: dict[Range, str] = field(default_factory=dict)
    restored: str = ""
    bytes_sent: int = 0
    segments_sent: int = 0
    express_sent: int = 0
    express_waiting: int = 0
    backlog_segments: int = 0
    backlog_bytes: int = 0
    backlog_age_s: float = 0.0
    live_latency_s: float | None = None
    next_window: datetime | None = None
    budget_left_bytes: int | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each reason for which segments are on the shelf, and one when the cloud knows better."""
        found = [self.restored] if self.restored else []
        reasons: defaultdict[str, list[tuple[Range, str]]] = defaultdict(list)
        for pages, why in sorted(self.refused.items()):
            reasons[why.partition(":")[0]].append((pages, why))
        for reason, refused in reasons.items():
            (first, last), why = refused[0]
            others = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
            step = f"; {_NEXT_STEPS[reason]}" if reason in _NEXT_STEPS else ""
            found.append(f"segment {first}-{last}{others} not delivered: {why}{step}")
        return tuple(found)
