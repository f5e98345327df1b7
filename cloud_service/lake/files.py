"""One Parquet file per stored range: written once, found by its name, never changed.

``observations/gateway=<id>/<epoch>-<first>-<last>.parquet``, rows sorted by stream; ``results/`` alike, one row per
record. A file counts when the ledger names its range. One that a crash left behind without its ledger row is not
read, and is removed before anything else of its gateway and epoch is stored. The ledger has the SHA-256 of each file.

Who writes files holds the lake's lock together with others; who removes some holds it alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cloud_service.ingest.ledger import Range, StoredRange
from models.records import Int64Array, Observations, Results, to_ns

OBSERVATIONS, RESULTS = "observations", "results"
_OBSERVATION_SCHEMA = pa.schema(
    [
        ("asset_id", pa.dictionary(pa.int32(), pa.string())),
        ("channel", pa.dictionary(pa.int32(), pa.string())),
        ("source_time", pa.int64()),
        ("value", pa.float64()),
        ("status", pa.uint32()),
        ("seq", pa.int64()),
        ("samples", pa.list_(pa.float32())),
    ]
)
_RESULT_SCHEMA = pa.schema(
    [("kind", pa.string()), ("asset_id", pa.string()), ("time", pa.int64()), ("json", pa.string()), ("seq", pa.int64())]
)
_ROW_GROUP_ROWS = 100_000


def range_path(lake: Path, kind: str, gateway_id: str, epoch: str, pages: Range) -> Path:
    """Return where the file of *pages* belongs."""
    return lake / kind / f"gateway={gateway_id}" / f"{epoch}-{pages[0]:012d}-{pages[1]:012d}.parquet"


@contextmanager
def lake_lock(lake: Path, *, alone: bool = False) -> Iterator[None]:
    """Keep other processes from removing files of *lake*, and when *alone*, from writing any."""
    lake.mkdir(parents=True, exist_ok=True)
    with (lake / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield  # closing the file gives the lock back


def write_range(
    lake: Path, stored: StoredRange, observations: Observations, seq: Int64Array, results: list[tuple[int, Results]]
) -> StoredRange:
    """Write the files of *stored*, durably, and return it with their digests; a kind without rows has no file."""
    pages = (stored.first_seq, stored.last_seq)
    if stored.observations:
        path = range_path(lake, OBSERVATIONS, stored.gateway_id, stored.epoch, pages)
        stored = replace(stored, observations_sha256=_write_once(path, _observation_table(observations, seq)))
    if stored.results:
        path = range_path(lake, RESULTS, stored.gateway_id, stored.epoch, pages)
        stored = replace(stored, results_sha256=_write_once(path, _result_table(results)))
    return stored


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the file at *path*, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_strays(lake: Path, gateway_id: str, epoch: str, held: Collection[Range]) -> list[Path]:
    """Remove and return the files of *gateway_id* and *epoch* whose ranges are not in *held*, and unfinished ones."""
    strays = [path for path in _files(lake, gateway_id, epoch) if _range_of(path) not in held]
    for path in strays:
        path.unlink()
    return strays


def count_results(results: list[tuple[int, Results]]) -> int:
    """Return how many records *results* hold."""
    return sum(1 for _ in _records(results))


def lake_files(lake: Path) -> list[Path]:
    """Return every file of the lake, in order."""
    return sorted(path for kind in (OBSERVATIONS, RESULTS) for path in (lake / kind).glob("*/*"))


def _files(lake: Path, gateway_id: str, epoch: str) -> Iterator[Path]:
    for kind in (OBSERVATIONS, RESULTS):
        yield from (lake / kind / f"gateway={gateway_id}").glob(f"{epoch}-*")


def _range_of(path: Path) -> Range | None:
    parts = path.name.removesuffix(".parquet").split("-")
    return (int(parts[-2]), int(parts[-1])) if path.suffix == ".parquet" else None


def _write_once(path: Path, table: pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
        file.flush()
        os.fsync(file.fileno())
    digest = file_digest(temporary)
    temporary.replace(path)
    for folder in (path.parent, path.parent.parent):
        sync_folder(folder)
    return digest


def sync_folder(folder: Path) -> None:
    """Make what was put into *folder*, or taken out, durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _observation_table(observations: Observations, seq: Int64Array) -> pa.Table:
    index = pa.array(observations.stream.astype(np.int32))
    columns = [
        _names(index, [stream.asset_id for stream in observations.streams]),
        _names(index, [stream.channel for stream in observations.streams]),
        pa.array(observations.source_time),
        pa.array(observations.value),
        pa.array(observations.status),
        pa.array(seq),
        _sample_lists(observations),
    ]
    return pa.Table.from_arrays(columns, schema=_OBSERVATION_SCHEMA)


def _names(index: Any, names: list[str]) -> Any:
    """Return a column of *names* at *index*; the dictionary itself holds each name once."""
    unique = sorted(set(names))
    place = {name: position for position, name in enumerate(unique)}
    positions = pa.array([place[name] for name in names], pa.int32())
    return pa.DictionaryArray.from_arrays(positions.take(index), pa.array(unique, pa.string()))


def _sample_lists(observations: Observations) -> Any:
    offsets = np.concatenate([[0], np.cumsum(observations.sample_count, dtype=np.int64)]).astype(np.int32)
    # A list whose start offset is null is null: plain values have no samples, rather than none of them.
    absent = np.concatenate([observations.sample_count == 0, [False]])
    return pa.ListArray.from_arrays(pa.array(offsets, mask=absent), pa.array(observations.samples))


def _result_table(results: list[tuple[int, Results]]) -> pa.Table:
    rows = [
        {"kind": kind, "asset_id": asset_id, "time": time, "json": msgspec.json.encode(record).decode(), "seq": seq}
        for seq, kind, asset_id, time, record in _records(results)
    ]
    return pa.Table.from_pylist(rows, schema=_RESULT_SCHEMA)


def _records(results: list[tuple[int, Results]]) -> Iterator[tuple[int, str, str | None, int | None, object]]:
    """Yield seq, kind, asset, time in ns and record of everything in *results*."""
    for seq, page in results:
        for kind, (name, time_field) in _KINDS.items():
            for record in getattr(page, name):
                moment = getattr(record, time_field) if time_field else None
                yield seq, kind, getattr(record, "asset_id", None), to_ns(moment) if moment else None, record


# By kind: the field of Results, and the record's own time.
_KINDS: dict[str, tuple[str, str]] = {
    "asset": ("assets", ""),
    "state": ("states", "window_end"),
    "health": ("health", "window_end"),
    "prognosis": ("prognoses", "window_end"),
    "advisory": ("advisories", "updated_at"),
    "gap": ("gaps", "from_time"),
    "event": ("events", "gateway_time"),
    "heartbeat": ("heartbeats", "gateway_time"),
    "features": ("features", "window_end"),
}
# By kind: the field of Results that its records stand in.
FIELDS = {kind: name for kind, (name, _) in _KINDS.items()}
