"""Files of which rows, or windows, are labelled as anomalous, from a folder; each begins healthy."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.datasets.description import Description
from models.datasets.files import DatasetError
from models.datasets.label_windows import LabelWindows, read_label_windows
from models.datasets.rows import Rows, flags_of, picked_channels, with_ranges
from models.datasets.source import Source
from models.datasets.table import Table
from models.datasets.tasks import Anomaly, Series
from models.records import BoolArray, Int64Array, from_ns

DEFAULT_HEALTHY_SHARE: Final = 0.3
LEAST_HEALTHY_ROWS: Final = 10


def anomaly(source: Source) -> Anomaly:
    """Return the files of *source*, those that are judged and those that are healthy throughout.

    Raises:
        DatasetError: If a file cannot be used, or has no row after its healthy ones.
    """
    told = source.told
    healthy_tables = source.tables(told.files.healthy, "files.healthy") if told.files.healthy else ()
    healthy_files = {table.file for table in healthy_tables}
    tables = tuple(table for table in source.tables(told.files.data, "files.data") if table.file not in healthy_files)
    if not tables:
        raise DatasetError(f"{source.folder}: files.healthy: names all files of files.data; leave some to be judged")
    for table in tables:
        _check_labels(table, told)
    picked = picked_channels(told, tables)
    own = source.rows(tables, picked)
    changepoint = flags_of(tables, told.columns.changepoint, own)
    if told.files.labels:
        anomaly = _inside(_windows_in(source, own), own)
    else:
        anomaly = flags_of(tables, told.columns.anomaly, own)
    healthy_rows = _healthy_rows(source, own)
    rows, spare = own, 0
    if healthy_tables:
        healthy = source.rows(healthy_tables, picked)
        spare = len(healthy.asset_ids)
        rows = _one_after_the_other(healthy, own)
        healthy_rows = np.concatenate([np.diff(healthy.bounds), healthy_rows])
        never = np.zeros(len(healthy.asset), np.bool_)
        anomaly, changepoint = np.concatenate([never, anomaly]), np.concatenate([never, changepoint])
    return Anomaly(
        name=source.name,
        channels=with_ranges(picked, rows.values[_first_rows(rows, healthy_rows)]),
        settings=tuple(one.name for one in picked if one.form.role == "setting"),
        file_ids=rows.asset_ids,
        file=rows.asset,
        time_ns=rows.time_ns,
        values=rows.values,
        anomaly=anomaly,
        changepoint=changepoint,
        healthy_rows=healthy_rows.astype(np.int64),
        judged=np.arange(len(rows.asset_ids)) >= spare,
        changepoint_window_s=told.changepoint_window_s,
    )


def _check_labels(table: Table, told: Description) -> None:
    """Refuse a file that is to be judged and does not say where it is anomalous: it would count as healthy."""
    for key in ("anomaly", "changepoint"):
        column = getattr(told.columns, key)
        if column and not table.has(column):
            raise DatasetError(
                f"{table.file}: has no column {column!r}, which columns.{key} names; it has "
                f"{', '.join(table.names[:40])}; correct the key, or list the file under files.healthy if it is so"
            )


def _one_after_the_other(healthy: Rows, judged: Rows) -> Rows:
    """Return the rows of both; what has the same name in both is two."""
    taken = set(judged.asset_ids)
    return Rows(
        asset_ids=(
            *(f"healthy/{name}" if name in taken else name for name in healthy.asset_ids),
            *judged.asset_ids,
        ),
        asset=np.concatenate([healthy.asset, judged.asset + len(healthy.asset_ids)]),
        time_ns=np.concatenate([healthy.time_ns, judged.time_ns]),
        age=np.concatenate([healthy.age, judged.age]),
        values=np.concatenate([healthy.values, judged.values]),
        order=np.concatenate([healthy.order, judged.order + len(healthy.order)]),
    )


def _windows_in(source: Source, rows: Rows) -> LabelWindows:
    """Return the labelled windows of *rows*; one that is wholly before or after its series is refused."""
    told = source.told
    windows = read_label_windows(source.folder, told.files.labels, told.table, rows.asset_ids)
    first, last = rows.time_ns[rows.bounds[:-1]], rows.time_ns[rows.bounds[1:] - 1]
    outside = np.flatnonzero((windows.end_ns < first[windows.file]) | (windows.start_ns > last[windows.file]))
    if outside.size:
        window, file = outside[0], windows.file[outside[0]]
        start, end, begins, ends = (
            from_ns(int(at)).isoformat(" ", "seconds")
            for at in (windows.start_ns[window], windows.end_ns[window], first[file], last[file])
        )
        raise DatasetError(
            f"{source.folder / told.files.labels}: window {start} to {end} lies outside of {rows.asset_ids[file]}, "
            f"which has rows from {begins} to {ends}; compare their clocks, or take the window out"
        )
    return windows


def _healthy_rows(source: Source, rows: Rows) -> Int64Array:
    """Return how many of each file's first rows may be learnt from."""
    split, counts = source.told.split, np.diff(rows.bounds)
    if split.healthy_rows is not None:
        healthy = np.full(len(counts), split.healthy_rows, np.int64)
    else:
        share = DEFAULT_HEALTHY_SHARE if split.healthy_share is None else split.healthy_share
        healthy = np.floor(share * counts).astype(np.int64)
    for name, count, few in zip(rows.asset_ids, counts.tolist(), healthy.tolist(), strict=True):
        if few < LEAST_HEALTHY_ROWS:
            raise DatasetError(
                f"{source.folder}: {name} has {count} rows, of which the first {few} are to be learnt from; it "
                f"needs {LEAST_HEALTHY_ROWS}: raise split.healthy_rows or split.healthy_share, or take the file out"
            )
        if count <= few:
            raise DatasetError(
                f"{source.folder}: {name} has {count} rows, and split.healthy_rows is {few}: nothing is left to judge; "
                "lower it, or list the file under files.healthy"
            )
    return healthy


def _first_rows(rows: Rows, count: Int64Array) -> BoolArray:
    place = np.arange(len(rows.asset)) - rows.bounds[:-1][rows.asset]
    return np.asarray(place < count[rows.asset], np.bool_)


def _inside(windows: LabelWindows, rows: Rows) -> BoolArray:
    inside = np.zeros(len(rows.asset), np.bool_)
    for file, start_ns, end_ns in zip(windows.file, windows.start_ns, windows.end_ns, strict=True):
        inside |= (rows.asset == file) & (rows.time_ns >= start_ns) & (rows.time_ns <= end_ns)
    return inside


def series(source: Source) -> Series:
    """Return the signals of *source* and their labelled windows.

    Raises:
        DatasetError: If a file cannot be used, or has no row after its healthy ones.
    """
    told = source.told
    tables = source.tables(told.files.data, "files.data")
    picked = picked_channels(told, tables)
    rows = source.rows(tables, picked)
    healthy_rows = _healthy_rows(source, rows)
    if told.files.labels:
        windows = _windows_in(source, rows)
    else:
        windows = _windows_of_flags(flags_of(tables, told.columns.anomaly, rows), rows)
    return Series(
        name=source.name,
        channels=with_ranges(picked, rows.values[_first_rows(rows, healthy_rows)]),
        file_ids=rows.asset_ids,
        file=rows.asset,
        time_ns=rows.time_ns,
        values=rows.values,
        healthy_rows=healthy_rows,
        window_file=windows.file,
        window_start_ns=windows.start_ns,
        window_end_ns=windows.end_ns,
    )


def _windows_of_flags(flagged: BoolArray, rows: Rows) -> LabelWindows:
    """Return a window for each run of flagged rows of one series."""
    runs = np.where(flagged, rows.asset * 2 + 1, -1)
    starts = np.flatnonzero((runs != np.roll(runs, 1)) & flagged)
    if flagged.size and flagged[0] and 0 not in starts:
        starts = np.concatenate([[0], starts])
    ends = np.flatnonzero((runs != np.roll(runs, -1)) & flagged)
    if flagged.size and flagged[-1] and len(flagged) - 1 not in ends:
        ends = np.concatenate([ends, [len(flagged) - 1]])
    return LabelWindows(file=rows.asset[starts], start_ns=rows.time_ns[starts], end_ns=rows.time_ns[ends])
