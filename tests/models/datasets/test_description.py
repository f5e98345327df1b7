from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.datasets.description import (
    ChannelForm,
    Columns,
    Description,
    EventFile,
    FailureFile,
    Files,
    Life,
    Split,
    TableForm,
    read_description,
)
from models.datasets.files import DatasetError
from models.datasets.folder import RemainingLife, read_folder

LIFE = 'task = "remaining_life"\n[files]\n'
MINIMAL = 'task = "anomaly"\n[files]\ndata = "*.csv"\n[columns]\nanomaly = "fault"\n'


def described(folder: Path, text: str) -> Path:
    file = folder / "dataset.toml"
    file.write_text(text)
    return file


def test_a_minimal_description_has_sensible_defaults(tmp_path: Path) -> None:
    told = read_description(described(tmp_path, MINIMAL))
    assert told.files == Files(data="*.csv")
    assert (told.table.separator, told.table.header, told.split.folds) == ("auto", None, None)
    assert read_description(described(tmp_path, "\ufeff" + MINIMAL)) == told, "some editors write a byte-order mark"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "`task`; the tasks are remaining_life"),
        ('task = "guess"', r"line 1: .*'guess'.*the tasks are"),
        ('task = "anomaly"\n[files\ndata = 1', "at line 2, column 7"),
        (MINIMAL + 'anomly = "x"', r"line 6: unknown key `columns.anomly`; there are asset, cycle"),
        (MINIMAL + "[splitt]\nfolds = 3", r"line 6: unknown key `splitt`"),
        (
            MINIMAL + "[channels]\na = { unit = 3 }",
            r"line 6: Expected `str`, got `int` - at `channels\[\.\.\.\]\.unit`",
        ),
        (MINIMAL + "[channels]\na = { low = 2.0, high = 1.0 }", r"line 7: channels.a: low 2.0 must be below high 1.0"),
        (MINIMAL + "[channels]\na = { low = -inf, high = inf }", r"line 7: channels.a: low and high are numbers"),
        (MINIMAL + '[channels]\n"' + 101 * "a" + '" = {}', "a name has 1 to 100 printable characters"),
        (MINIMAL + '[channels]\na = { role = "static" }', r"channels.a.role: 'static' has no meaning for anomaly"),
        (MINIMAL + '[channels]\na = { levels = ["x", "x"] }', "a text stands twice"),
        (MINIMAL + 'cycle = "n"', r"line 6: columns.cycle: has no meaning for anomaly; its keys are"),
        (MINIMAL + "[split]\nhealthy_rows = 0", "split.healthy_rows: 0 must be 1 or more"),
        (MINIMAL + "[split]\nhealthy_rows = 5\nhealthy_share = 0.2", "not both"),
        (MINIMAL + "[split]\nhealthy_share = 1.5", "split.healthy_share: 1.5 must lie between"),
        (MINIMAL + "[split]\nfolds = 5", "split.folds: has no meaning for anomaly"),
        (MINIMAL + "[life]\ncap = 3.0", "life: has no meaning for anomaly"),
        ('name = "\\u001b[31m"\n' + MINIMAL, r"line 1: name: '\\x1b\[31m' has not 1 to 100 printable"),
        ("changepoint_window_s = nan\n" + MINIMAL, "changepoint_window_s: nan must be above 0"),
        ('task = "anomaly"\n[files]\ndata = "a"', r"columns.anomaly: give the column"),
        ("changepoint_window_s = 1e12\n" + MINIMAL, "changepoint_window_s: .* at most"),
        ('task = "series"\n[files]\ndata = "a"', "files.labels: is missing"),
        ('task = "series"\n[files]\ndata = "a"\nlabels = "l"', "columns.time: is missing"),
        (LIFE + 'train = "a"\ntest = "b"\ntest_life = "c"\n[split]\nfolds = 3', "line 6: split: files.train and"),
        (LIFE + 'data = "a"\n[split]\nfolds = 3\ntest_assets = ["a"]', "test_assets or folds, not both"),
        (LIFE + 'data = "a"\ntest_life = "c"', "files.test_life: has a meaning only beside files.test"),
        ('task = "classification"\n[files]\ndata = "a"', "columns.target: is missing"),
        ('task = "classification"\n[files]\ndata = "a"\n[columns]\nmode = "m"', "normal ="),
        ('task = "failure_events"\n[files]\ndata = "a"', r"failures: is missing"),
        ('task = "remaining_life"\n[files]\ntrain = "a"', "files.test: is missing"),
        ('task = "remaining_life"\n[files]\ntrain = "a"\ntest = "b"', "files.test_life: is missing"),
        ('task = "remaining_life"\n[files]\ndata = "a"\n[split]\nfolds = 1', "split.folds: 1 must be 2 to 100"),
        ('task = "remaining_life"\n[files]\ndata = "a"\n[columns]\ntime = "t"\n[life]\nunit = "cycles"', "in hours"),
    ],
)
def test_what_cannot_be_used_is_told_by_file_line_and_key(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=reason) as refusal:
        read_description(described(tmp_path, text))
    assert str(tmp_path / "dataset.toml") in str(refusal.value)


@pytest.mark.parametrize("path", ["../a.csv", "/etc/passwd", "a/../../b.csv", "C:/a.csv", "..\\\\a.csv"])
def test_a_path_may_not_leave_the_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(DatasetError, match=r"line 3: files.data: .* leads out of the folder"):
        read_description(described(tmp_path, MINIMAL.replace("*.csv", path)))


def test_a_description_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds more than 1 MiB"):
        read_description(described(tmp_path, "#" * (2**20 + 1)))


PAGE = Path(__file__).parents[3] / "docs" / "reference" / "dataset-folder.md"
TABLES = {
    "files": Files,
    "table": TableForm,
    "columns": Columns,
    "channels": ChannelForm,
    "life": Life,
    "split": Split,
    "events": EventFile,
    "failures": FailureFile,
}


def test_each_key_is_in_the_reference() -> None:
    """A table of its own for each table of the description, and each key in it."""
    parts = {re.sub(r"\W.*", "", part.lstrip("`[")): part for part in PAGE.read_text("utf-8").split("\n### ")[1:]}
    parts["failures"] = parts["events"]
    assert set(Description.__struct_fields__) - set(TABLES) <= set(re.findall(r"`(\w+)`", PAGE.read_text("utf-8")))
    for table, form in TABLES.items():
        missing = [key for key in form.__struct_fields__ if not re.search(rf"`([\w.]*\.)?{key}`", parts[table])]
        assert missing == [], table


def test_the_references_example_reads_files_as_nasa_writes_them(tmp_path: Path) -> None:
    """Columns without a name are named by their number; trailing spaces are none of them."""
    example = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[0]
    rows = [f"{unit} {cycle} " + "1.5 " * 24 + " " for unit in (1, 2, 3) for cycle in range(1, 9)]
    for name in ("train_FD003.txt", "test_FD003.txt"):
        (tmp_path / name).write_text("\n".join(rows))
    (tmp_path / "RUL_FD003.txt").write_text("5 \n6 \n7 \n")
    described(tmp_path, example)
    dataset = read_folder(tmp_path)
    assert isinstance(dataset, RemainingLife)
    assert (dataset.settings, len(dataset.channels), dataset.cap) == (("3", "4", "5"), 24, 125.0)
    assert dataset.splits[0].test.life[[7, 15, 23]].tolist() == [5.0, 6.0, 7.0]
