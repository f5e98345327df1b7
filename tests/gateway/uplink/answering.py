"""A server over mutual TLS whose answers a test chooses."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from cloud_service.pki import Pki

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def answering(pki: Pki, handler: Handler) -> AsyncIterator[int]:
    """Run a server over mutual TLS that answers with *handler*, and return its port."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.ca_certificate))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(pki.server_certificate, pki.server_key)
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        assert site._server is not None
        yield site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # a server that listens has them
    finally:
        await runner.cleanup()
