from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from gateway.status import (
    BundleHealth,
    HealthReport,
    JournalHealth,
    SourceHealth,
    UplinkHealth,
    serving_status,
)

REPORT = HealthReport(
    gateway_id="gw-1",
    epoch="ab12",
    status="degraded",
    software_version="0.1.0",
    journal=JournalHealth(last_seq=9, appended=100, repeats_dropped=3, pages=9),
    readers={"monitor": 8, "compactor": 7},
    uplink=UplinkHealth(
        connected=True,
        segments_pending=1,
        observations_stored=100,
        observations_delivered=60,
        observations_pending=40,
        live_latency_s=0.1,
        budget_left_bytes=1000,
    ),
    acquisition={"cell-1": SourceHealth(connected=False, streams=60, observations=103, reconnects=2)},
    bundles={
        "centrifugal_pump": BundleHealth(
            version=2, activated_at=datetime(2026, 3, 2, tzinfo=UTC), states={"normal": 5, "unknown": 1}
        )
    },
    open_advisories=2,
    warnings=("server cell-1 is not connected",),
)


async def _get(port: int, path: str) -> aiohttp.ClientResponse:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        await answer.read()
        return answer


async def test_health_tells_what_the_rollout_reads() -> None:
    """The keys are a contract with the rollout and the demo."""
    async with serving_status("127.0.0.1:0", lambda: REPORT) as port:
        answer = await _get(port, "/health")
        health = await answer.json()

    assert health["status"] == "degraded"
    assert health["journal"] == {
        "last_seq": 9, "appended": 100, "repeats_dropped": 3, "pages": 9,
        "expired": {}, "quarantined_pages": 0, "trouble": "",
    }  # fmt: skip
    assert health["readers"]["monitor"] == 8
    assert health["acquisition"]["cell-1"]["connected"] is False
    assert health["bundles"]["centrifugal_pump"]["version"] == 2
    assert health["bundles"]["centrifugal_pump"]["states"] == {"normal": 5, "unknown": 1}
    assert health["open_advisories"] == 2


async def test_metrics_balance() -> None:
    """Stored is delivered and pending, in what Prometheus reads."""
    async with serving_status("127.0.0.1:0", lambda: REPORT) as port:
        text = await (await _get(port, "/metrics")).text()

    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    rows = {state: float(values[f'wearsight_observations{{state="{state}"}}']) for state in _STATES}
    assert rows["stored"] == rows["delivered"] + rows["pending"] == 100
    assert float(values['wearsight_server_connected{server="cell-1"}']) == 0
    assert float(values['wearsight_bundle_windows{asset_class="centrifugal_pump",zone="normal"}']) == 5


async def test_every_figure_of_a_server_is_in_the_reference() -> None:
    """Whoever meets a name in /health or /metrics finds what it means."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text()
    async with serving_status("127.0.0.1:0", lambda: REPORT) as port:
        text = await (await _get(port, "/metrics")).text()
    metrics = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    of_servers = {name for name in metrics if name.startswith(("wearsight_server_", "wearsight_channel_"))}

    assert len(of_servers) > 10
    assert [name for name in sorted(of_servers) if f"`{name}`" not in page] == []
    assert [field.name for field in fields(SourceHealth) if f"| `{field.name}` |" not in page] == []


async def test_every_figure_of_the_uplink_is_in_the_reference() -> None:
    """Whoever meets a name in /health or /metrics finds what it means."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text()
    async with serving_status("127.0.0.1:0", lambda: REPORT) as port:
        text = await (await _get(port, "/metrics")).text()
    samples = {line.partition(" ")[0] for line in text.splitlines() if line.startswith("wearsight_uplink_")}

    assert len(samples) > 10
    assert [name for name in sorted(samples) if not name.endswith("_created") and f"`{name}`" not in page] == []
    names = [field.name for field in fields(UplinkHealth) if not field.name.startswith("observations_")]
    assert [name for name in names if f"`{name}`" not in page] == []


_STATES = ("stored", "delivered", "pending")


async def test_an_address_in_use_is_an_error_that_says_so() -> None:
    """A gateway that cannot be watched does not start silently."""
    async with serving_status("127.0.0.1:0", lambda: REPORT) as port:
        with pytest.raises(OSError, match=str(port)):
            async with serving_status(f"127.0.0.1:{port}", lambda: REPORT):
                pass
