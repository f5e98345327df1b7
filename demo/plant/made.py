"""The plant's own count of what it made, kept apart from everything that carries the values further.

``made-<cell>.csv.gz`` has the columns asset_id, channel, source_time_ns, status, value. Value is the ``repr`` of the
float, ``nan`` where the status is Bad, and for a waveform ``crc32:`` with the CRC-32 of its samples as
little-endian float32, eight hexadecimal digits.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import numpy as np

from models.records import Float32Array, Observations

HEADER: Final = "asset_id,channel,source_time_ns,status,value\n"


class MadeList:
    """All rows a cell has made, with history, as one compressed file that is always whole."""

    def __init__(self, folder: Path, cell: str) -> None:
        self.file = folder / f"made-{cell}.csv.gz"
        self.truth_file = folder / f"truth-{cell}.json"
        self.count = 0
        self._waiting: list[Observations] = []
        # Gzip members one after the other are one gzip file, so what is written once is never packed again.
        self._packed = bytearray(gzip.compress(HEADER.encode(), 1, mtime=0))

    def add(self, rows: Observations) -> None:
        """Count *rows*."""
        self._waiting.append(rows)
        self.count += len(rows)

    def write(self) -> None:
        """Replace the file by one with all that was counted."""
        text = "".join(map(_lines, self._waiting))
        self._waiting.clear()
        if text:
            self._packed += gzip.compress(text.encode(), 1, mtime=0)
        _replace(self.file, self._packed)

    def write_truth(self, truth: dict[str, Any]) -> None:
        """Replace the file of what is true of the cell's machines."""
        _replace(self.truth_file, json.dumps(truth).encode())


def waveform_mark(samples: Float32Array) -> str:
    """Return how the list tells a waveform: the CRC-32 of its *samples* as little-endian float32."""
    return f"crc32:{crc32(np.ascontiguousarray(samples, '<f4').tobytes()):08x}"


def _lines(rows: Observations) -> str:
    names = [f"{asset_id},{channel}" for asset_id, channel in rows.streams]
    waves = rows.waveforms()
    counts = rows.sample_count.tolist()
    columns = zip(
        rows.stream.tolist(), rows.source_time.tolist(), rows.status.tolist(), rows.value.tolist(), strict=True
    )
    return "".join(
        f"{names[stream]},{time_ns},{status},{waveform_mark(waves[row]) if counts[row] else repr(value)}\n"
        for row, (stream, time_ns, status, value) in enumerate(columns)
    )


def _replace(file: Path, content: bytes | bytearray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.write_bytes(content)
    os.replace(new, file)  # noqa: PTH105 - atomic, and says so
