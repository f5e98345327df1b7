"""The bandwidth cap, and who goes first under it."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.uplink import Pacer, Priority


async def sent(pacer: Pacer, size: int) -> float:
    """Send *size* bytes and return the seconds that took."""
    begin = time.monotonic()
    async for _ in pacer.chunks(bytes(size), Priority.LIVE):
        pass
    return time.monotonic() - begin


async def test_no_more_than_the_cap_is_sent() -> None:
    """Beyond the second that was saved up, bytes take as long as the cap says, and a body arrives whole."""
    pacer = Pacer(200_000.0)
    assert await sent(pacer, 260_000) >= (260_000 - 200_000 - pacer.chunk_bytes) / 200_000.0
    assert pacer.taken == 260_000


async def test_without_a_cap_nothing_waits() -> None:
    """The control: the same bytes, and nobody ever sleeps."""
    pacer = Pacer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncio.timeout", None)
        await sent(pacer, 260_000)
    assert not pacer.capped


async def test_the_more_urgent_overtakes_a_body_that_is_half_sent() -> None:
    """An advisory, a live segment and backlog wait under one cap; they end in this order, who began last first."""
    pacer = Pacer(100_000.0)
    await sent(pacer, 100_000)  # what was saved up
    done: list[Priority] = []

    async def send(priority: Priority) -> None:
        async for _ in pacer.chunks(bytes(30_000), priority):
            pass
        done.append(priority)

    async with asyncio.TaskGroup() as group:
        for priority in (Priority.SUPPLY, Priority.BACKLOG, Priority.LIVE, Priority.EXPRESS):
            group.create_task(send(priority))
    assert done == [Priority.EXPRESS, Priority.LIVE, Priority.BACKLOG, Priority.SUPPLY]


async def test_who_gives_up_leaves_the_others_their_turn() -> None:
    """A sender that is cancelled while it waits holds nobody up."""
    pacer = Pacer(1_000_000.0)
    await sent(pacer, 1_000_000)
    first = asyncio.create_task(pacer.take(50_000, Priority.EXPRESS))
    second = asyncio.create_task(pacer.take(50_000, Priority.BACKLOG))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled() or first.done()
