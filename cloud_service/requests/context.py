"""What happened around an advisory's evidence, asked for as soon as the advisory is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.requests.asking import ask_for, check_interval
from cloud_service.requests.errors import RequestRefused
from cloud_service.requests.tables import AskedBy, RequestRow, WithheldRow
from cloud_service.requests.withheld import withheld_runs
from models.records import OPEN_STATES, Advisory, Results

CONTEXT = timedelta(minutes=10)  # before the evidence and after it
LONGEST_EVIDENCE = timedelta(days=1)  # of which the newest is asked for
MOST_PER_DAY = 12  # requests for one asset
MOST_AT_ONCE = 256  # advisories of one segment that are looked at, the newest

log = structlog.get_logger()


def ask_for_context(
    session: Session, gateway_id: str, results: Iterable[Results], *, now: datetime | None = None
) -> None:
    """Ask *gateway_id* for what it keeps back of the assets that the open advisories in *results* are about.

    Which channels it kept back at any time counts, and not what it did in these minutes: an advisory goes ahead of
    the segments that would tell.
    """
    now = now or datetime.now(UTC)
    told = [advisory for page in results for advisory in page.advisories if _has_evidence(advisory)]
    if not told:
        return
    by_asset: defaultdict[str, list[Advisory]] = defaultdict(list)
    for advisory in sorted(told, key=lambda one: one.updated_at, reverse=True)[:MOST_AT_ONCE]:
        by_asset[advisory.asset_id].append(advisory)
    cut = select(WithheldRow.asset_id).where(WithheldRow.gateway_id == gateway_id).distinct()
    for asset_id in by_asset.keys() & set(session.scalars(cut)):
        runs = withheld_runs(session, asset_id)
        kept_back = [channel for owner, channel in runs if owner == gateway_id]
        for advisory in by_asset[asset_id]:
            if not _ask(session, gateway_id, advisory, kept_back, now):
                break  # one line in the log for all that are too many


def _has_evidence(advisory: Advisory) -> bool:
    return advisory.state in OPEN_STATES and advisory.evidence_start <= advisory.evidence_end


def _ask(session: Session, gateway_id: str, advisory: Advisory, kept_back: list[str], now: datetime) -> bool:
    """Ask for the context of *advisory*; return whether others of its asset may ask too."""
    start = max(advisory.evidence_start, advisory.evidence_end - LONGEST_EVIDENCE) - CONTEXT
    end = advisory.evidence_end + CONTEXT
    try:
        _check_day(session, advisory.asset_id, now)
    except RequestRefused as error:
        log.warning("no context of an advisory asked for", advisory_id=advisory.advisory_id, reason=str(error))
        return False
    try:
        check_interval(start, end, now)
        wanted = {(gateway_id, channel): [(start, end)] for channel in kept_back}
        ask_for(session, advisory.asset_id, wanted, AskedBy.ADVISORY, now)
    except RequestRefused as error:
        log.warning("no context of an advisory asked for", advisory_id=advisory.advisory_id, reason=str(error))
    return True


def _check_day(session: Session, asset_id: str, now: datetime) -> None:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    query = select(func.count()).select_from(RequestRow).where(RequestRow.asset_id == asset_id)
    query = query.where(RequestRow.asked_by == AskedBy.ADVISORY, RequestRow.asked_at >= midnight)
    if (session.scalar(query) or 0) >= MOST_PER_DAY:
        raise RequestRefused(
            f"{asset_id} had {MOST_PER_DAY} such requests since midnight; `wearsight-cloud request-data` asks by hand",
            "asset_id",
        )
