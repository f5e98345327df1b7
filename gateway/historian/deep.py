"""Plain values out of InfluxDB and waveforms out of the journal's segments, as one historian."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.historian.historian import Historian, by_stream_and_time
from gateway.historian.influx import InfluxHistorian
from models.records import Observations, Page, Stream


class DeepHistory:
    """Plain values out of one historian and waveforms out of another: InfluxDB, and the journal's segments."""

    def __init__(self, plain: InfluxHistorian, waveforms: Historian) -> None:
        """Read from both; neither is closed here."""
        self.retention_s = plain.retention_s
        self._plain = plain
        self._waveforms = waveforms

    async def write(self, *pages: Page) -> None:
        """Store *pages* where the plain values are; the journal has them already."""
        await self._plain.write(*pages)

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the observations of *streams* with ``start_ns <= source_time < end_ns``, by stream, then time.

        Waveforms whose segments were purged are not among them.

        Raises:
            HistorianError: If the server cannot be asked.
            JournalError: If a segment is gone or changed.
        """
        parts = [await self._plain.read(streams, start_ns, end_ns)]
        if waved := await self._plain.with_waveforms(streams, start_ns, end_ns):
            rows = await self._waveforms.read(waved, start_ns, end_ns)
            parts.append(rows.take(rows.sample_count > 0))
        return by_stream_and_time(parts, streams)

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:
        """Return about how many rows `read` would give, eight samples of a waveform taken for one more."""
        return await self._plain.estimate(streams, start_ns, end_ns)

    async def close(self) -> None:
        """Do nothing: both are closed by their owners."""
