"""Independent rows of which some failed, from a folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.datasets.files import DatasetError
from models.datasets.rows import picked_channels, values_of, with_ranges
from models.datasets.source import DEFAULT_FOLDS, Source
from models.datasets.table import Table
from models.datasets.tasks import Classification
from models.records import BoolArray


def classification(source: Source) -> Classification:
    """Return the rows of *source* with their targets and modes.

    Raises:
        DatasetError: If a file cannot be used, or there are fewer rows of one kind than folds.
    """
    told = source.told
    tables = source.tables(told.files.data, "files.data")
    picked = picked_channels(told, tables, with_levels=True)
    count = sum(table.rows for table in tables)
    values = np.concatenate([values_of(table, picked) for table in tables])
    modes = told.modes
    if told.columns.mode:
        texts = [text for table in tables for text in table.texts(told.columns.mode, needed=True)]
        if lost := set(told.normal) - set(texts):
            raise DatasetError(
                f"{tables[0].file}: normal: column {told.columns.mode!r} never holds {min(lost)!r}; it holds "
                f"{', '.join(sorted(set(texts))[:40])}"
            )
        modes = tuple(sorted(set(texts) - set(told.normal)))
        mode = np.array(texts)[:, None] == np.array(modes)[None, :]
        target = mode.any(axis=1)
    else:
        mode = np.column_stack([_flags(tables, column) for column in modes] or [np.empty((count, 0), np.bool_)])
        target = _flags(tables, told.columns.target)
    folds = told.split.folds or DEFAULT_FOLDS
    group, kind = np.arange(count, dtype=np.int64), "rows"
    if told.columns.group:
        groups = [text for table in tables for text in table.texts(told.columns.group, needed=True)]
        group, kind = np.unique(groups, return_inverse=True)[1].astype(np.int64), "groups with rows that"
    for failed, name in ((target, "failed"), (~target, "did not fail")):
        if np.unique(group[failed]).size < folds:
            raise DatasetError(f"{tables[0].file}: fewer than {folds} {kind} {name}; each of {folds} folds needs one")
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
