"""Files of which rows, or windows, are labelled as anomalous, from a folder; each begins healthy."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.datasets.files import DatasetError
from models.datasets.label_windows import LabelWindows, read_label_windows
from models.datasets.rows import Rows, flags_of, picked_channels, with_ranges
from models.datasets.source import Source
from models.datasets.tasks import Anomaly, Series
from models.records import BoolArray, Int64Array

DEFAULT_HEALTHY_SHARE: Final = 0.3


def anomaly(source: Source) -> Anomaly:
    """Return the files of *source*, those that are judged and those that are healthy throughout.

    Raises:
        DatasetError: If a file cannot be used, or has no row after its healthy ones.
    """
    told = source.told
    judged_tables = source.tables(told.files.data, "files.data")
    healthy_tables = source.tables(told.files.healthy, "files.healthy") if told.files.healthy else ()
    tables = (*healthy_tables, *judged_tables)
    picked = picked_channels(told, judged_tables)
    rows = source.rows(tables, picked)
    healthy_files = source.rows(healthy_tables, picked).asset_ids if healthy_tables else ()
    judged = np.array([name not in healthy_files for name in rows.asset_ids])
    healthy_rows = np.where(judged, _healthy_rows(source, rows), np.diff(rows.bounds))
    changepoint = flags_of(tables, told.columns.changepoint, rows)
    if told.files.labels:
        windows = read_label_windows(source.folder, told.files.labels, told.table, rows.asset_ids)
        anomaly = _inside(windows, rows)
    else:
        anomaly = flags_of(tables, told.columns.anomaly, rows)
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
        judged=judged,
        changepoint_window_s=told.changepoint_window_s,
    )


def _healthy_rows(source: Source, rows: Rows) -> Int64Array:
    """Return how many of each file's first rows may be learnt from."""
    split, counts = source.told.split, np.diff(rows.bounds)
    if split.healthy_rows is None:
        share = DEFAULT_HEALTHY_SHARE if split.healthy_share is None else split.healthy_share
        return np.maximum(np.floor(share * counts), 1).astype(np.int64)
    short = np.flatnonzero(counts <= split.healthy_rows)
    if short.size:
        raise DatasetError(
            f"{source.folder}: {rows.asset_ids[short[0]]} has {counts[short[0]]} rows, and split.healthy_rows is "
            f"{split.healthy_rows}: nothing is left to judge; lower it, or list the file under files.healthy"
        )
    return np.full(len(counts), split.healthy_rows, np.int64)


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
        windows = read_label_windows(source.folder, told.files.labels, told.table, rows.asset_ids)
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
