"""What gateways ask and say about requests: which are open, one of their own, how one ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.errors import BodyRefused
from cloud_service.ingest.ledger import Range, held_ranges, missing_ranges
from cloud_service.ingest.tally import printable
from cloud_service.requests.asking import (
    MOST_CHANNELS,
    ask_for,
    check_interval,
    close_request,
    expire,
    unanswered,
)
from cloud_service.requests.errors import RequestIncomplete, RequestRefused, RequestRejected
from cloud_service.requests.tables import PART_S, AskedBy, Interval, RequestRow, RequestState
from cloud_service.requests.waiting import empty_parts
from cloud_service.store import AssetRow, HeldRow, Store
from models.records import from_ns, to_ns

BODY_LIMIT = 512 * 1024
TOLD_AT_ONCE = 32
_REQUEST_ID = re.compile(r"[0-9a-f]{16,64}")
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]

Entitled = Callable[[Request, str], Awaitable[None]]
T = TypeVar("T")


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A request as its gateway is told it; ``received`` counts the observations that came of it so far."""

    request_id: str
    asset_id: str
    channels: tuple[str, ...]
    start_ns: int
    end_ns: int
    part_ns: int
    held: list[Range]
    received: int


class _Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that a gateway makes to itself."""

    asset_id: _Name
    channels: Annotated[tuple[_Name, ...], msgspec.Meta(min_length=1, max_length=MOST_CHANNELS)]
    start_ns: _Time
    end_ns: _Time


class _Done(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    parts: _Count
    observations: _Count


class _Refused(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


def request_routes(store: Store, entitled: Entitled) -> APIRouter:
    """Return the routes under ``/api/v1/requests``; *entitled* raises unless a request may speak for a gateway."""
    routes = APIRouter(prefix="/api/v1/requests/{gateway_id}")

    @routes.get("")
    async def open_requests(request: Request, gateway_id: str) -> Response:
        await entitled(request, gateway_id)
        return _json({"requests": await asyncio.to_thread(_open_requests, store, gateway_id)})

    @routes.put("/{request_id}")
    async def wish(request: Request, gateway_id: str, request_id: str) -> Response:
        await entitled(request, gateway_id)
        _check_id(request_id)
        wanted = await _decoded(request, _Wish)
        return _json(await asyncio.to_thread(_wish, store, gateway_id, request_id, wanted))

    @routes.post("/{request_id}/done")
    async def done(request: Request, gateway_id: str, request_id: str) -> Response:
        await entitled(request, gateway_id)
        told = await _decoded(request, _Done)
        return _json(await asyncio.to_thread(_end, store, gateway_id, request_id, told))

    @routes.post("/{request_id}/refused")
    async def refused(request: Request, gateway_id: str, request_id: str) -> Response:
        await entitled(request, gateway_id)
        told = await _decoded(request, _Refused)
        return _json(await asyncio.to_thread(_end, store, gateway_id, request_id, told))

    return routes


def _open_requests(store: Store, gateway_id: str) -> list[Told]:
    """Return the oldest open requests to *gateway_id*; those that nobody answered for too long end here."""
    now = datetime.now(UTC)
    with store.reading() as session:
        some_are_unanswered = bool(unanswered(session, now))
    if some_are_unanswered:
        with store.writing() as session:
            expire(session, now)
    query = select(RequestRow).where(RequestRow.gateway_id == gateway_id, RequestRow.state == RequestState.OPEN)
    query = query.order_by(RequestRow.asked_at, RequestRow.request_id).limit(TOLD_AT_ONCE)
    with store.reading() as session:
        return [_told(session, row) for row in session.scalars(query)]


def _told(session: Session, row: RequestRow) -> Told:
    return Told(
        request_id=row.request_id,
        asset_id=row.asset_id,
        channels=row.channel_names,
        start_ns=to_ns(row.start),
        end_ns=to_ns(row.end),
        part_ns=PART_S * 10**9,
        held=held_ranges(session, row.gateway_id, row.request_id),
        received=row.observations + row.repeats,
    )


def _wish(store: Store, gateway_id: str, request_id: str, wanted: _Wish) -> dict[str, str]:
    try:
        return _enter(store, gateway_id, request_id, wanted)
    except RequestRefused as error:
        raise RequestRejected(str(error), error.field) from error


def _enter(store: Store, gateway_id: str, request_id: str, wanted: _Wish) -> dict[str, str]:
    """Enter *wanted*, once, less what other requests cover; return the state it has then."""
    now = datetime.now(UTC)
    interval = from_ns(wanted.start_ns), from_ns(wanted.end_ns)
    with store.writing() as session:
        known = session.get(RequestRow, request_id)
        if known is not None:
            _check_same(known, gateway_id, wanted, interval)
            return {"state": known.state, "reason": known.reason}
        _check_free(session, gateway_id, request_id, wanted.asset_id)
        check_interval(*interval, now)
        wanted_of = {(gateway_id, channel): [interval] for channel in wanted.channels}
        asked = ask_for(session, wanted.asset_id, wanted_of, AskedBy.GATEWAY, now, first_id=request_id)
        return {"state": RequestState.OPEN, "reason": ""} if asked.new else {"state": "covered", "reason": ""}


def _check_same(known: RequestRow, gateway_id: str, wanted: _Wish, interval: Interval) -> None:
    _check_owner(known, gateway_id)
    same = known.asset_id == wanted.asset_id and set(known.channel_names) <= set(wanted.channels)
    if not same or not interval[0] <= known.start < known.end <= interval[1]:
        raise RequestRejected(f"request {known.request_id} is one for other data; nothing is changed", "request_id")


def _check_free(session: Session, gateway_id: str, request_id: str, asset_id: str) -> None:
    """Refuse an id that is a journal's epoch, and the asset of another gateway."""
    query = select(func.count()).select_from(HeldRow).where(HeldRow.epoch == request_id)
    if session.scalar(query):
        raise RequestRejected(f"{request_id} is the epoch of a journal; nothing is asked for", "request_id")
    asset = session.get(AssetRow, asset_id)
    if asset is not None and asset.gateway_id != gateway_id:
        raise RequestRejected(f"{asset_id} is an asset of another gateway; nothing is asked for", "asset_id")


def _end(store: Store, gateway_id: str, request_id: str, told: _Done | _Refused) -> dict[str, str]:
    """End the request as its gateway says, when that is so; one that ended before stays as it is."""
    with store.writing() as session:
        row = session.get(RequestRow, request_id)
        if row is None:
            raise RequestRejected(f"there is no request {request_id[:64]!r}; nothing is changed", "request_id")
        _check_owner(row, gateway_id)
        if isinstance(told, _Refused):
            close_request(row, RequestState.REFUSED, printable(told.reason))
        elif row.state == RequestState.OPEN:
            _check_complete(session, row, told)
            close_request(row, RequestState.DONE, _emptiness(session, row))
        return {"state": row.state, "reason": row.reason}


def _check_owner(row: RequestRow, gateway_id: str) -> None:
    if row.gateway_id != gateway_id:
        raise RequestRejected(f"request {row.request_id} is one to another gateway; nothing is changed", "request_id")


def _check_complete(session: Session, row: RequestRow, told: _Done) -> None:
    missing = missing_ranges(held_ranges(session, row.gateway_id, row.request_id), 1, row.parts)
    if missing or told.parts != row.parts:
        raise RequestIncomplete(
            f"request {row.request_id} has {row.parts} parts, and {missing or told.parts} does not fit; it stays open"
        )
    received = row.observations + row.repeats
    if told.observations != received:
        raise RequestIncomplete(
            f"request {row.request_id}: {received} observations came, not {told.observations}; it stays open",
            "observations",
        )


def _emptiness(session: Session, row: RequestRow) -> str:
    """Return how many parts of *row* had nothing, as a sentence; empty when each had something."""
    empty = empty_parts(session, row)
    if not empty:
        return ""
    return (
        f"{empty} of {row.parts} parts had nothing: nothing was measured then, or the gateway does not have it any more"
    )


def _check_id(request_id: str) -> None:
    if not _REQUEST_ID.fullmatch(request_id):
        raise RequestRejected(f"{request_id[:80]!r} is not 16 to 64 hexadecimal digits", "request_id")


async def _decoded(request: Request, kind: type[T]) -> T:
    """Return the bounded JSON body of *request*, or raise RequestRejected naming its field."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            raise BodyRefused(f"the body is longer than {BODY_LIMIT} bytes; nothing is done", 413)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        field = re.search(r"\$\.(\w+)|field `(\w+)`", str(error))
        raise RequestRejected(f"{error}; nothing is done", (field and (field[1] or field[2])) or "body") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRejected(f"{error}; nothing is done", "body") from error


def _json(content: Any) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
