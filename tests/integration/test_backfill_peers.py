"""An hour of history from servers of every maker: page by page, over a cut, newest first, each value once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from asyncua.client.client import Client

from gateway.config import ServerConfig
from gateway.data_acquisition import backfill as module
from gateway.data_acquisition import ensure_application_certificate
from gateway.data_acquisition.backfill import Backfill, Wanted
from gateway.data_acquisition.certificate import application_uri
from gateway.data_acquisition.connection import Identity, connected
from gateway.data_acquisition.profiles import RequestLimits, read_profile
from gateway.errors import SourceUnavailable
from gateway.journal import Hole, Journal
from models.records import Gap, Observations, Results, Stream
from tests.gateway.data_acquisition.small_plant import Cable, free_port
from tests.gateway.journal.stored import stored_observations
from tests.integration.peers.server import Asyncua, Maker, Measured, Milo, NodeOpcua, Peer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CHANNELS = ("speed_rpm", "vibration_waveform_m_s2", "load_pct")
WITH_HISTORY = CHANNELS[:2]
SECOND_NS = 1_000_000_000
START_NS = 1_772_452_800 * SECOND_NS
HOUR_NS = 3600 * SECOND_NS


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


def past(folder: str) -> str:
    """Return the book of an hour and a minute: a value a second, a broken sensor now and then, some waveforms."""
    lines = []
    for k in range(-60, 3601):
        time = START_NS + k * SECOND_NS
        lines.append(f"{folder}load_pct,{time},0,{k % 100}")
        lines.append(f"{folder}speed_rpm,{time},{0x808C0000 if k % 7 == 3 else 0},{1000 + k / 8}")
        if k % 20 == 0:
            lines.append(f"{folder}vibration_waveform_m_s2,{time},0," + " ".join(str((k + i) / 64) for i in range(256)))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module", params=[Asyncua, NodeOpcua, Milo], ids=lambda maker: maker.name)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Each maker's server in turn, with a past."""
    maker: Maker = request.param()
    if lacking := maker.lacking():
        if os.environ.get("WEARSIGHT_NO_SKIP") == "1":
            pytest.fail(lacking)
        pytest.skip(lacking)
    folder = tmp_path_factory.mktemp(maker.name)
    ensure_application_certificate(folder / "pki", application_uri("gw-1"), "Wearsight gateway gw-1")
    client = (folder / "pki" / "application.der").read_bytes()
    peer = Peer(maker, folder / "peer", free_port(), clients=[client])
    (peer.folder / "measured.csv").write_text(past("pump-01/" if maker.name == "asyncua" else ""))
    try:
        peer.start()
        yield peer
    finally:
        peer.kill()


@pytest.fixture
def connect(peer: Peer, tmp_path: Path) -> Callable[[str], object]:
    """Return how to hold a session, encrypted and as a user, at an endpoint of the peer."""
    pki = tmp_path / "pki"
    shutil.copytree(peer.folder.parent / "pki", pki)
    (pki / "trusted").mkdir()
    (pki / "trusted" / "peer.der").write_bytes(peer.certificate)
    (pki / "password").write_text("secret\n")
    identity = Identity(application_uri=application_uri("gw-1"), common_name="Wearsight gateway gw-1", pki_dir=pki)

    def to(endpoint: str) -> object:
        server = ServerConfig(name="peer", endpoint=endpoint, user="gateway", password_file=pki / "password")
        return connected(server, identity)

    return to


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(tmp_path / "state", "gw-1")
    yield journal
    await journal.close()


async def wanted(client: Client, holes: Sequence[Hole]) -> tuple[list[Wanted], RequestLimits]:
    """Return what is to be read for *holes*, and how many nodes at a time."""
    plant = await client.get_namespace_index("urn:wearsight:test:plant")
    todo = []
    for hole in holes:
        path = ["Machines", "pump-01", "Monitoring", hole.stream.channel]
        node = await client.nodes.objects.get_child([f"{plant}:{name}" for name in path])
        todo.append(Wanted(stream=hole.stream, node=node.nodeid, hole=hole, anchored=True))
    return todo, (await read_profile(client, 500)).limits


async def fill(client: Client, journal: Journal, then: Callable[[int], None] = lambda _: None) -> list[Gap]:
    """Fill the journal's open holes, doing *then* after each slice; return the gaps."""
    todo, limits = await wanted(client, journal.holes())
    gaps: list[Gap] = []
    async with aclosing(Backfill(client, "peer", todo, per_request=limits.history).slices()) as parts:
        newest = itertools.count()
        async for part in parts:
            await journal.append(part.observations, results=Results(gaps=part.gaps), filled=part.filled)
            gaps += part.gaps
            then(next(newest))
    return gaps


def expected(peer: Peer, channel: str) -> list[Measured]:
    return [row for row in peer.book()[channel] if START_NS < row.source_time < START_NS + HOUR_NS]


async def stored(journal: Journal, channel: str) -> list[Measured]:
    """Return all rows of *channel*, oldest first."""
    held = await stored_observations(journal)
    rows = [
        Measured(int(held.source_time[i]), int(held.status[i]), tuple(w.tolist() or [float(held.value[i])]))
        for i, w in enumerate(held.waveforms())
        if held.streams[held.stream[i]].channel == channel
    ]
    return sorted(rows, key=lambda row: row.source_time)


async def test_an_hour_of_history_over_a_cut(
    peer: Peer, connect: Callable[[str], object], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, statuses and waveforms to the bit; a gap for the channel without history alone."""
    monkeypatch.setattr(module, "_ROWS_WANTED", 500)
    streams = tuple(Stream("pump-01", channel) for channel in CHANNELS)
    holes = [Hole(stream=s, start_ns=START_NS + 1, end_ns=START_NS + HOUR_NS, cause="link down") for s in streams]
    await journal.append(Observations.empty(), opened=holes)

    async with Cable(peer) as cable:

        def cut(slices: int) -> None:
            if slices == 2:
                cable.cut()

        async with asyncio.timeout(60), connect(cable.endpoint) as client:  # type: ignore[attr-defined]  # a session
            with pytest.raises(SourceUnavailable):
                await fill(client, journal, cut)
    assert 0 < len(await stored(journal, "speed_rpm")) < 3600
    assert {hole.stream.channel for hole in journal.holes()} == set(WITH_HISTORY)

    async with asyncio.timeout(60), connect(peer.endpoint) as client:  # type: ignore[attr-defined]  # a session
        assert await fill(client, journal) == []
    for channel in WITH_HISTORY:
        assert await stored(journal, channel) == expected(peer, channel)
    assert len(await stored(journal, "speed_rpm")) == 3599
    assert await stored(journal, "load_pct") == []
    assert (journal.holes(), journal.counters.repeats_dropped) == ((), 0)
