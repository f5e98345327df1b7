"""What an upload policy keeps back stays here, counted, and is left out of every upload alike; with a real cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_service.testing import CloudProcess
from gateway.config import AssetClassConfig, AssetConfig, GatewayConfig, UplinkConfig, Upload
from gateway.errors import UploadDeferred
from gateway.journal import Journal, SegmentStore, compact_once
from gateway.uplink import CloudClient
from gateway.uplink.cutting import Cutting
from gateway.uplink.express import Express
from gateway.uplink.policy import Policies
from models.records import Observations, Stream
from models.segment import decode_segment
from tests.gateway.uplink.rig import delivering, times_in_lake, until, uplink

ROWS = 300
SPEED, WAVEFORM = Stream("pump-01", "speed"), Stream("pump-01", "waveform")


async def two_streams(journal: Journal, start: int = 0) -> None:
    """Append a segment of ROWS rows of SPEED at even times and as many noisy ones of WAVEFORM at odd times."""
    noise = np.random.default_rng(start).normal(size=2 * ROWS)
    await journal.append(
        Observations.of_values(
            (SPEED, WAVEFORM),
            np.arange(2 * ROWS, dtype=np.uint32) % 2,
            2 * ROWS * start + np.arange(2 * ROWS, dtype=np.int64),
            noise,
            np.zeros(2 * ROWS, np.uint32),
        )
    )
    await compact_once(journal, max_pages=1)


def policies(config: UplinkConfig, **channels: Upload) -> Policies:
    """Return policies by which pump-01's *channels* are sent."""
    gateway = GatewayConfig(
        gateway_id="gw-1",
        state_dir=Path("/state"),
        asset=(AssetConfig(asset_id="pump-01", asset_class="pump", server="s", path="P"),),
        asset_class={"pump": AssetClassConfig(channel_upload=channels)},
        uplink=config,
    )
    return Policies(lambda: gateway)


def assert_adds_up(journal: Journal) -> None:
    """Every observation is counted once."""
    now = journal.counters
    assert now.appended == now.delivered + now.withheld + now.pending + sum(now.expired.values())


@pytest.mark.parametrize("upload", [Upload.FEATURES, Upload.EVENTS])
async def test_raw_values_are_kept_back_and_counted(
    cloud: CloudProcess, journal: Journal, gateway_id: str, upload: Upload
) -> None:
    """The cloud gets the other channel's rows and holds all pages; here every row stays."""
    config = uplink(cloud, gateway_id)
    await two_streams(journal)
    async with delivering(journal, config, policies=policies(config, waveform=upload)):
        await until(lambda: journal.counters.pending == 0)
    assert times_in_lake(cloud, gateway_id) == list(range(0, 2 * ROWS, 2))
    assert (journal.counters.delivered, journal.counters.withheld) == (ROWS, ROWS)
    assert_adds_up(journal)
    (entry,) = await SegmentStore(journal).segments()
    assert len(decode_segment(await SegmentStore(journal).read(entry)).observations) == 2 * ROWS


async def test_without_a_policy_everything_goes(cloud: CloudProcess, journal: Journal, gateway_id: str) -> None:
    """The control."""
    config = uplink(cloud, gateway_id)
    await two_streams(journal)
    async with delivering(journal, config, policies=policies(config)):
        await until(lambda: journal.counters.pending == 0)
    assert times_in_lake(cloud, gateway_id) == list(range(2 * ROWS))
    assert (journal.counters.delivered, journal.counters.withheld) == (2 * ROWS, 0)


@pytest.mark.parametrize(("before", "after"), [("events", "everything"), ("everything", "events")])
async def test_a_resend_is_what_was_sent_before(
    cloud: CloudProcess,
    journal: Journal,
    gateway_id: str,
    monkeypatch: pytest.MonkeyPatch,
    before: Upload,
    after: Upload,
) -> None:
    """The answer is lost and the policy changes meanwhile: the same rows count as sent, and the lake has these."""
    config = uplink(cloud, gateway_id)
    await two_streams(journal)
    put = CloudClient.put

    async def lose_the_answer(*arguments: Any, **more: Any) -> list[tuple[int, int]]:
        await put(*arguments, **more)
        raise UploadDeferred("the answer is lost", 600.0)

    monkeypatch.setattr(CloudClient, "put", lose_the_answer)
    async with delivering(journal, config, policies=policies(config, waveform=Upload(before))) as condition:
        await until(lambda: "lost" in condition.trouble)
    monkeypatch.setattr(CloudClient, "put", put)
    assert journal.counters.pending == 2 * ROWS
    async with delivering(journal, config, policies=policies(config, waveform=Upload(after))):
        await until(lambda: journal.counters.pending == 0)
    assert journal.counters.delivered == len(times_in_lake(cloud, gateway_id)) == ROWS * (2 - (before == "events"))
    assert_adds_up(journal)


async def test_a_budget_lasts_as_long_as_it_does(cloud: CloudProcess, journal: Journal, gateway_id: str) -> None:
    """Raw values go while there is something left; then their rows stay here, and the rest goes on."""
    config = uplink(cloud, gateway_id, budget_mib_per_day=0.006)
    for number in range(5):
        await two_streams(journal, number)
    async with delivering(journal, config, policies=policies(config, waveform=Upload.BUDGET)) as condition:
        await until(lambda: journal.counters.pending == 0)
        await until(lambda: condition.budget_left_bytes is not None)
    sent = journal.counters.delivered - 5 * ROWS
    assert 0 < sent < 5 * ROWS
    assert journal.counters.withheld == 5 * ROWS - sent
    assert len(times_in_lake(cloud, gateway_id)) == 5 * ROWS + sent
    assert_adds_up(journal)


async def test_a_restart_gives_no_new_budget(journal: Journal) -> None:
    """What was spent is spent."""
    file = Path("/tls")
    config = UplinkConfig(
        cloud_url="https://cloud", ca_file=file, certificate_file=file, key_file=file, budget_mib_per_day=0.004
    )
    await two_streams(journal, 0)
    await two_streams(journal, 1)
    first, second = await SegmentStore(journal).segments()
    store, budgeted = SegmentStore(journal), policies(config, waveform=Upload.BUDGET)

    cutting = Cutting(journal, config, budgeted, await Express.open(journal))
    whole = await store.read(first)
    assert await cutting.cut(first, whole, sent_before=False) == whole

    again = Cutting(journal, config, budgeted, await Express.open(journal))
    whole = await store.read(second)
    assert len(await again.cut(second, whole, sent_before=False)) < len(whole)
    assert again.budget_left_bytes is not None
    assert again.budget_left_bytes < 0.004 * 2**20
