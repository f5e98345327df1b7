"""A gateway restored from a backup, and a cloud that knows better: a new epoch lets both go on, with nothing lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_service.config import IngestConfig
from cloud_service.errors import IngestError
from cloud_service.fleet import gateways
from cloud_service.ingest.overview import overview
from cloud_service.pipeline import Intake
from cloud_service.pki import Identity
from cloud_service.store import Store
from gateway.journal import Journal, SegmentStore, compact_once
from gateway.journal_commands.repair import repair
from gateway.journal_commands.verify import verify
from models.segment import decode_segment, segment_digest
from tests.gateway.journal.damage import ROWS, time_of
from tests.strategies import make_observations

PAGE = 3 * ROWS  # observations


class Cloud:
    """The intake of a cloud, without a listener."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "cloud.sqlite")
        with self.store.writing() as session:
            gateways.enroll(session, Identity(gateway_id="gw-1", certificate_sha256="00"))
        self.intake = Intake(self.store, folder / "lake", IngestConfig())

    def observations(self) -> dict[str, int]:
        """Return how many observations are stored, by epoch."""
        with self.store.reading() as session:
            return {journal.epoch: journal.observations for journal in overview(session)}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud that knows gateway gw-1."""
    (tmp_path / "cloud").mkdir()
    made = Cloud(tmp_path / "cloud")
    yield made
    made.store.close()


async def deliver(journal: Journal, cloud: Cloud) -> list[str]:
    """Send what waits to be sent, as the uplink does; return why what was refused was."""
    store, refused = SegmentStore(journal), []
    for entry in await store.pending():
        data = await store.read(entry)
        try:
            cloud.intake.store_segment(decode_segment(data), segment_digest(data))
        except IngestError as error:
            refused.append(str(error))
            await store.refuse(entry, str(error))
        else:
            await store.mark_delivered([(entry.first_seq, entry.last_seq)])
    return refused


async def run(folder: Path, cloud: Cloud, pages: range, *, sends: bool = True) -> tuple[str, list[str]]:
    """Run a gateway for a while: it reads *pages*, compacts them and sends; return its epoch and what is refused."""
    journal = await Journal.open(folder, "gw-1")
    for number in pages:
        await journal.append(make_observations(rows=ROWS, start_ns=time_of(number), first_value=number * 1000.0))
    while await compact_once(journal, max_pages=3):
        pass
    refused = await deliver(journal, cloud) if sends else []
    await journal.close()
    return journal.epoch, refused


def test_a_restored_gateway_goes_on_under_a_new_epoch(tmp_path: Path, cloud: Cloud) -> None:
    """What the cloud has already is confirmed, what differs is refused, and after the repair it is taken."""
    state, backup = tmp_path / "state", tmp_path / "backup"
    asyncio.run(run(state, cloud, range(6)))
    asyncio.run(run(state, cloud, range(6, 9), sends=False))
    shutil.copytree(state, backup)
    old, refused = asyncio.run(run(state, cloud, range(9, 15)))
    assert (refused, cloud.observations()) == ([], {old: 15 * PAGE})

    shutil.rmtree(state)
    shutil.copytree(backup, state)
    _, refused = asyncio.run(run(state, cloud, range(20, 26)))
    assert len(refused) == 2
    done = repair(state, "gw-1", new_epoch=True)
    assert done.new_epoch is not None
    assert (done.new_epoch.carried_observations, done.new_epoch.aside_observations) == (6 * PAGE, 9 * PAGE)

    new, refused = asyncio.run(run(state, cloud, range(26, 29)))
    assert refused == []
    assert cloud.observations() == {old: 15 * PAGE, new: 9 * PAGE}
    assert verify(state).findings == ()
