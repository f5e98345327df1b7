"""Telemetry, events and failures of machines, from a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.datasets.description import Description, EventFile
from models.datasets.files import DatasetError
from models.datasets.rows import Picked, Rows, picked_channels, values_of, with_ranges
from models.datasets.source import DEFAULT_FOLDS, Source
from models.datasets.table import Table, read_table
from models.datasets.tasks import FailureEvents
from models.records import FloatArray, Int64Array


@dataclass(frozen=True, kw_only=True)
class _Events:
    """Events by machine and time, each shape ``(n,)``."""

    kinds: tuple[str, ...]
    machine: Int64Array
    time_ns: Int64Array
    kind: Int64Array


def failure_events(source: Source) -> FailureEvents:
    """Return the telemetry, events and failures of *source*, of machines that have telemetry.

    Raises:
        DatasetError: If a file cannot be used, there are fewer machines than folds, or no failure.
    """
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
    kinds = table.texts(event.kind, needed=True) if event.kind else [stem] * table.rows
    times = table.times(columns.time)
    known = [
        (machines[name], int(time_ns), kind)
        for name, time_ns, kind in zip(table.texts(columns.asset, needed=True), times, kinds, strict=True)
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
    # A failure that stands twice is one.
    once = np.unique(np.column_stack([found.machine, found.time_ns, found.kind]), axis=0)
    found = replace(found, machine=once[:, 0], time_ns=once[:, 1], kind=once[:, 2])
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
    names = table.texts(told.columns.asset, needed=True)
    row = {name: number for number, name in enumerate(names)}
    if len(row) < len(names):
        twice = next(number for number, name in enumerate(names) if row[name] != number)
        raise table.refusal(told.columns.asset, twice, "has another row below")
    missing = [name for name in rows.asset_ids if name not in row]
    if missing:
        raise DatasetError(f"{table.file}: has no row of {missing[0]}, which has telemetry; add it")
    return values[[row[name] for name in rows.asset_ids]], picked
