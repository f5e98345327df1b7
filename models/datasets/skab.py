"""SKAB, Skoltech Anomaly Benchmark (Katser, Kozitsin 2020): a water pump's test bed with induced faults.

One file is one experiment, about one row a second. Rows of the faulted experiments are labelled.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.datasets.files import DatasetError, read_text
from models.records import BoolArray, Channel, FloatArray, Int64Array

CHANNELS: Final = (
    Channel(name="accelerometer_1_rms_g", unit="g", low=0.0, high=5.0),
    Channel(name="accelerometer_2_rms_g", unit="g", low=0.0, high=5.0),
    Channel(name="current_a", unit="A", low=0.0, high=20.0),
    Channel(name="pressure_bar", unit="bar", low=-5.0, high=5.0),
    Channel(name="motor_temperature_c", unit="°C", low=0.0, high=150.0),
    Channel(name="fluid_temperature_c", unit="°C", low=0.0, high=150.0),
    Channel(name="voltage_v", unit="V", low=0.0, high=400.0),
    Channel(name="flow_l_min", unit="l/min", low=0.0, high=200.0),
)
HEADER: Final = (
    "datetime", "Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple",
    "Voltage", "Volume Flow RateRMS",
)  # fmt: skip
LABELS: Final = ("anomaly", "changepoint")
GROUPS: Final = ("anomaly-free", "valve1", "valve2", "other")
ROW_LIMIT: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One experiment: times in ns since 1970 (the file's clock, taken as UTC), strictly rising, shape ``(n,)``.

    ``values`` has shape ``(n, 8)``. ``anomaly`` and ``changepoint`` are all False in the anomaly-free experiment.
    """

    group: str
    name: str
    time_ns: Int64Array
    values: FloatArray
    anomaly: BoolArray
    changepoint: BoolArray


def read_experiments(folder: Path) -> tuple[Experiment, ...]:
    """Return all experiments below *folder*, by group and number.

    Raises:
        DatasetError: If a group is missing, or a file is malformed.
    """
    experiments: list[Experiment] = []
    for group in GROUPS:
        files = sorted((folder / group).glob("*.csv.gz"), key=lambda file: (len(file.name), file.name))
        if not files:
            raise DatasetError(f"{folder / group}: has no *.csv.gz; is {folder} the folder of SKAB?")
        experiments.extend(read_experiment(file) for file in files)
    return tuple(experiments)


def read_experiment(file: Path) -> Experiment:
    """Return the experiment of one *file*.

    Raises:
        DatasetError: If its header is not SKAB's, a row has other columns, a value is not a finite number, a label
            is neither 0 nor 1, or the times do not rise.
    """
    rows = [row for row in csv.reader(read_text(file).splitlines(), delimiter=";") if row]
    header = tuple(rows[0]) if rows else ()
    if header not in (HEADER, HEADER + LABELS):
        raise DatasetError(f"{file}: has not SKAB's header; nothing of it is used")
    if not 1 < len(rows) <= ROW_LIMIT + 1:
        raise DatasetError(f"{file}: has {len(rows) - 1} rows; 1 to {ROW_LIMIT} are read")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise DatasetError(f"{file}: line {number} has {len(row)} columns, not {len(header)}")
    try:
        time_ns = np.array([row[0] for row in rows[1:]], "datetime64[s]").astype("datetime64[ns]").astype(np.int64)
        table = np.array([row[1:] for row in rows[1:]], np.float64)
    except ValueError as error:
        raise DatasetError(f"{file}: {error}; nothing of it is used") from error
    labels = table[:, len(CHANNELS) :] if len(header) > len(HEADER) else np.zeros((len(table), len(LABELS)))
    if not np.isfinite(table).all() or not np.isin(labels, (0.0, 1.0)).all():
        raise DatasetError(f"{file}: a value is not finite or a label is neither 0 nor 1; nothing of it is used")
    if (np.diff(time_ns) <= 0).any():
        raise DatasetError(f"{file}: line {int(np.argmax(np.diff(time_ns) <= 0)) + 3}: the time does not rise")
    return Experiment(
        group=file.parent.name,
        name=file.name.removesuffix(".csv.gz"),
        time_ns=time_ns,
        values=np.ascontiguousarray(table[:, : len(CHANNELS)]),
        anomaly=labels[:, 0] == 1.0,
        changepoint=labels[:, 1] == 1.0,
    )
