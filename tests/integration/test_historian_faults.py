"""What happens to a real InfluxDB 2 under the historian: what was put in is what is read, or refused and counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import pytest

from gateway.config import HistorianConfig
from gateway.historian import HistorianCondition, InfluxHistorian, keep_history
from gateway.historian.lines import Points
from gateway.historian.writing import InfluxWriter
from gateway.journal import Journal, JournalReader
from models.records import Observations
from tests.integration.faults.chaos_proxy import ChaosProxy, Way
from tests.integration.influxdb import InfluxServer, influx_server, require_influxd
from tests.strategies import NOON_NS, SECOND_NS, make_observations, same

__all__ = ["influx_server"]
pytestmark = [pytest.mark.integration, pytest.mark.influxdb]

HOUR_NS = 3600 * SECOND_NS
STREAMS, ROWS = 10, 100


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[InfluxServer]:
    """A server that this test may kill."""
    require_influxd()
    server = InfluxServer(tmp_path / "influxdb")
    server.start()
    yield server
    server.kill()


class Rig:
    """A journal that fills, and the historian that follows it."""

    def __init__(self, journal: Journal, reader: JournalReader, config: HistorianConfig, timeout_s: float) -> None:
        self.journal = journal
        self.reader = reader
        self.historian = InfluxHistorian(config, retry_min_s=0.01, retry_max_s=0.2, timeout_s=timeout_s)
        self.condition = self.historian.condition
        self.put_in: list[Observations] = []

    @classmethod
    @asynccontextmanager
    async def over(cls, journal: Journal, config: HistorianConfig, *, timeout_s: float = 5.0) -> AsyncIterator[Self]:
        """Follow *journal* while entered; at the end what was put in must be read."""
        reader = await journal.reader("historian")
        rig = cls(journal, reader, config, timeout_s)
        keeping = asyncio.create_task(keep_history(reader, rig.historian, rig.condition, gather_s=0.02, examine_s=0.0))
        try:
            yield rig
            await rig.settled()
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            await rig.historian.close()

    async def put(self, pages: int, *, start_ns: int = NOON_NS) -> None:
        """Commit so many pages, each of other times and values."""
        for _ in range(pages):
            number = len(self.put_in)
            start = start_ns + number * ROWS * SECOND_NS
            rows = make_observations(streams=STREAMS, rows=ROWS, start_ns=start, first_value=number * 1000.0 + 0.25)
            self.put_in.append(rows)
            await self.journal.append(rows)

    async def settled(self) -> None:
        """Return when the historian has done every page; every point is then stored or refused."""
        await until(lambda: self.reader.position == self.journal.last_seq)
        done = self.condition.written + self.condition.refused.total()
        assert done >= sum(len(rows) for rows in self.put_in)
        assert done == sum(len(rows) for rows in self.put_in) or self.condition.went_back

    async def has_all(self) -> bool:
        """Return whether what is read is what was put in, bit by bit."""
        rows = Observations.concatenate(self.put_in)
        read = await self.historian.read(rows.streams, 0, 2**62)
        return same(read, rows.take(rows.stream.argsort(kind="stable")))


def wrote_more(condition: HistorianCondition, than: int) -> bool:
    """Return whether the server has more points than that."""
    return condition.written > than


async def until(holds: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Return when *holds* does."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - a server has no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """The journal of gateway gw-1."""
    journal = await Journal.open(tmp_path / "state", "gw-1")
    yield journal
    await journal.close()


async def test_a_server_killed_while_it_writes(own_server: InfluxServer, journal: Journal) -> None:
    """SIGKILL three times between pages and in the middle of them; started again on the same data."""
    async with Rig.over(journal, own_server.bucket()) as rig:
        for _ in range(3):
            before = rig.condition.written
            filling = asyncio.create_task(rig.put(20))
            await until(partial(wrote_more, rig.condition, before))
            own_server.kill()
            await until(lambda: "historian down" in " ".join(rig.condition.warnings))
            await filling
            assert rig.condition.lag_s > 0
            await asyncio.to_thread(own_server.start)
        await rig.settled()
        assert await rig.has_all()
        assert rig.condition.warnings == ()


async def test_a_server_that_ends_and_comes_back(own_server: InfluxServer, journal: Journal) -> None:
    """An orderly restart, and one of the gateway's reader meanwhile: it goes on where it was."""
    config = own_server.bucket()
    async with Rig.over(journal, config) as rig:
        await rig.put(5)
        await rig.settled()
        before = rig.put_in
    own_server.end()
    await asyncio.to_thread(own_server.start)
    async with Rig.over(journal, config) as rig:
        assert (await journal.positions())["historian"] == 5
        rig.put_in += before
        rig.condition.written = sum(len(rows) for rows in before)
        await rig.put(5)
        await rig.settled()
        assert await rig.has_all()


async def test_a_server_that_stands_still(own_server: InfluxServer, journal: Journal) -> None:
    """SIGSTOP for longer than the timeout: it is told, nothing is lost, and it goes on by itself."""
    async with Rig.over(journal, own_server.bucket(), timeout_s=0.5) as rig:
        await rig.put(3)
        await rig.settled()
        own_server.freeze()
        await rig.put(10)
        await until(lambda: "TimeoutError" in rig.condition.trouble)
        await asyncio.sleep(1.0)
        assert rig.condition.pending_pages > 0
        own_server.thaw()
        await rig.settled()
        assert await rig.has_all()


async def test_who_does_not_wait_for_the_answer_loses(own_server: InfluxServer, journal: Journal) -> None:
    """The control: pages that count as stored once they are sent are missing after the same fault."""

    async def sent_is_enough(self: InfluxWriter, points: list[Points]) -> None:
        with suppress(TimeoutError, OSError):
            await send_once(self, points)

    send_once = InfluxWriter._send
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InfluxWriter, "_send", sent_is_enough)
        async with Rig.over(journal, own_server.bucket(), timeout_s=0.2) as rig:
            await rig.put(3)
            await rig.settled()
            own_server.kill()
            await rig.put(3)
            await rig.settled()
            await asyncio.to_thread(own_server.start)
            assert not await rig.has_all()


async def test_a_full_disk(tmp_path: Path, journal: Journal) -> None:
    """The server's disk is full: told, nothing lost. With room again, and a restart that it needs, all arrives.

    InfluxDB 2.7 goes on refusing after there is room, until it is restarted: its log's writer keeps the first error.
    Then it appends behind a damaged place in that log, and the next start cuts off all that follows: points that it
    had acknowledged. That is noticed, and they are written again.
    """
    require_influxd()
    server = InfluxServer(tmp_path / "influxdb", engine_mib=64)
    try:
        server.start()
        async with Rig.over(journal, server.bucket()) as rig:
            await rig.put(3)
            await rig.settled()
            fill(server.on_disk("ballast"))
            await rig.put(10)
            await until(lambda: "no space left" in rig.condition.trouble)
            assert rig.reader.position == 3
            server.on_disk("ballast").unlink()
            server.kill()
            await asyncio.to_thread(server.start)
            await rig.settled()
            assert await rig.has_all()
            server.kill()
            await asyncio.to_thread(server.start)
            assert not await rig.has_all(), "the control: InfluxDB itself lost what it had acknowledged"
            await rig.put(1)
            await rig.settled()
            assert rig.condition.went_back == 1
            assert await rig.has_all()
    finally:
        server.discard()


def fill(path: Path) -> None:
    """Write *path* until its disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


async def test_a_token_that_is_revoked(influx_server: InfluxServer, journal: Journal, tmp_path: Path) -> None:
    """Told at once; a new token in the same file counts without a restart."""
    token_file = tmp_path / "own.token"
    config = msgspec.structs.replace(influx_server.bucket(), influxdb_token_file=token_file)
    first, token = influx_server.token(config)
    token_file.write_text(token)
    async with Rig.over(journal, config) as rig:
        await rig.put(2)
        await rig.settled()
        influx_server.delete(f"/api/v2/authorizations/{first}")
        await rig.put(2)
        await until(lambda: "HTTP 401" in rig.condition.trouble)
        token_file.unlink()
        await until(lambda: "influxdb_token_file" in rig.condition.trouble)
        token_file.write_text(influx_server.token(config)[1])
        await rig.settled()
        assert await rig.has_all()


async def test_a_bucket_that_is_gone(influx_server: InfluxServer, journal: Journal) -> None:
    """Told; when the bucket is made again, everything that the journal has is in it again."""
    config = influx_server.bucket()
    async with Rig.over(journal, config) as rig:
        for _ in range(3):
            await rig.put(1)
            await rig.settled()
        found = influx_server.get(f"/api/v2/buckets?name={config.influxdb_bucket}")["buckets"][0]
        influx_server.delete(f"/api/v2/buckets/{found['id']}")
        await rig.put(2)
        await until(lambda: "HTTP 404" in rig.condition.trouble)
        new = {"orgID": influx_server.org_id, "name": config.influxdb_bucket, "retentionRules": []}
        influx_server.call("/api/v2/buckets", new)
        await rig.settled()
        assert rig.condition.went_back == 1
        assert await rig.has_all()


async def test_what_was_lost_while_the_gateway_was_off(influx_server: InfluxServer, journal: Journal) -> None:
    """The marks lie beside the position: at the next start it is noticed, and written again from the mark before."""
    config = influx_server.bucket()
    async with Rig.over(journal, config) as rig:
        for _ in range(4):
            await rig.put(1)
            await rig.settled()
        put_in = rig.put_in
    third = int(put_in[2].source_time[0])
    influx_server.delete_points(config, third)
    async with Rig.over(journal, config) as rig:
        rig.put_in += put_in
        rig.condition.written = before = sum(len(rows) for rows in put_in)
        assert not await rig.has_all()
        await rig.put(1)
        await until(lambda: rig.condition.went_back == 1)
        await rig.settled()
        assert rig.condition.written - before == 4 * STREAMS * ROWS, "the first page of this start, then pages 3 to 5"
        assert await rig.has_all()


async def test_points_beyond_the_retention(influx_server: InfluxServer, journal: Journal) -> None:
    """Each is counted, the others of the same pages are stored; and the order of rows does not matter."""
    now = time.time_ns()
    async with Rig.over(journal, influx_server.bucket(retention_s=3600)) as rig:
        old = make_observations(streams=3, rows=70, start_ns=now - 5 * HOUR_NS)
        new = make_observations(streams=3, rows=50, start_ns=now - HOUR_NS // 2, first_value=7.0)
        mixed = Observations.concatenate([old, new])
        for rows in np.array_split(np.random.default_rng(1).permutation(len(mixed)), 4):
            rig.put_in.append(mixed.take(rows))
            await journal.append(rig.put_in[-1])
        await rig.settled()
        assert rig.condition.refused == {"beyond retention": len(old)}
        assert "210 points (beyond retention)" in " ".join(rig.condition.warnings)
        assert same(await rig.historian.read(new.streams, 0, 2**62), new.take(new.stream.argsort(kind="stable")))


async def test_a_slow_link(influx_server: InfluxServer, journal: Journal) -> None:
    """Too slow for a full request in its time: requests get smaller until they pass, and larger again."""
    async with ChaosProxy(influx_server.port) as proxy:
        config = msgspec.structs.replace(influx_server.bucket(), influxdb_url=f"http://127.0.0.1:{proxy.port}")
        async with Rig.over(journal, config, timeout_s=1.0) as rig:
            proxy.slow(bytes_per_s=300_000.0, ways=[Way.TO_SERVER])
            await rig.put(8)
            await until(lambda: "TimeoutError" in rig.condition.trouble)
            proxy.slow(bytes_per_s=1_000_000.0, ways=[Way.TO_SERVER])
            await rig.settled()
            proxy.heal()
            assert await rig.has_all()


async def test_answers_that_are_lost(influx_server: InfluxServer, journal: Journal) -> None:
    """The server stored, its answer was cut off: it is sent again, and stands there once; refusals are counted once."""
    now = time.time_ns()
    async with ChaosProxy(influx_server.port) as proxy:
        config = influx_server.bucket(retention_s=7200)
        config = msgspec.structs.replace(config, influxdb_url=f"http://127.0.0.1:{proxy.port}")
        async with Rig.over(journal, config) as rig:
            for number in range(5):
                proxy.reset_after(10, Way.TO_GATEWAY)
                rows = make_observations(streams=2, rows=20, start_ns=now - HOUR_NS, first_value=100.0 * number)
                rows = replace(rows, source_time=rows.source_time + number * 100 * SECOND_NS)
                old = replace(rows, source_time=rows.source_time - 9 * HOUR_NS)
                rig.put_in += [Observations.concatenate([old, rows])]
                await journal.append(rig.put_in[-1])
                await rig.settled()
            assert rig.condition.refused == {"beyond retention": 200}
            assert len(await rig.historian.read(rig.put_in[0].streams, 0, 2**62)) == 200
