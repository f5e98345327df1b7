"""The historian against a real InfluxDB 2: what the journal holds is there once, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync

from gateway.historian import InfluxHistorian, keep_history
from gateway.historian.lines import lines
from gateway.journal import Journal
from models.records import Observations, Page, Results
from tests.integration.influxdb import TOKEN, InfluxServer, influx_server, influxdb
from tests.strategies import NOON_NS, SECOND_NS, make_observations, make_results, same

__all__ = ["influx_server", "influxdb"]
pytestmark = [pytest.mark.integration, pytest.mark.influxdb]

ALWAYS = (0, 2**62)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """The journal of gateway gw-1."""
    journal = await Journal.open(tmp_path / "state", "gw-1")
    yield journal
    await journal.close()


def page_of(content: Observations | Results) -> Page:
    """Return a page that holds *content*."""
    return Page(gateway_id="gw-1", epoch="e0", seq=1, committed_time=0, content=content)


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
    influx_server.write(config, 'observation,asset_id=pump-01,channel=channel_0,gateway_id=gw-1 value="text" 1')
    rows = make_observations(streams=2, rows=4, start_ns=10)
    await historian.write(page_of(rows), page_of(make_results()))
    assert historian.condition.refused == {"field type conflict": 8}
    assert historian.condition.written == len(list(lines(page_of(make_results()))))
    await historian.close()


async def test_a_conflict_in_one_shard_leaves_the_others_whole(influx_server: InfluxServer) -> None:
    """Types are fixed by shard: a text of years ago costs only the values of that week, counted one by one."""
    config = influx_server.bucket()
    historian = InfluxHistorian(config)
    influx_server.write(config, 'observation,asset_id=pump-01,channel=channel_0,gateway_id=gw-1 value="text" 1')
    old = make_observations(streams=2, rows=3, start_ns=10)
    new = make_observations(streams=2, rows=5)
    nan = replace(make_observations(streams=2, rows=2, start_ns=20), value=np.full(4, np.nan))
    await historian.write(page_of(Observations.concatenate([new, old, nan])))
    assert (historian.condition.refused, historian.condition.written) == ({"field type conflict": 6}, 14)
    await historian.close()


async def test_every_record_of_a_page_is_in_its_measurement(influx_server: InfluxServer) -> None:
    """Flux finds the fields that the dashboards read."""
    config = influx_server.bucket()
    historian = InfluxHistorian(config)
    await historian.write(page_of(make_results()))
    async with InfluxDBClientAsync(config.influxdb_url, TOKEN, config.influxdb_org) as client:
        tables = await client.query_api().query(f'from(bucket: "{config.influxdb_bucket}") |> range(start: 0)')
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


async def test_what_is_compressed_arrives(influx_server: InfluxServer, journal: Journal) -> None:
    """As to any host but this one."""
    config = influx_server.bucket()
    elsewhere = config.influxdb_url.replace("127.0.0.1", "0.0.0.0")  # noqa: S104 - a name of this host
    historian = InfluxHistorian(msgspec.structs.replace(config, influxdb_url=elsewhere))
    rows = await fill(journal, 2)
    await historian.write(page_of(rows))
    assert same(await historian.read(rows.streams, *ALWAYS), rows)
    await historian.close()
