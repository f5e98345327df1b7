"""Which pages go ahead of their segments, and that each does so once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.journal import Journal, compact_once
from gateway.uplink import express
from gateway.uplink.express import Express
from models.records import Gap, GatewayEvent, Heartbeat, Results
from tests.gateway.uplink.rig import an_advisory, fill, until

NOW = datetime(2026, 3, 4, tzinfo=UTC)
EVENT = Results(events=(GatewayEvent(kind="started", gateway_time=NOW, message="it runs"),))
GAP = Results(gaps=(Gap(asset_id="pump-01", channel="speed", from_time=NOW, to_time=NOW, cause="reconnect"),))
ADVISORY = Results(advisories=(an_advisory(),))
HEARTBEAT = Results(
    heartbeats=(Heartbeat(asset_id="pump-01", channel="s", gateway_time=NOW, source_time=NOW, value=1.0, status=0),)
)


@contextlib.asynccontextmanager
async def watched(journal: Journal) -> AsyncIterator[Express]:
    """Watch *journal* while entered."""
    waiting = await Express.open(journal)
    task = asyncio.create_task(waiting.watch())
    try:
        yield waiting
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def drained(waiting: Express, count: int) -> list[int]:
    """Take *count* pages and say of each that it was sent."""
    await until(lambda: len(waiting) >= count)
    seqs = []
    for _ in range(count):
        seqs.append(await waiting.next())
        await waiting.done(seqs[-1:])
    return seqs


async def test_advisories_go_first_then_what_came_first(journal: Journal) -> None:
    """Raw data and heartbeats wait for their segment."""
    async with watched(journal) as waiting:
        for results in (EVENT, HEARTBEAT, GAP, ADVISORY, EVENT):
            await journal.append_results(results)
        await fill(journal, 1)
        assert await drained(waiting, 4) == [4, 1, 3, 5]
        assert (await waiting.page(4)).content == ADVISORY
        assert not len(waiting)


async def test_a_restart_neither_forgets_a_page_nor_sends_it_again(tmp_path: Path) -> None:
    """What was not sent goes after the restart, even out of a segment; what was sent does not."""
    journal = await Journal.open(tmp_path, "gw-1")
    async with watched(journal) as waiting:
        await journal.append_results(ADVISORY)
        await journal.append_results(EVENT)
        assert await drained(waiting, 1) == [1]
        await until(lambda: len(waiting) == 1)
    await compact_once(journal, max_pages=100)
    await journal.write(lambda database: database.trim())
    await journal.close()

    journal = await Journal.open(tmp_path, "gw-1")
    async with watched(journal) as waiting:
        await journal.append_results(GAP)
        assert await drained(waiting, 2) == [2, 3]
        assert (await waiting.page(2)).content == EVENT
    await journal.close()


async def test_pages_wait_in_the_table_until_they_were_looked_at(journal: Journal) -> None:
    """Without the reader's place a page could go from the table before anybody saw that it is urgent."""
    waiting = await Express.open(journal)
    await journal.append_results(ADVISORY)
    await compact_once(journal, max_pages=100)
    await journal.write(lambda database: database.trim())
    task = asyncio.create_task(waiting.watch())
    assert await drained(waiting, 1) == [1]
    await journal.close()
    await task


async def test_a_flood_of_events_does_not_crowd_out_advisories(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory is bounded; what falls out goes with its segment."""
    monkeypatch.setattr(express, "_MOST_WAITING", 5)
    await Express.open(journal)
    for _ in range(20):
        await journal.append_results(EVENT)
    await journal.append_results(ADVISORY)
    async with watched(journal) as waiting:
        assert (await drained(waiting, 5))[0] == 21


async def test_what_is_in_segments_when_the_uplink_is_new_goes_with_them(journal: Journal) -> None:
    """A gateway that ran for a year without a cloud does not read its year for what was urgent then."""
    await journal.append_results(ADVISORY)
    await compact_once(journal, max_pages=100)
    await journal.append_results(ADVISORY)
    async with watched(journal) as waiting:
        assert await drained(waiting, 1) == [2]
        assert not len(waiting)
