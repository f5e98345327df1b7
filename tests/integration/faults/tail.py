"""What a running gateway's journal holds, seen from outside while it grows."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.page import decode_content
from models.records import Observations, Stream
from tests.integration.faults.judge import Stored


@dataclass
class JournalTail:
    """The journal of a running gateway, read from outside as it grows.

    Attributes:
        keeps_rows: Whether `stored` is filled; not for loads.
        stored: All of it.
        arrivals: By stream: when a page was committed, and the newest source time in it, both ns.
    """

    path: Path
    keeps_rows: bool = True
    stored: Stored = field(default_factory=Stored)
    arrivals: dict[Stream, list[tuple[int, int]]] = field(default_factory=dict)
    _seq: int = 0

    def look(self) -> None:
        """Take note of the pages that came since."""
        try:
            connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=0.5)
            try:
                pages = connection.execute(
                    "SELECT seq, committed_time, payload FROM page WHERE seq > ? ORDER BY seq LIMIT 2000", (self._seq,)
                ).fetchall()
            finally:
                connection.close()
        except sqlite3.OperationalError:  # not there yet, or busy
            return
        for seq, committed_time, payload in pages:
            self._seq = seq
            content = decode_content(payload)
            if self.keeps_rows:
                self.stored.add(content)
            if isinstance(content, Observations):
                self._note(content, committed_time)

    def _note(self, content: Observations, committed_time: int) -> None:
        newest = np.full(len(content.streams), -1, np.int64)
        np.maximum.at(newest, content.stream, content.source_time)
        for index in np.flatnonzero(newest >= 0).tolist():
            self.arrivals.setdefault(content.streams[index], []).append((committed_time, int(newest[index])))

    @property
    def seq(self) -> int:
        """The last page that was seen."""
        return self._seq

    def live_at(self, stream: Stream, source_time: int) -> int | None:
        """Return when the first page was committed with a value of *stream* from *source_time* or later, ns."""
        for committed_time, newest in self.arrivals.get(stream, ()):
            if newest >= source_time:
                return committed_time
        return None

    async def until_live(self, streams: Collection[Stream], source_time: int, *, within_s: float) -> float:
        """Wait until each of *streams* has a value from *source_time*, ns, or later; return when the last came, ns.

        Raises:
            TimeoutError: If they do not within so many seconds.
        """
        late: list[Stream] = list(streams)
        try:
            async with asyncio.timeout(within_s):
                while late := [stream for stream in late if self.live_at(stream, source_time) is None]:
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(self.look)
        except TimeoutError:
            raise TimeoutError(f"not live again within {within_s:g} s: {late}") from None
        return max(self.live_at(stream, source_time) or 0 for stream in streams)
