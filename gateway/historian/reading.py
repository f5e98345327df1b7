"""Reading observations from InfluxDB through InfluxQL, whose answers come in pieces and in columns.

Flux would hold a long answer whole on both sides, and InfluxDB 3 has none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import numpy as np

from gateway.config import HistorianConfig
from gateway.errors import HistorianError
from gateway.historian.lines import Form, name_of_tag, tag_name
from gateway.historian.writing import read_token
from models.records import UNDECODABLE, Observations, Stream

_PIECE_ROWS = 10_000
_MOST_PIECE_BYTES = 64 * 2**20
_STREAMS_AT_ONCE = 200
_OLDEST_NS, _NEWEST_NS = -(2**63) + 2, 2**63 - 2  # what InfluxDB can hold
_LONG_S = 300.0
_SILENCE_S = 60.0
_BY_STREAM = 'GROUP BY "asset_id", "channel"'
_TEXT = str.maketrans({"\\": "\\\\", "'": "\\'"})
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError, *UNDECODABLE)


class _Series(msgspec.Struct):
    values: msgspec.Raw
    tags: dict[str, str] = {}

    @property
    def stream(self) -> Stream:
        """Whose values they are, where the question was grouped by stream."""
        return Stream(name_of_tag(self.tags["asset_id"]), name_of_tag(self.tags["channel"]))


class _Result(msgspec.Struct):
    series: list[_Series] = []
    error: str = ""


class _Piece(msgspec.Struct):
    results: list[_Result] = []
    error: str = ""


_ROWS = msgspec.json.Decoder(list[tuple[int, float | None, float | None, int | None]])
_COUNTS = msgspec.json.Decoder(list[tuple[int, int | None, float | None]])


class InfluxReader:
    """Reads plain observations of a bucket; none of its methods needs more memory than what it returns."""

    def __init__(self, config: HistorianConfig) -> None:
        """Prepare the connection; must be called while an event loop runs."""
        self._config = config
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_LONG_S, sock_read=_SILENCE_S), raise_for_status=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> list[Observations]:
        """Return the plain values of *streams* with ``start_ns <= source_time < end_ns``, in parts, in no order.

        Raises:
            HistorianError: If the server cannot be asked.
        """
        parts: list[Observations] = []
        for chosen in _conditions(streams, start_ns, end_ns):
            query = f'SELECT "value", "bad_value", "status" FROM "observation" WHERE {chosen} {_BY_STREAM}'  # noqa: S608 - quoted
            parts += [_observations(series.stream, bytes(series.values)) async for series in self._series(query)]
        return parts

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:
        """Return how many rows there are, eight samples of a waveform taken for one more.

        Raises:
            HistorianError: If the server cannot be asked.
        """
        found = 0.0
        for chosen in _conditions(streams, start_ns, end_ns):
            query = f'SELECT count("status"), sum("sample_count") FROM "observation" WHERE {chosen}'  # noqa: S608 - quoted
            async for series in self._series(query):
                found += sum((rows or 0) + (samples or 0.0) / 8 for _, rows, samples in _COUNTS.decode(series.values))
        return round(found)

    async def _series(self, query: str) -> AsyncIterator[_Series]:
        url = self._config.influxdb_url.rstrip("/") + "/query"
        asked = {"db": self._config.influxdb_bucket, "epoch": "ns", "chunked": "true", "chunk_size": str(_PIECE_ROWS)}
        try:
            async with self._session.post(
                url,
                params=asked,
                data={"q": query},
                headers={"Authorization": f"Token {read_token(self._config)}", "Accept": "application/json"},
            ) as answer:
                await _check_status(answer)
                async for piece in _pieces(answer.content):
                    for series in _checked(piece):
                        yield series
        except _FAILURES as error:
            raise HistorianError(f"{self._place}: cannot be read ({type(error).__name__}: {error})") from error
        except HistorianError as error:
            raise HistorianError(f"{self._place}: cannot be read ({error})") from error

    @property
    def _place(self) -> str:
        return f"{urlsplit(self._config.influxdb_url).netloc}, bucket {self._config.influxdb_bucket}"


async def _check_status(answer: aiohttp.ClientResponse) -> None:
    if answer.status != 200:
        raise HistorianError(f"HTTP {answer.status}: {(await answer.content.read(500)).decode('utf-8', 'replace')}")


async def _pieces(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of an answer, each a JSON document."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if len(rest) > _MOST_PIECE_BYTES:
            raise HistorianError(f"a piece of an answer is above {_MOST_PIECE_BYTES} bytes")
        if b"\n" in chunk:
            *whole, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            for line in filter(None, whole):
                yield line
    if rest:
        yield bytes(rest)


def _checked(piece: bytes) -> list[_Series]:
    answer = msgspec.json.decode(piece, type=_Piece)
    errors = [answer.error, *(result.error for result in answer.results)]
    if any(errors):
        raise HistorianError("; ".join(filter(None, errors)))
    return [series for result in answer.results for series in result.series]


def _conditions(streams: Sequence[Stream], start_ns: int, end_ns: int) -> list[str]:
    """Return what selects *streams* in that time, in pieces that fit into a question each."""
    start, end = max(start_ns, _OLDEST_NS), min(end_ns, _NEWEST_NS)
    if start >= end:
        return []
    ordered = sorted(set(streams))
    pieces = (ordered[first : first + _STREAMS_AT_ONCE] for first in range(0, len(ordered), _STREAMS_AT_ONCE))
    return [f"({_named(piece)}) AND time >= {start} AND time < {end}" for piece in pieces]


def _named(streams: Sequence[Stream]) -> str:
    assets = []
    for asset_id, channels in groupby(streams, key=attrgetter("asset_id")):
        named = " OR ".join(f'"channel" = {_quoted(stream.channel)}' for stream in channels)
        assets.append(f'("asset_id" = {_quoted(asset_id)} AND ({named}))')
    return " OR ".join(assets)


def _observations(stream: Stream, values: bytes) -> Observations:
    """Return the plain rows in *values*, JSON as InfluxQL answers; waveforms are left out."""
    # Go writes minus zero as an integer, which would lose its sign.
    rows = _ROWS.decode(values.replace(b",-0,", b",-0.0,"))
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    code = np.array([0 if status is None else status for status in columns[3]], np.int64)
    form, status = code >> 32, (code & 0xFFFFFFFF).astype(np.uint32)
    good, bad = np.array(columns[1], np.float64), np.array(columns[2], np.float64)
    value = np.where(status >> np.uint32(31) == 1, bad, good)
    for kind, odd in ((Form.NAN, np.nan), (Form.INFINITE, np.inf), (Form.MINUS_INFINITE, -np.inf)):
        value[form == kind] = odd
    plain = form != Form.WAVEFORM
    return Observations.of_values(
        (stream,),
        np.zeros(int(plain.sum()), np.uint32),
        np.array(columns[0], np.int64)[plain],
        value[plain],
        status[plain],
    )


def _quoted(name: str) -> str:
    return f"'{tag_name(name).translate(_TEXT)}'"
