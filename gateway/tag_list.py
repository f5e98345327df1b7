"""The tag list: one row a channel, in the configuration as ``[[tag]]`` or in a CSV file.

A CSV file is what people sort and fill down in a spreadsheet, so it is read as spreadsheets write it: with or without a
byte order mark, with ``,``, ``;`` or tab between the columns, with either line end, columns in any order. It is written
in one form only, and reads back to what was written.
"""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote
from uuid import UUID

import msgspec

from gateway.errors import ConfigError

ROWS_MOST = 200_000
BYTES_MOST = 64 << 20
_CELL_MOST = 1024  # characters; a NodeId's text may have 4,096 bytes, and nobody was seen to use them
_NUMBERS = ("low", "high")
_NODE = re.compile(r"nsu=([^;]+);([sigb])=(.+)", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_INDEXED = re.compile(r"(ns=\d+;)?[sigb]=.*", re.DOTALL)


class TagRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One channel and where it is found: by ``node``, by ``path``, or by ``path`` when its node is no longer there.

    Attributes:
        server: The server's name in the configuration.
        asset_id: The machine.
        asset_class: What it is; empty where another row or ``[[asset]]`` says it.
        channel: The channel's name.
        node: ``nsu=`` node id, as in ``nsu=urn:plant;s=T1``; or empty, and then there is a path.
        path: Browse names from Objects down, ``/`` between them; or empty.
        unit: Unit; empty takes what the server tells.
        low: Lower end of the range in the unit; -inf takes what the server tells.
        high: Upper end, likewise.
        group: ``[acquisition.group.NAME]``; empty takes the asset class's.
    """

    server: str
    asset_id: str
    asset_class: str = ""
    channel: str
    node: str = ""
    path: str = ""
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    group: str = ""


COLUMNS = TagRow.__struct_fields__
_REQUIRED = ("server", "asset_id", "channel")


def problem_of(row: TagRow) -> str:
    """Return what is wrong with *row* in itself, as ``column: reason``; nothing when it is fine."""
    for column in COLUMNS:
        value = getattr(row, column)
        if isinstance(value, str) and (problem := _text_problem(value, required=column in _REQUIRED)):
            return f"{column}: {problem}"
    if math.isnan(row.low) or math.isnan(row.high) or row.low >= row.high:
        return f"high: the range {row.low:g} to {row.high:g} has nothing in it"
    return _address_problem(row)


def _address_problem(row: TagRow) -> str:
    if not row.node and not row.path:
        return "node: a node, a path, or both are needed"
    column = "node"
    try:
        if row.node:
            parse_node(row.node)
        column = "path"
        if row.path and not split_path(row.path):
            return f"path: {row.path!r} has no name in it"
    except ValueError as error:
        return f"{column}: {error}"
    return ""


def split_path(path: str) -> list[str]:
    r"""Return the browse names of *path*; ``\/`` is a slash inside a name and ``\\`` a backslash.

    Raises:
        ValueError: If a backslash stands before anything else.
    """
    names = [""]
    characters = iter(path)
    for character in characters:
        if character == "/":
            names.append("")
            continue
        if character == "\\":
            character = next(characters, "")  # noqa: PLW2901 - the escaped one takes its place
            if character not in ("/", "\\"):
                raise ValueError(rf"{path!r}: a backslash stands only before / or \ ")
        names[-1] += character
    return [name for name in names if name]


def join_path(names: Iterable[str]) -> str:
    """Return the path whose browse names are *names*, none of them empty; `split_path` takes it apart again."""
    return "/".join(name.replace("\\", "\\\\").replace("/", "\\/") for name in names)


def read_tags(path: Path) -> dict[int, TagRow]:
    """Return the rows of the tag list in *path*, by line number.

    A row is checked in itself (see `problem_of`); whether its server, class and group exist is the configuration's.

    Raises:
        ConfigError: If the file cannot be read, is too large, or has a cell that cannot be used; the message names
            line and column.
    """
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MOST + 1)
        if len(content) > BYTES_MOST:
            raise ConfigError(f"{path}: larger than {BYTES_MOST >> 20} MiB")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8; save it as 'CSV UTF-8'") from error
    return parse_tags(text, str(path))


def parse_tags(text: str, name: str) -> dict[int, TagRow]:
    """Return the rows of the tag list *text*, by line number; messages call it *name*.

    Raises:
        ConfigError: As `read_tags`.
    """
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    rows: dict[int, TagRow] = {}
    line = 1
    try:
        header = _header(next(lines, []), name)
        line = lines.line_num + 1
        for cells in lines:
            if any(cells):
                rows[line] = _row(header, cells, f"{name}, line {line}")
            if len(rows) > ROWS_MOST:
                raise ConfigError(f"{name}, line {line}: more than {ROWS_MOST:,} tags")
            line = lines.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{name}, line {line}: {error}") from error
    return rows


def write_tags(path: Path, rows: Iterable[TagRow]) -> None:
    """Write *rows* to *path* as a tag list, whole or not at all; a byte order mark shows spreadsheets the UTF-8."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(format_tags(rows), "utf-8-sig", newline="")
    unfinished.replace(path)


def format_tags(rows: Iterable[TagRow]) -> str:
    """Return *rows* as the text of a tag list."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(getattr(row, column)) for column in COLUMNS])
    return out.getvalue()


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return repr(value) if math.isfinite(value) else ""


def _delimiter(text: str) -> str:
    """Return what stands between the column names: semicolons where a comma is the decimal sign."""
    first = text.split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _header(cells: Sequence[str], name: str) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    for column in header:
        if column not in COLUMNS:
            raise ConfigError(f"{name}, line 1: unknown column {column!r}; known: {', '.join(COLUMNS)}")
        if header.count(column) > 1:
            raise ConfigError(f"{name}, line 1: column {column!r} is given twice")
    for column in _REQUIRED:
        if column not in header:
            raise ConfigError(f"{name}, line 1: column {column!r} is missing")
    return header


def _row(header: Sequence[str], cells: Sequence[str], where: str) -> TagRow:
    if len(cells) > len(header) and any(cells[len(header) :]):
        raise ConfigError(f"{where}: {len(cells)} cells under {len(header)} columns")
    told = {column: cell.strip() for column, cell in zip(header, cells, strict=False) if cell.strip()}
    numbers = {column: _number(told.pop(column), f"{where}, column {column}") for column in _NUMBERS if column in told}
    required = {column: told.pop(column, "") for column in _REQUIRED}
    row = TagRow(**required, **told, **numbers)  # type: ignore[arg-type]  # told has texts alone
    if problem := problem_of(row):
        raise ConfigError(f"{where}, column {problem}")
    return row


def _number(cell: str, where: str) -> float:
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        raise ConfigError(f"{where}: {cell!r} is no number") from None


def _text_problem(text: str, *, required: bool) -> str:
    if required and not text:
        return "must not be empty"
    if len(text) > _CELL_MOST:
        return f"longer than {_CELL_MOST} characters"
    if text != text.strip() or _CONTROL.search(text):
        return f"{text!r} has a control character in it, or blanks around it"
    return ""


def parse_node(node: str) -> tuple[str, int | str | UUID | bytes]:
    """Return namespace URI and identifier of *node*, a text as ``nsu=urn:plant;s=T1`` (or i=, g=, b= with base64).

    Raises:
        ValueError: If it is no such text; the message says why.
    """
    if _INDEXED.fullmatch(node):
        raise ValueError(
            f"{node!r} counts on a namespace index, which a server may change at each start; write nsu=URI;… or a path"
        )
    told = _NODE.fullmatch(node)
    if told is None:
        raise ValueError(f"{node!r} is no node id; write it as nsu=urn:plant;s=Name (or i=, g=, b=)")
    uri, kind, text = unquote(told[1]), told[2], told[3]
    try:
        match kind:
            case "i" if text.isascii() and text.isdecimal() and int(text) < 1 << 32:
                return uri, int(text)
            case "g":
                return uri, UUID(text)
            case "b":
                return uri, base64.b64decode(text, validate=True)
            case "s":
                return uri, text
    except ValueError:
        pass
    raise ValueError(f"{node!r}: {text!r} is no identifier of kind {kind}=")
