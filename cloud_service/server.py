"""Runs both listeners in one process until a signal ends it.

uvicorn checks client certificates, but does not tell the application who they belong to; ``TlsProtocol`` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import h11
import msgspec
import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from cloud_service.api import web_app
from cloud_service.config import Address, CloudConfig, read_access_token
from cloud_service.errors import ConfigError
from cloud_service.ingest.routes import ingest_app
from cloud_service.pipeline import Intake
from cloud_service.pki import Pki
from cloud_service.store import Store

log = structlog.get_logger()

Ready = Callable[[Address, Address], None]
_SHUTDOWN_S = 10
# Longer than gateways wait between two segments, so that they find the connection open.
_KEEP_ALIVE_S = 75
_HEAD_S = 20


class TlsProtocol(H11Protocol):
    """HTTP/1.1 that puts the peer's certificate into the request's scope, and does not wait for ever for a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Remember whose connection it is."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls else None
        inner = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                scope.setdefault("extensions", {})["tls"] = {"client_cert_der": certificate}
            await inner(scope, receive, send)

        self.app = app
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(_HEAD_S, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Take *data*; a request that has begun must have all of its head soon."""
        if self.conn.their_state is h11.IDLE and self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_S, self.timeout_keep_alive_handler)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._end_head_timer()
        super().connection_lost(exc)

    def _end_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as everything else is answered that is refused."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.close()  # the answer to this request is on its way already
            return
        body = msgspec.json.encode({"reason": "malformed", "field": "request", "detail": msg})
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the signals to the process it shares with another, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


async def serve(config: CloudConfig, store: Store, ready: Ready) -> None:
    """Answer on both listeners until SIGINT or SIGTERM; call *ready* with their addresses once both do.

    Raises:
        ConfigError: If an address cannot be bound, or a certificate or the access token cannot be read.
    """
    token_file = config.web.access_token_file
    web = web_app(store, read_access_token(token_file) if token_file else None)
    ingest = ingest_app(Intake(store, config.storage.lake, config.ingest))
    ingest_socket, web_socket = _listen(config.ingest_address), _listen(config.web_address)
    servers = [_ingest_server(ingest, Pki(config.storage.pki)), _Server(_uvicorn_config(web))]
    _end_on_signals(servers)
    async with asyncio.TaskGroup() as tasks:
        for server, listening in zip(servers, (ingest_socket, web_socket), strict=True):
            tasks.create_task(server.serve(sockets=[listening]))
        for server in servers:
            await server.listening.wait()
        addresses = [Address(*listening.getsockname()[:2]) for listening in (ingest_socket, web_socket)]
        log.info("ready", ingest="{}:{}".format(*addresses[0]), web="{}:{}".format(*addresses[1]))
        ready(addresses[0], addresses[1])


def _listen(address: Address) -> socket.socket:
    try:
        family, kind, _, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(target)
    except OSError as error:
        raise ConfigError(f"{address.host}:{address.port}: {error}; the service does not start") from error
    return listening


def _ingest_server(app: FastAPI, pki: Pki) -> _Server:
    config = _uvicorn_config(
        app,
        http=TlsProtocol,
        ssl_keyfile=str(pki.server_key),
        ssl_certfile=str(pki.server_certificate),
        ssl_ca_certs=str(pki.ca_certificate),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except OSError as error:
        raise ConfigError(f"{pki.folder}: {error}; run `wearsight-cloud init`. The service does not start") from error
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return _Server(config)


def _uvicorn_config(app: FastAPI, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_SHUTDOWN_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        **options,
    )


def _end_on_signals(servers: list[_Server]) -> None:
    def end() -> None:
        for server in servers:
            server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
