"""The application for people and programs; the one for gateways is in `cloud_service.ingest.routes`."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse

from cloud_service.errors import BodyRefused, RecordRejected
from cloud_service.fleet import assets, maintenance
from cloud_service.inbox.pages import CONTENT_SECURITY_POLICY, render_advisory, render_inbox
from cloud_service.ingest import quarantine
from cloud_service.ingest.ledger import newest_source_time
from cloud_service.metrics import metrics_text
from cloud_service.store import Store

MAINTENANCE_LIMIT = 64 * 1024
_LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}

Handler = Callable[[Request], Awaitable[Response]]


def web_app(store: Store, access_token: str | None) -> FastAPI:
    """Return the application for people; with an *access_token*, nothing but health is answered without it."""
    app = FastAPI(openapi_url=None)
    for routes in (_inbox_routes(store), _record_routes(store), _operation_routes(store)):
        app.include_router(routes)

    @app.exception_handler(RecordRejected)
    async def refuse(_: Request, error: RecordRejected) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(BodyRefused)
    async def refuse_body(_: Request, error: BodyRefused) -> Response:
        return JSONResponse({"detail": str(error)}, error.status)

    @app.middleware("http")
    async def guard(request: Request, call_next: Handler) -> Response:
        if access_token is not None and request.url.path != "/healthz" and not _has_token(request, access_token):
            return Response("access token missing or wrong", 401, {"WWW-Authenticate": 'Basic realm="wearsight"'})
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    if access_token is None:
        # Without a token only this machine is meant to read; a page elsewhere must not borrow its browser.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOOPBACK_NAMES)
    return app


def _inbox_routes(store: Store) -> APIRouter:
    """Pages for people."""
    routes = APIRouter()

    @routes.get("/")
    @routes.get("/inbox")
    def inbox() -> HTMLResponse:
        with store.reading() as session:
            now = newest_source_time(session, datetime.now(UTC))
            return HTMLResponse(render_inbox(assets.open_advisories(session), now))

    @routes.get("/advisories/{advisory_id:path}")
    def advisory(advisory_id: str) -> HTMLResponse:
        with store.reading() as session:
            now = newest_source_time(session, datetime.now(UTC))
            revisions = assets.advisory_revisions(session, advisory_id)
        return HTMLResponse(render_advisory(revisions, now), 200 if revisions else 404)

    return routes


def _record_routes(store: Store) -> APIRouter:
    """Advisories and maintenance records for programs."""
    routes = APIRouter(prefix="/api/v1")

    @routes.get("/advisories")
    def advisories(scope: str = "open") -> Response:
        with store.reading() as session:
            found = assets.open_advisories(session) if scope == "open" else assets.all_advisories(session)
        return _json({"advisories": found})

    @routes.get("/maintenance")
    def maintenance_records() -> Response:
        with store.reading() as session:
            return _json({"records": maintenance.records(session)})

    @routes.post("/maintenance")
    async def add_maintenance(request: Request) -> Response:
        added = _maintenance_records(await _bounded_body(request))
        await asyncio.to_thread(_add_records, store, added)
        return _json({"added": len(added)}, 201)

    return routes


def _operation_routes(store: Store) -> APIRouter:
    """What whoever runs the service watches."""
    routes = APIRouter()

    @routes.get("/metrics")
    def metrics() -> Response:
        return Response(metrics_text(store), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/healthz")
    def health() -> Response:
        with store.reading() as session:
            quarantined = quarantine.count(session)
            advisories = assets.count_open_advisories(session)
        # Whoever asks needs no token: numbers, no names.
        status = "degraded" if quarantined else "ok"
        return _json({"status": status, "open_advisories": advisories, "quarantined_segments": quarantined})

    return routes


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def _bounded_body(request: Request) -> bytes:
    # A form on another site cannot send this type without being asked by the browser first.
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        raise BodyRefused("the body must be application/json; nothing is stored", 415)
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAINTENANCE_LIMIT:
            raise BodyRefused(f"the body is longer than {MAINTENANCE_LIMIT} bytes; nothing is stored", 413)
    return data


def _maintenance_records(data: bytes) -> list[maintenance.MaintenanceRecord]:
    try:
        found = msgspec.json.decode(data, type=maintenance.MaintenanceRecord | list[maintenance.MaintenanceRecord])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordRejected(f"{error}; nothing is stored") from error
    return found if isinstance(found, list) else [found]


def _add_records(store: Store, added: list[maintenance.MaintenanceRecord]) -> None:
    with store.writing() as session:
        for record in added:
            maintenance.add_record(session, record)


def _has_token(request: Request, token: str) -> bool:
    """Return whether the request carries *token*, as Bearer or as the password of a browser's sign-in."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    offered = credentials
    if scheme.lower() == "basic":
        try:
            offered = base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    return hmac.compare_digest(offered.encode("utf-8", "surrogateescape"), token.encode())
