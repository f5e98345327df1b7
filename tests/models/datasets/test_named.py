"""The public data sets, by name and as somebody's own folder, against readers that share no code with them."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.datasets import cmapss, skab
from models.datasets.files import DatasetError
from models.datasets.folder import read_folder
from models.datasets.named import FOLDERS, description_of, read_named
from models.datasets.tasks import Anomaly, Classification, Dataset, FailureEvents, RemainingLife, Series

DATA = Path(os.environ.get("WEARSIGHT_DATA", Path(__file__).parents[3].parent / "shared" / "data"))

pytestmark = pytest.mark.data


def folder(name: str) -> Path:
    if not (DATA / FOLDERS[name]).is_dir():
        pytest.skip(f"data set {FOLDERS[name]} is not in {DATA} (set WEARSIGHT_DATA)")
    return DATA / FOLDERS[name]


def named(name: str) -> Dataset:
    folder(name)
    return read_named(name, DATA)


def rows_of(file: Path) -> list[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def same(one: object, other: object) -> bool:
    """Return whether two data sets hold the same, whatever arrays they are made of."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and all(same(getattr(one, f), getattr(other, f)) for f in vars(one))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", FOLDERS)
def test_somebodys_own_folder_reads_as_the_named_data_set(name: str, tmp_path: Path) -> None:
    """A copy of the files, unpacked, with a description beside them, is the same data set: no code knows its name."""
    source = folder(name)
    for file in source.rglob("*.*"):
        copy = tmp_path / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".gz":
            copy.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        else:
            shutil.copy(file, copy)
    (tmp_path / "dataset.toml").write_text(description_of(name).read_text("utf-8").replace(".gz", ""))

    assert same(read_folder(tmp_path), named(name))


@pytest.mark.parametrize("name", ["cmapss-fd001", "cmapss-fd002"])
def test_cmapss_is_what_its_own_reader_reads(name: str) -> None:
    dataset, subset = named(name), cmapss.read_subset(folder(name), name[-5:].upper())
    assert isinstance(dataset, RemainingLife)
    (split,) = dataset.splits
    assert dataset.channels == cmapss.CHANNELS
    assert np.array_equal(split.train.values, np.concatenate([engine.values for engine in subset.train]))
    assert np.array_equal(split.test.values, np.concatenate([engine.values for engine in subset.test]))
    last = np.flatnonzero(np.diff(split.test.asset, append=-1))
    assert np.array_equal(split.test.life[last], subset.rul)
    assert np.array_equal(
        split.train.life[np.flatnonzero(split.train.age == 1.0)] + 1, [len(e.values) for e in subset.train]
    )


def test_skab_is_what_its_own_reader_reads() -> None:
    dataset, experiments = named("skab"), skab.read_experiments(folder("skab"))
    assert isinstance(dataset, Anomaly)
    assert dataset.channels == skab.CHANNELS
    assert dataset.file_ids == tuple(f"{one.group}/{one.name}" for one in experiments)
    assert np.array_equal(dataset.values, np.concatenate([one.values for one in experiments]))
    assert np.array_equal(dataset.time_ns, np.concatenate([one.time_ns for one in experiments]))
    assert np.array_equal(dataset.anomaly, np.concatenate([one.anomaly for one in experiments]))
    assert np.array_equal(dataset.changepoint, np.concatenate([one.changepoint for one in experiments]))
    assert (dataset.judged.sum(), set(dataset.healthy_rows[dataset.judged])) == (34, {400})


def test_ai4i_never_takes_its_answers_for_inputs() -> None:
    dataset, rows = named("ai4i"), rows_of(folder("ai4i") / "ai4i2020.csv.gz")
    assert isinstance(dataset, Classification)
    inputs = [
        "Air temperature [K]",
        "Process temperature [K]",
        "Rotational speed [rpm]",
        "Torque [Nm]",
        "Tool wear [min]",
    ]
    assert np.array_equal(dataset.values[:, 1:], [[float(row[name]) for name in inputs] for row in rows])
    assert dataset.values[:, 0].tolist() == ["LMH".index(row["Type"]) for row in rows]
    assert dataset.target.tolist() == [row["Machine failure"] == "1" for row in rows]
    assert dict(zip(dataset.modes, dataset.mode.sum(axis=0).tolist(), strict=True)) == {
        "TWF": 46, "HDF": 115, "PWF": 95, "OSF": 98, "RNF": 19
    }  # fmt: skip
    assert len(dataset.channels) == 6


def test_azure_pdm_has_the_failures_of_machines_with_telemetry() -> None:
    dataset, source = named("azure-pdm"), folder("azure-pdm")
    assert isinstance(dataset, FailureEvents)
    telemetry = rows_of(source / "PdM_telemetry_m001-020_2015Q1.csv.gz")
    failures = [
        row for row in rows_of(source / "PdM_failures.csv.gz")
        if int(row["machineID"]) <= 20 and row["datetime"] <= telemetry[-1]["datetime"]
    ]  # fmt: skip
    assert len(failures) == len(dataset.failure_mode) == 42
    assert [row["failure"] for row in failures] == [dataset.modes[mode] for mode in dataset.failure_mode]
    assert np.array_equal(dataset.values[:, 0], [float(row["volt"]) for row in telemetry])
    assert (len(dataset.machine_ids), len(dataset.machine)) == (20, 43_200)
    assert (np.diff(dataset.time_ns)[np.diff(dataset.machine) == 0] == 3_600_000_000_000).all()
    errors = [row for row in rows_of(source / "PdM_errors.csv.gz") if int(row["machineID"]) <= 20]
    assert sum(dataset.event_kinds[kind].startswith("error") for kind in dataset.event_kind) == len(errors)
    assert dataset.replacement_kinds == ("comp1", "comp2", "comp3", "comp4")


def test_nabs_clock_rises_although_it_was_set_back() -> None:
    """Twelve rows of an hour that came twice lie between their neighbours; values and labels are left as they are."""
    dataset = named("nab-machine-temperature")
    assert isinstance(dataset, Series)
    rows = rows_of(folder("nab-machine-temperature") / "machine_temperature_system_failure.csv.gz")
    clock = np.array([row["timestamp"] for row in rows], "datetime64[ns]").astype(np.int64)
    assert np.array_equal(dataset.values[:, 0], [float(row["value"]) for row in rows])
    assert (np.diff(dataset.time_ns) > 0).all()
    assert (dataset.time_ns != clock).sum() == 12
    assert (len(dataset.window_start_ns), dataset.healthy_rows.tolist()) == (4, [750])


def test_a_name_without_its_folder_is_told_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="skab: is not there; give the folder that holds skab/ with --data"):
        read_named("skab", tmp_path)
