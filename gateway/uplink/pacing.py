"""How fast bytes leave: one token bucket for all that is sent, and the more urgent goes first.

A body is sent in chunks; each waits for its turn. So an advisory overtakes the raw data of a body that is half sent.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from enum import IntEnum

_MOST_CHUNK, _LEAST_CHUNK = 64 * 1024, 1024
_CHUNKS_PER_S = 8


class Priority(IntEnum):
    """What goes first when not everything can."""

    EXPRESS = 0
    LIVE = 1
    BACKLOG = 2
    SUPPLY = 3


class Pacer:
    """A bandwidth cap that everything sent to the cloud shares.

    Args:
        bytes_per_s: The cap; 0 is none. What was not used of the last second may be sent at once.
        clock: Seconds that run evenly.

    Attributes:
        chunk_bytes: How many bytes should be asked for at a time, so that nobody waits long for somebody's chunk.
        taken: Bytes sent so far.
    """

    def __init__(self, bytes_per_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_s
        self._clock = clock
        self._free_at = clock() - 1.0
        self._order = itertools.count()
        self._waiting: list[tuple[Priority, int]] = []
        self._changed = asyncio.Event()
        self.chunk_bytes = _MOST_CHUNK
        if bytes_per_s:
            self.chunk_bytes = int(min(max(bytes_per_s / _CHUNKS_PER_S, _LEAST_CHUNK), _MOST_CHUNK))
        self.taken = 0

    @property
    def capped(self) -> bool:
        """Whether there is a cap at all."""
        return bool(self._rate)

    async def take(self, size: int, priority: Priority) -> None:
        """Wait until *size* bytes may go; of those who wait, the most urgent is next, then who came first."""
        if self._rate:
            await self._turn((priority, next(self._order)))
            self._free_at = max(self._free_at, self._clock() - 1.0) + size / self._rate
        self.taken += size

    async def chunks(self, data: bytes, priority: Priority) -> AsyncIterator[memoryview]:
        """Yield *data* piece by piece, each when it may go."""
        view = memoryview(data)
        for start in range(0, len(data), self.chunk_bytes):
            chunk = view[start : start + self.chunk_bytes]
            await self.take(len(chunk), priority)
            yield chunk

    async def _turn(self, ticket: tuple[Priority, int]) -> None:
        heapq.heappush(self._waiting, ticket)
        try:
            while True:
                changed = self._changed
                wait_s = self._free_at - self._clock()
                first = self._waiting[0] == ticket
                if first and wait_s <= 0.0:
                    return
                try:
                    async with asyncio.timeout(wait_s if first else None):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._waiting.remove(ticket)
            heapq.heapify(self._waiting)
            self._changed.set()
            self._changed = asyncio.Event()
