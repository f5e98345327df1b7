"""A plant whose every sample follows from a seed: what it made can be told again at any time, without a book.

Sample ``i`` of stream ``s`` has its own second, its own value and status; now and then a status is bad and has no
value. The last stream of a plant sends waveforms. A batch is what one publish brings: the next rows of every stream.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from models.records import Int64Array, Observations, Stream
from tests.chaos.rows import UInt64Array, mixed
from tests.strategies import NOON_NS, SECOND_NS

_BAD_NO_COMMUNICATION = 0x80310000
_JITTER_NS = 100  # times of a step of 100 ns, as OPC UA has them


@dataclass(frozen=True, kw_only=True)
class Plant:
    """The plant of *seed*.

    Attributes:
        seed: From which everything follows.
        streams: How many there are.
        rows: Rows of each stream in a batch.
        waveform_samples: Samples in each row of the last stream; 0: it has plain values as the others.
    """

    seed: int
    streams: int = 32
    rows: int = 8
    waveform_samples: int = 16

    @property
    def names(self) -> tuple[Stream, ...]:
        """Its streams."""
        return tuple(Stream(f"pump-{s // 8:03d}", f"channel_{s % 8}") for s in range(self.streams))

    @property
    def batch_rows(self) -> int:
        """Rows in one batch, of all streams."""
        return self.streams * self.rows

    def batch(self, number: int) -> Observations:
        """Return the batch *number*, counted from 0, in the order of time."""
        return self.batches([number])

    def batches(self, numbers: Collection[int]) -> Observations:
        """Return the batches *numbers*, one after the other."""
        first = np.array(sorted(numbers), np.int64) * self.rows
        sample = np.repeat((first[:, None] + np.arange(self.rows)).ravel(), self.streams)
        stream = np.tile(np.arange(self.streams, dtype=np.uint32), len(first) * self.rows)
        return self._rows(stream, sample)

    def batch_at(self, source_time: int | None) -> int:
        """Return which batch holds *source_time*, ns; -1 when it is None."""
        return -1 if source_time is None else (source_time - NOON_NS) // SECOND_NS // self.rows

    def batches_of(self, source_time: Int64Array) -> Int64Array:
        """Return which batch each *source_time* is of, shape ``(n,)``."""
        return (source_time - NOON_NS) // SECOND_NS // self.rows

    def _rows(self, stream: np.ndarray[tuple[int], np.dtype[np.uint32]], sample: Int64Array) -> Observations:
        drawn = self._drawn(stream, sample)
        bad = (drawn >> np.uint64(58)) == 0
        value = (drawn >> np.uint64(20) & np.uint64(0xFFFFF)).astype(np.float64) / 64 - 4000
        value[bad] = np.nan
        waves = (stream == self.streams - 1) & (self.waveform_samples > 0)
        value[waves] = np.nan
        counts = np.where(waves, self.waveform_samples, 0).astype(np.uint32)
        inside = mixed(
            np.repeat(drawn[waves], self.waveform_samples)
            + np.tile(np.arange(self.waveform_samples, dtype=np.uint64), int(waves.sum()))
        )
        return Observations(
            streams=self.names,
            stream=stream,
            source_time=NOON_NS + sample * SECOND_NS + (drawn & np.uint64(0xFFFF)).astype(np.int64) * _JITTER_NS,
            value=value,
            status=np.where(bad, _BAD_NO_COMMUNICATION, 0).astype(np.uint32),
            sample_count=counts,
            samples=(inside >> np.uint64(48)).astype(np.float32),
        )

    def _drawn(self, stream: np.ndarray[tuple[int], np.dtype[np.uint32]], sample: Int64Array) -> UInt64Array:
        salt = mixed(np.array([self.seed & 2**64 - 1], np.uint64))
        return mixed(mixed(salt ^ stream.astype(np.uint64)) ^ sample.astype(np.uint64))
