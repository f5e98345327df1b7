from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.datasets import table as reading
from models.datasets.description import TableForm
from models.datasets.files import DatasetError
from models.datasets.table import parse_times, read_table

FORM = TableForm()


def written(folder: Path, content: str | bytes, name: str = "a.csv") -> Path:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a,b\n1,2\n3,4\n", "a.csv"),
        ("a;b\r\n1;2\r\n3;4\r\n", "a.csv"),
        ("a\tb\n1\t2\n3\t4", "a.tsv"),
        ("  a  b \n 1   2  \n3 4  \n\n", "a.txt"),
        ('\ufeff"a","b"\n"1", 2\n3,4\n', "a.csv"),
        (gzip.compress(b"a,b\n1,2\n3,4\n"), "a.csv.gz"),
    ],
    ids=["comma", "semicolon CRLF", "tab", "whitespace", "byte-order mark and quotes", "gzip"],
)
def test_how_a_table_is_written_is_seen_from_its_first_line(tmp_path: Path, content: str | bytes, name: str) -> None:
    table = read_table(written(tmp_path, content, name), FORM)
    assert table.names == ("a", "b")
    assert np.array_equal(table.numbers("a"), [1.0, 3.0])
    assert np.array_equal(table.numbers("b"), [2.0, 4.0])


def test_a_first_line_of_numbers_is_no_header(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "1 2\n3 4\n"), FORM)
    assert (table.names, table.rows) == (("1", "2"), 2)


def test_names_are_given_where_there_is_no_header(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "x,2\ny,4\n"), FORM, ("who", "what"))
    assert table.texts("who") == ["x", "y"]


def test_missing_values_are_nan_and_the_decimal_may_be_a_comma(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "a;b\n1,5;x\nNA;\n"), TableForm(decimal=","))
    assert np.array_equal(table.numbers("a"), [1.5, np.nan], equal_nan=True)
    assert table.texts("b") == ["x", ""]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n1,2\n3\n", "line 3 has 1 columns, not 2"),
        ("a,b\n1,2\n\n3,4\n", "line 3 is empty"),
        ("a,b\n1,2,3\n", "line 2 has 3 columns, not 2"),
        ("a,a\n1,2\n", "column 'a' stands twice in line 1"),
        (b"a,b\n1,\xff\n", "invalid UTF8"),
        (b"\xe9,b\n1,2\n", "line 1 is not UTF-8"),
    ],
)
def test_what_is_no_table_is_refused_by_line(tmp_path: Path, content: str | bytes, reason: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(DatasetError, match=reason) as refusal:
        read_table(file, FORM)
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "method", "reason"),
    [
        ("much", "numbers", "line 3, column 'a': 'much' is no number"),
        ("inf", "numbers", "line 3, column 'a': 'inf' is not finite"),
        ("1_0", "numbers", "'1_0' is no number"),
        ("2", "flags", "line 3, column 'a': '2' is neither 0 nor 1"),
        ("yesterday", "times", "line 3, column 'a': 'yesterday' is no time"),
    ],
)
def test_a_value_that_cannot_be_read_is_told_by_line_and_column(
    tmp_path: Path, value: str, method: str, reason: str
) -> None:
    first = "2020-01-01 00:00" if method == "times" else "1"
    table = read_table(written(tmp_path, f"a,b\n{first},1\n{value},1\n"), FORM)
    with pytest.raises(DatasetError, match=reason):
        getattr(table, method)("a")


def test_a_value_outside_of_the_format_is_never_guessed(tmp_path: Path) -> None:
    """A point that parts thousands is none of a decimal comma's, and milliseconds are no seconds."""
    table = read_table(written(tmp_path, "a;t\n1.234;1577836800000\n"), TableForm(decimal=",", time_format="unix_s"))
    with pytest.raises(DatasetError, match="is no number"):
        table.numbers("a")
    with pytest.raises(DatasetError, match="line 2, column 't': '1577836800000' lies outside of 1678 to 2262"):
        table.times("t")


def test_a_column_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no column 'c'; it has a, b"):
        read_table(written(tmp_path, "a,b\n1,2\n"), FORM).numbers("c")


@pytest.mark.parametrize(
    ("text", "time_format", "seconds"),
    [
        ("1970-01-01 00:00:01", "iso", 1.0),
        ("1970-01-01T00:00:01.5", "iso", 1.5),
        ("1970-01-02", "iso", 86400.0),
        ("1970-01-01T01:00:00+01:00", "iso", 0.0),
        ("1970-01-01T00:00:00Z", "iso", 0.0),
        ("02.01.1970 00:00", "%d.%m.%Y %H:%M", 86400.0),
        ("12.5", "unix_s", 12.5),
        ("1500", "unix_ms", 1.5),
        ("02.01.1970 00:00:00.25", "%d.%m.%Y %H:%M:%S.%f", 86400.25),
        ("1970-01-01 01:00 +0100", "%Y-%m-%d %H:%M %z", 0.0),
        ("soon", "%H:%M:%S.%f", None),
        ("1577836800000", "unix_s", None),
        ("soon", "iso", None),
        ("soon", "unix_s", None),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(text: str, time_format: str, seconds: float | None) -> None:
    assert parse_times([text], time_format) == [None if seconds is None else round(seconds * 1e9)]


def test_a_table_is_bounded_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to a large one is not unpacked whole."""
    monkeypatch.setattr(reading, "BYTES_LIMIT", 2**20)
    file = written(tmp_path, gzip.compress(b"a,b\n" + b"1,2\n" * 2**19), "bomb.csv.gz")
    with pytest.raises(DatasetError, match="holds more than 1 MiB"):
        read_table(file, FORM)


def test_rows_and_columns_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ROW_LIMIT", 3)
    monkeypatch.setattr(reading, "COLUMN_LIMIT", 2)
    with pytest.raises(DatasetError, match="has 4 rows; 1 to 3"):
        read_table(written(tmp_path, "a,b\n" + "1,2\n" * 4), FORM)
    with pytest.raises(DatasetError, match="has 3 columns; 1 to 2"):
        read_table(written(tmp_path, "a,b,c\n1,2,3\n"), FORM)


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = written(tmp_path_factory.mktemp("bytes"), content)
    try:
        table = read_table(file, FORM)
    except DatasetError:
        return
    assert all(len(table.texts(name)) == table.rows for name in table.names)
