"""A data set in a folder, told by its ``dataset.toml``: read whole, checked, and put into one of five classes.

The public data sets that have a name are such folders too; their descriptions are in ``models/datasets/named``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import numpy as np

from models.datasets.description import DESCRIPTION_FILE, Description, EventFile, read_description
from models.datasets.files import DatasetError
from models.datasets.label_windows import LabelWindows, read_label_windows
from models.datasets.rows import (
    Picked,
    Rows,
    files_of,
    flags_of,
    joined_rows,
    picked_channels,
    read_tables,
    values_of,
    with_ranges,
)
from models.datasets.table import Table, read_table
from models.datasets.tasks import (
    Anomaly,
    Classification,
    Dataset,
    FailureEvents,
    LifeSplit,
    RemainingLife,
    Runs,
    Series,
)
from models.records import BoolArray, FloatArray, Int64Array

__all__ = [
    "Anomaly",
    "Classification",
    "Dataset",
    "FailureEvents",
    "LifeSplit",
    "RemainingLife",
    "Runs",
    "Series",
    "read_folder",
]
DEFAULT_FOLDS: Final = 5
DEFAULT_HEALTHY_SHARE: Final = 0.3
# A judged run that went to failure is cut at a share of its rows, drawn between these: as C-MAPSS's test engines are.
CUT_SHARES: Final = (0.3, 0.95)
_FOLD_SEED: Final = 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder and what its description says."""

    folder: Path
    told: Description

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.told.name or self.folder.resolve().name

    def tables(self, patterns: Sequence[str], key: str) -> tuple[Table, ...]:
        """Return the tables in the files that *patterns* name."""
        return read_tables(files_of(self.folder, patterns, key), self.told)

    def rows(self, tables: Sequence[Table], channels: Sequence[Picked]) -> Rows:
        """Return the rows of *tables* put together."""
        return joined_rows(self.folder, self.told, tables, channels)


def read_folder(folder: Path, description: Path | None = None) -> Dataset:
    """Return the data set in *folder*, as its ``dataset.toml``, or *description* instead of it, tells.

    Raises:
        DatasetError: If the description or a file is missing, too large, or not what it should be. The message names
            the file, the line and column or the key, what is wrong, and what to do.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is no folder; give the folder that holds the data set")
    file = description or folder / DESCRIPTION_FILE
    if not file.is_file():
        raise DatasetError(f"{file}: is not there; describe the data set in it (docs/reference/dataset-folder.md)")
    source = Source(folder=folder, told=read_description(file))
    match source.told.task:
        case "remaining_life":
            return _remaining_life(source)
        case "anomaly":
            return _anomaly(source)
        case "classification":
            return _classification(source)
        case "failure_events":
            return _failure_events(source)
        case "series":
            return _series(source)


def _remaining_life(source: Source) -> RemainingLife:
    told = source.told
    if told.files.train:
        train_tables = source.tables(told.files.train, "files.train")
        test_tables = source.tables(told.files.test, "files.test")
        picked = picked_channels(told, train_tables)
        train = _until_failure(source, train_tables, source.rows(train_tables, picked))
        test = _cut_before(source, test_tables, source.rows(test_tables, picked))
        splits = [LifeSplit(train=_renamed(train, "train"), test=_renamed(test, "test"))]
    else:
        tables = source.tables(told.files.data, "files.data")
        picked = picked_channels(told, tables)
        runs = _until_failure(source, tables, source.rows(tables, picked))
        splits = [_split_of(source, runs, judged) for judged in _judged_assets(source, runs)]
    for split in splits:
        known = np.unique(split.train.asset[np.isfinite(split.train.life)]).size
        if known < 2 or not split.test.asset_ids:
            raise DatasetError(
                f"{source.folder}: {known} assets to learn from that failed and {len(split.test.asset_ids)} to judge; "
                "needs 2 and 1: give more files, or other split.test_assets"
            )
    learnt = np.concatenate([split.train.values for split in splits])
    return RemainingLife(
        name=source.name,
        channels=with_ranges(picked, learnt),
        settings=tuple(one.name for one in picked if one.form.role == "setting"),
        life_unit=told.life.unit or ("hours" if told.columns.time else "cycles"),
        cap=float("nan") if told.life.cap is None else told.life.cap,
        splits=tuple(splits),
    )


def _until_failure(source: Source, tables: Sequence[Table], rows: Rows) -> Runs:
    """Return runs whose last row is the failure, or whose life stands in its column; NaN for suspended assets."""
    if source.told.columns.life:
        life = _life_column(source, tables, rows)
    else:
        life = rows.age[rows.bounds[1:] - 1][rows.asset] - rows.age
    suspended = [any(fnmatchcase(name, one) for one in source.told.life.suspended) for name in rows.asset_ids]
    return _runs(rows, np.where(np.array(suspended)[rows.asset], np.nan, life))


def _cut_before(source: Source, tables: Sequence[Table], rows: Rows) -> Runs:
    """Return runs that were cut before the failure, with the life that was left then."""
    if not source.told.files.test_life:
        return _runs(rows, _life_column(source, tables, rows))
    left = _test_life(source, rows)
    last = rows.age[rows.bounds[1:] - 1]
    return _runs(rows, (last + left)[rows.asset] - rows.age)


def _test_life(source: Source, rows: Rows) -> FloatArray:
    """Return the life left of each test asset: one number a line in their order, or columns of asset and life."""
    told = source.told
    table = read_table(source.folder / told.files.test_life, told.table)
    by_name = told.columns.asset and table.has(told.columns.asset)
    column = next((name for name in (told.columns.life, "life") if name and table.has(name)), table.names[-1])
    values = table.numbers(column, needed=True)
    names = table.texts(told.columns.asset) if by_name else list(rows.asset_ids)
    if len(values) != len(rows.asset_ids) or set(names) != set(rows.asset_ids) or (values < 0).any():
        raise DatasetError(
            f"{table.file}: has {len(values)} values; needs one, 0 or more, for each of "
            f"{len(rows.asset_ids)} test assets"
        )
    by_asset = dict(zip(names, values.tolist(), strict=True))
    return np.array([by_asset[name] for name in rows.asset_ids])


def _life_column(source: Source, tables: Sequence[Table], rows: Rows) -> FloatArray:
    life = np.concatenate([table.numbers(source.told.columns.life) for table in tables])[rows.order]
    return np.asarray(life, np.float64)


def _runs(rows: Rows, life: FloatArray) -> Runs:
    return Runs(
        asset_ids=rows.asset_ids, asset=rows.asset, time_ns=rows.time_ns, age=rows.age, values=rows.values, life=life
    )


def _renamed(runs: Runs, side: str) -> Runs:
    """Return *runs* with *side* before each name: engine 1 of the training files is not engine 1 of the test files."""
    return replace(runs, asset_ids=tuple(f"{side}/{name}" for name in runs.asset_ids))


def _judged_assets(source: Source, runs: Runs) -> list[BoolArray]:
    """Return, for each split, which assets are judged; never one whose life is not known."""
    last = np.searchsorted(runs.asset, np.arange(len(runs.asset_ids)), side="right") - 1
    known = np.isfinite(runs.life[last])
    patterns = source.told.split.test_assets
    if patterns:
        named = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in runs.asset_ids]
        return [np.array(named) & known]
    folds = source.told.split.folds or DEFAULT_FOLDS
    if known.sum() < folds:
        raise DatasetError(f"{source.folder}: {known.sum()} assets that failed; needs one for each of {folds} folds")
    fold = np.full(len(known), -1)
    fold[known] = np.random.default_rng(_FOLD_SEED).permutation(int(known.sum())) % folds
    return [fold == number for number in range(folds)]


def _split_of(source: Source, runs: Runs, judged: BoolArray) -> LifeSplit:
    """Return the assets that are *judged*, cut before their failure, and the others to learn from."""
    if source.told.files.test_life:
        raise DatasetError(f"{source.folder}: files.test_life: has a meaning only beside files.test; leave it out")
    count = np.bincount(runs.asset, minlength=len(runs.asset_ids))
    place = np.arange(len(runs.asset)) - np.searchsorted(runs.asset, runs.asset)
    last = np.searchsorted(runs.asset, np.arange(len(runs.asset_ids)), side="right") - 1
    ran_to_failure = runs.life[last] == 0.0
    share = np.random.default_rng(_FOLD_SEED).uniform(*CUT_SHARES, len(runs.asset_ids))
    kept = np.where(ran_to_failure, np.clip(np.ceil(share * count), 1, np.maximum(count - 1, 1)), count)
    return LifeSplit(
        train=_take(runs, ~judged[runs.asset]), test=_take(runs, judged[runs.asset] & (place < kept[runs.asset]))
    )


def _take(runs: Runs, rows: BoolArray) -> Runs:
    present, asset = np.unique(runs.asset[rows], return_inverse=True)
    return Runs(
        asset_ids=tuple(runs.asset_ids[number] for number in present),
        asset=asset.astype(np.int64),
        time_ns=runs.time_ns[rows],
        age=runs.age[rows],
        values=runs.values[rows],
        life=runs.life[rows],
    )


def _anomaly(source: Source) -> Anomaly:
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


def _classification(source: Source) -> Classification:
    told = source.told
    tables = source.tables(told.files.data, "files.data")
    picked = picked_channels(told, tables, with_levels=True)
    count = sum(table.rows for table in tables)
    values = np.concatenate([values_of(table, picked) for table in tables])
    modes = told.modes
    if told.columns.mode:
        texts = [text for table in tables for text in table.texts(told.columns.mode)]
        modes = tuple(sorted(set(texts) - set(told.normal)))
        mode = np.array(texts)[:, None] == np.array(modes)[None, :]
        target = mode.any(axis=1)
    else:
        mode = np.column_stack([_flags(tables, column) for column in modes] or [np.empty((count, 0), np.bool_)])
        target = _flags(tables, told.columns.target)
    folds = told.split.folds or DEFAULT_FOLDS
    group = np.arange(count, dtype=np.int64)
    if told.columns.group:
        groups = [text for table in tables for text in table.texts(told.columns.group)]
        group = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    for failed, name in ((target, "failed"), (~target, "did not fail")):
        if np.unique(group[failed]).size < folds:
            raise DatasetError(f"{tables[0].file}: fewer than {folds} rows {name}; each of {folds} folds needs one")
    row_ids = [text for table in tables for text in table.texts(told.columns.row)] if told.columns.row else None
    return Classification(
        name=source.name,
        channels=with_ranges(picked, values),
        levels=tuple(one.levels for one in picked),
        row_ids=tuple(row_ids or (str(number + 1) for number in range(count))),
        group=group,
        values=values,
        target=target,
        modes=modes,
        mode=np.asarray(mode, np.bool_),
        folds=folds,
    )


def _flags(tables: Sequence[Table], column: str) -> BoolArray:
    return np.concatenate([table.flags(column) for table in tables])


@dataclass(frozen=True, kw_only=True)
class _Events:
    """Events by machine and time, each shape ``(n,)``."""

    kinds: tuple[str, ...]
    machine: Int64Array
    time_ns: Int64Array
    kind: Int64Array


def _failure_events(source: Source) -> FailureEvents:
    told = source.told
    assert told.failures is not None
    tables = source.tables(told.files.data, "files.data")
    of_role: dict[str, list[Picked]] = {"measurement": [], "event": [], "static": []}
    for one in _telemetry_channels(told, tables):
        of_role[one.form.role].append(one)
    rows = source.rows(tables, [*of_role["measurement"], *of_role["event"]])
    width = len(of_role["measurement"])
    machines = {name: number for number, name in enumerate(rows.asset_ids)}
    parts = [_events_in(source, event, machines) for event in told.events]
    parts += [_event_channel(rows, one.name, width + number) for number, one in enumerate(of_role["event"])]
    events = _together(parts)
    failures = _failures_in(source, rows, machines)
    statics, static_channels = _statics(source, rows, of_role["static"])
    replaced = [part.kinds for part, event in zip(parts, told.events, strict=False) if event.replacement]
    folds = told.split.folds or DEFAULT_FOLDS
    if len(rows.asset_ids) < folds:
        raise DatasetError(f"{source.folder}: {len(rows.asset_ids)} machines; needs one for each of {folds} folds")
    return FailureEvents(
        name=source.name,
        channels=with_ranges(of_role["measurement"], rows.values[:, :width]),
        machine_ids=rows.asset_ids,
        machine=rows.asset,
        time_ns=rows.time_ns,
        values=np.ascontiguousarray(rows.values[:, :width]),
        statics=statics,
        static_channels=with_ranges(static_channels, statics),
        static_levels=tuple(one.levels for one in static_channels),
        event_kinds=events.kinds,
        event_machine=events.machine,
        event_time_ns=events.time_ns,
        event_kind=events.kind,
        replacement_kinds=tuple(dict.fromkeys(kind for kinds in replaced for kind in kinds)),
        modes=failures.kinds,
        failure_machine=failures.machine,
        failure_time_ns=failures.time_ns,
        failure_mode=failures.kind,
        horizon_h=told.failures.horizon_h,
        folds=folds,
    )


def _telemetry_channels(told: Description, tables: Sequence[Table]) -> tuple[Picked, ...]:
    """Return the channels that are read from telemetry; statics may stand in a file of their own instead."""
    listed = {name: form for name, form in told.channels.items() if form.role != "static" or not told.files.statics}
    if told.channels and not listed:
        raise DatasetError(f"{tables[0].file}: channels: none is a measurement; list one")
    return picked_channels(_with_channels(told, listed), tables)


def _with_channels(told: Description, channels: Mapping[str, object]) -> Description:
    kept = {name: form for name, form in told.channels.items() if name in channels}
    return Description(
        **{key: getattr(told, key) for key in told.__struct_fields__ if key != "channels"}, channels=kept
    )


def _events_in(source: Source, event: EventFile, machines: Mapping[str, int]) -> _Events:
    """Return the events of one file, of the machines that have telemetry."""
    columns = source.told.columns
    table = read_table(source.folder / event.file, source.told.table)
    stem = Path(event.file).name.split(".")[0]
    kinds = table.texts(event.kind) if event.kind else [stem] * table.rows
    times = table.times(columns.time)
    known = [
        (machines[name], int(time_ns), kind)
        for name, time_ns, kind in zip(table.texts(columns.asset), times, kinds, strict=True)
        if name in machines
    ]
    return _events_of(known)


def _events_of(known: Sequence[tuple[int, int, str]]) -> _Events:
    names = tuple(sorted({kind for _, _, kind in known}))
    index = {name: number for number, name in enumerate(names)}
    table = np.array(sorted((m, t, index[k]) for m, t, k in known), np.int64).reshape(len(known), 3)
    return _Events(kinds=names, machine=table[:, 0], time_ns=table[:, 1], kind=table[:, 2])


def _event_channel(rows: Rows, name: str, column: int) -> _Events:
    """Return the rows at which a column of telemetry is neither missing nor 0, as events named after it."""
    happened = np.isfinite(rows.values[:, column]) & (rows.values[:, column] != 0.0)
    count = int(happened.sum())
    return _Events(
        kinds=(name,), machine=rows.asset[happened], time_ns=rows.time_ns[happened], kind=np.zeros(count, np.int64)
    )


def _together(parts: Sequence[_Events]) -> _Events:
    """Return all events of *parts*; a kind that stands in two of them is one kind."""
    kinds = tuple(dict.fromkeys(kind for part in parts for kind in part.kinds))
    empty = np.empty(0, np.int64)
    machine = np.concatenate([empty, *(part.machine for part in parts)])
    time_ns = np.concatenate([empty, *(part.time_ns for part in parts)])
    numbers = [np.array([kinds.index(kind) for kind in part.kinds], np.int64)[part.kind] for part in parts]
    kind = np.concatenate([empty, *numbers])
    order = np.lexsort((kind, time_ns, machine))
    return _Events(kinds=kinds, machine=machine[order], time_ns=time_ns[order], kind=kind[order])


def _failures_in(source: Source, rows: Rows, machines: Mapping[str, int]) -> _Events:
    """Return the failures of machines with telemetry, while there is telemetry of them."""
    assert source.told.failures is not None
    found = _events_in(source, EventFile(file=source.told.failures.file, kind=source.told.failures.mode), machines)
    first, last = rows.time_ns[rows.bounds[:-1]], rows.time_ns[rows.bounds[1:] - 1]
    seen = (found.time_ns >= first[found.machine]) & (found.time_ns <= last[found.machine])
    if not seen.any():
        raise DatasetError(
            f"{source.folder / source.told.failures.file}: no failure of a machine in files.data while it has "
            "telemetry; compare machines and times of both"
        )
    return replace(found, machine=found.machine[seen], time_ns=found.time_ns[seen], kind=found.kind[seen])


def _statics(source: Source, rows: Rows, in_telemetry: Sequence[Picked]) -> tuple[FloatArray, tuple[Picked, ...]]:
    """Return what does not change of a machine, from its own file or from each machine's first row of telemetry."""
    told = source.told
    if not told.files.statics:
        tables = source.tables(told.files.data, "files.data")
        values = source.rows(tables, in_telemetry).values if in_telemetry else np.empty((len(rows.asset), 0))
        return values[rows.bounds[:-1]], tuple(in_telemetry)
    table = read_table(source.folder / told.files.statics, told.table)
    listed = {name: form for name, form in told.channels.items() if form.role == "static"}
    picked = picked_channels(_with_channels(told, listed), [table], with_levels=True)
    values = values_of(table, picked)
    row = {name: number for number, name in enumerate(table.texts(told.columns.asset))}
    missing = [name for name in rows.asset_ids if name not in row]
    if missing:
        raise DatasetError(f"{table.file}: has no row of {missing[0]}, which has telemetry; add it")
    return values[[row[name] for name in rows.asset_ids]], picked


def _series(source: Source) -> Series:
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
