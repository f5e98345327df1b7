"""The live clock of a cell: how fast source time runs beside the wall clock."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from demo.plant.server import CellServer

TICK_S: Final = 0.02
LONGEST_STEP_S: Final = 0.1  # what a busy machine may fall behind in one tick; the rest is taken later, not skipped


class Clock:
    """Moves a cell's source time on, ``speed`` times as fast as the wall clock, while it is told to go."""

    def __init__(self, cell: CellServer, speed: float) -> None:
        self.speed = speed
        self._cell = cell
        self._going = asyncio.Event()
        self._step = asyncio.Lock()
        self._source_ns = float(cell.timeline.now)

    @property
    def going(self) -> bool:
        """Whether source time moves."""
        return self._going.is_set()

    def go(self) -> None:
        """Let source time run."""
        self._going.set()

    async def pause(self) -> None:
        """Let source time stand, once the step that is being taken is done."""
        self._going.clear()
        async with self._step:
            pass

    async def run(self) -> None:
        """Write what falls due until the source ends."""
        last = time.monotonic()
        while not self._cell.timeline.ended:
            if not self.going:
                await self._going.wait()
                last = time.monotonic()
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self._source_ns += min(now - last, LONGEST_STEP_S) * self.speed * 1e9
            last = now
            async with self._step:
                if self.going:
                    await self._cell.advance(int(self._source_ns))
