"""Raw data that only a real InfluxDB still has, asked for by a real cloud."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cloud_service.testing import CloudProcess
from gateway.config import HistorianConfig, JournalConfig
from gateway.historian import DeepHistory, EmbeddedHistorian, InfluxHistorian, keep_history
from gateway.journal import Journal, SegmentStore
from gateway.journal.retention import enforce
from gateway.uplink import supply
from models.records import Observations
from tests.gateway.uplink.supplying import ROWS_A_MINUTE, Rig, measured, run_machine, same
from tests.integration.influxdb import InfluxServer, influx_server, influxdb

__all__ = ["influx_server", "influxdb"]
pytestmark = [pytest.mark.integration, pytest.mark.influxdb]
PUMP = "pump-01"


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """The journal of gateway gw-1."""
    journal = await Journal.open(tmp_path / "state", "gw-1")
    yield journal
    await journal.close()


@pytest.fixture
def rig(tmp_path: Path, journal: Journal) -> Iterator[Rig]:
    """Gateway gw-1, which keeps the speed of pump-01 back, and a cloud of its own."""
    with CloudProcess(tmp_path / "cloud") as cloud:
        made = Rig(cloud, journal, PUMP)
        yield made
        made.store.close()


@contextlib.asynccontextmanager
async def feeding(journal: Journal, config: HistorianConfig) -> AsyncIterator[InfluxHistorian]:
    """Carry the journal into InfluxDB while entered."""
    historian = InfluxHistorian(config)
    reader = await journal.reader("historian")
    task = asyncio.create_task(keep_history(reader, historian, gather_s=0.05))
    try:
        yield historian
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await historian.close()


def plain(observations: Observations) -> Observations:
    """Return what InfluxDB keeps of *observations*: all but the waveforms."""
    return observations.take(observations.sample_count == 0)


async def reached(journal: Journal) -> None:
    """Wait until the historian has everything."""
    async with asyncio.timeout(60):
        while (await journal.positions())["historian"] < journal.last_seq:  # noqa: ASYNC110 - a position has no event
            await asyncio.sleep(0.01)


async def test_what_the_journal_has_purged_comes_out_of_influxdb(
    rig: Rig, journal: Journal, influxdb: HistorianConfig
) -> None:
    """InfluxDB is the deep buffer: the segments are gone, and the cloud gets every value bit by bit."""
    async with feeding(journal, influxdb) as historian:
        deep = DeepHistory(historian, EmbeddedHistorian(journal))
        async with rig.running(historian=deep):
            await run_machine(journal, PUMP, 0, 30)
            await rig.delivered()
            await reached(journal)
        await (await journal.reader("uplink")).commit(journal.last_seq)
        await enforce(journal, JournalConfig(max_age_days=1e-9))
        assert len(await SegmentStore(journal).segments()) == 1  # the newest is never purged
        async with rig.running(historian=deep):
            row = await rig.ended(rig.ask(5, 20))
    wanted = plain(measured(PUMP, 5, 20))
    assert (row.state, row.observations) == ("done", len(wanted))
    assert same(rig.in_lake(), wanted)


async def test_a_request_waits_for_an_influxdb_that_is_down(
    rig: Rig,
    journal: Journal,
    influx_server: InfluxServer,
    influxdb: HistorianConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed between two parts and started again: live data goes on meanwhile, and every row comes once."""
    monkeypatch.setattr(supply, "_MOST_ROWS", 5 * ROWS_A_MINUTE)
    monkeypatch.setattr(supply, "_HISTORIAN_S", 0.2)
    async with feeding(journal, influxdb) as historian:
        deep = DeepHistory(historian, EmbeddedHistorian(journal))
        async with rig.running(historian=deep) as condition:
            await run_machine(journal, PUMP, 0, 40)
            await rig.delivered()
            await reached(journal)
            request_id = rig.ask(0, 40)
            while not rig.requests()[0].observations:  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.01)
            influx_server.kill()
            await run_machine(journal, PUMP, 40, 45)
            await rig.delivered()
            assert condition.connected
            assert rig.state(request_id) == "open"
            await asyncio.to_thread(influx_server.start)
            row = await rig.ended(request_id)
    assert (row.observations, row.repeats) == (40 * ROWS_A_MINUTE, 0)
    assert same(rig.in_lake(), measured(PUMP, 0, 40))
