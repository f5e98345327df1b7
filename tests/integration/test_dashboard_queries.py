"""Every panel's query, run against a real InfluxDB with what the historian wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync

from dashboards.boards import BOARDS
from dashboards.signals import MEASUREMENTS
from gateway.config import HistorianConfig
from gateway.historian.influx import InfluxHistorian
from gateway.historian.lines import lines
from models.records import (
    Advisory,
    AdvisoryState,
    Gap,
    GatewayEvent,
    Health,
    Observations,
    Page,
    Prognosis,
    Results,
    State,
    Stream,
    Zone,
    to_ns,
)
from tests.integration.influxdb import influx_server, influxdb

__all__ = ["influx_server", "influxdb"]
NOW = datetime(2026, 3, 12, 12, tzinfo=UTC)
RESULTS = Results(
    states=(
        State(
            asset_id="pump-01",
            asset_class="centrifugal_pump",
            window_start=NOW - timedelta(hours=2),
            window_end=NOW,
            zone=Zone.ALARM,
            score=1.7,
            good_share=0.9,
            reason="vibration",
            model_version=1,
        ),
    ),
    health=(
        Health(
            asset_id="pump-01",
            window_end=NOW,
            index=41.0,
            grade="C",
            failure_mode="imbalance",
            confidence=0.8,
            probabilities={"normal": 0.2, "imbalance": 0.8},
            model_version=1,
        ),
    ),
    prognoses=(
        Prognosis(asset_id="pump-01", window_end=NOW, p10_s=86400.0, p50_s=172800.0, p90_s=259200.0, model_version=1),
    ),
    advisories=(
        Advisory(
            advisory_id="a1",
            revision=1,
            asset_id="pump-01",
            asset_class="centrifugal_pump",
            failure_mode="imbalance",
            state=AdvisoryState.ACTIVE,
            raised_at=NOW,
            updated_at=NOW,
            evidence_start=NOW,
            evidence_end=NOW,
            top_channels=(),
            confidence=0.8,
            life_p10_s=1.0,
            life_p50_s=2.0,
            life_p90_s=3.0,
            act_by=NOW,
            model_version=1,
            data_trust=0.9,
            reason="why",
            recommended_action="balance the rotor",
        ),
    ),
    gaps=(Gap(asset_id="pump-01", channel="load_pct", from_time=NOW, to_time=NOW, cause="no history"),),
    events=(GatewayEvent(kind="started", gateway_time=NOW, message="started"),),
)
OBSERVATIONS = Observations.of_values(
    (Stream("pump-01", "load_pct"),),
    np.zeros(1, np.uint32),
    np.array([to_ns(NOW)]),
    np.array([61.0]),
    np.zeros(1, np.uint32),
)
PAGES = [
    Page(gateway_id="gw-1", epoch="e", seq=1, committed_time=0, content=OBSERVATIONS),
    Page(gateway_id="gw-1", epoch="e", seq=2, committed_time=0, content=RESULTS),
]
PANELS = [
    (name, panel["title"], panel["targets"][0]["query"], panel["fieldConfig"]["defaults"].get("unit", ""))
    for name, board in BOARDS.items()
    for panel in board()["panels"]
    if panel["type"] != "row"
]


def _filled_in(query: str, bucket: str) -> str:
    """Do what Grafana does with a query before it sends it."""
    values = {
        "${bucket}": bucket,
        "${asset}": "pump-01",
        "v.timeRangeStart": "2026-03-12T00:00:00Z",
        "v.timeRangeStop": "2026-03-13T00:00:00Z",
        "v.windowPeriod": "10m",
    }
    for name, value in values.items():
        query = query.replace(name, value)
    return query


async def _rows(config: HistorianConfig, query: str) -> list[dict[str, Any]]:
    token = config.influxdb_token_file.read_text().strip()
    async with InfluxDBClientAsync(config.influxdb_url, token, config.influxdb_org) as client:
        tables = await client.query_api().query(_filled_in(query, config.influxdb_bucket))
        return [record.values for table in tables for record in table.records]


@pytest.mark.integration
@pytest.mark.influxdb
@pytest.mark.parametrize(("board", "title", "query", "unit"), PANELS, ids=[f"{p[0]}-{p[1]}" for p in PANELS])
async def test_a_panel_has_rows(influxdb: HistorianConfig, board: str, title: str, query: str, unit: str) -> None:
    """With one record of everything in the bucket, each panel draws something, in its declared unit's size."""
    assert await _rows(influxdb, query) == [], "the control: an empty bucket gives no rows"
    historian = InfluxHistorian(influxdb)
    for page in PAGES:
        await historian.write(page)
    await historian.close()
    rows = await _rows(influxdb, query)

    assert rows, f"{board}: {title} draws nothing"
    if unit == "d":
        assert {round(row["_value"], 6) for row in rows} <= {1.0, 2.0, 3.0}


def test_the_signals_know_what_the_historian_writes() -> None:
    """Measurements and fields that a board may ask for are those of the line protocol."""
    written: dict[str, set[str]] = {}
    for page in PAGES:
        for line in lines(page):
            head, fields = line.decode().split(" ", 1)
            written.setdefault(head.split(",")[0], set()).add(fields)

    assert set(written) == set(MEASUREMENTS)
    lost = {
        m: [f for f in names if not any(f"{f}=" in line for line in written[m])] for m, names in MEASUREMENTS.items()
    }
    assert {m: names for m, names in lost.items() if names} == {}
