"""How much is let in at the same time, and how slow it may be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np
import pytest

from cloud_service.errors import BodyRefused, Busy
from cloud_service.ingest.admission import (
    HEAD_BYTES,
    UPLOADS_PER_GATEWAY,
    Incoming,
    MemoryBudget,
    decoding_memory,
)
from cloud_service.ingest.upload import Claim, Pace, receive
from models.records import GatewayEvent, Observations, Page, Results, Stream, from_ns
from models.segment import encode_segment
from tests.cloud_service.conftest import make_page

MIB = 2**20
PACE = Pace(idle_s=30.0, bytes_per_s=1024.0)


def claim(size: int) -> Claim:
    return Claim(gateway_id="gw-1", epoch="ab12cd34", first_seq=1, last_seq=2, digest="0" * 64, size=size)


async def body(chunks: Sequence[bytes], wait_s: float = 0.0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(wait_s)
        yield chunk


def test_bytes_on_their_way_have_a_limit(tmp_path: Path) -> None:
    """What does not fit is told to come again; what is done makes room."""
    incoming = Incoming(tmp_path, 100)
    with incoming.admit("gw-1", 60), incoming.admit("gw-2", 40), pytest.raises(Busy) as refused:
        incoming.admit("gw-3", 1).__enter__()
    assert (refused.value.status, refused.value.field) == (503, "Content-Length")
    assert refused.value.wait_s > 0
    with incoming.admit("gw-3", 100):
        pass


def test_one_gateway_cannot_take_the_room_of_all(tmp_path: Path) -> None:
    """Its own uploads are limited in number; the others come in."""
    incoming = Incoming(tmp_path, 10**9)
    with contextlib.ExitStack() as open_uploads:
        for _ in range(UPLOADS_PER_GATEWAY):
            open_uploads.enter_context(incoming.admit("gw-1", 1))
        with pytest.raises(Busy) as refused:
            open_uploads.enter_context(incoming.admit("gw-1", 1))
        assert refused.value.status == 429
        open_uploads.enter_context(incoming.admit("gw-2", 1))


def test_a_large_body_lies_in_a_file_without_a_name(tmp_path: Path) -> None:
    """So that slow senders cost no memory, and a crash leaves nothing behind."""
    with Incoming(tmp_path, 10 * MIB).admit("gw-1", 5 * MIB) as file:
        file.write(bytes(5 * MIB))
        assert file._rolled  # type: ignore[attr-defined]  # there is no public way to tell
        assert list(tmp_path.iterdir()) == []


async def test_a_link_may_be_slow_as_long_as_it_gets_on() -> None:
    """No deadline for the whole: here many times what it may stand still."""
    with SpooledTemporaryFile(MIB, "w+b") as file:
        await receive(body([b"x"] * 40, 0.01), claim(40), Pace(idle_s=0.1, bytes_per_s=10.0), file)
        file.seek(0)
        assert file.read() == b"x" * 40


async def test_a_body_that_stands_still_is_given_up() -> None:
    with SpooledTemporaryFile(MIB, "w+b") as file, pytest.raises(BodyRefused) as refused:
        await receive(body([b"x", b"y"], 0.5), claim(2), Pace(idle_s=0.02, bytes_per_s=10.0), file)
    assert (refused.value.status, refused.value.field) == (408, "body")


async def test_a_body_that_trickles_is_given_up() -> None:
    """A byte now and then keeps nobody's place for ever."""
    with SpooledTemporaryFile(MIB, "w+b") as file, pytest.raises(BodyRefused) as refused:
        await receive(body([b"x"] * 1000, 0.01), claim(1000), Pace(idle_s=0.2, bytes_per_s=1e6), file)
    assert refused.value.status == 408


def test_patience_grows_with_what_came() -> None:
    """Thirty seconds to begin with, then as long as the slowest rate takes, never more than thirty for one byte."""
    assert PACE.patience_s(0, 0.0) == 30.0
    assert PACE.patience_s(0, 20.0) == 10.0
    assert PACE.patience_s(1024 * 1000, 1000.0) == 30.0
    assert PACE.patience_s(1024 * 1000, 1029.0) == 1.0
    assert PACE.patience_s(1024, 40.0) < 0


async def test_memory_is_given_first_come_first_served() -> None:
    """A large one is not passed by small ones for ever, and one larger than all runs alone."""
    budget = MemoryBudget(100)
    order: list[str] = []

    async def work(name: str, size: int) -> None:
        async with budget.hold(size):
            order.append(f"{name} in")
            await asyncio.sleep(0)
            order.append(f"{name} out")

    await asyncio.gather(work("a", 60), work("large", 500), work("b", 10), work("c", 10))
    assert order == ["a in", "a out", "large in", "large out", "b in", "c in", "b out", "c out"]


async def test_who_stops_waiting_takes_no_memory() -> None:
    budget = MemoryBudget(100)
    async with budget.hold(100):
        waiting = asyncio.create_task(budget.hold(50).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with asyncio.timeout(5), budget.hold(100):
        pass


def test_what_a_segment_takes_is_known_before_it_is_unpacked() -> None:
    """A small body that unpacks to much holds much; rubbish holds little."""
    rows = 300_000
    content = Observations.of_values(
        (Stream("pump-01", "speed_rpm"),),
        np.zeros(rows, np.uint32),
        np.arange(rows, dtype=np.int64),
        np.zeros(rows),
        np.zeros(rows, np.uint32),
    )
    data = encode_segment([Page(gateway_id="gw-1", epoch="ab12cd34", seq=1, committed_time=0, content=content)])
    assert len(data) < 100_000
    assert decoding_memory(data[:HEAD_BYTES], len(data)) > 36 * MIB + rows * 40
    of_results = encode_segment(
        [make_page("gw-1", 1, Results(events=(GatewayEvent(kind="", gateway_time=from_ns(0), message="a" * MIB),)))]
    )
    assert decoding_memory(of_results[:HEAD_BYTES], len(of_results)) > 70 * MIB
    for rubbish in (b"", b"WSEG\x02\x00" + bytes(50), bytes(HEAD_BYTES)):
        assert decoding_memory(rubbish, MIB) < 20 * MIB
    assert decoding_memory(b"WSEG\x01\x00", MIB) > 400 * MIB
