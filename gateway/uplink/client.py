"""What a gateway asks of the cloud over mutual TLS, and what the answers mean for a segment.

Answers that will stay the same are `UploadRefused`; everything else, a cloud that is away or does not know this
gateway (yet, or any more) included, is `UploadDeferred`: the segment is not at fault, and is sent again.
"""

from __future__ import annotations

import ssl
from types import TracebackType
from typing import Annotated, Self

import aiohttp
import msgspec
from yarl import URL

from gateway.config import UplinkConfig
from gateway.errors import ConfigError, UploadDeferred, UploadRefused

Range = tuple[int, int]

# A conflict, a body too large, a segment that does not decode: the same bytes will be answered the same again.
_REFUSALS = frozenset({409, 413, 422})
_ANSWER_LIMIT = 16 * 2**20
_TIMEOUT = aiohttp.ClientTimeout(total=300.0, sock_connect=10.0, sock_read=60.0)


_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**62)]  # an answer is hostile until checked; SQLite counts to 2**63


class _Held(msgspec.Struct, frozen=True):
    held: list[tuple[_Seq, _Seq]]


class _Refusal(msgspec.Struct, frozen=True):
    detail: str = ""


class CloudClient:
    """A connection to the cloud that speaks for one gateway. Use it as an asynchronous context."""

    def __init__(self, config: UplinkConfig, gateway_id: str) -> None:
        self._base = URL(config.cloud_url) / "api/v1"
        self._gateway_id = gateway_id
        self._tls = _tls(config)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=2)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False)
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
        url = self._base / "ledger" / self._gateway_id / epoch
        try:
            return await self._ask("GET", url)
        except UploadRefused as error:
            raise UploadDeferred(str(error), 0.0) from error

    async def put(self, epoch: str, pages: Range, data: bytes, digest: str) -> list[Range]:
        """Send the segment *data* of *pages* and return the ranges that the cloud then holds, durably.

        Raises:
            UploadDeferred: If it could not be sent, or was not answered; it may be stored all the same.
            UploadRefused: If the cloud will not take it.
        """
        url = self._base / "segments" / self._gateway_id / epoch / f"{pages[0]}-{pages[1]}"
        headers = {"X-Segment-SHA256": digest, "Content-Type": "application/octet-stream"}
        return await self._ask("PUT", url, data=data, headers=headers)

    async def _ask(
        self, method: str, url: URL, *, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> list[Range]:
        assert self._session is not None, "the client is used outside of its context"
        try:
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer:
                body = await _read(answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise UploadDeferred(f"{url.host}: {reason}; sent again later", 0.0) from error
        if answer.status == 200:
            return _ranges(body, url)
        message = f"{url.path}: answered {answer.status}: {_detail(body)}"
        if answer.status in _REFUSALS:
            raise UploadRefused(message)
        raise UploadDeferred(message, 0.0)


def _tls(config: UplinkConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(config.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.certificate_file, config.key_file)
    except OSError as error:
        raise ConfigError(
            f"[uplink] ca_file, certificate_file or key_file cannot be used ({error}); the service does not start"
        ) from error
    return context


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_chunked(64 * 1024):
        body += chunk
        if len(body) > _ANSWER_LIMIT:
            raise aiohttp.ClientPayloadError("the answer is longer than any of ours")
    return body


def _ranges(body: bytes, url: URL) -> list[Range]:
    try:
        return msgspec.json.decode(body, type=_Held).held
    except msgspec.DecodeError as error:
        raise UploadDeferred(f"{url.host}: the answer is not the cloud's ({error}); sent again later", 0.0) from error


def _detail(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Refusal).detail[:500]
    except msgspec.DecodeError:
        return body[:200].decode("utf-8", "replace")
