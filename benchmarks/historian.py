"""Observations into a real InfluxDB 2: our lines by column against influxdb-client's ``Point`` objects.

``python -m benchmarks.historian [--json] [--rows N]``; needs the server that ``make influxdb`` builds. Both write the
same rows, with the same tags and fields and in batches of the same size, one request after the other, into buckets of
their own; at the end the server counts them. CPU is that of the writing process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import structlog
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.client.write.point import Point

from benchmarks.measurement import Measurement, compared, tell
from gateway.config import HistorianConfig
from gateway.historian import InfluxHistorian
from gateway.historian.lines import lines
from gateway.historian.writing import gzipped
from models.records import Observations, Page, Stream
from tests.integration.influxdb import TOKEN, InfluxServer, program

STREAMS, BATCH = 1000, 10_000
START_NS = 1_772_452_800 * 10**9
POINTS_SHARE = 4  # Points are slow: a share of the rows tells as much


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one writer did."""

    rows: int
    wall_s: float
    cpu_s: float


def pages_of(rows: int) -> list[Page]:
    """Return *rows* observations of 1,000 streams at 1 Hz, a batch a page."""
    random = np.random.default_rng(5)
    streams = tuple(Stream(f"pump-{n // 10:03d}", f"channel_{n % 10}") for n in range(STREAMS))
    pages: list[Page] = []
    for first in range(0, rows, BATCH):
        row = np.arange(first, first + BATCH)
        content = Observations.of_values(
            streams,
            (row % STREAMS).astype(np.uint32),
            START_NS + row // STREAMS * 10**9,
            np.round(random.normal(50.0, 10.0, BATCH), 3),
            np.zeros(BATCH, np.uint32),
        )
        pages.append(Page(gateway_id="gw-1", epoch="e0", seq=len(pages) + 1, committed_time=0, content=content))
    return pages


async def ours(config: HistorianConfig, pages: list[Page]) -> None:
    """Write as the gateway does."""
    historian = InfluxHistorian(config)
    for page in pages:
        await historian.write(page)
    await historian.close()


async def with_points(config: HistorianConfig, pages: list[Page]) -> None:
    """Write as influxdb-client's documentation shows: an object for each observation, by its async client."""
    async with InfluxDBClientAsync(config.influxdb_url, TOKEN, config.influxdb_org, timeout=60_000) as client:
        writing = client.write_api()
        for page in pages:
            rows = page.content
            assert isinstance(rows, Observations)
            points = [
                Point("observation")  # type: ignore[no-untyped-call]  # its own
                .tag("asset_id", rows.streams[stream].asset_id)
                .tag("channel", rows.streams[stream].channel)
                .tag("gateway_id", page.gateway_id)
                .field("status", status)
                .field("value", value)
                .time(time_ns)
                for stream, status, value, time_ns in zip(
                    rows.stream.tolist(), rows.status.tolist(), rows.value.tolist(), rows.source_time.tolist(),
                    strict=True,
                )
            ]  # fmt: skip
            await writing.write(config.influxdb_bucket, record=points)


async def measured(
    write: Callable[[HistorianConfig, list[Page]], Awaitable[None]], server: InfluxServer, pages: list[Page]
) -> Run:
    """Run *write* into a bucket of its own, and check that all of it arrived."""
    config = server.bucket()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    await write(config, pages)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    rows = sum(len(page.content) for page in pages if isinstance(page.content, Observations))
    query = 'SELECT count("value") FROM "observation"'
    stored = json.loads(server.influxql(TOKEN, config.influxdb_bucket, query))["results"][0]["series"][0]["values"][0][
        1
    ]
    if stored != rows:
        raise SystemExit(f"{write.__name__} wrote {rows} observations, the server has {stored}")
    return Run(rows=rows, wall_s=wall_s, cpu_s=cpu_s)


async def reading(server: InfluxServer, pages: list[Page]) -> list[tuple[str, float]]:
    """Return how fast what was written is read back, by us and by influxdb-client's stream of records."""
    config = server.bucket()
    await ours(config, pages)
    historian = InfluxHistorian(config)
    first = pages[0].content
    assert isinstance(first, Observations)
    started = time.process_time()
    rows = len(await historian.read(first.streams[:100], 0, 2**62))
    own = rows / (time.process_time() - started)
    await historian.close()
    async with InfluxDBClientAsync(config.influxdb_url, TOKEN, config.influxdb_org, timeout=120_000) as client:
        flux = (
            f'from(bucket: "{config.influxdb_bucket}") |> range(start: 0) |> filter(fn: (r) => r.asset_id < "pump-010")'
            ' |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")'
        )
        started, count = time.process_time(), 0
        async for _ in await client.query_api().query_stream(flux):
            count += 1
        theirs = count / (time.process_time() - started)
    if count != rows:
        raise SystemExit(f"read {rows} and {count} observations of the same")
    return [("ours", own), ("theirs", theirs)]


async def measurements(rows: int, folder: Path) -> list[Measurement]:
    """Measure both on one server."""
    server = InfluxServer(folder / "influxdb")
    await asyncio.to_thread(server.start)
    try:
        pages = pages_of(rows)
        await measured(ours, server, pages[:2])  # the server's and the process's first requests are slower
        theirs = await measured(with_points, server, pages[: max(len(pages) // POINTS_SHARE, 2)])
        own = await measured(ours, server, pages)
        read = dict(await reading(server, pages))
    finally:
        server.kill()
    bodies = [b"\n".join(lines(page)) for page in pages]
    name = f"influxdb-client Point objects, async, {BATCH} a batch"
    return [
        compared(
            "historian: observations written",
            own.rows / own.wall_s,
            theirs.rows / theirs.wall_s,
            name,
            "observations/s",
        ),
        compared(
            "historian: observations written per cpu-second of the writer",
            own.rows / own.cpu_s,
            theirs.rows / theirs.cpu_s,
            name,
            "observations/cpu-s",
        ),
        compared(
            "historian: sent to another host, 1,000 streams at 1 Hz, 3 decimals (lower is better)",
            sum(len(gzipped(body)) for body in bodies) / own.rows,
            sum(len(body) for body in bodies) / own.rows,
            "the client's default: the same lines, not compressed",
            "bytes/observation",
        ),
        compared(
            "historian: observations read per cpu-second of the reader",
            read["ours"],
            read["theirs"],
            "influxdb-client's async stream of Flux records",
            "observations/cpu-s",
        ),
    ]


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print data as JSON")
    parser.add_argument("--rows", type=int, default=400_000, help="observations that ours writes")
    options = parser.parse_args()
    if not program().exists():
        raise SystemExit(f"{program()} is not there; `make influxdb` builds it")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measurements(max(options.rows // BATCH, 4) * BATCH, Path(folder)))
    tell(found, as_json=options.json)


if __name__ == "__main__":
    main()
