"""Asking for what gateways kept back, never twice for the same.

A request goes to the gateway that kept the data, which may be another than the one that has the asset today.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.requests.errors import RequestRefused
from cloud_service.requests.tables import AskedBy, Interval, RequestRow, RequestState, part_count, without
from cloud_service.requests.withheld import overlap, withheld_runs
from cloud_service.store import AssetRow

log = structlog.get_logger()

LONGEST = timedelta(days=31)
FURTHEST_AHEAD = timedelta(days=1)
MOST_OPEN = 256  # of one gateway
MOST_CHANNELS = 1000
LIFE = timedelta(days=30)
_MOST_PIECES = 64
_COUNTING = (RequestState.OPEN, RequestState.DONE)  # what these cover is not asked for again

# By gateway and channel: which times are wanted.
Wanted = Mapping[tuple[str, str], Sequence[Interval]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What an asking came to.

    Attributes:
        new: The requests it made.
        earlier: Requests, open or done, that cover the rest.
    """

    new: tuple[RequestRow, ...]
    earlier: tuple[RequestRow, ...]

    @property
    def request_ids(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(row.request_id for row in (*self.new, *self.earlier))


def ask(
    session: Session,
    asset_id: str,
    start: datetime,
    end: datetime,
    *,
    channels: Sequence[str] = (),
    asked_by: AskedBy = AskedBy.PERSON,
    now: datetime | None = None,
) -> Asked:
    """Ask the gateways for what they kept back of *asset_id* from *start* to *end*; all channels unless some are named.

    Raises:
        RequestRefused: If nothing was kept back, the interval cannot be asked for, or too much is open already.
    """
    now = now or datetime.now(UTC)
    check_interval(start, end, now)
    runs = withheld_runs(session, asset_id)
    if not runs and session.get(AssetRow, asset_id) is None:
        raise RequestRefused(f"no gateway has described an asset {asset_id}; nothing is asked for", "asset_id")
    wanted = {key: overlap(spans, start, end) for key, spans in runs.items() if not channels or key[1] in channels}
    wanted = {key: spans for key, spans in wanted.items() if spans}
    if not wanted:
        of = f"{', '.join(channels)} of {asset_id}" if channels else asset_id
        raise RequestRefused(
            f"nothing was kept back of {of} from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}: what the gateway "
            "had is in the lake, or on its way. Nothing is asked for",
            "channels" if channels else "asset_id",
        )
    return ask_for(session, asset_id, wanted, asked_by, now)


def ask_for(
    session: Session, asset_id: str, wanted: Wanted, asked_by: AskedBy, now: datetime, *, first_id: str = ""
) -> Asked:
    """Ask for *wanted* of *asset_id*, less what was asked for already; the first request gets *first_id*, if given.

    Raises:
        RequestRefused: If that makes too many requests.
    """
    earlier: dict[str, RequestRow] = {}
    pieces: dict[tuple[str, Interval], list[str]] = {}
    known = counting_requests(session, asset_id)
    for (gateway_id, channel), spans in wanted.items():
        own = [row for row in known if row.gateway_id == gateway_id and channel in row.channel_names]
        earlier |= {row.request_id: row for row in own if any(overlap([row.interval], *span) for span in spans)}
        for piece in without(spans, [row.interval for row in own]):
            pieces.setdefault((gateway_id, piece), []).append(channel)
    if len(pieces) > _MOST_PIECES or any(len(names) > MOST_CHANNELS for names in pieces.values()):
        raise RequestRefused(
            f"{asset_id}: what is missing lies in {len(pieces)} pieces of up to {MOST_CHANNELS} channels and more; "
            "ask for a shorter time or fewer channels. Nothing is asked for",
            "channels",
        )
    for gateway_id in {gateway_id for gateway_id, _ in pieces}:
        check_room(session, gateway_id, sum(1 for owner, _ in pieces if owner == gateway_id))
    new = [
        open_request(session, gateway_id, asset_id, names, piece, asked_by, now, "" if number else first_id)
        for number, ((gateway_id, piece), names) in enumerate(sorted(pieces.items()))
    ]
    return Asked(new=tuple(new), earlier=tuple(earlier.values()))


def open_request(
    session: Session,
    gateway_id: str,
    asset_id: str,
    channels: Iterable[str],
    interval: Interval,
    asked_by: AskedBy,
    now: datetime,
    request_id: str = "",
) -> RequestRow:
    """Enter a request and return it; without *request_id* it gets one."""
    start, end = interval
    row = RequestRow(
        request_id=request_id or secrets.token_hex(16),
        gateway_id=gateway_id,
        asset_id=asset_id,
        channels=msgspec.json.encode(sorted(set(channels))).decode(),
        start=start,
        end=end,
        asked_by=asked_by.value,
        asked_at=now,
        state=RequestState.OPEN.value,
        reason="",
        parts=part_count(start, end),
        observations=0,
        repeats=0,
    )
    session.add(row)
    session.flush()
    log.info(
        "raw data asked for",
        request_id=row.request_id,
        gateway_id=gateway_id,
        asset_id=asset_id,
        asked_by=asked_by.value,
        start=start.isoformat(),
        end=end.isoformat(),
    )
    return row


def check_interval(start: datetime, end: datetime, now: datetime) -> None:
    """Raise RequestRefused unless *start* to *end* is an interval that can be asked for *now*."""
    for name, moment in (("start", start), ("end", end)):
        if moment.tzinfo is None:
            raise RequestRefused(f"{name} {moment} has no time zone; nothing is asked for", name)
    if start >= end:
        raise RequestRefused(f"start {start} is not before end {end}; nothing is asked for", "start")
    if end - start > LONGEST:
        raise RequestRefused(
            f"{start} to {end} is longer than {LONGEST.days} days; ask for less at a time. Nothing is asked for", "end"
        )
    if end > now + FURTHEST_AHEAD:
        raise RequestRefused(f"end {end} is more than a day ahead; nothing is asked for", "end")


def check_room(session: Session, gateway_id: str, more: int) -> None:
    """Raise RequestRefused when *gateway_id* would have too many open requests with *more*."""
    query = select(func.count()).select_from(RequestRow).where(RequestRow.gateway_id == gateway_id)
    count = session.scalar(query.where(RequestRow.state == RequestState.OPEN)) or 0
    if count + more > MOST_OPEN:
        raise RequestRefused(
            f"gateway {gateway_id} has {count} open requests, and {MOST_OPEN} is the limit; wait for some or cancel "
            "them with `wearsight-cloud request-data --cancel`. Nothing is asked for",
            "request_id",
        )


def counting_requests(session: Session, asset_id: str) -> list[RequestRow]:
    """Return the requests for *asset_id* that are open or done, oldest first."""
    query = select(RequestRow).where(RequestRow.asset_id == asset_id, RequestRow.state.in_(_COUNTING))
    return list(session.scalars(query.order_by(RequestRow.asked_at, RequestRow.request_id)))


def close_request(row: RequestRow, state: RequestState, reason: str = "") -> None:
    """Let *row* end in *state*; one that ended before stays as it is."""
    if row.state != RequestState.OPEN:
        return
    row.state, row.reason, row.closed_at = state.value, reason, datetime.now(UTC)
    log.info("data request ended", request_id=row.request_id, state=row.state, reason=reason)


def cancel(session: Session, request_id: str) -> RequestRow:
    """Take an open request back and return it. What came of it stays.

    Raises:
        RequestRefused: If there is none of this id, or it has ended.
    """
    row = session.get(RequestRow, request_id)
    if row is None:
        raise RequestRefused(f"there is no request {request_id}; nothing is cancelled", "request_id")
    if row.state != RequestState.OPEN:
        raise RequestRefused(f"request {request_id} is {row.state}; nothing is cancelled", "request_id")
    close_request(row, RequestState.EXPIRED, "cancelled")
    return row


def unanswered(session: Session, now: datetime) -> list[RequestRow]:
    """Return the open requests that no gateway has answered for too long."""
    query = select(RequestRow).where(RequestRow.state == RequestState.OPEN, RequestRow.asked_at < now - LIFE)
    return list(session.scalars(query.where(RequestRow.end < now - LIFE)))


def expire(session: Session, now: datetime) -> None:
    """End the requests that are `unanswered`."""
    for row in unanswered(session, now):
        close_request(row, RequestState.EXPIRED, f"its gateway did not answer in {LIFE.days} days")


def requests(session: Session, *, open_only: bool = False, limit: int = 1000) -> list[RequestRow]:
    """Return the newest *limit* requests, newest first."""
    query = select(RequestRow).order_by(RequestRow.asked_at.desc(), RequestRow.request_id).limit(limit)
    return list(session.scalars(query.where(RequestRow.state == RequestState.OPEN) if open_only else query))
