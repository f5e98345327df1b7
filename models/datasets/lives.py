"""Runs of assets with the life that was left, from a folder: learnt from, or cut and judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

import numpy as np

from models.datasets.files import DatasetError
from models.datasets.rows import Rows, picked_channels, with_ranges
from models.datasets.source import DEFAULT_FOLDS, Source
from models.datasets.table import Table, read_table
from models.datasets.tasks import LifeSplit, RemainingLife, Runs
from models.records import BoolArray, FloatArray

# A judged run that went to failure is cut at a share of its rows, drawn between these: as C-MAPSS's test engines are.
CUT_SHARES: Final = (0.3, 0.95)
_FOLD_SEED: Final = 0


def remaining_life(source: Source) -> RemainingLife:
    """Return the runs of *source*, split as its description says.

    Raises:
        DatasetError: If a file cannot be used, or a split has fewer than 2 assets to learn from or none to judge.
    """
    told = source.told
    if told.files.train:
        train_tables = source.tables(told.files.train, "files.train")
        test_tables = source.tables(told.files.test, "files.test")
        if both := {table.file.resolve() for table in train_tables} & {table.file.resolve() for table in test_tables}:
            raise DatasetError(f"{min(both)}: is among files.train and files.test; what is judged is never learnt from")
        picked = picked_channels(told, train_tables)
        train = _until_failure(source, train_tables, source.rows(train_tables, picked))
        test = _cut_before(source, test_tables, source.rows(test_tables, picked))
        splits = [LifeSplit(train=_renamed(train, "train"), test=_renamed(test, "test"))]
    else:
        tables = source.tables(told.files.data, "files.data")
        picked = picked_channels(told, tables)
        runs = _until_failure(source, tables, source.rows(tables, picked))
        splits = [_split_of(runs, judged) for judged in _judged_assets(source, runs)]
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
    suspended = _named(source, "life.suspended", source.told.life.suspended, rows.asset_ids)
    return _runs(rows, np.where(suspended[rows.asset], np.nan, life))


def _named(source: Source, key: str, patterns: Sequence[str], asset_ids: Sequence[str]) -> BoolArray:
    """Return which assets *patterns* name; one that names none is refused."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in asset_ids):
            raise DatasetError(
                f"{source.folder}: {key}: {pattern!r} names no asset; there are {', '.join(asset_ids[:20])}"
            )
    return np.array([any(fnmatchcase(name, pattern) for pattern in patterns) for name in asset_ids], np.bool_)


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
    by_name = len(table.names) > 1 and told.columns.asset and table.has(told.columns.asset)
    column = next((name for name in (told.columns.life, "life") if name and table.has(name)), table.names[-1])
    values = table.numbers(column, needed=True)
    names = table.texts(told.columns.asset) if by_name else list(rows.asset_ids)
    if (below := np.flatnonzero(values < 0.0)).size:
        raise table.refusal(column, int(below[0]), "is below 0")
    if len(values) != len(rows.asset_ids) or set(names) != set(rows.asset_ids):
        lost = sorted(set(rows.asset_ids) - set(names))
        raise DatasetError(
            f"{table.file}: has {len(values)} values; needs one for each of {len(rows.asset_ids)} test assets"
            + (f", and none is of {lost[0]}" if lost else "")
        )
    by_asset = dict(zip(names, values.tolist(), strict=True))
    return np.array([by_asset[name] for name in rows.asset_ids])


def _life_column(source: Source, tables: Sequence[Table], rows: Rows) -> FloatArray:
    column = source.told.columns.life
    parts = [table.numbers(column) for table in tables]
    for table, part in zip(tables, parts, strict=True):
        if (below := np.flatnonzero(part < 0.0)).size:
            raise table.refusal(column, int(below[0]), "is below 0")
    life = np.concatenate(parts)[rows.order]
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
        return [_named(source, "split.test_assets", patterns, runs.asset_ids) & known]
    folds = source.told.split.folds or DEFAULT_FOLDS
    if known.sum() < folds:
        raise DatasetError(f"{source.folder}: {known.sum()} assets that failed; needs one for each of {folds} folds")
    fold = np.full(len(known), -1)
    by_name = np.array([number for number in _by_name(runs) if known[number]])
    fold[by_name] = np.random.default_rng(_FOLD_SEED).permutation(len(by_name)) % folds
    return [fold == number for number in range(folds)]


def _split_of(runs: Runs, judged: BoolArray) -> LifeSplit:
    """Return the assets that are *judged*, cut before their failure, and the others to learn from."""
    count = np.bincount(runs.asset, minlength=len(runs.asset_ids))
    place = np.arange(len(runs.asset)) - np.searchsorted(runs.asset, runs.asset)
    last = np.searchsorted(runs.asset, np.arange(len(runs.asset_ids)), side="right") - 1
    ran_to_failure = runs.life[last] == 0.0
    share = np.empty(len(runs.asset_ids))
    share[_by_name(runs)] = np.random.default_rng(_FOLD_SEED).uniform(*CUT_SHARES, len(runs.asset_ids))
    kept = np.where(ran_to_failure, np.clip(np.ceil(share * count), 1, np.maximum(count - 1, 1)), count)
    return LifeSplit(
        train=_take(runs, ~judged[runs.asset]), test=_take(runs, judged[runs.asset] & (place < kept[runs.asset]))
    )


def _by_name(runs: Runs) -> list[int]:
    """Return the assets' numbers in the order of their names: what is drawn then does not hang on the files' order."""
    return sorted(range(len(runs.asset_ids)), key=runs.asset_ids.__getitem__)


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
