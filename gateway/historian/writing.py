"""Writing points to InfluxDB: until it has taken them or said which it will never take, whatever lies between."""

from __future__ import annotations

import asyncio
import random
import re
import time
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService

from gateway.config import HistorianConfig
from gateway.errors import HistorianError
from gateway.historian.condition import HistorianCondition
from gateway.historian.lines import Points
from models.records import UNDECODABLE

MOST_LINES, _LEAST_LINES = 10_000, 500  # of one request; slow servers get smaller ones
_MOST_BYTES = 1_000_000  # aiohttp warns of more in one piece
_MOST_PAUSE_S = 300.0
_SOON_S = 1.0  # who answers that soon can have more at once
_TELL_AGAIN_S = 60.0
_FAILURES = (ApiException, aiohttp.ClientError, TimeoutError, OSError)
_DROPPED = re.compile(r"dropped=(\d+)")
_CONFLICT = re.compile(r'field type conflict: input field "(.*?)" on measurement "(.*?)" is type')

log = structlog.get_logger()


class InfluxWriter:
    """Writes points to one bucket, one request after the other, so that of equal times the last one counts.

    A request that the server cannot take now is sent again with pauses of full jitter, or of the length it asks for;
    in between the token's file is looked at again. Points that the server refuses for what they are get counted by
    reason and left out, and the rest is stored.
    """

    def __init__(
        self,
        config: HistorianConfig,
        condition: HistorianCondition,
        *,
        retry_s: tuple[float, float] = (0.5, 30.0),
        timeout_s: float = 15.0,
    ) -> None:
        """Prepare the client; must be called while an event loop runs. Neither server nor token need be there yet."""
        self._config = config
        self._condition = condition
        self._retry_s = retry_s
        self._most_lines = MOST_LINES
        self._token = ""
        try:
            self._token = read_token(config)
        except HistorianError as error:
            condition.answered(str(error))  # the server refuses us, and then the file is looked for
        self._client = InfluxDBClientAsync(
            config.influxdb_url, self._token, config.influxdb_org, timeout=round(timeout_s * 1000)
        )
        self._service = WriteService(self._client.api_client)  # type: ignore[no-untyped-call]  # its own
        self._compresses = urlsplit(config.influxdb_url).hostname not in {"127.0.0.1", "::1", "localhost"}
        self._told_s: dict[str, float] = {}

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # its own

    async def write(self, points: Iterable[Points]) -> None:
        """Store *points*; return when the server has all it will ever take."""
        left = list(points)
        while left:
            request, left = _cut(left, self._most_lines)
            await self._store(request)

    async def _store(self, request: list[Points]) -> None:
        attempt = 0
        while True:
            started_s = time.monotonic()
            try:
                await self._send(request)
            except _FAILURES as error:
                if isinstance(error, ApiException) and _is_refusal(error):
                    self._condition.answered()
                    return await self._sort_out(request, error.status, _message(error))
                self._failed(error)
                await self._pause(error, attempt)
                attempt += 1
                if isinstance(error, TimeoutError) and _count(request) > _LEAST_LINES:
                    self._most_lines = max(_count(request) // 2, _LEAST_LINES)
                    return await self.write(request)
            else:
                self._stored(_count(request))
                if time.monotonic() - started_s < _SOON_S:
                    self._most_lines = min(self._most_lines * 2, MOST_LINES)
                return None

    async def _send(self, request: list[Points]) -> None:
        self._condition.asked()
        body = b"\n".join(points.body for points in request)
        encoding = {}
        if self._compresses:
            body = await asyncio.to_thread(gzipped, body)
            encoding = {"content_encoding": "gzip"}
        await self._service.post_write_async(  # type: ignore[no-untyped-call]  # its own
            self._config.influxdb_org,
            self._config.influxdb_bucket,
            body,
            precision="ns",
            content_type="text/plain; charset=utf-8",
            **encoding,
        )

    def _stored(self, count: int) -> None:
        if not self._condition.connected:
            log.info("historian takes points", server=self._config.influxdb_url)
        self._condition.answered()
        self._condition.written += count

    def _failed(self, error: Exception) -> None:
        if self._condition.connected or self._told("down"):
            log.warning("historian takes no points; they are tried again", reason=reason_of(error))
        self._condition.answered(reason_of(error))

    async def _pause(self, error: Exception, attempt: int) -> None:
        least_s, most_s = self._retry_s
        jitter_s = random.uniform(0.0, min(most_s, least_s * 2 ** min(attempt, 30)))  # noqa: S311 - jitter
        await asyncio.sleep(max(_retry_after_s(error), jitter_s))
        try:
            token = read_token(self._config)
        except HistorianError as unreadable:
            self._condition.answered(str(unreadable))
            return
        if token != self._token:
            self._token = token
            self._client.api_client.default_headers["Authorization"] = f"Token {token}"
            log.info("historian token taken over", file=str(self._config.influxdb_token_file))

    # Refusals

    async def _sort_out(self, request: list[Points], status: int, message: str) -> None:
        """Count what is at fault in a request that was refused in part or whole, and have the rest stored."""
        count = _count(request)
        reason = _reason_for(status, message)
        if (dropped := _dropped_of(reason, message, count)) is not None:
            self._refuse(reason, dropped, message)
            self._stored(count - dropped)
            return
        if count == 1:
            self._refuse(reason, 1, message)
            return
        for part in _suspects(request, message) or _halves(request):
            await self._store(part)

    def _refuse(self, reason: str, count: int, message: str) -> None:
        self._condition.refuse(reason, count)
        if self._told(reason):
            log.error("historian refuses points; they are left out", reason=reason, points=count, answer=message[:500])

    def _told(self, what: str) -> bool:
        """Return whether *what* is to be logged now: the first time, and once a minute."""
        now_s = time.monotonic()
        if now_s - self._told_s.get(what, -_TELL_AGAIN_S) < _TELL_AGAIN_S:
            return False
        self._told_s[what] = now_s
        return True


def read_token(config: HistorianConfig) -> str:
    """Return the token in its file.

    Raises:
        HistorianError: If the file cannot be read.
    """
    try:
        return config.influxdb_token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HistorianError(
            f"historian.influxdb_token_file: {error}; nothing goes to InfluxDB, the journal keeps it"
        ) from error


def reason_of(error: Exception) -> str:
    """Return what went wrong, for people."""
    if isinstance(error, ApiException):
        return f"HTTP {error.status}: {_message(error) or error.reason}"
    return f"{type(error).__name__}: {error}".removesuffix(": ")


class _Answer(msgspec.Struct):
    message: str = ""  # InfluxDB 2
    error: str = ""  # InfluxDB 3


def _is_refusal(error: ApiException) -> bool:
    """Return whether the points themselves are at fault.

    All else is a server to wait for: no connection, 401, 404, 429, 5xx, and a 400 that is none of InfluxDB's own, as a
    proxy gives it that speaks another protocol.
    """
    return error.status == 413 or (error.status in {400, 422} and bool(_words(error)))


def _words(error: ApiException) -> str:
    """Return what InfluxDB says, empty when it is not InfluxDB that speaks."""
    try:
        answer = msgspec.json.decode(error.body or b"", type=_Answer)
    except UNDECODABLE:
        return ""
    return answer.message or answer.error


def _message(error: ApiException) -> str:
    body = error.body or b""
    return _words(error) or (body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body))


def _reason_for(status: int, message: str) -> str:
    if status == 413:
        return "too large"
    if _CONFLICT.search(message):
        return "field type conflict"
    return "beyond retention" if "retention policy" in message else "not understood"


def _dropped_of(reason: str, message: str, count: int) -> int | None:
    """Return how many of *count* points were left out, where the answer says so for certain; the others are stored.

    InfluxDB stores what it does not drop. What lies beyond the retention it counts over the whole request; but of a
    conflict it tells the first shard alone, and other shards may not have been written: sure is only that all were
    dropped.
    """
    told = _DROPPED.search(message)
    dropped = min(int(told.group(1)), count) if told else 0
    return dropped if dropped and (reason == "beyond retention" or dropped == count) else None


def _suspects(request: list[Points], message: str) -> list[list[Points]] | None:
    """Return *request* in two: the points without the field that the answer names, and those with it."""
    if (conflict := _CONFLICT.search(message)) is None:
        return None
    field, measurement = (name.encode() for name in conflict.groups())
    named = re.compile(rb"[ ,]" + re.escape(field) + b"=")
    parts: tuple[list[Points], list[Points]] = [], []
    for point in (point for points in request for point in points.each()):
        parts[point.body.startswith(measurement + b",") and named.search(point.body) is not None].append(point)
    return list(parts) if all(parts) else None


def _halves(request: list[Points]) -> list[list[Points]]:
    return list(_cut(request, _count(request) // 2))


def _cut(points: Sequence[Points], most_lines: int) -> tuple[list[Points], list[Points]]:
    """Return the first *most_lines* of *points*, or fewer when they are too large for one request, and the others."""
    first: list[Points] = []
    lines, size = most_lines, _MOST_BYTES
    for place, some in enumerate(points):
        fits = min(some.count, lines, max(some.count * size // max(len(some.body), 1), 0 if first else 1))
        if not fits:
            return first, list(points[place:])
        if fits < some.count:
            head, tail = some.split(fits)
            return [*first, head], [tail, *points[place + 1 :]]
        first.append(some)
        lines, size = lines - some.count, size - len(some.body)
    return first, []


def _count(request: Iterable[Points]) -> int:
    return sum(points.count for points in request)


def gzipped(body: bytes) -> bytes:
    """Return *body* as it travels to another host."""
    packer = zlib.compressobj(1, wbits=31)
    return packer.compress(body) + packer.flush()


def _retry_after_s(error: Exception) -> float:
    """Return how long the server asks to be left alone, 0 when it does not say."""
    asked = str((getattr(error, "headers", None) or {}).get("Retry-After", ""))
    if asked.isdecimal():
        return min(float(asked), _MOST_PAUSE_S)
    try:
        wait_s = (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(wait_s, 0.0), _MOST_PAUSE_S)
