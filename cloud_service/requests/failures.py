"""What training wants: raw data from before the failures that maintenance wrote down, and what of it is missing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from cloud_service.fleet.maintenance import MaintenanceRecord
from cloud_service.requests.asking import Asked, ask
from cloud_service.requests.errors import RequestRefused
from cloud_service.requests.tables import AskedBy, RequestRow, RequestState
from cloud_service.requests.waiting import parts_held

MOST_FAILURES = 50  # the newest, of one training
_MOST_TOLD = 20


@dataclass(frozen=True, kw_only=True)
class FailureData:
    """The raw data around the failures of a class.

    Attributes:
        request_ids: Requests, new and earlier, that are about it.
        asked: How many of them are new.
    """

    request_ids: tuple[str, ...]
    asked: int


def ask_around_failures(
    session: Session, failures: Iterable[MaintenanceRecord], before: timedelta, *, now: datetime | None = None
) -> FailureData:
    """Ask for what was kept back of each failed asset in the time *before* its failure; the newest failures first."""
    now = now or datetime.now(UTC)
    found: list[Asked] = []
    for failure in sorted(failures, key=lambda record: record.failed_at, reverse=True)[:MOST_FAILURES]:
        end = min(failure.failed_at, now)
        try:
            found.append(ask(session, failure.asset_id, end - before, end, asked_by=AskedBy.TRAINING, now=now))
        except RequestRefused:
            continue  # nothing was kept back there, or there is no room for more
    return FailureData(
        request_ids=tuple(dict.fromkeys(name for asked in found for name in asked.request_ids)),
        asked=sum(len(asked.new) for asked in found),
    )


def missing_data(session: Session, wanted: FailureData) -> tuple[str, ...]:
    """Return one sentence for each request of *wanted* that is not done, or had parts without anything, for people."""
    lacking = or_(RequestRow.state != RequestState.DONE, RequestRow.reason != "")
    query = select(RequestRow).where(RequestRow.request_id.in_(wanted.request_ids), lacking)
    rows = session.scalars(query.order_by(RequestRow.asset_id, RequestRow.start)).all()
    told = [_sentence(session, row) for row in rows[:_MOST_TOLD]]
    return (*told, f"and {len(rows) - _MOST_TOLD} more") if len(rows) > _MOST_TOLD else tuple(told)


def _sentence(session: Session, row: RequestRow) -> str:
    what = f"{row.asset_id}, {', '.join(row.channel_names)}, {row.start:%Y-%m-%d %H:%M} to {row.end:%Y-%m-%d %H:%M}"
    if row.state == RequestState.OPEN:
        return f"{what}: asked for, {parts_held(session, row)} of {row.parts} parts have come"
    return f"{what}: {row.state} ({row.reason})"
