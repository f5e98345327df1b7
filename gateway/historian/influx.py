"""InfluxDB 2 as the historian; what it writes, InfluxDB 3 takes too, on the same endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.config import HistorianConfig
from gateway.historian.condition import HistorianCondition
from gateway.historian.historian import by_stream_and_time
from gateway.historian.lines import Points, points
from gateway.historian.reading import InfluxReader
from gateway.historian.writing import InfluxWriter
from models.records import Observations, Page, Stream


class InfluxHistorian:
    """Stores pages in an InfluxDB bucket and reads plain observations back.

    A write ends when the server has everything it will ever take: see `InfluxWriter`. Of a waveform only its RMS is
    stored, for dashboards: `read` gives plain values alone. `DeepHistory` adds the waveforms out of the journal.

    Attributes:
        condition: How the writing goes.
        retention_s: How long the bucket is to keep values; 0 for ever.
    """

    def __init__(
        self,
        config: HistorianConfig,
        condition: HistorianCondition | None = None,
        *,
        retry_min_s: float = 0.5,
        retry_max_s: float = 30.0,
        timeout_s: float = 15.0,
    ) -> None:
        """Prepare the clients; must be called while an event loop runs. Neither server nor token need be there yet."""
        self.condition = HistorianCondition() if condition is None else condition
        self.retention_s = config.retention_days * 86400.0
        self._writer = InfluxWriter(config, self.condition, retry_s=(retry_min_s, retry_max_s), timeout_s=timeout_s)
        self._reader = InfluxReader(config)

    async def close(self) -> None:
        """Close the connections."""
        await self._writer.close()
        await self._reader.close()

    async def write(self, *pages: Page) -> None:
        """Store the points of *pages*; return when the server has them, however long that takes."""
        await self._writer.write(await asyncio.to_thread(_points, pages))

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the observations of *streams* with ``start_ns <= source_time < end_ns``, by stream, then time.

        Raises:
            HistorianError: If the server cannot be asked.
        """
        return by_stream_and_time(await self._reader.read(streams, start_ns, end_ns), streams)

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:
        """Return about how many rows `read` would give, eight samples of a waveform taken for one more.

        Raises:
            HistorianError: If the server cannot be asked.
        """
        return await self._reader.estimate(streams, start_ns, end_ns)


def _points(pages: Sequence[Page]) -> list[Points]:
    return [some for page in pages for some in points(page)]
