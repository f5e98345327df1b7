from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from models.datasets import DatasetError, cmapss, files, skab

DATA = Path(os.environ.get("WEARSIGHT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
needs_cmapss = pytest.mark.skipif(not (DATA / "cmapss").is_dir(), reason="the C-MAPSS data set is not here")
needs_skab = pytest.mark.skipif(not (DATA / "skab").is_dir(), reason="the SKAB data set is not here")
HEADER = ";".join(skab.HEADER + skab.LABELS)


def packed(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode()))
    return file


def engine_row(unit: float, cycle: float, value: str = "1.5") -> str:
    return f"{unit:g} {cycle:g} " + " ".join([value] * 24) + "  \n"


def rig_row(second: int, value: str = "1.5", anomaly: str = "0.0") -> str:
    return f"2020-02-08 18:34:{second:02d};" + ";".join([value] * 8) + f";{anomaly};0.0"


@pytest.mark.data
@needs_cmapss
def test_fd001_has_its_published_size() -> None:
    subset = cmapss.read_subset(DATA / "cmapss")
    assert len(subset.train) == len(subset.test) == len(subset.rul) == 100
    assert sum(len(engine.values) for engine in subset.train) == 20_631
    assert sum(len(engine.values) for engine in subset.test) == 13_096
    assert (subset.rul > 125).sum() == 11


@pytest.mark.data
@needs_cmapss
def test_every_value_of_fd001_lies_in_its_channels_range() -> None:
    for engine in cmapss.read_subset(DATA / "cmapss").train:
        for channel, values in zip(cmapss.CHANNELS, engine.values.T, strict=True):
            assert channel.low <= values.min() <= values.max() <= channel.high, channel.name


@pytest.mark.data
@needs_skab
def test_skab_has_its_published_size() -> None:
    experiments = skab.read_experiments(DATA / "skab")
    assert len(experiments) == 35
    assert len(experiments[0].time_ns) == 9_405
    assert sum(len(experiment.time_ns) for experiment in experiments[1:]) == 37_401
    assert sum(int(experiment.anomaly.sum()) for experiment in experiments) == 13_067
    assert sum(int(experiment.changepoint.sum()) for experiment in experiments) == 129


def test_engines_are_read_by_number(tmp_path: Path) -> None:
    file = packed(tmp_path / "train.txt.gz", engine_row(1, 1) + engine_row(1, 2) + engine_row(2, 1))
    assert [(engine.unit, engine.values.shape) for engine in cmapss.read_engines(file)] == [(1, (2, 24)), (2, (1, 24))]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("1 1 2 3\n", "26"),
        (engine_row(1, 1) + "1 2 3\n", "columns"),
        (engine_row(1, 1, "nan"), "finite"),
        (engine_row(1, 1, "much"), "much"),
        (engine_row(1, 1) + engine_row(1, 3), "cycle 3"),
        (engine_row(2, 1), "numbered"),
        (engine_row(1, 1) + engine_row(3, 1), "numbered"),
    ],
)
def test_a_malformed_engine_file_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    file = packed(tmp_path / "train.txt.gz", text)
    with pytest.raises(DatasetError, match=reason) as refusal:
        cmapss.read_engines(file)
    assert str(file) in str(refusal.value)


def test_a_rul_for_each_test_engine_is_needed(tmp_path: Path) -> None:
    packed(tmp_path / "train_FD001.txt.gz", engine_row(1, 1))
    packed(tmp_path / "test_FD001.txt.gz", engine_row(1, 1))
    packed(tmp_path / "RUL_FD001.txt.gz", "5\n6\n")
    with pytest.raises(DatasetError, match="each of 1 test engines"):
        cmapss.read_subset(tmp_path)


def test_an_experiment_is_read_with_its_labels(tmp_path: Path) -> None:
    rows = [HEADER, rig_row(1), rig_row(3, anomaly="1.0")]
    experiment = skab.read_experiment(packed(tmp_path / "valve1" / "0.csv.gz", "\r\n".join(rows)))
    assert (experiment.group, experiment.name) == ("valve1", "0")
    assert np.diff(experiment.time_ns).tolist() == [2_000_000_000]
    assert experiment.anomaly.tolist() == [False, True]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "header"),
        (["a;b", "1;2"], "header"),
        ([HEADER], "0 rows"),
        ([HEADER, rig_row(1) + ";9"], "line 2 has 12 columns"),
        ([HEADER, rig_row(1, "inf")], "finite"),
        ([HEADER, rig_row(1, "x")], "could not convert"),
        ([HEADER, rig_row(1, anomaly="0.5")], "label"),
        ([HEADER, rig_row(2), rig_row(2)], "line 3: the time does not rise"),
    ],
)
def test_a_malformed_experiment_is_refused_with_the_reason(tmp_path: Path, rows: list[str], reason: str) -> None:
    file = packed(tmp_path / "valve1" / "0.csv.gz", "\n".join(rows))
    with pytest.raises(DatasetError, match=reason) as refusal:
        skab.read_experiment(file)
    assert str(file) in str(refusal.value)


def test_a_file_that_unpacks_without_end_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TEXT_LIMIT", 2**20)
    file = packed(tmp_path / "train.txt.gz", "1 " * 2**20)
    with pytest.raises(DatasetError, match="more than 1 MiB"):
        cmapss.read_engines(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"1 1 2" * 100)[:-9], gzip.compress(b"\xff\xfe")],
    ids=["empty", "not gzip", "cut", "not text"],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "train.txt.gz"
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"train\.txt\.gz"):
        cmapss.read_engines(file)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="anomaly-free"):
        skab.read_experiments(tmp_path)
