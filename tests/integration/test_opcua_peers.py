"""The gateway's acquisition against OPC UA servers of other makers: the same promises with each of them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from gateway.config import AcquisitionConfig
from gateway.data_acquisition import ensure_application_certificate
from gateway.data_acquisition.certificate import application_uri
from gateway.journal import Journal
from models.records import to_ns
from tests.gateway.data_acquisition.small_plant import Cable, free_port
from tests.integration.peers.gateway import (
    acquiring,
    description,
    gaps,
    has_stored,
    results,
    source_for,
    stored,
    until,
)
from tests.integration.peers.server import (
    CHANNELS,
    UNITS,
    WITH_HISTORY,
    AsyncOpcua,
    Asyncua,
    Maker,
    Measured,
    Milo,
    NodeOpcua,
    Peer,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WITHOUT_HISTORY = tuple(channel for channel in CHANNELS if channel not in WITH_HISTORY)
BAD_SENSOR = 0x808C0000
OVERFLOW = 0x480


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gateway's own certificate and key, the ones the peers trust."""
    folder = tmp_path_factory.mktemp("identity")
    ensure_application_certificate(folder, application_uri("gw-1"), "Wearsight gateway gw-1")
    return folder


@pytest.fixture(scope="module", params=[Asyncua, NodeOpcua, Milo, AsyncOpcua], ids=lambda maker: maker.name)
def peer(request: pytest.FixtureRequest, identity: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Each maker's server in turn, measuring; a new maker joins by being added here."""
    maker: Maker = request.param()
    if lacking := maker.lacking():
        if os.environ.get("WEARSIGHT_NO_SKIP") == "1":
            pytest.fail(lacking)
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp(maker.name) / "peer"
    peer = Peer(maker, folder, free_port(), clients=[(identity / "application.der").read_bytes()])
    try:
        peer.start()
        yield peer
    finally:
        peer.kill()


@pytest.fixture
def pki(identity: Path, peer: Peer, tmp_path: Path) -> Path:
    """The gateway's certificates, with the peer's among those it trusts."""
    pki = tmp_path / "pki"
    shutil.copytree(identity, pki)
    (pki / "trusted").mkdir()
    (pki / "trusted" / "peer.der").write_bytes(peer.certificate)
    return pki


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """The journal of gateway gw-1."""
    journal = await Journal.open(tmp_path / "state", "gw-1")
    yield journal
    await journal.close()


async def measured_more(peer: Peer, ticks: int) -> int:
    """Wait until the pump measured *ticks* times more; return when it measured every channel last."""
    wanted = len(peer.book()["load_pct"]) + ticks
    await until(lambda: len(peer.book()["load_pct"]) >= wanted)
    return min(rows[-1].source_time for rows in peer.book().values())


def upto(rows: Mapping[str, Sequence[Measured]], channel: str, end: int) -> list[Measured]:
    return [row for row in rows.get(channel, ()) if row.source_time <= end]


async def test_channels_are_found_with_unit_and_range(peer: Peer, pki: Path, journal: Journal) -> None:
    """By browse path: the variables with a unit, what their values mean; a text beside them is none."""
    source = source_for(peer, journal, pki)
    async with acquiring(source, journal):
        await has_stored(journal, CHANNELS, 1)
        assert source.warnings == ()
    found = {c.name: (c.unit, c.low, c.high, c.sample_rate_hz) for c in (await description(journal)).channels}
    assert found == UNITS


async def test_a_channel_that_is_not_there_costs_the_others_nothing(peer: Peer, pki: Path, journal: Journal) -> None:
    """Names in the configuration that the server lacks, or that hold no numbers, are left out and told."""
    source = source_for(peer, journal, pki, channels=("speed_rpm", "serial_number", "no_such_channel"))
    async with acquiring(source, journal):
        await has_stored(journal, ["speed_rpm"], 1)
    assert set(source.counters.missing) == {"pump-01/serial_number", "pump-01/no_such_channel"}
    assert set(await stored(journal)) == {"speed_rpm"}


async def test_every_change_is_stored_once(peer: Peer, pki: Path, journal: Journal) -> None:
    """The journal equals the server's own book row for row: times, statuses, numbers, samples, unchanged values."""
    source = source_for(peer, journal, pki)
    async with acquiring(source, journal):
        await until(lambda: source.connected)
        end = await measured_more(peer, 40)
        await has_stored(journal, CHANNELS, end)
    rows, book = await stored(journal), peer.book()
    for channel in WITH_HISTORY:
        assert upto(rows, channel, end) == upto(book, channel, end)
    for channel in WITHOUT_HISTORY:
        first = rows[channel][0].source_time
        assert upto(rows, channel, end) == [row for row in upto(book, channel, end) if row.source_time >= first]
    assert {row.status for row in rows["speed_rpm"]} == {0, BAD_SENSOR}
    assert source.counters.gaps == 0


async def test_an_untrusted_server_is_refused_until_it_is_trusted(peer: Peer, pki: Path, journal: Journal) -> None:
    """Nothing is read from a server whose certificate is not on the list; moved there, it counts at the next try."""
    (pki / "trusted" / "peer.der").unlink()
    source = source_for(peer, journal, pki)
    async with acquiring(source, journal):
        await until(lambda: "not trusted" in source.counters.trouble)
        assert not source.connected
        assert journal.counters.appended == 0
        (rejected,) = (pki / "rejected").iterdir()
        rejected.rename(pki / "trusted" / rejected.name)
        await has_stored(journal, CHANNELS, 1)
        assert source.connected


@pytest.mark.parametrize("wrong", ["password", "certificate"])
async def test_a_server_that_does_not_let_us_in_is_told(peer: Peer, pki: Path, journal: Journal, wrong: str) -> None:
    """A wrong password, or a certificate the server does not trust, is a warning; it is tried again."""
    if wrong == "certificate":
        for name in ("application.der", "application.key"):
            (pki / name).unlink()
    source = source_for(peer, journal, pki, password="wrong" if wrong == "password" else "secret")
    async with acquiring(source, journal):
        await until(lambda: "cannot connect" in source.counters.trouble)
        assert not source.connected
        assert ("application.der" in source.counters.trouble) == (wrong == "certificate")
        await until(lambda: journal.last_seq > 0)
    assert journal.counters.appended == 0
    (event,) = [event for found in await results(journal) for event in found.events]
    assert event.kind == "source_unavailable"


async def test_a_queue_that_overflows_leaves_gaps_and_no_silence(peer: Peer, pki: Path, journal: Journal) -> None:
    """Where the server's queue was too small, every value that is missing lies in a gap record."""
    acquisition = AcquisitionConfig(publishing_interval_ms=1000.0, queue_size=2)
    # A channel that is always good: node-opcua 2.182 throws where a value that is not has to bear the overflow bit.
    source = source_for(peer, journal, pki, channels=["load_pct"], acquisition=acquisition)
    async with acquiring(source, journal):
        await until(lambda: source.counters.gaps >= 2)
        end = await measured_more(peer, 10)
        await has_stored(journal, ["load_pct"], end)
    await missing_lies_in_gaps(journal, peer, "load_pct", end)


async def test_a_cut_link_is_made_anew_and_its_hole_filled_or_told(peer: Peer, pki: Path, journal: Journal) -> None:
    """While the link is cut, twice, the server measures on and keeps its session, which the gateway takes over."""
    async with Cable(peer) as cable:
        source = source_for(peer, journal, pki, endpoint=cable.endpoint)
        async with acquiring(source, journal):
            await has_stored(journal, CHANNELS, await measured_more(peer, 5))
            for _ in range(2):
                cable.cut()
                await until(lambda: not source.connected)
                await measured_more(peer, 5)
                cable.join()
                end = await measured_more(peer, 1)
                await has_stored(journal, CHANNELS, end)
            assert source.counters.reconnects == 2
    await holes_are_filled_or_told(journal, peer, end, gaps_most=2)


async def test_a_killed_server_is_found_again_and_its_hole_filled_or_told(
    peer: Peer, pki: Path, journal: Journal
) -> None:
    """After SIGKILL and a start on the same port values flow, and nothing is missing unsaid."""
    source = source_for(peer, journal, pki)
    async with acquiring(source, journal):
        await has_stored(journal, CHANNELS, await measured_more(peer, 5))
        peer.kill()
        await until(lambda: not source.connected)
        await asyncio.to_thread(peer.start)
        end = await measured_more(peer, 10)
        await has_stored(journal, CHANNELS, end)
        assert source.counters.reconnects == 1
    await holes_are_filled_or_told(journal, peer, end, gaps_most=1)


async def holes_are_filled_or_told(journal: Journal, peer: Peer, end: int, *, gaps_most: int) -> None:
    """Hold that channels with history have all that the book has, the others gap records where they have not."""
    rows, book = await stored(journal), peer.book()
    for channel in WITH_HISTORY:
        assert upto(rows, channel, end) == upto(book, channel, end)
        assert await gaps(journal, channel) == []
    for channel in WITHOUT_HISTORY:
        told = await gaps(journal, channel)
        assert all(gap.cause.endswith("keeps no history of it") for gap in told)
        assert len(told) <= gaps_most
        await missing_lies_in_gaps(journal, peer, channel, end)


async def missing_lies_in_gaps(journal: Journal, peer: Peer, channel: str, end: int) -> None:
    """Hold that the journal has of *channel* what the book has, in order, except inside gap records."""
    rows = [Measured(r.source_time, r.status & ~OVERFLOW, r.numbers) for r in (await stored(journal))[channel]]
    book = [row for row in upto(peer.book(), channel, end) if row.source_time >= rows[0].source_time]
    kept = set(rows)
    assert [row for row in book if row in kept] == [row for row in rows if row.source_time <= end]
    spans = [(to_ns(gap.from_time), to_ns(gap.to_time)) for gap in await gaps(journal, channel)]
    missing = [row.source_time for row in book if row not in kept]
    assert [time for time in missing if not any(start < time < stop for start, stop in spans)] == []
