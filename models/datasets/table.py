"""One text file of rows and columns, read as columns; what cannot be read is told by line and column."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from models.datasets.description import TableForm
from models.datasets.files import BOM, DatasetError, read_bytes
from models.records import BoolArray, FloatArray, Int64Array, to_ns

BYTES_LIMIT: Final = 512 * 1024 * 1024
ROW_LIMIT: Final = 10_000_000
COLUMN_LIMIT: Final = 2_000
LF: Final = b"\n"
_SEPARATORS: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "whitespace": " "}
_TRUE: Final = ("1", "1.0", "true", "True", "TRUE", "yes", "Yes", "y")
_FALSE: Final = ("0", "0.0", "false", "False", "FALSE", "no", "No", "n")
_ZONE: Final = r"(Z|[+-]\d{2}:?\d{2})$"


@dataclass(frozen=True, kw_only=True)
class Table:
    """The columns of one file as texts; `numbers`, `times`, `flags` and `texts` read one of them.

    ``first_line`` is the line of the first row, for messages.
    """

    file: Path
    form: TableForm
    names: tuple[str, ...]
    columns: tuple[Any, ...]
    rows: int
    first_line: int

    def has(self, name: str) -> bool:
        """Return whether there is a column of that *name*."""
        return name in self.names

    def texts(self, name: str, *, needed: bool = False) -> list[str]:
        """Return the column as texts without the spaces around them; a missing one is ``""``.

        Raises:
            DatasetError: If there is no such column, or a text is missing while *needed*.
        """
        texts = [text or "" for text in self._column(name).to_pylist()]
        if needed and "" in texts:
            raise self.refusal(name, texts.index(""), "is missing")
        return texts

    def numbers(self, name: str, *, needed: bool = False) -> FloatArray:
        """Return the column as numbers, shape ``(rows,)``, NaN where one is missing.

        Raises:
            DatasetError: If there is no such column, or a value is no finite number, or is missing while *needed*.
        """
        texts = self._column(name)
        if self.form.decimal == ",":  # a point parts thousands there: 1.234 would be read as 1
            texts = pc.replace_substring(pc.replace_substring(texts, ".", "_"), ",", ".")
        try:
            values = np.asarray(pc.fill_null(pc.cast(texts, pa.float64()), float("nan")), np.float64)
        except pa.ArrowInvalid:
            raise self.refusal(name, _first_that_is_no_number(texts), "is no number") from None
        if np.isinf(values).any():
            raise self.refusal(name, int(np.flatnonzero(np.isinf(values))[0]), "is not finite")
        if needed and np.isnan(values).any():
            raise self.refusal(name, int(np.flatnonzero(np.isnan(values))[0]), "is missing")
        return values

    def is_numeric(self, name: str) -> bool:
        """Return whether the column holds numbers (or nothing) throughout."""
        try:
            self.numbers(name)
        except DatasetError:
            return False
        return True

    def flags(self, name: str) -> BoolArray:
        """Return the column as truth values, shape ``(rows,)``: 1, true, yes and 0, false, no.

        Raises:
            DatasetError: If there is no such column, or a value is neither.
        """
        texts = self._column(name)
        true = np.asarray(pc.is_in(texts, value_set=pa.array(_TRUE)), np.bool_)
        known = true | np.asarray(pc.is_in(texts, value_set=pa.array(_FALSE)), np.bool_)
        if not known.all():
            raise self.refusal(name, int(np.flatnonzero(~known)[0]), "is neither 0 nor 1")
        return true

    def times(self, name: str) -> Int64Array:
        """Return the column as times in ns since 1970 UTC, shape ``(rows,)``; a clock without a zone is UTC.

        Raises:
            DatasetError: If there is no such column, or a value is no time in the description's ``time_format``.
        """
        texts = self._column(name)
        if self.form.time_format in _UNIX_NS:
            time_ns = np.rint(self.numbers(name, needed=True) * _UNIX_NS[self.form.time_format])
            if (far := np.flatnonzero(np.abs(time_ns) > LATEST_NS)).size:
                why = f"lies outside of 1678 to 2262 (table.time_format is {self.form.time_format})"
                raise self.refusal(name, int(far[0]), why)
            return time_ns.astype(np.int64)
        parsed = _parsed_times(texts, self.form.time_format)
        missing = np.asarray(pc.is_null(parsed), np.bool_)
        if missing.any():
            row = int(np.flatnonzero(missing)[0])
            raise self.refusal(name, row, f"is no time (table.time_format is {self.form.time_format})")
        return np.asarray(pc.cast(parsed, pa.int64()), np.int64)

    def _column(self, name: str) -> Any:
        if name not in self.names:
            raise DatasetError(f"{self.file}: has no column {name!r}; it has {', '.join(self.names[:40])}")
        return self.columns[self.names.index(name)]

    def refusal(self, name: str, row: int, why: str) -> DatasetError:
        """Return the error that the value of column *name* in *row*, from 0, cannot be used, and *why*."""
        value = self.columns[self.names.index(name)][row].as_py()
        shown = "" if value is None else f" {value[:40]!r}"
        return DatasetError(
            f"{self.file}: line {row + self.first_line}, column {name!r}:{shown} {why}; correct it, or name in "
            "table.missing what stands for a missing value"
        )


LATEST_NS: Final = 9.2e18  # times are whole ns in 64 bits
_UNIX_NS: Final = {"unix_s": 1e9, "unix_ms": 1e6}


def read_table(file: Path, form: TableForm, names: Sequence[str] = ()) -> Table:
    """Return the table in *file*, written as *form* says.

    Args:
        file: Text in UTF-8, ``.gz`` or not, at most 512 MiB unpacked.
        form: Separator, header, missing values; what it leaves open is seen from the first line.
        names: Of the columns where there is no header.

    Raises:
        DatasetError: If it is missing, too large, or no table of at least one row, or a line has more or fewer
            columns than the first.
    """
    content = read_bytes(file, BYTES_LIMIT).removeprefix(BOM).rstrip(b"\r\n \t")
    if not content:
        raise DatasetError(f"{file}: is empty")
    separator = _separator(content, form)
    if separator == " ":
        content = b"\n".join(b" ".join(line.split()) for line in content.splitlines())
    if blank := re.search(rb"\n\r?\n", content):
        raise DatasetError(f"{file}: line {content[: blank.start()].count(LF) + 2} is empty; take it out")
    first = _fields(content, separator, file)
    has_header = form.header if form.header is not None else not names and not _is_all_numbers(first, form)
    if has_header and LF not in content:
        raise DatasetError(f"{file}: has a header and no rows")
    columns = _column_names(file, first, names, has_header=has_header)
    texts = _parsed(file, content, separator, columns, skip=has_header)
    missing = pa.array(form.missing, pa.string())
    cleaned = tuple(_cleaned(column, missing) for column in texts.columns)
    if not 0 < texts.num_rows <= ROW_LIMIT:
        raise DatasetError(f"{file}: has {texts.num_rows} rows; 1 to {ROW_LIMIT} are read")
    return Table(
        file=file,
        form=form,
        names=columns,
        columns=cleaned,
        rows=texts.num_rows,
        first_line=2 if has_header else 1,
    )


def _parsed(file: Path, content: bytes, separator: str, names: Sequence[str], *, skip: bool) -> Any:
    wrong: list[Any] = []

    def note(row: Any) -> str:
        wrong.append(row)
        return "error"

    try:
        return arrow_csv.read_csv(
            pa.BufferReader(content),
            read_options=arrow_csv.ReadOptions(
                use_threads=False,  # rows are numbered only so
                column_names=list(names),
                skip_rows=1 if skip else 0,
                block_size=max(1 << 20, min(len(content), 1 << 28)),
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator, newlines_in_values=False, ignore_empty_lines=False, invalid_row_handler=note
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if wrong and wrong[0].number is not None:
            row = wrong[0]
            raise DatasetError(
                f"{file}: line {row.number} has {row.actual_columns} columns, not {row.expected_columns}; correct it, "
                "or say with table.separator how columns are parted"
            ) from None
        way_out = "save it as UTF-8" if "UTF8" in str(error) else "nothing of it is used"
        raise DatasetError(f"{file}: {str(error)[:200]}; {way_out}") from error


def parse_times(texts: Sequence[str], time_format: str) -> list[int | None]:
    """Return *texts* as ns since 1970 UTC, None for one that is no time in *time_format*, as `Table.times` reads it."""
    if time_format in _UNIX_NS:
        times = [float(text) * _UNIX_NS[time_format] if _is_number(text) else math.nan for text in texts]
        return [round(time_ns) if abs(time_ns) <= LATEST_NS else None for time_ns in times]
    found: list[int | None] = pc.cast(_parsed_times(pa.array(texts, pa.string()), time_format), pa.int64()).to_pylist()
    return found


def _separator(content: bytes, form: TableForm) -> str:
    if form.separator != "auto":
        return _SEPARATORS[form.separator]
    line = content.split(b"\n", 1)[0]
    found = next((mark for mark in (b";", b"\t", b",") if mark in line), b" " if len(line.split()) > 1 else b",")
    return found.decode()


def _fields(content: bytes, separator: str, file: Path) -> list[str]:
    """Return the fields of the first line."""
    try:
        line = content.split(b"\n", 1)[0].decode("utf-8").rstrip("\r")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file}: line 1 is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    try:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error as error:
        raise DatasetError(f"{file}: line 1: {error}; end each line with a line feed") from error
    if not 0 < len(fields) <= COLUMN_LIMIT:
        raise DatasetError(f"{file}: line 1 has {len(fields)} columns; 1 to {COLUMN_LIMIT} are read")
    return fields


def _is_all_numbers(fields: Sequence[str], form: TableForm) -> bool:
    return all(field in form.missing or _is_number(field.replace(form.decimal, ".")) for field in fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_that_is_no_number(texts: Any) -> int:
    return next(row for row, text in enumerate(texts.to_pylist()) if text is not None and not _is_arrow_number(text))


def _is_arrow_number(text: str) -> bool:
    try:
        pc.cast(pa.scalar(text), pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _column_names(file: Path, first: Sequence[str], given: Sequence[str], *, has_header: bool) -> tuple[str, ...]:
    """Return the columns' names: as given, as in the header, or the columns' numbers from 1."""
    names = tuple(given) or (tuple(first) if has_header else tuple(str(number + 1) for number in range(len(first))))
    if len(names) != len(first):
        raise DatasetError(
            f"{file}: line 1 has {len(first)} columns, and table.columns names {len(names)}; name each column"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{file}: column {twice[0]!r} stands twice in line 1; name the columns with table.columns")
    return names


def _cleaned(column: Any, missing: Any) -> Any:
    """Return *column* without spaces around its texts, null where one stands for a missing value."""
    trimmed = pc.utf8_trim_whitespace(column.combine_chunks())
    return pc.if_else(pc.is_in(trimmed, value_set=missing), pa.scalar(None, pa.string()), trimmed)


def _parsed_times(texts: Any, time_format: str) -> Any:
    """Return timestamps in ns, null where a text is no time."""
    if re.search("%[fz]", time_format):  # which pyarrow does not know
        return pa.array([_strptime_ns(text, time_format) for text in texts.to_pylist()], pa.timestamp("ns"))
    if time_format != "iso":
        return pc.strptime(texts, format=time_format, unit="ns", error_is_null=True)
    zoned = pc.match_substring_regex(texts, _ZONE)
    kind = pa.timestamp("ns", "UTC") if pc.any(zoned).as_py() else pa.timestamp("ns")
    try:
        return pc.cast(texts, kind)
    except pa.ArrowInvalid:
        return pa.array([_time_or_none(text, kind) for text in texts.to_pylist()], kind)


def _strptime_ns(text: str | None, time_format: str) -> int | None:
    try:
        told = datetime.strptime(text or "", time_format)  # noqa: DTZ007 - a clock without a zone is UTC
        return to_ns(told if told.tzinfo else told.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


def _time_or_none(text: str | None, kind: Any) -> Any:
    try:
        return pc.cast(pa.scalar(text, pa.string()), kind)
    except pa.ArrowInvalid:
        return None
