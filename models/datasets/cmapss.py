"""NASA C-MAPSS turbofan engines (Saxena et al., PHM08): run to failure, one row a flight cycle.

Training engines run until they fail; test engines are cut earlier, and ``RUL_FD00x.txt`` says how many cycles each
had left after its last recorded one.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.datasets.files import DatasetError, read_text
from models.records import Channel, FloatArray, Int64Array

CHANNELS: Final = (
    Channel(name="setting_1", unit="1", low=-1.0, high=60.0),
    Channel(name="setting_2", unit="1", low=-1.0, high=2.0),
    Channel(name="setting_3", unit="1", low=0.0, high=120.0),
    Channel(name="T2", unit="°R", low=400.0, high=600.0),
    Channel(name="T24", unit="°R", low=500.0, high=700.0),
    Channel(name="T30", unit="°R", low=1200.0, high=1700.0),
    Channel(name="T50", unit="°R", low=1000.0, high=1500.0),
    Channel(name="P2", unit="psi", low=0.0, high=20.0),
    Channel(name="P15", unit="psi", low=0.0, high=30.0),
    Channel(name="P30", unit="psi", low=100.0, high=600.0),
    Channel(name="Nf", unit="rpm", low=1500.0, high=2500.0),
    Channel(name="Nc", unit="rpm", low=7500.0, high=9500.0),
    Channel(name="epr", unit="1", low=0.5, high=2.0),
    Channel(name="Ps30", unit="psi", low=30.0, high=60.0),
    Channel(name="phi", unit="pps/psi", low=100.0, high=600.0),
    Channel(name="NRf", unit="rpm", low=1500.0, high=2500.0),
    Channel(name="NRc", unit="rpm", low=7500.0, high=8500.0),
    Channel(name="BPR", unit="1", low=5.0, high=12.0),
    Channel(name="farB", unit="1", low=0.0, high=0.1),
    Channel(name="htBleed", unit="1", low=250.0, high=450.0),
    Channel(name="Nf_dmd", unit="rpm", low=1500.0, high=2500.0),
    Channel(name="PCNfR_dmd", unit="rpm", low=50.0, high=120.0),
    Channel(name="W31", unit="lbm/s", low=5.0, high=60.0),
    Channel(name="W32", unit="lbm/s", low=2.0, high=40.0),
)
COLUMNS: Final = 2 + len(CHANNELS)
ROW_LIMIT: Final = 500_000


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine: its number from 1, and a row of settings and sensors, shape ``(cycles, 24)``, for each cycle."""

    unit: int
    values: FloatArray


@dataclass(frozen=True, kw_only=True)
class Subset:
    """One of the data set's subsets; ``rul`` has the cycles left after each test engine's last row."""

    name: str
    train: tuple[Engine, ...]
    test: tuple[Engine, ...]
    rul: Int64Array


def read_subset(folder: Path, name: str = "FD001") -> Subset:
    """Return subset *name* from *folder*, which holds ``train_``, ``test_`` and ``RUL_<name>.txt.gz``.

    Raises:
        DatasetError: If a file is missing, malformed, or does not fit the others.
    """
    test = read_engines(folder / f"test_{name}.txt.gz")
    file = folder / f"RUL_{name}.txt.gz"
    rul = _numbers(file, 1)[:, 0]
    if len(rul) != len(test) or (rul < 0).any() or (rul != np.rint(rul)).any():
        raise DatasetError(f"{file}: needs one whole number, 0 or more, for each of {len(test)} test engines")
    train = read_engines(folder / f"train_{name}.txt.gz")
    return Subset(name=name, train=train, test=test, rul=rul.astype(np.int64))


def read_engines(file: Path) -> tuple[Engine, ...]:
    """Return the engines of *file*, numbered 1, 2, 3... with cycles 1, 2, 3... each.

    Raises:
        DatasetError: If there are not 26 finite numbers a row, or an engine or a cycle is missing or out of order.
    """
    table = _numbers(file, COLUMNS)
    unit, cycle = table[:, 0], table[:, 1]
    starts = np.flatnonzero(np.diff(unit, prepend=unit[0] - 1.0))
    bounds = [*starts.tolist(), len(table)]
    expected = np.concatenate([np.arange(1, stop - start + 1) for start, stop in itertools.pairwise(bounds)])
    if (unit[starts] != np.arange(1, len(starts) + 1)).any():
        raise DatasetError(f"{file}: engines are not numbered 1, 2, 3...; nothing of it is used")
    if (wrong := np.flatnonzero(cycle != expected)).size:
        raise DatasetError(f"{file}: row {wrong[0] + 1}: cycle {cycle[wrong[0]]:g} where {expected[wrong[0]]} is due")
    return tuple(
        Engine(unit=number, values=np.ascontiguousarray(table[start:stop, 2:]))
        for number, (start, stop) in enumerate(itertools.pairwise(bounds), 1)
    )


def _numbers(file: Path, columns: int) -> FloatArray:
    text = read_text(file)
    if not text.strip():
        raise DatasetError(f"{file}: is empty")
    try:
        table = np.loadtxt(io.StringIO(text), dtype=np.float64, ndmin=2, max_rows=ROW_LIMIT + 1, comments=None)
    except ValueError as error:
        raise DatasetError(f"{file}: {error}; nothing of it is used") from error
    if table.shape[1] != columns or len(table) > ROW_LIMIT:
        raise DatasetError(f"{file}: {table.shape[0]} rows of {table.shape[1]} columns; needs {columns} columns")
    if not np.isfinite(table).all():
        raise DatasetError(f"{file}: row {int(np.flatnonzero(~np.isfinite(table).all(1))[0]) + 1} is not finite")
    return table
