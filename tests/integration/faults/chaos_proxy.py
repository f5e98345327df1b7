"""A TCP proxy that does to a link what plants do to links: it is cut, frozen, slowed, reset and made to lose."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

_CHUNK = 65536
_ABORTING = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: closing sends RST


class Way(StrEnum):
    """One direction of the link."""

    TO_SERVER = "to server"
    TO_GATEWAY = "to gateway"


BOTH = (Way.TO_SERVER, Way.TO_GATEWAY)


class Ending(StrEnum):
    """How connections that are open end when the link is cut."""

    RESET = "reset"  # RST, as of a process that was killed
    CLOSE = "close"  # FIN, as of a process that ends
    SILENCE = "silence"  # nothing at all, for ever, as of a firewall that forgot them


class Door(StrEnum):
    """What new connections meet."""

    OPEN = "open"
    RESET = "reset"
    SILENCE = "silence"  # accepted, and nobody answers


@dataclass
class _Lane:
    """One direction, over all connections."""

    passed: int = 0
    lost: int = 0
    loses: bool = False
    bytes_per_s: float = 0.0  # 0: as fast as it goes
    latency_s: float = 0.0
    reset_at: int | None = None  # of `passed`
    thawed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def most(self) -> int:
        """How much is read at once: a twentieth of a second's worth when slowed."""
        return max(min(_CHUNK, int(self.bytes_per_s / 20)), 1) if self.bytes_per_s else _CHUNK


@dataclass(eq=False)
class _Connection:
    writers: tuple[asyncio.StreamWriter, ...]
    forgotten: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, how: Ending) -> None:
        if how is Ending.SILENCE:
            self.forgotten.set()
            return
        for writer in self.writers:
            if how is Ending.RESET:
                _reset(writer)
            else:
                writer.close()


class ChaosProxy:
    """Forwards connections on a port of its own to *port*, both on 127.0.0.1; enter it to start.

    What a method does holds until `heal`, except endings: a connection once ended stays so. Nothing is reordered.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.accepted = 0
        self._target = port
        self._door = Door.OPEN
        self._lanes = {way: _Lane() for way in Way}
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self.heal()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def open_connections(self) -> int:
        """How many connections are open, forgotten ones included."""
        return len(self._connections)

    def passed(self, way: Way) -> int:
        """Return how many bytes went through in that direction, over all connections."""
        return self._lanes[way].passed

    def lost(self, way: Way) -> int:
        """Return how many bytes were swallowed in that direction."""
        return self._lanes[way].lost

    def cut(self, ending: Ending = Ending.RESET, door: Door = Door.RESET) -> None:
        """End all connections; until `heal`, new ones meet *door*."""
        self._door = door
        for connection in tuple(self._connections):
            connection.end(ending)

    def freeze(self, *ways: Way) -> None:
        """Let nothing through in *ways* (none given: in both); it comes later."""
        for way in ways or BOTH:
            self._lanes[way].thawed.clear()

    def lose(self, *ways: Way) -> None:
        """Swallow what comes in *ways* (none given: in both). After `heal` a connection goes on behind the hole."""
        for way in ways or BOTH:
            self._lanes[way].loses = True

    def slow(self, *, bytes_per_s: float = 0.0, latency_s: float = 0.0, ways: Collection[Way] = BOTH) -> None:
        """Let so much through in a second (0: as it comes), each piece so late."""
        for way in ways:
            self._lanes[way].bytes_per_s, self._lanes[way].latency_s = bytes_per_s, latency_s

    def reset_after(self, count: int, way: Way) -> None:
        """Reset the connection that carries the byte number *count* from now on in that direction, after that byte.

        Once; arm it again for the next.
        """
        self._lanes[way].reset_at = self._lanes[way].passed + count

    def heal(self) -> None:
        """Have everything pass again. Connections that ended, or were forgotten, are not coming back."""
        self._door = Door.OPEN
        for lane in self._lanes.values():
            lane.loses, lane.bytes_per_s, lane.latency_s, lane.reset_at = False, 0.0, 0.0, None
            lane.thawed.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        with suppress(asyncio.CancelledError):  # asyncio takes a connection's task that is cancelled for an error
            await self._carry_both(reader, writer)
        writer.close()
        self._tasks.discard(task)

    async def _carry_both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._door is Door.RESET:
            _reset(writer)
            return
        if self._door is Door.SILENCE:
            await reader.read(-1)  # until the caller gives up
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        connection = _Connection((writer, far_writer))
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(connection, reader, far_writer, self._lanes[Way.TO_SERVER]))
                group.create_task(self._carry(connection, far_reader, writer, self._lanes[Way.TO_GATEWAY]))
        finally:
            self._connections.discard(connection)
            far_writer.close()

    async def _carry(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: _Lane
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(lane.most):
                if lane.latency_s or lane.bytes_per_s:
                    await asyncio.sleep(lane.latency_s + (len(chunk) / lane.bytes_per_s if lane.bytes_per_s else 0.0))
                await lane.thawed.wait()
                if lane.loses or connection.forgotten.is_set():
                    lane.lost += len(chunk)
                    continue
                room = None if lane.reset_at is None else lane.reset_at - lane.passed
                writer.write(chunk[:room])
                lane.passed += len(chunk[:room])
                if room is not None and room <= len(chunk):
                    lane.reset_at = None
                    await writer.drain()
                    connection.end(Ending.RESET)
                    return
                await writer.drain()
        if not connection.forgotten.is_set():
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close at once, so that the other side is told by RST and not by FIN."""
    with suppress(OSError):
        found = writer.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTING)
    writer.transport.abort()
