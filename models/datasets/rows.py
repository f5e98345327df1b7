"""Rows of one or many tables put together: channels picked, rows asset by asset and by time in each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import Final

import numpy as np

from models.datasets.description import LONGEST_NAME, ChannelForm, Description
from models.datasets.files import DatasetError
from models.datasets.table import Table, read_table
from models.datasets.tasks import CYCLE_ZERO_NS, NS_PER_HOUR
from models.records import BoolArray, Channel, FloatArray, Int64Array

FILES_LIMIT: Final = 10_000
ROWS_LIMIT: Final = 20_000_000
SIZE_LIMIT: Final = 4 << 30  # as it is held: a table of numbers takes about half as much more
LEVELS_LIMIT: Final = 100
_ANSWERS: Final = ("life", "target", "mode", "anomaly", "changepoint")
_LATEST_NS: Final = 2**63 - 1
_SUFFIX = re.compile(r"(\.(csv|txt|tsv|dat|data))?(\.gz)?$")


@dataclass(frozen=True, kw_only=True)
class Picked:
    """A channel that was picked: the column it is read from and what the description says of it."""

    name: str
    column: str
    form: ChannelForm
    levels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of several tables, asset by asset, by time (or cycle) in each; `Runs` tells most of the columns.

    ``order`` says which row of the tables, counted through, each row is, so that a further column of theirs can be
    brought into the same order.
    """

    asset_ids: tuple[str, ...]
    asset: Int64Array
    time_ns: Int64Array
    age: FloatArray
    values: FloatArray
    order: Int64Array

    @property
    def bounds(self) -> Int64Array:
        """Where each asset's rows begin, and the number of rows, shape ``(assets + 1,)``."""
        return np.searchsorted(self.asset, np.arange(len(self.asset_ids) + 1)).astype(np.int64)


def files_of(folder: Path, patterns: Sequence[str], key: str) -> tuple[Path, ...]:
    """Return the files that *patterns* name, each pattern's by name with numbers in it by their size, none twice.

    Raises:
        DatasetError: If a pattern names no file, or there are too many; the message names *key*.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        is_plain = not re.search(r"[*?\[]", pattern)
        try:
            files = [folder / pattern] if is_plain else [file for file in folder.glob(pattern) if file.is_file()]
        except ValueError as error:
            raise DatasetError(f"{folder}: {key}: {pattern!r}: {error}") from error
        if not files:
            raise DatasetError(f"{folder}: {key}: {pattern!r} names no file; correct it, or put the files there")
        found.update(dict.fromkeys(sorted(files, key=lambda file: _natural(file.relative_to(folder).as_posix()))))
        if len(found) > FILES_LIMIT:
            raise DatasetError(f"{folder}: {key}: names more than {FILES_LIMIT} files; name fewer")
    return tuple(found)


def file_id(folder: Path, file: Path) -> str:
    """Return the *file*'s name for people: its path in *folder* without endings such as ``.csv.gz``."""
    return _SUFFIX.sub("", file.relative_to(folder).as_posix())


def read_tables(files: Sequence[Path], told: Description) -> tuple[Table, ...]:
    """Return the tables in *files*, which must have the columns that are needed of each.

    Raises:
        DatasetError: As `read_table`, and if they hold too many rows altogether.
    """
    tables: list[Table] = []
    rows = size = 0
    for file in files:
        table = read_table(file, told.table, told.table.columns)
        tables.append(table)
        rows, size = rows + table.rows, size + sum(column.nbytes for column in table.columns)
        if rows > ROWS_LIMIT:
            raise DatasetError(f"{file}: with it the data set has more than {ROWS_LIMIT} rows; take files out")
        if size > SIZE_LIMIT:
            raise DatasetError(f"{file}: with it the data set has more than {SIZE_LIMIT >> 20} MiB; take files out")
    return tuple(tables)


def picked_channels(told: Description, tables: Sequence[Table], *, with_levels: bool = False) -> tuple[Picked, ...]:
    """Return the channels: those that the description lists, or else every column that it does not use otherwise.

    Args:
        told: The description.
        tables: All of them; what is not listed is taken from the first one's columns.
        with_levels: Whether a column of texts may become a channel, each text a whole number.

    Raises:
        DatasetError: If a column is missing, holds texts or is the answer, a setting is no channel, no channel is left,
            or what is to be ignored is no column.
    """
    columns = {name for table in tables for name in table.names}
    for pattern in told.ignore if not told.files.statics else ():
        if not any(fnmatchcase(name, pattern) for name in columns):
            raise DatasetError(f"{tables[0].file}: ignore: {pattern!r} names no column; there are {_listed(columns)}")
    listed: Mapping[str, ChannelForm] = told.channels or {name: ChannelForm() for name in _others(told, tables[0])}
    picked = tuple(
        Picked(name=name, column=form.column or name, form=_with_role(name, form, told), levels=form.levels)
        for name, form in listed.items()
    )
    lost = [name for name in told.settings if name not in listed]
    if lost:
        raise DatasetError(f"{tables[0].file}: settings: {lost[0]!r} is no channel; there are {', '.join(listed)}")
    answers = {getattr(told.columns, key) for key in _ANSWERS} | set(told.modes)
    for one in picked:
        if len(one.name) > LONGEST_NAME or not one.name.isprintable():
            raise DatasetError(
                f"{tables[0].file}: column {one.column[:40]!r} is no name of 1 to {LONGEST_NAME} printable characters; "
                'name it under channels, as flow = { column = "..." }'
            )
        if one.column in answers:
            raise DatasetError(
                f"{tables[0].file}: channels.{one.name}: column {one.column!r} is the answer; take the channel out"
            )
    if not picked:
        raise DatasetError(f"{tables[0].file}: has no column left to be a channel; name them under channels")
    return tuple(_with_levels(channel, tables, allowed=with_levels) for channel in picked)


def values_of(table: Table, channels: Sequence[Picked]) -> FloatArray:
    """Return the *channels*' values, shape ``(rows, channels)``, NaN where one is missing.

    Raises:
        DatasetError: If a column is missing, or a value is no finite number or none of the channel's levels.
    """
    columns = [_levels_of(table, one) if one.levels else table.numbers(one.column) for one in channels]
    return np.column_stack(columns) if columns else np.empty((table.rows, 0))


def with_ranges(channels: Sequence[Picked], values: FloatArray) -> tuple[Channel, ...]:
    """Return *channels* with the range that the description gives, or else that of *values*, which are learnt from."""
    ranged = []
    for one, column in zip(channels, values.T, strict=True):
        known = column[np.isfinite(column)]
        least, most = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        low = least if one.form.low is None else one.form.low
        high = most if one.form.high is None else one.form.high
        if low >= high:  # a constant channel, or a range of which one side was told
            low, high = (
                (low, low + max(abs(low), 1.0)) if one.form.low is not None else (high - max(abs(high), 1.0), high)
            )
        ranged.append(Channel(name=one.name, unit=one.form.unit, low=low, high=high))
    return tuple(ranged)


def joined_rows(folder: Path, told: Description, tables: Sequence[Table], channels: Sequence[Picked]) -> Rows:
    """Return the rows of all *tables*, asset by asset in order of appearance; without asset column, a file is one.

    Raises:
        DatasetError: If a value cannot be read, or two rows of one asset have the same time or cycle.
    """
    names = [_assets_of(folder, told, table) for table in tables]
    asset_ids = tuple(dict.fromkeys(name for part in names for name in part))
    index = {name: number for number, name in enumerate(asset_ids)}
    asset = np.array([index[name] for part in names for name in part], np.int64)
    age, time_ns = _clock(told, tables, asset)
    keeps_file_order = told.table.repeated_times == "spread" or not (told.columns.time or told.columns.cycle)
    by = np.arange(len(asset)) if keeps_file_order else time_ns if told.columns.time else age
    order = np.lexsort((by, asset)).astype(np.int64)
    asset, age, time_ns = asset[order], age[order], time_ns[order]
    if told.columns.time:
        time_ns = _spread(time_ns, asset) if keeps_file_order else time_ns
        age = _hours_since_first(time_ns, asset)
    same = np.flatnonzero((np.diff(asset) == 0) & ((np.diff(time_ns) <= 0) | (np.diff(age) <= 0)))
    if same.size:
        raise _repeated(tables, int(order[same[0] + 1]), asset_ids[asset[same[0]]], told)
    values = np.concatenate([values_of(table, channels) for table in tables])[order]
    return Rows(asset_ids=asset_ids, asset=asset, time_ns=time_ns, age=age, values=values, order=order)


def flags_of(tables: Sequence[Table], column: str, rows: Rows) -> BoolArray:
    """Return the truth values of *column* in the order of *rows*; False throughout where *column* is empty."""
    parts = [table.flags(column) if column else np.zeros(table.rows, np.bool_) for table in tables]
    return np.asarray(np.concatenate(parts)[rows.order], np.bool_)


def _others(told: Description, table: Table) -> Iterator[str]:
    """Yield the columns of *table* that nothing else uses; one without a name, as of a row's number, is no channel."""
    used = {getattr(told.columns, key) for key in told.columns.__struct_fields__} | set(told.modes) | {""}
    for name in table.names:
        if name not in used and not any(fnmatchcase(name, pattern) for pattern in told.ignore):
            yield name


def _with_role(name: str, form: ChannelForm, told: Description) -> ChannelForm:
    if name not in told.settings:
        return form
    return ChannelForm(
        column=form.column, unit=form.unit, role="setting", low=form.low, high=form.high, levels=form.levels
    )


def _with_levels(channel: Picked, tables: Sequence[Table], *, allowed: bool) -> Picked:
    """Return *channel* with the texts of its column as levels where they are texts and that is *allowed*."""
    holders = [table for table in tables if table.has(channel.column)]
    if channel.levels or all(table.is_numeric(channel.column) for table in holders):
        return channel
    texts = sorted({text for table in holders for text in table.texts(channel.column)} - {""})
    if allowed and len(texts) <= LEVELS_LIMIT:
        return replace(channel, levels=tuple(texts))
    holders[0].numbers(channel.column)  # raises, naming the line
    raise DatasetError(
        f"{holders[0].file}: column {channel.column!r} holds {len(texts)} different texts; list it under ignore"
    )


def _levels_of(table: Table, channel: Picked) -> FloatArray:
    numbers = {text: float(number) for number, text in enumerate(channel.levels)} | {"": float("nan")}
    texts = table.texts(channel.column)
    for row, text in enumerate(texts):
        if text not in numbers:
            raise DatasetError(
                f"{table.file}: line {row + table.first_line}, column {channel.column!r}: {text[:40]!r} is none of "
                f"channels.{channel.name}.levels; add it there"
            )
    return np.array([numbers[text] for text in texts])


def _assets_of(folder: Path, told: Description, table: Table) -> list[str]:
    if not told.columns.asset:
        return [file_id(folder, table.file)] * table.rows
    return table.texts(told.columns.asset, needed=True)


def _clock(told: Description, tables: Sequence[Table], asset: Int64Array) -> tuple[FloatArray, Int64Array]:
    """Return each row's age and time; without a time column they follow from each other."""
    if told.columns.time:
        time_ns = np.concatenate([table.times(told.columns.time) for table in tables])
        return np.zeros(len(asset)), time_ns
    if told.columns.cycle:
        age = np.concatenate([table.numbers(told.columns.cycle, needed=True) for table in tables])
    else:
        order = np.argsort(asset, kind="stable")
        first = np.searchsorted(asset[order], asset[order])
        age = np.empty(len(asset))
        age[order] = np.arange(len(asset)) - first + 1.0
        if told.task != "remaining_life":
            return age, _times_of(age - 1.0, told.table.sampling_interval_s * 1e9, tables, "table.sampling_interval_s")
    return age, _times_of(age, NS_PER_HOUR, tables, f"column {told.columns.cycle!r}")


def _times_of(count: FloatArray, step_ns: float, tables: Sequence[Table], source: str) -> Int64Array:
    after_ns = np.rint(count * step_ns)
    if (np.abs(after_ns) > _LATEST_NS - CYCLE_ZERO_NS - 1e6).any():
        raise DatasetError(
            f"{tables[0].file}: {source}: leads to {np.abs(count).max():g} steps of {step_ns / 1e9:g} s, which is more "
            "than 260 years; correct it"
        )
    return CYCLE_ZERO_NS + after_ns.astype(np.int64)


def _hours_since_first(time_ns: Int64Array, asset: Int64Array) -> FloatArray:
    first = time_ns[np.searchsorted(asset, asset)]
    return np.asarray((time_ns - first) / NS_PER_HOUR, np.float64)


def _spread(time_ns: Int64Array, asset: Int64Array) -> Int64Array:
    """Return times that rise strictly: rows at which the clock was set back lie evenly between their neighbours."""
    latest = np.empty_like(time_ns)
    for start, stop in _blocks(asset):
        latest[start:stop] = np.maximum.accumulate(time_ns[start:stop])
    repeated = np.zeros(len(time_ns), np.bool_)
    repeated[1:] = (time_ns[1:] <= latest[:-1]) & (asset[1:] == asset[:-1])
    place = np.arange(len(time_ns), dtype=np.float64)
    spread = time_ns.copy()
    for start, stop in _blocks(asset):
        kept = np.flatnonzero(~repeated[start:stop]) + start
        lost = np.flatnonzero(repeated[start:stop]) + start
        if lost.size == 0:
            continue
        after = np.searchsorted(kept, lost)
        step = int(np.median(np.diff(time_ns[kept]))) if kept.size > 1 else 1
        before_ns, before_at = time_ns[kept[after - 1]], place[kept[after - 1]]
        is_last = after == kept.size
        following = kept[np.minimum(after, kept.size - 1)]
        after_ns = np.where(is_last, before_ns + step, time_ns[following])
        after_at = np.where(is_last, float(stop), place[following])
        share = (place[lost] - before_at) / (after_at - before_at)
        spread[lost] = before_ns + np.rint((after_ns - before_ns) * share).astype(np.int64)
    return spread


def _blocks(asset: Int64Array) -> list[tuple[int, int]]:
    starts = np.flatnonzero(np.diff(asset, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(asset)], strict=True))


def _repeated(tables: Sequence[Table], row: int, asset_id: str, told: Description) -> DatasetError:
    for table in tables:
        if row < table.rows:
            column = told.columns.time or told.columns.cycle
            way_out = ', or say table.repeated_times = "spread" if the clock was set back' if told.columns.time else ""
            return DatasetError(
                f"{table.file}: line {row + table.first_line}, column {column!r}: {asset_id} has a row of that "
                f"{'time' if told.columns.time else 'cycle'} already; take one out{way_out}"
            )
        row -= table.rows
    raise AssertionError("the row is of one of the tables")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:40])


def _natural(name: str) -> list[tuple[float, str]]:
    return [(int(part), "") if part.isdecimal() else (inf, part) for part in re.split(r"(\d{1,18})", name) if part]
