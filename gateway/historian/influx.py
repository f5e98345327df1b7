"""InfluxDB 2 as the historian."""

from __future__ import annotations

import asyncio
import csv
import random
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp
import numpy as np
import structlog
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.rest import ApiException

from gateway.config import HistorianConfig
from gateway.errors import HistorianError
from gateway.historian.historian import by_stream_and_time
from gateway.historian.lines import lines, name_of_tag, tag_name
from models.records import Observations, Page, Stream

_BATCH_LINES = 5000
_TIMEOUT_MS = 30_000
_OLDEST_NS, _NEWEST_NS = -(2**63) + 2, 2**63 - 2  # what InfluxDB can hold
# The points themselves are at fault. All else (no connection, 401, 404, 429, 5xx) is a server to wait for.
_REFUSALS = frozenset({400, 413, 422})
_FLUX = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$"})
_FIELDS = " or ".join(f'r._field == "{name}"' for name in ("status", "value", "bad_value", "sample_count"))

log = structlog.get_logger()


class InfluxHistorian:
    """Stores pages in an InfluxDB 2 bucket and reads plain observations back.

    A write is tried again with growing pauses until the server has taken it; points that it refuses for what they
    are get logged, counted and left out, and the rest goes on. Of a waveform only its RMS is stored, for dashboards:
    `read` gives plain values alone, and reads NaN for a value that was not finite.

    Attributes:
        refused: Points the server refused since the start.
    """

    def __init__(self, config: HistorianConfig, *, retry_min_s: float = 0.5, retry_max_s: float = 30.0) -> None:
        """Prepare the client; must be called while an event loop runs. The server need not be there yet.

        Raises:
            HistorianError: If the token's file cannot be read.
        """
        self.refused = 0
        self._config = config
        self._retry_s = (retry_min_s, retry_max_s)
        try:
            token = config.influxdb_token_file.read_text().strip()
        except OSError as error:
            raise HistorianError(
                f"historian.influxdb_token_file: {error}; nothing goes to InfluxDB, the journal keeps it"
            ) from error
        self._client = InfluxDBClientAsync(config.influxdb_url, token, config.influxdb_org, timeout=_TIMEOUT_MS)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # its own

    async def write(self, page: Page) -> None:
        """Store the points of *page*; return when the server has them, however long that takes."""
        points = await asyncio.to_thread(lambda: list(lines(page)))
        for start in range(0, len(points), _BATCH_LINES):
            await self._write_until_taken(points[start : start + _BATCH_LINES], page.seq)

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the observations of *streams* with ``start_ns <= source_time < end_ns``, by stream, then time.

        Raises:
            HistorianError: If the server cannot be asked.
        """
        start, end = max(start_ns, _OLDEST_NS), min(end_ns, _NEWEST_NS)
        if start >= end or not streams:
            return by_stream_and_time([], streams)
        try:
            parts = [
                await self._read_asset(asset, streams, start, end) for asset in dict.fromkeys(s[0] for s in streams)
            ]
        except (ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise HistorianError(f"{self._config.influxdb_url}: cannot be read ({_reason(error)})") from error
        return by_stream_and_time(parts, streams)

    async def _write_until_taken(self, points: list[bytes], seq: int) -> None:
        pause_s, longest_s = self._retry_s
        waited = False
        while True:
            try:
                await self._client.write_api().write(
                    self._config.influxdb_bucket,
                    record=b"\n".join(points),
                    write_precision="ns",  # type: ignore[arg-type]  # its constants are untyped strings
                )
            except (ApiException, aiohttp.ClientError, TimeoutError, OSError) as error:
                if isinstance(error, ApiException) and error.status in _REFUSALS:
                    await self._write_halves(points, seq, error)
                    return
                if not waited:
                    log.warning("historian does not take page; it is tried again", seq=seq, reason=_reason(error))
                waited = True
                await asyncio.sleep(max(_retry_after_s(error), pause_s * random.uniform(0.5, 1.0)))  # noqa: S311 - jitter
                pause_s = min(pause_s * 2, longest_s)
            else:
                if waited:
                    log.info("historian takes pages again", seq=seq)
                return

    async def _write_halves(self, points: list[bytes], seq: int, error: ApiException) -> None:
        """Find the points that are at fault by halving, so that the others are stored."""
        if len(points) > 1:
            middle = len(points) // 2
            await self._write_until_taken(points[:middle], seq)
            await self._write_until_taken(points[middle:], seq)
            return
        self.refused += 1
        log.error(
            "historian refuses point; it is left out", seq=seq, reason=_reason(error), point=repr(points[0][:300])
        )

    async def _read_asset(self, asset_id: str, streams: Sequence[Stream], start: int, end: int) -> Observations:
        channels = dict.fromkeys(stream[1] for stream in streams if stream[0] == asset_id)
        named = " or ".join(f"r.channel == {_quoted(tag_name(channel))}" for channel in channels)
        query = (
            f"from(bucket: {_quoted(self._config.influxdb_bucket)})"
            f" |> range(start: time(v: {start}), stop: time(v: {end}))"
            f' |> filter(fn: (r) => r._measurement == "observation" and r.asset_id == {_quoted(tag_name(asset_id))})'
            f" |> filter(fn: (r) => {named})"
            f" |> filter(fn: (r) => {_FIELDS})"
            ' |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")'
            " |> map(fn: (r) => ({r with _time: int(v: r._time)}))"
            ' |> drop(columns: ["_start", "_stop", "_measurement", "asset_id", "gateway_id"])'
        )
        answer = await self._client.query_api().query_raw(query, dialect={"header": True, "annotations": []})
        return await asyncio.to_thread(_observations, asset_id, answer)


def _observations(asset_id: str, answer: str) -> Observations:
    """Return the plain values in *answer*, CSV with a heading for each run of tables of one shape."""
    table: dict[Stream, int] = {}
    columns: tuple[list[int], list[int], list[float], list[int]] = ([], [], [], [])
    for row in _records(answer):
        if row.get("sample_count"):
            continue
        status = int(row["status"])
        value = row.get("bad_value" if status >> 31 else "value")
        columns[0].append(table.setdefault(Stream(asset_id, name_of_tag(row["channel"])), len(table)))
        columns[1].append(int(row["_time"]))
        columns[2].append(float(value) if value else np.nan)
        columns[3].append(status)
    dtypes = (np.uint32, np.int64, np.float64, np.uint32)
    arrays: list[Any] = [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]
    return Observations.of_values(tuple(table), *arrays)


def _records(answer: str) -> Iterator[dict[str, str]]:
    heading: list[str] = []
    for row in csv.reader(answer.splitlines()):
        if not row:
            heading = []
        elif not heading:
            heading = row
        else:
            yield dict(zip(heading, row, strict=True))


def _quoted(text: str) -> str:
    return f'"{text.translate(_FLUX)}"'


def _retry_after_s(error: Exception) -> float:
    """Return how long the server asks to be left alone, 0 when it does not say."""
    headers = getattr(error, "headers", None) or {}
    asked = str(headers.get("Retry-After", ""))
    return min(float(asked), 300.0) if asked.isdecimal() else 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, ApiException):
        return f"HTTP {error.status}: {error.message or error.reason}"
    return f"{type(error).__name__}: {error}"
