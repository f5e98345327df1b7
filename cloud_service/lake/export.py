"""Observations out of the lake into one file that other programs read: Parquet or CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cloud_service.errors import LedgerError
from cloud_service.ingest.ledger import StoredRange
from cloud_service.lake.files import OBSERVATIONS, range_path
from cloud_service.lake.lake import Lake
from models.records import to_ns

_SCHEMA = pa.schema(
    [
        ("gateway_id", pa.string()),
        ("asset_id", pa.string()),
        ("channel", pa.string()),
        ("source_time", pa.timestamp("ns", "UTC")),
        ("value", pa.float64()),
        ("status", pa.uint32()),
        ("samples", pa.list_(pa.float32())),
    ]
)
_CSV_SCHEMA = _SCHEMA.set(6, pa.field("samples", pa.string()))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which observations: empty means all; ``start`` belongs to the time, ``end`` does not."""

    gateway_id: str | None = None
    asset_ids: Sequence[str] = ()
    channels: Sequence[str] = ()
    start: datetime | None = None
    end: datetime | None = None

    @property
    def condition(self) -> ds.Expression:
        """It as a filter on the lake's files."""
        condition = ds.scalar(True)
        if self.asset_ids:
            condition &= ds.field("asset_id").isin(list(self.asset_ids))
        if self.channels:
            condition &= ds.field("channel").isin(list(self.channels))
        if self.start is not None:
            condition &= ds.field("source_time") >= to_ns(self.start)
        if self.end is not None:
            condition &= ds.field("source_time") < to_ns(self.end)
        return condition

    def may_have(self, stored: StoredRange) -> bool:
        """Return whether *stored* can hold any of them."""
        if not stored.observations or self.gateway_id not in {None, stored.gateway_id}:
            return False
        return self.start is None or stored.newest_time is None or stored.newest_time >= self.start


def export(lake: Lake, selection: Selection, out: Path, progress: Callable[[int], None]) -> int:
    """Write the observations of *selection* to *out* and return how many; its suffix says in which format.

    They are ordered by gateway, journal and range, inside that by stream and as they were measured. *out* is there
    when all of them are in it. *progress* hears how many ranges were done since it heard last.

    Raises:
        LedgerError: If the format is unknown, or a file of the lake cannot be read.
    """
    if out.suffix not in {".parquet", ".csv"}:
        raise LedgerError(f"{out} must end in .parquet or .csv; nothing is written")
    temporary = out.with_name(out.name + ".new")
    rows = 0
    try:
        with _writer(temporary, out.suffix) as writer:
            for stored in lake.ranges():
                if selection.may_have(stored):
                    for table in _tables(lake, stored, selection):
                        writer.write_table(_as_csv(table) if out.suffix == ".csv" else table)
                        rows += table.num_rows
                progress(1)
        temporary.replace(out)
    except (OSError, pa.ArrowException) as error:
        raise LedgerError(f"{error}; nothing is written. `wearsight-cloud ledger verify` looks at the files") from error
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _tables(lake: Lake, stored: StoredRange, selection: Selection) -> Iterator[pa.Table]:
    pages = (stored.first_seq, stored.last_seq)
    path = range_path(lake.folder, OBSERVATIONS, stored.gateway_id, stored.epoch, pages)
    columns = [name for name in _SCHEMA.names if name != "gateway_id"]
    for batch in ds.dataset(path, format="parquet").to_batches(columns=columns, filter=selection.condition):
        if batch.num_rows:
            gateways = pa.array([stored.gateway_id], pa.string()).take(pa.array([0] * batch.num_rows))
            yield pa.Table.from_arrays([gateways, *batch.columns], names=_SCHEMA.names).cast(_SCHEMA)


def _as_csv(table: pa.Table) -> pa.Table:
    """Return *table* with a waveform's samples as one text, separated by spaces."""
    samples = table["samples"].combine_chunks()
    texts = pc.binary_join(samples.cast(pa.list_(pa.string())), " ")
    return table.set_column(6, _CSV_SCHEMA.field(6), texts)


def _writer(path: Path, suffix: str) -> AbstractContextManager[Any]:
    if suffix == ".csv":
        return pacsv.CSVWriter(path, _CSV_SCHEMA)  # type: ignore[no-any-return]  # pyarrow has no types
    return pq.ParquetWriter(path, _SCHEMA, compression="zstd")  # type: ignore[no-any-return]  # as above
