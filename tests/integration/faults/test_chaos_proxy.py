"""The chaos proxy itself: each fault is what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.integration.faults.chaos_proxy import ChaosProxy, Door, Ending, Way


@pytest.fixture
async def proxy() -> AsyncIterator[ChaosProxy]:
    """A proxy before a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(4096):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, ChaosProxy(int(server.sockets[0].getsockname()[1])) as proxy:
        yield proxy


class Caller:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def says(self, text: bytes) -> bytes:
        self.writer.write(text)
        return await self.reader.readexactly(len(text))

    async def hears_nothing(self) -> bool:
        try:
            await asyncio.wait_for(self.reader.read(1), 0.1)
        except TimeoutError:
            return True
        return False


Call = Callable[[], Awaitable[Caller]]


@pytest.fixture
async def call(proxy: ChaosProxy) -> AsyncIterator[Call]:
    """Make connections through the proxy."""
    callers = []

    async def connect() -> Caller:
        callers.append(Caller(*await asyncio.open_connection("127.0.0.1", proxy.port)))
        return callers[-1]

    yield connect
    for caller in callers:
        caller.writer.transport.abort()
    await asyncio.sleep(0)


async def test_what_passes_is_counted(proxy: ChaosProxy, call: Call) -> None:
    caller = await call()
    assert await caller.says(b"hello") == b"hello"
    assert (proxy.passed(Way.TO_SERVER), proxy.passed(Way.TO_GATEWAY), proxy.lost(Way.TO_SERVER)) == (5, 5, 0)


async def test_a_cut_is_a_reset_or_an_end_and_new_connections_are_reset(proxy: ChaosProxy, call: Call) -> None:
    caller = await call()
    await caller.says(b"hello")
    proxy.cut(Ending.RESET)
    with pytest.raises(ConnectionResetError):
        await caller.reader.readexactly(1)
    other = await call()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await other.says(b"hello")
    proxy.heal()
    third = await call()
    await third.says(b"hello")
    proxy.cut(Ending.CLOSE)
    assert await third.reader.read() == b""


async def test_a_forgotten_connection_hears_nothing_while_others_pass(proxy: ChaosProxy, call: Call) -> None:
    caller = await call()
    await caller.says(b"hello")
    proxy.cut(Ending.SILENCE, Door.OPEN)
    caller.writer.write(b"hello")
    assert await caller.hears_nothing()
    assert await (await call()).says(b"hello") == b"hello"
    assert proxy.open_connections == 2


async def test_a_silent_door_takes_connections_and_says_nothing(proxy: ChaosProxy, call: Call) -> None:
    proxy.cut(door=Door.SILENCE)
    caller = await call()
    caller.writer.write(b"hello")
    assert await caller.hears_nothing()


async def test_what_is_frozen_comes_later_and_what_is_lost_never(proxy: ChaosProxy, call: Call) -> None:
    caller = await call()
    proxy.freeze(Way.TO_GATEWAY)
    caller.writer.write(b"one")
    assert await caller.hears_nothing()
    proxy.heal()
    assert await caller.reader.readexactly(3) == b"one"
    proxy.lose(Way.TO_SERVER)
    caller.writer.write(b"two")
    assert await caller.hears_nothing()
    proxy.heal()
    assert await caller.says(b"three") == b"three"
    assert proxy.lost(Way.TO_SERVER) == 3


async def test_a_slow_link_takes_its_time(proxy: ChaosProxy, call: Call) -> None:
    caller = await call()
    clock = asyncio.get_running_loop().time
    proxy.slow(bytes_per_s=10_000, ways=[Way.TO_SERVER])
    start = clock()
    await caller.says(b"x" * 2000)
    assert clock() - start >= 0.19
    proxy.slow(latency_s=0.1)
    start = clock()
    await caller.says(b"x")
    assert clock() - start >= 0.19


async def test_a_connection_is_reset_after_the_byte_that_was_asked_for(proxy: ChaosProxy, call: Call) -> None:
    caller = await call()
    await caller.says(b"hello")
    proxy.reset_after(7, Way.TO_SERVER)
    assert await caller.says(b"four") == b"four"
    caller.writer.write(b"four")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await caller.reader.readexactly(4)
    assert proxy.passed(Way.TO_SERVER) == 12
    assert await (await call()).says(b"hello") == b"hello"
