"""An HTTPS server that reads what is posted, forgets it and says how long it was; prints its port.

``python -m benchmarks.sink_server CA CERTIFICATE KEY``; ends when its input does.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from aiohttp import web


async def forget(request: web.BaseRequest) -> web.Response:
    """Read the body and forget it."""
    size = 0
    async for chunk in request.content.iter_chunked(65536):
        size += len(chunk)
    return web.json_response({"bytes": size})


async def serve(ca: str, certificate: str, key: str) -> None:
    """Answer clients with a certificate of *ca* until the input ends."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(certificate, key)
    server = await asyncio.get_running_loop().create_server(web.Server(forget), "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
