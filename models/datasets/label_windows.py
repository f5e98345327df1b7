"""Labelled windows of series, as CSV (``file``, ``start``, ``end``) or as JSON in the manner of NAB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from models.datasets.description import TableForm
from models.datasets.files import DatasetError, read_bytes
from models.datasets.rows import file_id
from models.datasets.table import parse_times, read_table
from models.records import UNDECODABLE, Int64Array

LABELS_LIMIT: Final = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class LabelWindows:
    """Windows in which something was wrong, by series and time, each shape ``(windows,)``; ``file`` indexes series."""

    file: Int64Array
    start_ns: Int64Array
    end_ns: Int64Array


def read_label_windows(folder: Path, path: str, form: TableForm, series: Sequence[str]) -> LabelWindows:
    """Return the windows in the file at *path* in *folder*, of *series*, named by file.

    CSV has the columns ``start`` and ``end``, and ``file`` where there is more than one series. JSON is a list of
    pairs of times, an object with such a list under ``windows`` or ``combined_windows``, or an object with such a list
    under each file's name. Labels of files that are none of the series are left aside, as NAB has all in one file.

    Raises:
        DatasetError: If it cannot be read, a time is none, a window ends before it starts, or no file is a series.
    """
    file = folder / path
    told = _rows_of_json(file, series) if path.endswith(".json") else _rows_of_table(file, form, series)
    rows = [(found, *times) for name, *times in told if (found := _series_of(file, name, series))]
    if told and not rows:
        raise DatasetError(f"{file}: none of its files, as {told[0][0]!r}, is one of the series, as {series[0]!r}")
    number = {name: index for index, name in enumerate(series)}
    starts, ends = (parse_times([row[side] for row in rows], form.time_format) for side in (1, 2))
    windows = []
    for row, start, end in zip(rows, starts, ends, strict=True):
        if start is None or end is None or end < start:
            raise DatasetError(f"{file}: window {row[1]!r} to {row[2]!r}: needs two times, the first not the later")
        windows.append((number[row[0]], start, end))
    table = np.array(sorted(windows), np.int64).reshape(len(windows), 3)
    return LabelWindows(file=table[:, 0], start_ns=table[:, 1], end_ns=table[:, 2])


def _rows_of_table(file: Path, form: TableForm, series: Sequence[str]) -> list[tuple[str, str, str]]:
    table = read_table(file, form)
    names = table.texts("file") if table.has("file") or len(series) > 1 else [series[0]] * table.rows
    return list(zip(names, table.texts("start"), table.texts("end"), strict=True))


def _rows_of_json(file: Path, series: Sequence[str]) -> list[tuple[str, str, str]]:
    try:
        content: Any = msgspec.json.decode(read_bytes(file, LABELS_LIMIT))
        if isinstance(content, dict):
            content = content.get("windows", content.get("combined_windows", content))
        if isinstance(content, list):
            if len(series) > 1:
                raise DatasetError(f"{file}: has windows of no named file, and there are {len(series)} series")
            content = {series[0]: content}
        by_file = msgspec.convert(content, dict[str, list[tuple[str, str]]])
    except UNDECODABLE as error:
        raise DatasetError(f"{file}: {error}; needs pairs of times, or such a list for each file") from error
    return [(name, start, end) for name, pairs in by_file.items() for start, end in pairs]


def _series_of(file: Path, name: str, series: Sequence[str]) -> str:
    """Return which of *series* a label's file *name* means, "" for none; NAB puts folders before it."""
    wanted = file_id(Path(), Path(name)) if name else ""
    found = [one for one in series if one == wanted] or [one for one in series if wanted and _ends_alike(one, wanted)]
    if len(found) > 1:
        raise DatasetError(f"{file}: {name!r} may be {' or '.join(found)}; name it with its folder")
    return found[0] if found else ""


def _ends_alike(one: str, other: str) -> bool:
    return one.endswith("/" + other) or other.endswith("/" + one)
