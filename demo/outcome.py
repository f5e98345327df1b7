"""What came of a demo, judged against the plant's truth: which faults were found, when, and by which name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from models.records import Advisory

# A window that ends shortly after a repair still holds values from before it.
AFTERMATH = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class InjectedFault:
    """One fault as the plant knows it."""

    asset_id: str
    mode: str
    onset: datetime
    failure: datetime
    repaired: datetime


@dataclass(frozen=True, kw_only=True)
class FaultOutcome:
    """What the gateways made of one injected fault.

    ``lead_time_s`` is simulated time from the first advisory to the failure; ``named_mode`` what the advisory said last
    before it.
    """

    asset: str
    mode: str
    found: bool
    named_mode: str | None
    lead_time_s: float | None
    top_channels: tuple[str, ...]
    confidence: float | None

    @property
    def right_mode(self) -> bool:
        """Whether the advisory named what the plant had injected."""
        return self.named_mode == self.mode


@dataclass(frozen=True, kw_only=True)
class ObservationBalance:
    """Observations made by the plant, stored by the gateways, delivered to the lake."""

    made: int
    stored: int
    delivered: int
    lost: int
    duplicated: int

    @property
    def balanced(self) -> bool:
        """Whether made is stored is delivered, with nothing lost and nothing twice."""
        return self.made == self.stored == self.delivered and not self.lost and not self.duplicated


@dataclass(frozen=True, kw_only=True)
class ModelOutcome:
    """One asset class's models before and after, with the held-out figures of each."""

    asset_class: str
    version_before: int | None
    version_after: int | None
    held_out: dict[str, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class RolloutOutcome:
    """Whether the good releases went live everywhere, the broken one was refused, the bad one rolled back."""

    released: bool
    refused_broken: bool
    rolled_back_bad: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything the demo reports."""

    seconds: float
    faults: tuple[FaultOutcome, ...]
    false_advisories: int
    observations: ObservationBalance
    models: tuple[ModelOutcome, ...]
    rollout: RolloutOutcome
    disturbances: dict[str, Any] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """Return the outcome as ``demo-report.json`` holds it."""
        return {**asdict(self), "broken_promises": self.broken_promises()}

    def broken_promises(self) -> list[str]:
        """Return what the demo promises and did not keep, in words; empty when all is well."""
        o, r = self.observations, self.rollout
        promises = [
            (o.lost == 0, f"{o.lost} observations were lost"),
            (o.duplicated == 0, f"{o.duplicated} observations were delivered twice"),
            (o.made == o.stored == o.delivered, f"made {o.made}, stored {o.stored}, delivered {o.delivered} differ"),
            (r.released, "the good release did not go live on every gateway"),
            (r.refused_broken, "the broken bundle was not refused"),
            (r.rolled_back_bad, "the bad bundle was not rolled back"),
            *((f.found, f"{f.asset}: {f.mode} was not found before the failure") for f in self.faults),
            (
                sum(f.right_mode for f in self.faults) >= 0.7 * len(self.faults),
                f"only {sum(f.right_mode for f in self.faults)} of {len(self.faults)} faults got their right name",
            ),
            (
                self.false_advisories <= len(self.faults) // 3,
                f"{self.false_advisories} false advisories are more than a technician would bear",
            ),
        ]
        return [broken for kept, broken in promises if not kept]


def judge_faults(faults: Sequence[InjectedFault], advisories: Iterable[Advisory]) -> tuple[FaultOutcome, ...]:
    """Return what the advisories, all revisions of them, made of each fault."""
    every = sorted(advisories, key=lambda advisory: (advisory.updated_at, advisory.revision))
    return tuple(_judge(fault, [a for a in every if a.asset_id == fault.asset_id]) for fault in faults)


def _judge(fault: InjectedFault, advisories: Sequence[Advisory]) -> FaultOutcome:
    ids = {a.advisory_id for a in advisories if fault.onset <= a.raised_at <= fault.failure}
    said = [a for a in advisories if a.advisory_id in ids and a.updated_at <= fault.failure]
    if not said:
        return FaultOutcome(
            asset=fault.asset_id,
            mode=fault.mode,
            found=False,
            named_mode=None,
            lead_time_s=None,
            top_channels=(),
            confidence=None,
        )
    last = said[-1]
    first = min(a.raised_at for a in said)
    return FaultOutcome(
        asset=fault.asset_id,
        mode=fault.mode,
        found=True,
        named_mode=last.failure_mode,
        lead_time_s=(fault.failure - first).total_seconds(),
        top_channels=tuple(share.channel for share in last.top_channels),
        confidence=last.confidence,
    )


def false_advisories(
    faults: Sequence[InjectedFault], advisories: Iterable[Advisory], *, except_versions: frozenset[tuple[str, int]]
) -> list[Advisory]:
    """Return the first revision of each advisory that no fault explains.

    Advisories of a release in *except_versions* (asset class, version) are left out: those of the bad bundle that the
    demo puts on the canary on purpose.
    """
    first: dict[str, Advisory] = {}
    for advisory in sorted(advisories, key=lambda a: a.revision):
        first.setdefault(advisory.advisory_id, advisory)
    return [
        a
        for a in first.values()
        if (a.asset_class, a.model_version) not in except_versions
        and not any(f.asset_id == a.asset_id and f.onset <= a.raised_at <= f.repaired + AFTERMATH for f in faults)
    ]


def open_spans(advisories: Iterable[Advisory]) -> list[tuple[Advisory, datetime, datetime]]:
    """Return each advisory's last revision with the time it was raised and the time it returned (or was last heard)."""
    last: dict[str, Advisory] = {}
    for advisory in sorted(advisories, key=lambda a: a.revision):
        last[advisory.advisory_id] = advisory
    return [(a, a.raised_at, max(a.updated_at, a.raised_at)) for a in last.values()]
