"""The link that the demo cuts."""

from __future__ import annotations

import asyncio

import pytest

from demo.link import Link


async def test_a_cut_drops_what_is_open_and_a_join_lets_through_again() -> None:
    """An echo comes back through the link, not through a cut one, and again once it is joined."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()
        await writer.wait_closed()

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"there?\n")
        answer = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        await writer.wait_closed()
        return answer

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link(server.sockets[0].getsockname()[1])
    await link.start()
    try:
        assert await ask() == b"there?\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"open\n")
        assert await reader.readline() == b"open\n"
        link.cut()
        with pytest.raises(ConnectionError):
            assert (await reader.readline()) or await _refused()
        writer.close()
        link.join()
        assert await ask() == b"there?\n"
    finally:
        await link.close()
        server.close()


async def _refused() -> bytes:
    raise ConnectionResetError
