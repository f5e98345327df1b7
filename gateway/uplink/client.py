"""What a gateway asks of the cloud over mutual TLS, and what the answers mean for a segment.

Answers that will stay the same are `UploadRefused`; everything else, a cloud that is away or does not know this
gateway (yet, or any more) included, is `UploadDeferred`: the segment is not at fault, and is sent again.

No fixed time is set to an upload: it may take as long as it gets on. What is timed is a connection that is not made, a
piece of the body that the network does not take, sent bytes that nobody acknowledges, and an answer that does not come.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from gateway.config import UplinkConfig, read_secret
from gateway.errors import ConfigError, UploadDeferred, UploadRefused
from gateway.uplink.pacing import Pacer, Priority
from gateway.uplink.tls import Credentials
from models.records import UNDECODABLE

Range = tuple[int, int]

# A conflict, a body too large or of no known kind, a segment that does not decode: the same bytes get the same answer.
_REFUSALS = frozenset({409, 413, 415, 422})
_ANSWER_LIMIT = 16 * 2**20
_CONNECTIONS = 8
_CONNECT_S = 10.0
_IDLE_S = 30.0
_ANSWER_S = 60.0
_SLOWEST_BYTES_PER_S = 8 * 1024  # what is still on its way when the last piece was taken may take so long
_LONGEST_RETRY_AFTER_S = 3600.0
# Little is handed to the network ahead of what it gets through, so that progress is seen and the cap is kept.
_UNSENT_BYTES = 128 * 1024

T = TypeVar("T")


_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**62)]  # an answer is hostile until checked; SQLite counts to 2**63


class _Held(msgspec.Struct, frozen=True):
    held: list[tuple[_Seq, _Seq]]


class _Refusal(msgspec.Struct, frozen=True):
    reason: str = ""
    field: str = ""
    detail: str = ""


class CloudClient:
    """The way to the cloud for one gateway. Use it as an asynchronous context.

    Everything it sends goes through *pacer*. Certificate files and the proxy's password may change while it runs.

    Raises:
        ConfigError: If the certificate files or the proxy's password cannot be read.
    """

    def __init__(self, config: UplinkConfig, gateway_id: str, pacer: Pacer | None = None) -> None:
        self.gateway_id = gateway_id
        self.pacer = pacer or Pacer(config.bandwidth_kib_s * 1024)
        self._config = config
        self._base = URL(config.cloud_url) / "api/v1"
        self._credentials = Credentials(config)
        self._proxy_headers()  # a password that cannot be read is told now
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, socket_factory=_socket)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=None)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ledger(self, epoch: str) -> list[Range]:
        """Return the ranges of seq that the cloud holds of *epoch*.

        Raises:
            UploadDeferred: If it cannot say now.
        """
        try:
            return (await self.ask("GET", "ledger", self.gateway_id, epoch, answer=_Held)).held
        except UploadRefused as error:
            raise UploadDeferred(str(error), 0.0, answered=True) from error

    async def put(
        self, epoch: str, pages: Range, data: bytes, digest: str, priority: Priority = Priority.LIVE
    ) -> list[Range]:
        """Send the segment *data* of *pages* and return the ranges that the cloud then holds, durably.

        Raises:
            UploadDeferred: If it could not be sent, or was not answered; it may be stored all the same.
            UploadRefused: If the cloud will not take it.
        """
        url = self._base / "segments" / self.gateway_id / epoch / f"{pages[0]}-{pages[1]}"
        headers = {"X-Segment-SHA256": digest, "Content-Type": "application/octet-stream"}
        return _ranges(await self._request("PUT", url, data, headers, priority), url)

    async def ask(self, method: str, *path: str, answer: type[T], body: Any = None) -> T:
        """Send *body* as JSON, if there is one, to a *path* under ``/api/v1`` and return what the cloud says.

        Raises:
            UploadDeferred: If it does not answer, or with what is no *answer*.
            UploadRefused: If it says that it never will.
        """
        url = self._base.joinpath(*path)
        data = None if body is None else msgspec.json.encode(body)
        headers = {} if data is None else {"Content-Type": "application/json"}
        return _decoded(await self._request(method, url, data, headers, Priority.EXPRESS), url, answer)

    async def _request(
        self, method: str, url: URL, data: bytes | None, headers: dict[str, str], priority: Priority
    ) -> bytes:
        """Return the body of an answer that says yes."""
        assert self._session is not None, "the client is used outside of its context"
        patience = _Patience()
        try:
            async with (
                patience,
                self._session.request(
                    method,
                    url,
                    data=None if data is None else self._pieces(data, priority, patience),
                    headers=headers if data is None else {**headers, "Content-Length": str(len(data))},
                    allow_redirects=False,
                    ssl=self._credentials.context(),
                    proxy=self._config.proxy_url,
                    proxy_headers=self._proxy_headers(),
                ) as answer,
            ):
                body = await _read(answer)
        except (aiohttp.ClientError, OSError, TimeoutError, ConfigError) as error:
            what = patience.ended or _told(error)
            raise UploadDeferred(f"{url.host}: {what}; sent again later", 0.0) from error
        if answer.status == 200:
            return body
        refusal = _refusal(body)
        message = f"{url.path}: answered {answer.status}: {refusal.detail}"
        if answer.status in _REFUSALS:
            raise UploadRefused(message, refusal.reason)
        raise UploadDeferred(message, retry_after_s(answer.headers), answered=True)

    async def _pieces(self, data: bytes, priority: Priority, patience: _Patience) -> AsyncIterator[memoryview]:
        """Yield *data* as it may go; each piece is asked for once the network took the one before it."""
        patience.wait("its turn", None)
        async for piece in self.pacer.chunks(data, priority):
            patience.wait("the network to take more", _IDLE_S)
            yield piece
            patience.wait("its turn", None)
        patience.wait("the answer", _ANSWER_S + len(data) / _SLOWEST_BYTES_PER_S)

    def _proxy_headers(self) -> dict[str, str]:
        user, file = self._config.proxy_user, self._config.proxy_password_file
        if user is None or file is None:
            return {}
        credentials = f"{user}:{read_secret(file, 'uplink.proxy_password_file')}"
        return {"Proxy-Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


class _Patience(AbstractAsyncContextManager[None]):
    """A deadline that moves with what is waited for, from the connection to the answer."""

    def __init__(self) -> None:
        self._told = ""
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self.wait("a connection and an answer", _CONNECT_S + _ANSWER_S)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(kind, error, trace)  # which turns the cancellation into a TimeoutError

    @property
    def ended(self) -> str:
        """What was waited for in vain; empty when it was not."""
        return self._told if self._timeout.expired() else ""

    def wait(self, what: str, seconds: float | None) -> None:
        """Wait for *what*, from now on for so many *seconds*, or for as long as it takes."""
        when = None if seconds is None else asyncio.get_running_loop().time() + seconds
        with suppress(RuntimeError):  # the answer came before the body was sent: nothing is waited for any more
            self._timeout.reschedule(when)
            self._told = f"waited {seconds} s for {what}"


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds that an answer asks to wait: ``Retry-After`` as a number or a date, an hour at most.

    A date is read against the answer's own, since the gateway's clock may be wrong.
    """
    asked = headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return min(float(asked[:9]), _LONGEST_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(asked)
        now = parsedate_to_datetime(headers["Date"]) if "Date" in headers else datetime.now(UTC)
        return min(max((until - now).total_seconds(), 0.0), _LONGEST_RETRY_AFTER_S)
    except (ValueError, TypeError):
        return 0.0


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket that notices a link which is open at one end alone, and does not hoard what is to be sent."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_IDLE_S * 1000))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    return made


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > _ANSWER_LIMIT:
            raise aiohttp.ClientPayloadError("the answer is longer than any of ours")
    return body


def _ranges(body: bytes, url: URL) -> list[Range]:
    return _decoded(body, url, _Held).held


def _told(error: Exception) -> str:
    """Return what *error* says, without the address in memory that aiohttp puts into it."""
    return re.sub(r" ssl:<[^>]*>", "", str(error)) or type(error).__name__


def _decoded(body: bytes, url: URL, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNDECODABLE as error:
        raise UploadDeferred(f"{url.host}: the answer is not the cloud's ({error}); sent again later", 0.0) from error


def _refusal(body: bytes) -> _Refusal:
    try:
        found = msgspec.json.decode(body, type=_Refusal)
    except UNDECODABLE:
        return _Refusal(detail=body[:200].decode("utf-8", "replace"))
    return _Refusal(reason=found.reason[:40], field=found.field[:40], detail=found.detail[:500])
