"""The historian against a real InfluxDB 2: what the journal holds is there once, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.historian import InfluxHistorian, keep_history
from gateway.journal import Journal
from models.records import Observations, Page
from tests.integration.influxdb import InfluxServer, influx_server, influxdb, require_influxd
from tests.strategies import NOON_NS, SECOND_NS, make_observations, make_results, same

__all__ = ["influx_server", "influxdb"]
pytestmark = [pytest.mark.integration, pytest.mark.influxdb]

ALWAYS = (0, 2**62)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[InfluxServer]:
    """A server that this test may kill."""
    require_influxd()
    server = InfluxServer(tmp_path / "influxdb")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """The journal of gateway gw-1."""
    journal = await Journal.open(tmp_path / "state", "gw-1")
    yield journal
    await journal.close()


async def fill(journal: Journal, pages: int) -> Observations:
    """Append *pages* pages of observations and return all rows, by stream and time."""
    for number in range(pages):
        start = NOON_NS + number * 100 * SECOND_NS
        await journal.append(make_observations(streams=10, rows=100, start_ns=start, first_value=number * 1000.0))
    stored = await journal.read(lambda tables: tables.decoded_pages(0, limit=pages, max_bytes=2**30))
    rows = Observations.concatenate([page.content for page in stored if isinstance(page.content, Observations)])
    return rows.take(rows.stream.argsort(kind="stable"))


async def has_reached(journal: Journal, name: str, seq: int) -> None:
    """Return when reader *name* has committed *seq*."""
    async with asyncio.timeout(90):
        while (await journal.positions())[name] < seq:  # noqa: ASYNC110 - a position has no event
            await asyncio.sleep(0.01)


async def test_a_server_killed_while_it_writes_has_every_row_once(own_server: InfluxServer, journal: Journal) -> None:
    """Killed with SIGKILL twice in the middle of pages and started again: the historian goes on by itself."""
    historian = InfluxHistorian(own_server.bucket(), retry_min_s=0.01, retry_max_s=0.1)
    rows = await fill(journal, 40)
    keeping = asyncio.create_task(keep_history(await journal.reader("historian"), historian))
    for seq in (5, 20):
        await has_reached(journal, "historian", seq)
        own_server.kill()
        assert (await journal.positions())["historian"] < 40
        await asyncio.to_thread(own_server.start)
    await has_reached(journal, "historian", 40)
    assert same(await historian.read(rows.streams, *ALWAYS), rows)
    assert historian.refused == 0
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await historian.close()


async def test_a_gateway_killed_before_its_commit_writes_the_page_again(
    influx_server: InfluxServer, journal: Journal
) -> None:
    """Pages stored twice, since the position had not moved: every row once."""
    historian = InfluxHistorian(influx_server.bucket())
    rows = await fill(journal, 3)
    for page in await journal.read(lambda tables: tables.decoded_pages(0, limit=2, max_bytes=2**30)):
        await historian.write(page)
    keeping = asyncio.create_task(keep_history(await journal.reader("historian"), historian))
    await has_reached(journal, "historian", 3)
    assert same(await historian.read(rows.streams, *ALWAYS), rows)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await historian.close()


async def test_points_of_the_wrong_type_are_refused_alone(influx_server: InfluxServer) -> None:
    """A bucket in which somebody made ``value`` a text takes all but the values; the count says how many."""
    config = influx_server.bucket()
    historian = InfluxHistorian(config)
    conflict = b'observation,asset_id=pump-01,channel=channel_0,gateway_id=gw-1 value="text" %d' % NOON_NS
    await historian._client.write_api().write(config.influxdb_bucket, record=conflict)
    rows = make_observations(streams=2, rows=4)
    await historian.write(Page(gateway_id="gw-1", epoch="e0", seq=1, committed_time=0, content=rows))
    assert historian.refused > 0
    await historian.close()


async def test_every_record_of_a_page_is_in_its_measurement(influx_server: InfluxServer) -> None:
    """Flux finds the fields that the dashboards read."""
    config = influx_server.bucket()
    historian = InfluxHistorian(config)
    await historian.write(Page(gateway_id="gw-1", epoch="e0", seq=1, committed_time=0, content=make_results()))
    tables = await historian._client.query_api().query(f'from(bucket: "{config.influxdb_bucket}") |> range(start: 0)')
    found: dict[str, set[str]] = {}
    for table in tables:
        for record in table.records:
            found.setdefault(record.values["_measurement"], set()).add(record.values["_field"])
    assert found["state"] >= {"score", "zone", "good_share", "reason"}
    assert found["health"] >= {"index", "grade", "failure_mode", "confidence"}
    assert found["prognosis"] >= {"p10_s", "p50_s", "p90_s"}
    assert found["advisory"] >= {"state", "failure_mode", "confidence", "reason", "recommended_action", "revision"}
    assert found["gateway_event"] >= {"message"}
    assert found["gap"] >= {"cause"}
    await historian.close()
