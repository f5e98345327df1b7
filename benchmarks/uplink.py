"""Observations from the journal to the cloud: ``python -m benchmarks.uplink [--json] [--rate R] [--backlog-s S]``.

Ours is the real way: pages are compacted into segments and delivered to a real ``wearsight-cloud`` over mutual TLS,
which answers once they are durable. The references send the same pages as JSON, an object for each observation, as
gateways of other makers do, in bodies of as many observations, to a server over the same TLS that reads and forgets
them: nothing is stored there. CPU is that of this process, all threads: the gateway's; servers have processes of their
own.

Then a backlog is drained while values keep coming at the same rate; a live value's latency is from its source time
until the cloud has it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import io
import json
import logging
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import structlog

from benchmarks.measurement import Measurement, compared, tell
from cloud_service.testing import CloudProcess
from gateway.config import UplinkConfig
from gateway.journal import Journal, JournalCounters, compact, compact_once
from gateway.journal.replay import pages_after
from gateway.uplink import UplinkCondition, deliver
from models.records import Observations, Page, Stream

GATEWAY_ID = "gw-benchmark"
BATCHES_PER_S = 4
SEGMENT_S = 2.0
LIVE_AIM_S = 5.0
CHANNELS = ("speed_rpm", "flow_m3_h", "power_kw", "winding_celsius", "vibration_mm_s")


Encoder = Callable[[list[dict[str, object]]], bytes]
REFERENCES: dict[str, Encoder] = {
    "JSON by the standard library": lambda rows: json.dumps(rows).encode(),
    "JSON by the standard library, gzip": lambda rows: gzip.compress(json.dumps(rows).encode(), 6),
    "JSON by msgspec": msgspec.json.encode,
}


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What one way of sending came to."""

    observations: int
    wall_s: float
    cpu_s: float
    bytes: int


class Plant:
    """Values of *rate* observations a second, each stream once a second: slow drifts, measured to two decimals."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._streams = tuple(
            Stream(f"pump-{n // len(CHANNELS):04d}", CHANNELS[n % len(CHANNELS)]) for n in range(rate)
        )
        self._random = np.random.default_rng(7)
        self._level = self._random.uniform(10.0, 2000.0, rate)

    def batch(self, number: int, moment_ns: int) -> Observations:
        """Return the rows of the batch *number*: a share of the streams, measured within its time up to *moment_ns*."""
        which = np.arange(number % BATCHES_PER_S, self.rate, BATCHES_PER_S, dtype=np.uint32)
        self._level[which] += self._random.normal(0.0, 0.05, len(which))
        jitter = self._random.integers(0, 1000 // BATCHES_PER_S, len(which)) * 1_000_000
        return Observations.of_values(
            self._streams,
            which,
            moment_ns - np.sort(jitter)[::-1].astype(np.int64),
            np.round(self._level[which], 2),
            np.zeros(len(which), np.uint32),
        )


async def filled(state_dir: Path, plant: Plant, seconds: float, *, segments: bool) -> Journal:
    """Return a journal with *seconds* of the plant's values, in pages or in segments as they close at that rate."""
    await asyncio.to_thread(state_dir.mkdir, parents=True)
    journal = await Journal.open(state_dir, GATEWAY_ID)
    begin = time.time_ns() - int((seconds + 60) * 1e9)
    per_segment = int(SEGMENT_S * BATCHES_PER_S)
    for number in range(int(seconds * BATCHES_PER_S)):
        await journal.append(plant.batch(number, begin + number * 10**9 // BATCHES_PER_S))
        if segments and (number + 1) % per_segment == 0:
            await compact_once(journal, max_pages=per_segment)
    return journal


async def ours(cloud: CloudProcess, folder: Path, plant: Plant, seconds: float) -> Sent:
    """Compact and deliver *seconds* of the plant's values."""
    journal = await filled(folder / "ours", plant, seconds, segments=False)
    condition = UplinkCondition()
    begin, cpu = time.perf_counter(), time.process_time()
    while await compact_once(journal, max_pages=int(SEGMENT_S * BATCHES_PER_S)):
        pass
    delivery = asyncio.create_task(deliver(journal, uplink(cloud), condition))
    await journal.wait_until(lambda counters: counters.pending == 0)
    wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    await journal.close()
    await delivery
    return Sent(observations=journal.counters.delivered, wall_s=wall_s, cpu_s=cpu_s, bytes=condition.bytes_sent)


async def as_json(
    encode: Encoder, server_url: str, tls: ssl.SSLContext, state_dir: Path, plant: Plant, seconds: float
) -> Sent:
    """Send the same as an object for each observation."""
    journal = await filled(state_dir, plant, seconds, segments=False)
    begin, cpu = time.perf_counter(), time.process_time()
    sent = size = after = 0
    limit = int(SEGMENT_S * BATCHES_PER_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
        while pages := await journal.read(partial(pages_after, after=after, limit=limit, max_bytes=2**30)):
            rows = await asyncio.to_thread(objects, pages)
            body = await asyncio.to_thread(encode, rows)
            async with session.post(server_url, data=io.BytesIO(body)) as answer:
                answer.raise_for_status()
                await answer.read()
            sent, size, after = sent + len(rows), size + len(body), pages[-1].seq
    wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    await journal.close()
    return Sent(observations=sent, wall_s=wall_s, cpu_s=cpu_s, bytes=size)


def objects(pages: list[Page]) -> list[dict[str, object]]:
    """Return an object for each observation of *pages*."""
    return [row for page in pages if isinstance(page.content, Observations) for row in _objects(page.content)]


def _objects(rows: Observations) -> Iterator[dict[str, object]]:
    times = np.datetime_as_string(rows.source_time.view("datetime64[ns]"), unit="ms", timezone="UTC").tolist()
    columns = zip(rows.stream.tolist(), times, rows.value.tolist(), rows.status.tolist(), strict=True)
    for stream, moment, value, status in columns:
        asset_id, channel = rows.streams[stream]
        yield {"asset": asset_id, "channel": channel, "time": moment, "value": value, "status": status}


async def drained(cloud: CloudProcess, folder: Path, plant: Plant, backlog_s: float) -> tuple[float, float, float]:
    """Return rows/s at which *backlog_s* seconds were drained while values came, the rate of these, and their p99."""
    journal = await filled(folder / "drained", plant, backlog_s, segments=True)
    backlog, before = journal.counters.compacted_pages, journal.counters.appended
    condition, moments = UplinkCondition(), dict[int, int]()
    latencies: list[float] = []
    begin = time.perf_counter()
    work = [
        asyncio.create_task(_live(journal, plant, moments)),
        asyncio.create_task(compact(journal, interval_s=SEGMENT_S, max_pages=256)),
        asyncio.create_task(deliver(journal, uplink(cloud), condition)),
        asyncio.create_task(_told(journal, backlog, moments, latencies)),
    ]
    try:
        await _backlog_gone(journal, backlog)
        seconds = time.perf_counter() - begin
        came = journal.counters.appended - before
        work.pop(0).cancel()  # no more values, so that those which are on their way count too
        async with asyncio.timeout(60.0):
            await journal.wait_until(lambda counters: counters.pending == 0)
            await asyncio.sleep(0.2)
    finally:
        await journal.close()
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
    return before / seconds, came / seconds, float(np.quantile(latencies, 0.99)) if latencies else float("nan")


async def _live(journal: Journal, plant: Plant, moments: dict[int, int]) -> None:
    """Append a batch every quarter of a second, stamped with the moment, and note the oldest time of each page."""
    number = 0
    loop = asyncio.get_running_loop()
    next_at = loop.time()
    while True:
        rows = plant.batch(number, time.time_ns())
        seq = await journal.append(rows)
        if seq is not None:
            moments[seq] = int(rows.source_time.min())
        number += 1
        next_at += 1.0 / BATCHES_PER_S
        await asyncio.sleep(max(next_at - loop.time(), 0.0))


async def _told(journal: Journal, backlog: int, moments: dict[int, int], latencies: list[float]) -> None:
    """Note the latency of every live page when its segment is delivered."""
    delivered = -1
    while await journal.wait_until(partial(_has_changed, delivered)):
        delivered = journal.counters.delivered
        entries = await journal.read(
            lambda database: database.segments.select("first_seq > ? AND delivered_time IS NOT NULL", (backlog,))
        )
        now = time.time_ns()
        seqs = [seq for entry in entries for seq in range(entry.first_seq, entry.last_seq + 1) if seq in moments]
        latencies.extend((now - moments.pop(seq)) / 1e9 for seq in seqs)


def _has_changed(delivered: int, counters: JournalCounters) -> bool:
    return counters.delivered != delivered


async def _backlog_gone(journal: Journal, backlog: int) -> None:
    delivered = -1
    while await journal.wait_until(partial(_has_changed, delivered)):
        delivered = journal.counters.delivered
        if not await journal.read(
            lambda database: database.segments.select("last_seq <= ? AND delivered_time IS NULL", (backlog,), 1)
        ):
            return


def uplink(cloud: CloudProcess) -> UplinkConfig:
    """Return the way to *cloud*."""
    folder = cloud.folder / "enrolled" / GATEWAY_ID
    return UplinkConfig(
        cloud_url=cloud.ingest_url,
        ca_file=folder / "ca.pem",
        certificate_file=folder / "gateway.pem",
        key_file=folder / "gateway.key",
        segment_interval_s=SEGMENT_S,
    )


@contextlib.asynccontextmanager
async def forgetting(cloud: CloudProcess) -> AsyncIterator[str]:
    """Run the server that forgets, with the cloud's certificate, and return its address."""
    pki = cloud.pki
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.sink_server"),
        *(str(pki.ca_certificate), str(pki.server_certificate), str(pki.server_key)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"https://127.0.0.1:{int(await process.stdout.readline())}/"
    finally:
        process.stdin.close()
        await process.wait()


def client_tls(config: UplinkConfig) -> ssl.SSLContext:
    """Return the TLS settings that the gateway has, for the reference."""
    tls = ssl.create_default_context(cafile=str(config.ca_file))
    tls.load_cert_chain(config.certificate_file, config.key_file)
    return tls


async def run(rate: int, seconds: float, backlog_s: float) -> list[Measurement]:
    """Measure all, against one cloud."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with CloudProcess(folder / "cloud") as cloud:
            cloud.enroll(GATEWAY_ID)
            theirs: dict[str, Sent] = {}
            async with forgetting(cloud) as server_url:
                tls = client_tls(uplink(cloud))
                for name, encode in REFERENCES.items():
                    theirs[name] = await as_json(encode, server_url, tls, folder / name, Plant(rate), seconds)
            sent = await ours(cloud, folder, Plant(rate), seconds)
            drain, ingest, p99_s = await drained(cloud, folder, Plant(rate), backlog_s)
    return [
        *(line for name, other in theirs.items() for line in _beside(sent, other, name)),
        compared("backlog drained while values come", drain, ingest, "the rate at which they come", "observations/s"),
        compared("live p99 meanwhile (less is better)", p99_s, LIVE_AIM_S, "the aim", "seconds"),
    ]


def _beside(ours: Sent, other: Sent, name: str) -> Iterator[Measurement]:
    rates = (ours.observations / ours.wall_s, other.observations / other.wall_s)
    yield compared("journal to cloud-held", *rates, name, "observations/s")
    rates = (ours.observations / ours.cpu_s, other.observations / other.cpu_s)
    yield compared("journal to cloud-held, gateway's CPU", *rates, name, "observations/cpu-s")
    sizes = (ours.bytes / ours.observations, other.bytes / other.observations)
    yield compared("bytes on the wire (less is better)", *sizes, name, "bytes/observation")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--rate", type=int, default=5000, help="observations a second, of as many streams")
    parser.add_argument("--seconds", type=float, default=60.0, help="how many seconds of them are sent both ways")
    parser.add_argument("--backlog-s", type=float, default=300.0, help="how many seconds of them are the backlog")
    options = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    tell(asyncio.run(run(options.rate, options.seconds, options.backlog_s)), as_json=options.json)


if __name__ == "__main__":
    main()
