"""The application for gateways: they upload segments, and ask what is held.

Whatever is refused is answered with JSON of three texts: ``reason`` for programs, ``field``, which is the header, part
of the address or field of the body at fault, and ``detail`` for people.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from cloud_service.errors import BodyRefused, Busy, EnrollmentError, IngestError, NotEntitled
from cloud_service.ingest.ledger import Range
from cloud_service.ingest.upload import check_epoch, check_owner, read_claim
from cloud_service.pipeline import Intake
from cloud_service.pki import Identity, identity_of
from cloud_service.requests.routes import request_routes

log = structlog.get_logger()

_STORAGE_WAIT_S = 30
_identity_of = lru_cache(4096)(identity_of)  # a connection has one certificate, and many requests


def ingest_app(intake: Intake) -> FastAPI:
    """Return the application for gateways; it needs the client certificate in the request's scope."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    limit = intake.config.segment_limit_mib * 2**20

    @app.put("/api/v1/segments/{gateway_id}/{epoch}/{pages}")
    async def put_segment(request: Request, gateway_id: str, epoch: str, pages: str) -> Response:
        identity = identity_in(request)
        try:
            await entitled(intake, identity, gateway_id)
            claim = read_claim(gateway_id, epoch, pages, request.headers, limit)
            return held_answer(await intake.take_in(claim, request.stream()))
        except IngestError as error:
            await intake.reject(identity, error)
            raise

    @app.get("/api/v1/ledger/{gateway_id}/{epoch}")
    async def get_ledger(request: Request, gateway_id: str, epoch: str) -> Response:
        await entitled(intake, identity_in(request), gateway_id)
        check_epoch(epoch)
        return held_answer(await asyncio.to_thread(intake.held, gateway_id, epoch))

    async def speaks_for(request: Request, gateway_id: str) -> None:
        await entitled(intake, identity_in(request), gateway_id)

    app.include_router(request_routes(intake.store, speaks_for))

    @app.exception_handler(IngestError)
    async def refuse(_: Request, error: IngestError) -> Response:
        return refusal(error.status, error.reason, error.field, str(error), _headers(error))

    @app.exception_handler(OSError)
    @app.exception_handler(OperationalError)
    async def cannot_store(_: Request, error: Exception) -> Response:
        log.error("storage fails; uploads are told to come again", reason=str(error))
        detail = "nothing can be stored now; send it again later"
        headers = {"Connection": "close", "Retry-After": str(_STORAGE_WAIT_S)}
        return refusal(503, "unavailable", "storage", detail, headers)

    @app.exception_handler(HTTPException)
    async def refuse_address(request: Request, error: HTTPException) -> Response:
        field = "method" if error.status_code == 405 else "path"
        detail = f"{request.method} {request.url.path[:80]!r}: {error.detail}; nothing is done"
        return refusal(error.status_code, "address", field, detail, {"Connection": "close"})

    return app


def identity_in(request: Request) -> Identity:
    """Return whose certificate the request's connection has, or raise NotEntitled."""
    der = request.scope.get("extensions", {}).get("tls", {}).get("client_cert_der")
    if not der:
        raise NotEntitled("the request came without a client certificate; nothing is done")
    try:
        return _identity_of(der)
    except EnrollmentError as error:
        raise NotEntitled(str(error)) from error


async def entitled(intake: Intake, identity: Identity, gateway_id: str) -> None:
    """Raise NotEntitled unless *identity* may speak, now, and for *gateway_id*."""
    await asyncio.to_thread(intake.check_entitled, identity)
    check_owner(identity, gateway_id)


def held_answer(ranges: list[Range]) -> Response:
    """Return the answer that *ranges* are held."""
    return Response(msgspec.json.encode({"held": ranges}), media_type="application/json")


def refusal(status: int, reason: str, field: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """Return the answer to what is refused."""
    told: dict[str, Any] = {"reason": reason, "field": field, "detail": detail}
    return Response(msgspec.json.encode(told), status, headers, media_type="application/json")


def _headers(error: IngestError) -> dict[str, str]:
    headers = {}
    # A body that was not read to its end leaves the connection in no state to go on.
    if isinstance(error, BodyRefused | Busy | NotEntitled):
        headers["Connection"] = "close"
    if isinstance(error, Busy):
        headers["Retry-After"] = str(error.wait_s)
    return headers
