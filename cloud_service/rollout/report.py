"""What a rollout did, host by host, read from Ansible's events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class HostStatus(StrEnum):
    """How a rollout ended on one host."""

    OK = "ok"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class HostOutcome:
    """One host's end, why, and how long it took."""

    status: HostStatus
    reason: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RolloutReport:
    """A rollout's outcome.

    Attributes:
        asset_class: The class of the bundle.
        version: Its version.
        hosts: Outcome by host, in the inventory's order.
    """

    asset_class: str
    version: int
    hosts: dict[str, HostOutcome]

    @property
    def succeeded(self) -> bool:
        """Whether the bundle is live on every host."""
        return bool(self.hosts) and all(host.status is HostStatus.OK for host in self.hosts.values())


@dataclass(frozen=True, kw_only=True)
class RolloutEvent:
    """One step's end on one host: ``ok``, ``failed``, ``unreachable`` or ``skipped``."""

    host: str
    step: str
    status: str
    detail: str


@dataclass(kw_only=True)
class _Account:
    """What has been heard of one host so far."""

    first: datetime | None = None
    last: datetime | None = None
    failure: tuple[HostStatus, str] | None = None
    outcome: Mapping[str, str] | None = None
    steps: int = 0


@dataclass(kw_only=True)
class Listener:
    """Gathers a report from the events of ansible-runner, as they come."""

    accounts: dict[str, _Account] = field(default_factory=dict)

    def hear(self, event: Mapping[str, Any]) -> RolloutEvent | None:
        """Take one event in; return it in our words when it ends a step on a host."""
        kind, data = str(event["event"]), event.get("event_data", {})
        host = data.get("host")
        if host is None or not kind.startswith("runner_on_"):
            return None
        account = self.accounts.setdefault(host, _Account())
        account.last = datetime.fromisoformat(event["created"])
        account.first = account.first or account.last
        if kind == "runner_on_start":
            return None
        result = data.get("res") or {}
        status = kind.removeprefix("runner_on_")
        detail = str(result.get("msg", ""))
        if status == "unreachable":
            account.failure = (HostStatus.UNREACHABLE, detail)
        elif status == "failed" and not data.get("ignore_errors"):
            account.failure = account.failure or (HostStatus.FAILED, f"{data.get('task')}: {detail}")
        elif status == "ok":
            account.steps += data.get("role") == "model_release"
            account.outcome = (result.get("ansible_facts") or {}).get("model_release_outcome", account.outcome)
        return RolloutEvent(host=host, step=str(data.get("task", "")), status=status, detail=detail)

    def outcomes(self, hosts: Sequence[str]) -> dict[str, HostOutcome]:
        """Return the outcome of each of *hosts*; one that was never heard of was left untouched."""
        return {host: _outcome(self.accounts.get(host, _Account())) for host in hosts}


def _outcome(account: _Account) -> HostOutcome:
    seconds = (account.last - account.first).total_seconds() if account.first and account.last else 0.0
    if account.outcome is not None:  # the role came to its end, whatever stopped its neighbours
        status, reason = HostStatus(account.outcome["status"]), account.outcome["reason"].strip()
    elif account.failure is not None:
        status, reason = account.failure
    elif account.steps:
        status, reason = HostStatus.OK, "was live already"
    else:
        status, reason = HostStatus.SKIPPED, "not begun, because a host before it did not do well"
    return HostOutcome(status=status, reason=reason, seconds=round(seconds, 3))
