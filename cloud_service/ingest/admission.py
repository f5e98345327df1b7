"""How much may be on its way in, and how much may be decoded, at the same time: both counted in bytes.

A body goes to a file without a name while it arrives, so that many slow senders cost disk and no memory; one that does
not fit the budget is told to come again. Decoding waits its turn for memory, first come, first served.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile

from cloud_service.errors import Busy
from models import segment_v1
from models.segment import MAX_ROWS, segment_size

# One gateway needs one or two; more at once is a fault, or someone who wants the room of all the others.
UPLOADS_PER_GATEWAY = 8
UPLOADS_AT_ONCE = 1000
_IN_MEMORY = 64 * 1024
_WAIT_S = 5
# A head is at most this long; what it says is known before the rest is read.
HEAD_BYTES = 8192
_LEAST = 16 * 2**20
_ROW_BYTES, _SAMPLE_BYTES, _RESULTS_GROWTH, _STREAM_BYTES, _PAGE_BYTES = 128, 24, 72, 1024, 64
_FIRST_VERSION, _FIRST_VERSION_ROWS = segment_v1.MAGIC, 65_536


class Incoming:
    """The bodies that are on their way in.

    Args:
        folder: Where they are kept meanwhile.
        limit: Most bytes that all of them together say they have.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._free = limit
        self._uploads: Counter[str] = Counter()

    @contextmanager
    def admit(self, gateway_id: str, size: int) -> Iterator[SpooledTemporaryFile[bytes]]:
        """Give a file for a body of *size* bytes; it is gone when the block ends, or the process does.

        Raises:
            Busy: If there is no room, or *gateway_id* has enough on its way.
        """
        if self._uploads[gateway_id] >= UPLOADS_PER_GATEWAY:
            raise Busy(
                f"gateway {gateway_id} has {UPLOADS_PER_GATEWAY} uploads on their way already; send it again later",
                429, "gateway_id", _WAIT_S,
            )  # fmt: skip
        if size > self._free or self._uploads.total() >= UPLOADS_AT_ONCE:
            raise Busy("too many bytes are on their way in; send it again later", 503, "Content-Length", _WAIT_S)
        self._free -= size
        self._uploads[gateway_id] += 1
        try:
            if size > _IN_MEMORY:
                self._folder.mkdir(parents=True, exist_ok=True)
            with SpooledTemporaryFile(_IN_MEMORY, "w+b", dir=str(self._folder)) as file:
                yield file
        finally:
            self._free += size
            self._uploads[gateway_id] -= 1
            if not self._uploads[gateway_id]:
                del self._uploads[gateway_id]


def decoding_memory(start: bytes, size: int) -> int:
    """Return the memory that it takes to decode and store a body of *size* bytes that begins with *start*, in bytes.

    Measured with the largest segments that decode: rows with all their columns twice, samples five times, records as
    Python objects. A body of the first version does not say what it holds; any other that does not will be refused.
    """
    least = _LEAST + 2 * size
    if start.startswith(_FIRST_VERSION):
        return least + _ROW_BYTES * min(_FIRST_VERSION_ROWS + 256 * size, MAX_ROWS)
    said = segment_size(start)
    if said is None:
        return least
    return (
        least
        + _ROW_BYTES * said.rows
        + _SAMPLE_BYTES * said.samples
        + _RESULTS_GROWTH * said.results_bytes
        + _STREAM_BYTES * said.streams
        + _PAGE_BYTES * said.pages
    )


class MemoryBudget:
    """Bytes of memory that are given out first come, first served; whoever wants more than all waits for all."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Wait for *size* bytes and hold them until the block ends."""
        size = min(size, self._limit)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, turn))
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free += size
            self._give()
            raise
        try:
            yield
        finally:
            self._free += size
            self._give()

    def _give(self) -> None:
        while self._queue and (self._queue[0][1].cancelled() or self._queue[0][0] <= self._free):
            size, turn = self._queue.popleft()
            if not turn.cancelled():
                self._free -= size
                turn.set_result(None)
