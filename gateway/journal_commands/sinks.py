"""The forms in which rows of a journal are written for other programs, a batch at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from typing import Any, BinaryIO, Protocol

import msgspec
import numpy as np

from gateway.errors import JournalError
from models.records import Float32Array, Int64Array, Observations, is_good

COLUMNS = ("seq", "asset_id", "channel", "source_time", "value", "status", "good", "samples")


class Sink(Protocol):
    """Takes observations in batches."""

    def rows(self, seq: Int64Array, rows: Observations) -> None:
        """Write *rows*, of the pages *seq*, shape ``(n,)``."""

    def end(self) -> None:
        """Write what comes last."""


class CsvSink:
    """One row a line; a waveform's samples stand in the last column, blanks between them."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write((",".join(COLUMNS) + "\n").encode())

    def rows(self, seq: Int64Array, rows: Observations) -> None:
        """Write *rows*."""
        text = io.StringIO()
        *columns, samples = _columns(seq, rows)
        waves = ["" if wave is None else " ".join(map(repr, wave)) for wave in samples]
        csv.writer(text, lineterminator="\n").writerows(zip(*columns, waves, strict=True))
        self._file.write(text.getvalue().encode())

    def end(self) -> None:
        """Do nothing: it is whole after every row."""


class JsonLinesSink:
    """One JSON object a line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def rows(self, seq: Int64Array, rows: Observations) -> None:
        """Write *rows*; a value that is not finite is null."""
        columns = _columns(seq, rows)
        objects = [dict(zip(COLUMNS, cells, strict=True)) for cells in zip(*columns, strict=True)]
        self._file.write(self._encoder.encode_lines(objects))

    def records(self, seq: int, kind: str, records: Collection[Any]) -> None:
        """Write *records*, each with its seq and which of the results it is."""
        self._file.write(
            self._encoder.encode_lines([{"seq": seq, "record": kind, **msgspec.to_builtins(r)} for r in records])
        )

    def end(self) -> None:
        """Do nothing: it is whole after every row."""


class ParquetSink:
    """A Parquet file, as data tools read it; needs pyarrow, which the extra ``cloud`` brings."""

    def __init__(self, file: BinaryIO) -> None:
        """Begin the file.

        Raises:
            JournalError: If pyarrow is not installed.
        """
        try:
            import pyarrow as pa  # noqa: PLC0415 - not on every gateway, and slow to import
            from pyarrow import parquet  # noqa: PLC0415 - the same
        except ImportError as error:
            raise JournalError(
                "Parquet needs pyarrow, which is not installed here (the extra 'cloud' brings it); "
                "take --format csv or jsonl"
            ) from error
        self._arrow = pa
        names = pa.dictionary(pa.int32(), pa.string())
        self._schema = pa.schema(
            [
                ("seq", pa.int64()),
                ("asset_id", names),
                ("channel", names),
                ("source_time", pa.timestamp("ns", "UTC")),
                ("value", pa.float64()),
                ("status", pa.uint32()),
                ("good", pa.bool_()),
                ("samples", pa.list_(pa.float32())),
            ]
        )
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def rows(self, seq: Int64Array, rows: Observations) -> None:
        """Write *rows*."""
        array = self._arrow.array
        asset, channel = (
            self._arrow.DictionaryArray.from_arrays(
                array(rows.stream.astype(np.int32)), array([s[part] for s in rows.streams], self._arrow.string())
            )
            for part in (0, 1)
        )
        samples = (
            [wave if len(wave) else None for wave in rows.waveforms()] if rows.samples.size else [None] * len(rows)
        )
        columns = [
            *(array(seq), asset, channel, array(rows.source_time, self._arrow.timestamp("ns", "UTC"))),
            *(array(rows.value), array(rows.status), array(is_good(rows.status))),
            array(samples, self._arrow.list_(self._arrow.float32())),
        ]
        batch = self._arrow.Table.from_arrays(columns, schema=self._schema)
        self._writer.write_table(batch.unify_dictionaries())

    def end(self) -> None:
        """Write the file's foot."""
        self._writer.close()


def _columns(seq: Int64Array, rows: Observations) -> list[list[Any]]:
    """Return the cells of *rows*, column by column as in `COLUMNS`; a waveform has no value, a plain row no samples."""
    stream = rows.stream.tolist()
    assets, channels = [name.asset_id for name in rows.streams], [name.channel for name in rows.streams]
    times = np.datetime_as_string(rows.source_time.view("datetime64[ns]"), unit="ns").tolist()
    value: list[float | None] = rows.value.tolist()
    samples: list[list[float] | None] = [None] * len(rows)
    for place in np.flatnonzero(rows.sample_count).tolist():
        value[place] = None
    if rows.samples.size:
        samples = [_shortest(wave) if len(wave) else None for wave in rows.waveforms()]
    return [
        seq.tolist(),
        [assets[place] for place in stream],
        [channels[place] for place in stream],
        [time + "Z" for time in times],
        value,
        rows.status.tolist(),
        is_good(rows.status).tolist(),
        samples,
    ]


def _shortest(wave: Float32Array) -> list[float]:
    """Return single precision in as few digits as tell it apart."""
    return [float(digits) for digits in wave.astype(str)]
