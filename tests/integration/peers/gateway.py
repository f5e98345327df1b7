"""The gateway's side of a test against a peer: the real source and journal, and what the journal then holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.config import AcquisitionConfig, AssetClassConfig, AssetConfig, GatewayConfig, ServerConfig
from gateway.data_acquisition import OpcuaSource, open_sources
from gateway.journal import Journal
from gateway.pipeline import acquire
from models.records import AssetDescription, Gap, Observations, Page, Results, Stream
from tests.integration.peers.server import Measured, Peer

ASSET = AssetConfig(asset_id="pump-01", asset_class="pump", server="peer", path="Machines/pump-01/Monitoring")
_PATIENCE_S = 60


def source_for(
    peer: Peer,
    journal: Journal,
    pki: Path,
    *,
    endpoint: str = "",
    password: str = "secret",  # noqa: S107 - of a throw-away server
    channels: Sequence[str] = (),
    acquisition: AcquisitionConfig | None = None,
) -> OpcuaSource:
    """Return the source of *peer*'s pump, as a gateway whose certificates are in *pki* would have it."""
    password_file = pki / "password"
    password_file.write_text(password + "\n")
    server = ServerConfig(name="peer", endpoint=endpoint or peer.endpoint, user="gateway", password_file=password_file)
    config = GatewayConfig(
        gateway_id="gw-1",
        state_dir=pki.parent,
        acquisition=acquisition or AcquisitionConfig(publishing_interval_ms=100.0),
        server=(server,),
        asset=(ASSET,),
        asset_class={"pump": AssetClassConfig(channels=tuple(channels))},
    )
    return open_sources(config, journal)["peer"]


@asynccontextmanager
async def acquiring(source: OpcuaSource, journal: Journal) -> AsyncIterator[None]:
    """Carry *source* into *journal* meanwhile; that it ended by itself is a failure."""
    task = asyncio.create_task(acquire(source, journal))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds; give up after a minute: a busy loop may swallow pytest's own limit."""
    async with asyncio.timeout(_PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - many things change it, none of them tells
            await asyncio.sleep(0.02)


async def has_stored(journal: Journal, channels: Sequence[str], source_time: int) -> None:
    """Return when the journal holds a value of each of *channels* from *source_time* or later."""
    streams = [Stream(ASSET.asset_id, channel) for channel in channels]
    await until(lambda: all((journal.newest_source_time(stream) or 0) >= source_time for stream in streams))


async def _pages(journal: Journal) -> list[Page]:
    return await journal.read(lambda tables: tables.decoded_pages(0, limit=1_000_000, max_bytes=2**30))


async def stored(journal: Journal) -> dict[str, list[Measured]]:
    """Return every row the journal holds, by channel, in the order in which they were committed."""
    rows: dict[str, list[Measured]] = {}
    for page in await _pages(journal):
        if not isinstance(page.content, Observations):
            continue
        content = page.content
        for i, samples in enumerate(content.waveforms()):
            numbers = samples.tolist() if content.sample_count[i] else [float(content.value[i])]
            row = Measured(int(content.source_time[i]), int(content.status[i]), tuple(numbers))
            rows.setdefault(content.streams[content.stream[i]].channel, []).append(row)
    return rows


async def results(journal: Journal) -> list[Results]:
    """Return what the journal holds beside observations, oldest first."""
    return [page.content for page in await _pages(journal) if isinstance(page.content, Results)]


async def gaps(journal: Journal, channel: str) -> list[Gap]:
    """Return the gap records of *channel*."""
    return [gap for found in await results(journal) for gap in found.gaps if gap.channel == channel]


async def description(journal: Journal) -> AssetDescription:
    """Return how the pump was described, the one time it was."""
    (asset,) = [asset for found in await results(journal) for asset in found.assets]
    return asset
