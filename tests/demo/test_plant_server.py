"""The plant's server, met by a real OPC UA client over a real encrypted channel."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.node import Node
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.ua.uaerrors import BadCertificateUntrusted, BadUserAccessDenied, UaError

from demo.plant.fleet import LIVE_START_NS, demo_fleet
from demo.plant.identity import ensure_certificate
from demo.plant.made import waveform_mark
from demo.plant.server import CellServer
from demo.plant.simulator import DAY_NS, SECOND_NS, simulate
from demo.plant.source import SimulatorSource
from models.records import from_ns, to_ns

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOUR_NS = 3600 * SECOND_NS
CLIENT_URI = "urn:wearsight:test:client"
PUMP = demo_fleet(7, "cell-1")[0]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "asyncua")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def cell(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CellServer]:
    """A cell with one pump and one day of history; nobody is trusted yet."""
    folder = tmp_path_factory.mktemp("plant")
    source = SimulatorSource([PUMP], first=LIVE_START_NS - DAY_NS, end=LIVE_START_NS + DAY_NS)
    async with CellServer(source, folder) as server:
        yield server


async def client_of(cell: CellServer, folder: Path, *, trusted: bool = True, password: str | None = None) -> Client:
    certificate, key = folder / "client.der", folder / "client.pem"
    ensure_certificate(certificate, key, application_uri=CLIENT_URI, common_name="test client")
    if trusted:
        (cell.trusted / f"{folder.name}.der").write_bytes(certificate.read_bytes())
    client = Client(cell.endpoint)
    client.application_uri = CLIENT_URI
    client.set_user(cell.user)
    client.set_password(cell.password.read_text() if password is None else password)
    await client.set_security(
        SecurityPolicyBasic256Sha256, str(certificate), str(key), server_certificate=str(cell.certificate)
    )
    return client


async def channel_of(client: Client, channel: str) -> Node:
    index = await client.get_namespace_index("urn:wearsight:demo:plant")
    path = ["Machines", PUMP.asset_id, "Monitoring", channel]
    return await client.nodes.objects.get_child([f"{index}:{name}" for name in path])


async def test_a_client_nobody_trusts_is_refused(cell: CellServer, tmp_path: Path) -> None:
    client = await client_of(cell, tmp_path, trusted=False)
    with pytest.raises(BadCertificateUntrusted):
        await client.connect()


async def test_a_certificate_left_out_of_the_session_request_is_refused_too(cell: CellServer, tmp_path: Path) -> None:
    """Sign-in looks up the certificate that secured the channel, whatever the session request says."""
    client = await client_of(cell, tmp_path, trusted=False)
    trusting = cell._server.iserver.certificate_validator  # type: ignore[union-attr]  # it runs
    cell._server.set_certificate_validator(None)  # type: ignore[union-attr, arg-type]  # as if it were not asked
    try:
        with pytest.raises(BadUserAccessDenied):
            await client.connect()
    finally:
        cell._server.iserver.certificate_validator = trusting  # type: ignore[union-attr]  # it runs


async def test_a_wrong_password_is_refused(cell: CellServer, tmp_path: Path) -> None:
    client = await client_of(cell, tmp_path, password="wrong")
    with pytest.raises(BadUserAccessDenied):
        await client.connect()


async def test_an_open_channel_is_refused(cell: CellServer) -> None:
    client = Client(cell.endpoint)
    with pytest.raises(UaError):
        await client.connect()


async def test_a_new_file_in_the_trust_list_lets_a_client_in(cell: CellServer, tmp_path: Path) -> None:
    async with await client_of(cell, tmp_path) as client:
        node = await channel_of(client, "flow_m3_h")
        assert (await (await node.get_child("0:EURange")).read_value()).High == 150.0
        unit = await (await node.get_child("0:EngineeringUnits")).read_value()
        assert unit.DisplayName.Text == "m³/h"
        assert unit.UnitId == int.from_bytes(b"MQH", "big")


async def test_a_client_cannot_write(cell: CellServer, tmp_path: Path) -> None:
    async with await client_of(cell, tmp_path) as client:
        with pytest.raises(UaError):
            await (await channel_of(client, "flow_m3_h")).write_value(1.0)


async def test_history_is_what_the_simulator_made(cell: CellServer, tmp_path: Path) -> None:
    """Source times, values and status codes of a span, ascending, both ends included; and nothing of the future."""
    expected = simulate(PUMP, LIVE_START_NS - DAY_NS, LIVE_START_NS)
    async with await client_of(cell, tmp_path) as client:
        for number, stream in enumerate(expected.streams):
            rows = expected.take(expected.stream == number)
            node = await channel_of(client, stream.channel)
            got = await node.read_raw_history(from_ns(LIVE_START_NS - DAY_NS), from_ns(LIVE_START_NS - 1))
            assert [to_ns(value.SourceTimestamp) for value in got if value.SourceTimestamp] == rows.source_time.tolist()
            assert [value.StatusCode.value for value in got if value.StatusCode] == rows.status.tolist()
            for value, plain, wave in zip(got, rows.value.tolist(), rows.waveforms(), strict=True):
                told = value.Value.Value if value.Value else None
                assert told == (wave.tolist() if len(wave) else None if np.isnan(plain) else plain)
        assert all(to_ns(value.SourceTimestamp) <= cell.timeline.now for value in got if value.SourceTimestamp)


async def test_history_can_be_cut_and_turned_round(cell: CellServer, tmp_path: Path) -> None:
    middle = from_ns(LIVE_START_NS - DAY_NS // 2)
    async with await client_of(cell, tmp_path) as client:
        node = await channel_of(client, "load_pct")
        forward = await node.read_raw_history(middle, None, numvalues=5)
        backward = await node.read_raw_history(None, middle, numvalues=5)
    assert [value.SourceTimestamp for value in forward] == [middle + timedelta(minutes=10 * n) for n in range(5)]
    assert [value.SourceTimestamp for value in backward] == [middle - timedelta(minutes=10 * n) for n in range(5)]


async def test_history_comes_in_pages(cell: CellServer, tmp_path: Path) -> None:
    """A response holds a bounded number of values; the continuation point leads to the rest."""
    history: Any = cell._server.iserver.history_manager.storage  # type: ignore[union-attr]  # it runs
    async with await client_of(cell, tmp_path) as client:
        node = await channel_of(client, "load_pct")
        whole = await node.read_raw_history(datetime(2026, 1, 1, tzinfo=UTC))
        history.max_history_data_response_size = 50
        try:
            paged = await node.read_raw_history(datetime(2026, 1, 1, tzinfo=UTC))
        finally:
            history.max_history_data_response_size = 10_000
    assert [value.SourceTimestamp for value in paged] == [value.SourceTimestamp for value in whole]


async def test_a_subscriber_gets_every_value_that_is_made_and_the_list_agrees(cell: CellServer, tmp_path: Path) -> None:
    """Six hours live: what a subscriber hears, what the plant lists and what the simulator computes are the same."""
    until = LIVE_START_NS + 6 * HOUR_NS
    expected = simulate(PUMP, LIVE_START_NS, until)
    everything = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
    heard: set[tuple[str, int, int, str]] = set()
    async with await client_of(cell, tmp_path) as client:
        nodes = {channel.name: await channel_of(client, channel.name) for channel in PUMP.channels}
        names = {node.nodeid: name for name, node in nodes.items()}
        subscription = await client.create_subscription(50, queue_maxsize=100_000)
        async with subscription:
            await subscription._subscribe(list(nodes.values()), mfilter=everything, queuesize=10_000)
            assert await cell.advance(until - 1) == len(expected)
            while len(heard) < len(expected):
                event: Any = await subscription.next_event(timeout=10.0)
                value = event.data.monitored_item.Value
                if to_ns(value.SourceTimestamp) >= LIVE_START_NS:
                    heard.add((names[event.node.nodeid], *told(value)))
    listed = {(row["channel"], int(row["source_time_ns"]), int(row["status"]), row["value"]) for row in made(cell)}
    assert heard == {row for row in listed if row[1] >= LIVE_START_NS}
    assert len(heard) == len(expected)


def told(value: ua.DataValue) -> tuple[int, int, str]:
    assert value.SourceTimestamp
    assert value.StatusCode
    content = value.Value.Value if value.Value else None
    if isinstance(content, list):
        text = waveform_mark(np.array(content, np.float32))
    else:
        text = repr(float("nan") if content is None else content)
    return to_ns(value.SourceTimestamp), int(value.StatusCode.value), text


def made(cell: CellServer) -> list[dict[str, str]]:
    cell.write_made()
    return list(csv.DictReader(io.StringIO(gzip.decompress(cell.made.file.read_bytes()).decode())))


async def test_the_list_has_each_value_once(cell: CellServer) -> None:
    rows = made(cell)
    assert len({(row["asset_id"], row["channel"], row["source_time_ns"]) for row in rows}) == len(rows)
    assert len(rows) == cell.timeline.made == cell.made.count


async def test_the_truth_names_the_fault_and_its_severity(cell: CellServer) -> None:
    cell.write_truth()
    truth = json.loads(cell.made.truth_file.read_text())
    fault = PUMP.faults[0]
    assert truth["faults"][0]["mode"] == fault.mode
    assert truth["faults"][0]["failure"] == from_ns(fault.failure).isoformat()
    assert len(truth["severity"][PUMP.asset_id]["severity"]) == 48


async def test_the_source_ends_where_it_was_told_to(cell: CellServer) -> None:
    """Runs last: it plays the cell to its end."""
    await cell.advance(LIVE_START_NS + 10 * DAY_NS)
    assert cell.timeline.ended
    assert cell.made.count == len(simulate(PUMP, LIVE_START_NS - DAY_NS, LIVE_START_NS + DAY_NS))
