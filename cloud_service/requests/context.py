"""What happened around an advisory's evidence, asked for as soon as the advisory is known."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.requests.asking import ask_for, check_interval
from cloud_service.requests.errors import RequestRefused
from cloud_service.requests.tables import AskedBy, RequestRow
from cloud_service.requests.withheld import withheld_runs
from models.records import OPEN_STATES, Advisory, Results

CONTEXT = timedelta(minutes=10)  # before the evidence and after it
LONGEST_EVIDENCE = timedelta(days=1)  # of which the newest is asked for
MOST_PER_DAY = 12  # requests for one asset

log = structlog.get_logger()


def ask_for_context(
    session: Session, gateway_id: str, results: Iterable[Results], *, now: datetime | None = None
) -> None:
    """Ask *gateway_id* for what it keeps back of the assets that the open advisories in *results* are about.

    Which channels it kept back at any time counts, and not what it did in these minutes: an advisory goes ahead of
    the segments that would tell.
    """
    now = now or datetime.now(UTC)
    for page in results:
        for advisory in page.advisories:
            if advisory.state in OPEN_STATES and advisory.evidence_start <= advisory.evidence_end:
                _ask(session, gateway_id, advisory, now)


def _ask(session: Session, gateway_id: str, advisory: Advisory, now: datetime) -> None:
    kept_back = [channel for owner, channel in withheld_runs(session, advisory.asset_id) if owner == gateway_id]
    if not kept_back:
        return
    start = max(advisory.evidence_start, advisory.evidence_end - LONGEST_EVIDENCE) - CONTEXT
    end = advisory.evidence_end + CONTEXT
    try:
        check_interval(start, end, now)
        _check_day(session, advisory.asset_id, now)
        wanted = {(gateway_id, channel): [(start, end)] for channel in kept_back}
        ask_for(session, advisory.asset_id, wanted, AskedBy.ADVISORY, now)
    except RequestRefused as error:
        log.warning("no context of an advisory asked for", advisory_id=advisory.advisory_id, reason=str(error))


def _check_day(session: Session, asset_id: str, now: datetime) -> None:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    query = select(func.count()).select_from(RequestRow).where(RequestRow.asset_id == asset_id)
    query = query.where(RequestRow.asked_by == AskedBy.ADVISORY, RequestRow.asked_at >= midnight)
    if (session.scalar(query) or 0) >= MOST_PER_DAY:
        raise RequestRefused(
            f"{asset_id} had {MOST_PER_DAY} such requests since midnight; `wearsight-cloud request-data` asks by hand",
            "asset_id",
        )
