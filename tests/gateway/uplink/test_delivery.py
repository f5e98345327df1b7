"""Delivery to a real cloud over mutual TLS, through a link that can be cut."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from yarl import URL

from cloud_service.fleet import gateways
from cloud_service.testing import CloudProcess
from gateway.config import UplinkConfig
from gateway.errors import ConfigError, UploadDeferred
from gateway.journal import Journal, SegmentStore
from gateway.uplink import CloudClient, UplinkCondition, client, deliver
from tests.gateway.uplink.rig import DEADLINE_S, ROWS, Link, delivering, fill, times_in_lake, until, uplink


async def test_every_segment_arrives_once(cloud: CloudProcess, journal: Journal, gateway_id: str) -> None:
    """What is there when the link comes up, and what comes later."""
    await fill(journal, 3)
    async with delivering(journal, uplink(cloud, gateway_id)) as condition:
        await until(lambda: journal.counters.segments_pending == 0)
        await fill(journal, 2, start=3)
        await until(lambda: journal.counters.pending == 0)
        assert condition.connected
    assert times_in_lake(cloud, gateway_id) == list(range(5 * ROWS))
    assert journal.counters.appended == journal.counters.delivered == 5 * ROWS


@pytest.mark.parametrize("budget", [2_000, 6_000, 12_000, 20_000])
async def test_a_link_that_is_cut_loses_and_repeats_nothing(
    cloud: CloudProcess, journal: Journal, gateway_id: str, budget: int
) -> None:
    """Cut after so many bytes (in a handshake, a segment, an answer), and mended: each observation is there once."""
    await fill(journal, 12)
    port = urlsplit(cloud.ingest_url).port
    assert port is not None
    async with Link(port).open() as link:
        link.budget = budget
        async with delivering(journal, uplink(cloud, gateway_id, link.port)) as condition:
            await until(lambda: not link.up and not condition.connected)
            assert journal.counters.appended == journal.counters.delivered + journal.counters.pending
            link.mend()
            await until(lambda: journal.counters.pending == 0)
    assert times_in_lake(cloud, gateway_id) == list(range(12 * ROWS))


async def test_a_cloud_that_is_killed_gets_what_it_lacks(tmp_path: Path) -> None:
    """SIGKILL in the middle, a new start on the same port: delivery goes on by itself."""
    journal = await Journal.open(tmp_path, "gw-1")
    await fill(journal, 30)
    with CloudProcess(tmp_path / "cloud") as cloud:
        async with delivering(journal, uplink(cloud, "gw-1")) as condition:
            await until(lambda: journal.counters.segments_pending < 25)
            await asyncio.to_thread(cloud.stop, signal.SIGKILL)
            await until(lambda: not condition.connected)
            await asyncio.to_thread(cloud.start)
            await until(lambda: journal.counters.pending == 0)
        assert times_in_lake(cloud, "gw-1") == list(range(30 * ROWS))
    await journal.close()


async def test_what_the_cloud_lost_is_sent_again(tmp_path: Path) -> None:
    """A cloud without the segments it once confirmed says so by its ledger, and gets them again."""
    journal = await Journal.open(tmp_path, "gw-1")
    await fill(journal, 3)
    for name in ("before", "after"):
        with CloudProcess(tmp_path / name) as cloud:
            async with delivering(journal, uplink(cloud, "gw-1")) as condition:
                await until(lambda: condition.connected and journal.counters.pending == 0)
            assert times_in_lake(cloud, "gw-1") == list(range(3 * ROWS))
    await journal.close()


async def test_a_refused_segment_is_kept_and_the_others_go_on(
    cloud: CloudProcess, journal: Journal, gateway_id: str
) -> None:
    """A journal that was cloned: its first segment conflicts, stays on the shelf with the reason, and is not lost."""
    config = uplink(cloud, gateway_id)
    await fill(journal, 1)
    first = (await SegmentStore(journal).segments())[0]
    data = await SegmentStore(journal).read(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.uplink.delivery.SegmentStore.read", tampered)
        async with delivering(journal, config) as condition:
            await until(lambda: bool(condition.refused))
            patch.undo()
            await fill(journal, 2, start=1)
            await until(lambda: journal.counters.segments_pending == 1)
            assert "422" in condition.warnings[0]
    assert await SegmentStore(journal).read(first) == data
    assert times_in_lake(cloud, gateway_id) == list(range(ROWS, 3 * ROWS))

    async with delivering(journal, config):
        await until(lambda: journal.counters.pending == 0)
    assert times_in_lake(cloud, gateway_id) == list(range(3 * ROWS))


async def tampered(*_: object) -> bytes:
    return b"changed on the way"


async def test_a_journal_restored_from_a_backup_is_noticed(tmp_path: Path) -> None:
    """Its new pages have numbers that the cloud holds already: they are refused and kept, not taken for delivered."""
    with CloudProcess(tmp_path / "cloud") as cloud:
        config = uplink(cloud, "gw-1")
        await delivered_from(tmp_path / "state", config, start=0)
        shutil.copytree(tmp_path / "state", tmp_path / "restored")
        await delivered_from(tmp_path / "state", config, start=1)
        journal = await Journal.open(tmp_path / "restored", "gw-1")
        await fill(journal, 1, start=100)
        async with delivering(journal, config) as condition:
            await until(lambda: bool(condition.refused) or journal.counters.pending == 0)
        assert journal.counters.pending == ROWS
        assert "cloned or restored" in condition.warnings[0]
        assert times_in_lake(cloud, "gw-1") == list(range(2 * ROWS))
        await journal.close()


async def delivered_from(state_dir: Path, config: UplinkConfig, *, start: int) -> None:
    journal = await Journal.open(state_dir, "gw-1")
    await fill(journal, 1, start=start)
    async with delivering(journal, config):
        await until(lambda: journal.counters.pending == 0)
    await journal.close()


@pytest.mark.parametrize("answer", [b"", b"no JSON", b'{"held": [[1, 99999999999999999999]]}', b'{"held": [[0, 1]]}'])
def test_an_answer_that_is_not_the_clouds_is_asked_for_again(answer: bytes) -> None:
    """Nonsense, and numbers beyond what the journal counts to, are trouble and not the end."""
    with pytest.raises(UploadDeferred, match="not the cloud's"):
        client._ranges(answer, URL("https://cloud"))


async def test_a_revoked_gateway_keeps_its_segments(cloud: CloudProcess, journal: Journal, gateway_id: str) -> None:
    """It is told why, tries on, and delivers everything once it is enrolled again."""
    config = uplink(cloud, gateway_id)
    store = cloud.store()
    with store.writing() as session:
        gateways.revoke(session, gateway_id)
    await fill(journal, 2)
    async with delivering(journal, config) as condition:
        await until(lambda: "403" in condition.trouble)
    assert journal.counters.pending == 2 * ROWS
    assert not condition.refused
    store.close()
    async with delivering(journal, uplink(cloud, gateway_id)):
        await until(lambda: journal.counters.pending == 0)


async def test_a_cloud_of_another_fleet_gets_nothing(
    cloud: CloudProcess, journal: Journal, gateway_id: str, tmp_path: Path
) -> None:
    """The gateway trusts its own fleet's authority alone."""
    CloudProcess(tmp_path / "other").enroll(gateway_id)
    config = uplink(cloud, gateway_id)
    foreign = tmp_path / "other" / "enrolled" / gateway_id / "ca.pem"
    config.ca_file.write_bytes(foreign.read_bytes())
    async with CloudClient(config, gateway_id) as foreigner:
        with pytest.raises(UploadDeferred, match="certificate verify failed"):
            await foreigner.ledger(journal.epoch)


async def test_delivery_ends_with_the_journal(cloud: CloudProcess, journal: Journal, gateway_id: str) -> None:
    """A journal that is closed ends delivery kindly."""
    config = uplink(cloud, gateway_id)
    condition = UplinkCondition()
    task = asyncio.create_task(deliver(journal, config, condition))
    await until(lambda: condition.connected)
    await journal.close()
    async with asyncio.timeout(DEADLINE_S):
        await task


def test_a_certificate_that_is_not_there_stops_the_service(tmp_path: Path) -> None:
    """The message says which keys to look at."""
    config = UplinkConfig(
        cloud_url="https://127.0.0.1:1",
        ca_file=tmp_path / "ca.pem",
        certificate_file=tmp_path / "gateway.pem",
        key_file=tmp_path / "gateway.key",
    )
    with pytest.raises(ConfigError, match="ca_file"):
        CloudClient(config, "gw-1")
