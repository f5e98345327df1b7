"""What tests of the uplink share: a link that can be cut, segments to send, delivery that runs while entered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq

from cloud_service.testing import CloudProcess
from gateway.config import UplinkConfig
from gateway.journal import Journal, compact_once
from gateway.uplink import UplinkCondition, deliver
from models.records import Advisory, AdvisoryState, Observations, Stream

ROWS = 20
DEADLINE_S = 60.0


class Link:
    """A TCP link to the cloud that can be cut, now or after so many bytes, and mended."""

    def __init__(self, port: int) -> None:
        self.cloud_port = port
        self.port = 0
        self.up = True
        self.budget: int | None = None
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """Listen while entered."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Drop every connection and let no new one through."""
        self.up = False
        for writer in list(self._writers):
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self.up, self.budget = True, None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self.up:
            writer.transport.abort()
            return
        try:
            cloud_reader, cloud_writer = await asyncio.open_connection("127.0.0.1", self.cloud_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, cloud_writer}
        for source, sink in ((reader, cloud_writer), (cloud_reader, writer)):
            task = asyncio.create_task(self._carry(source, sink))
            self._tasks.add(task)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(4096):
                if self.budget is not None:
                    self.budget -= len(data)
                    if self.budget < 0:
                        self.cut()
                        return
                sink.write(data)
                await sink.drain()
        sink.close()


async def fill(journal: Journal, segments: int, *, start: int = 0) -> None:
    """Append *segments* segments of one page each."""
    for number in range(start, start + segments):
        await journal.append(
            Observations.of_values(
                (Stream("pump-01", "speed_rpm"),),
                np.zeros(ROWS, np.uint32),
                number * ROWS + np.arange(ROWS, dtype=np.int64),
                np.arange(ROWS, dtype=np.float64) + number,
                np.zeros(ROWS, np.uint32),
            )
        )
        await compact_once(journal, max_pages=1)


def uplink(cloud: CloudProcess, gateway_id: str, port: int | None = None, **settings: Any) -> UplinkConfig:
    """Return the configuration of *gateway_id*'s way to *cloud*, enrolled there."""
    cloud.enroll(gateway_id)
    return enrolled(cloud, gateway_id, port, **settings)


def enrolled(cloud: CloudProcess, gateway_id: str, port: int | None = None, **settings: Any) -> UplinkConfig:
    """Return the same for a gateway that is enrolled already."""
    folder = cloud.folder / "enrolled" / gateway_id
    return UplinkConfig(
        cloud_url=f"https://127.0.0.1:{port or urlsplit(cloud.ingest_url).port}",
        ca_file=folder / "ca.pem",
        certificate_file=folder / "gateway.pem",
        key_file=folder / "gateway.key",
        retry_min_s=0.05,
        **{"retry_max_s": 0.2, **settings},
    )


def an_advisory(advisory_id: str = "pump-01/bearing") -> Advisory:
    """Return an advisory about pump-01."""
    moment = datetime(2026, 3, 4, tzinfo=UTC)
    return Advisory(
        advisory_id=advisory_id,
        revision=1,
        asset_id="pump-01",
        asset_class="pump",
        failure_mode="bearing",
        state=AdvisoryState.ACTIVE,
        raised_at=moment,
        updated_at=moment,
        evidence_start=moment,
        evidence_end=moment,
        top_channels=(),
        confidence=0.9,
        life_p10_s=None,
        life_p50_s=None,
        life_p90_s=None,
        act_by=None,
        model_version=1,
        data_trust=1.0,
        reason="it is loud",
        recommended_action="look at it",
    )


@contextlib.asynccontextmanager
async def delivering(journal: Journal, config: UplinkConfig, **more: Any) -> AsyncIterator[UplinkCondition]:
    """Deliver while entered."""
    condition = UplinkCondition()
    task = asyncio.create_task(deliver(journal, config, condition, **more))
    try:
        yield condition
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(reached: Callable[[], bool]) -> None:
    """Wait until *reached* says so."""
    async with asyncio.timeout(DEADLINE_S):
        while not reached():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.01)


def times_in_lake(cloud: CloudProcess, gateway_id: str) -> list[int]:
    """Return the source times of all rows that the cloud stored, in order."""
    folder = cloud.lake / "observations" / f"gateway={gateway_id}"
    return sorted(t for f in folder.glob("*.parquet") for t in pq.ParquetFile(f).read(["source_time"])[0].to_pylist())
