"""InfluxDB and the journal as one historian: the first reaches further back, the second has everything, exactly."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.historian.historian import Historian, by_stream_and_time
from models.records import Observations, Page, Stream


class DeepHistory:
    """What either has. The journal has the samples of waveforms, the newest pages, and what InfluxDB refused."""

    def __init__(self, deep: Historian, journal: Historian) -> None:
        """Read from both; neither is closed here."""
        self.retention_s = deep.retention_s
        self._deep = deep
        self._journal = journal

    async def write(self, *pages: Page) -> None:
        """Store *pages* where it is deep; the journal has them already."""
        await self._deep.write(*pages)

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the observations of *streams* with ``start_ns <= source_time < end_ns``, by stream, then time.

        Of waveforms whose segments were purged there is nothing left.

        Raises:
            HistorianError: If the server cannot be asked.
            JournalError: If a segment cannot be read now.
        """
        deep = await self._deep.read(streams, start_ns, end_ns)
        return by_stream_and_time([deep, await self._journal.read(streams, start_ns, end_ns)], streams)

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:
        """Return about how many rows `read` would give, and 0 only where it gives none.

        Raises:
            HistorianError: If the server cannot be asked.
        """
        found = await self._deep.estimate(streams, start_ns, end_ns)
        return found or await self._journal.estimate(streams, start_ns, end_ns)

    async def close(self) -> None:
        """Do nothing: both are closed by their owners."""
