"""The benchmark's frame server is a server like another to the gateway's acquisition."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.frame_server import CHANNELS
from benchmarks.peer_server import FrameServer
from benchmarks.reading import gateway_config
from gateway.data_acquisition import open_sources
from gateway.journal import Journal
from gateway.pipeline import acquire
from models.records import Observations, Stream


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("encrypted", [False, True], ids=["open", "encrypted"])
async def test_what_the_frame_server_sends_is_stored(tmp_path: Path, *, encrypted: bool) -> None:
    """Every value it says it sent is in the journal, of every node, with no gap."""
    async with FrameServer.serving(tmp_path / "server", CHANNELS, 2000.0) as server:
        config = gateway_config(
            argparse.Namespace(
                endpoint=server.endpoint,
                certificate=server.certificate,
                folder=tmp_path / "gateway",
                nodes=CHANNELS,
                publishing_interval_ms=50.0,
                encrypted=encrypted,
            )
        )
        journal = await Journal.open(config.state_dir, config.gateway_id)
        source = open_sources(config, journal)["server"]
        flow = asyncio.create_task(acquire(source, journal))
        try:
            await _until(lambda: journal.counters.appended >= CHANNELS or flow.done())
            await server.go()
            await _until(lambda: journal.counters.appended >= CHANNELS + 400 or flow.done())
            await server.stop()
            sent = await server.changes()
            await _until(lambda: journal.counters.appended >= CHANNELS + sent or flow.done())
            streams = [Stream("machine-00", f"c{number:02d}") for number in range(CHANNELS)]
            pages = await journal.read(lambda tables: tables.decoded_pages(0, limit=10_000, max_bytes=2**28))
            newest = {journal.newest_source_time(stream) for stream in streams}
        finally:
            flow.cancel()
            with suppress(asyncio.CancelledError):
                await flow
            await journal.close()

    assert journal.counters.appended == CHANNELS + sent
    assert sum(len(page.content) for page in pages if isinstance(page.content, Observations)) == CHANNELS + sent
    assert source.counters.gaps == 0
    assert len(newest) == 1
