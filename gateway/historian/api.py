"""What of InfluxDB 2's HTTP API the setup needs: JSON asked and answered."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from gateway.errors import HistorianError
from models.records import UNDECODABLE

_TIMEOUT_S = 30.0
_MOST_BYTES = 16 * 2**20
_PAGE = 100


class InfluxApi:
    """One server, asked with one token; enter it to connect."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Token {token}"}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), raise_for_status=False
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, *, body: object = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Ask, and return the answer, empty when there is none.

        Raises:
            HistorianError: If the server cannot be asked, or says no; the message has its words.
        """
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with self._session.request(method, self._url + path, params=query, data=data) as answer:
                content = await _bounded(answer.content)
                if answer.status >= 400:
                    raise HistorianError(f"{self._url}: {method} {path} answers HTTP {answer.status}: {_said(content)}")
                return dict(msgspec.json.decode(content)) if content else {}
        except (aiohttp.ClientError, TimeoutError, OSError, *UNDECODABLE, TypeError) as error:
            raise HistorianError(f"{self._url}: {method} {path} failed ({type(error).__name__}: {error})") from error

    async def every(self, path: str, key: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return all records of a list that comes in pages, told apart by the id of the last one.

        Raises:
            HistorianError: As `call`.
        """
        found: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            answer = await self.call("GET", path, query={**query, "limit": str(_PAGE), **after})
            page = answer.get(key) or []
            found += page
            if len(page) < _PAGE:
                return found
            after = {"after": page[-1]["id"]}


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    whole = bytearray()
    async for chunk in content.iter_any():
        whole += chunk
        if len(whole) > _MOST_BYTES:
            raise HistorianError(f"an answer is above {_MOST_BYTES} bytes")
    return bytes(whole)


def _said(content: bytes) -> str:
    try:
        return str(msgspec.json.decode(content)["message"])
    except (*UNDECODABLE, KeyError, TypeError):
        return content[:300].decode("utf-8", "replace")
