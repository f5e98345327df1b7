"""Reading the tag export (CSV) of a device or tag group of Kepware's server."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from gateway.commissioning.foreign import Entry, ForeignList, UnreadableList

NAMESPACE = "KEPServerEX"
INDEX = 2  # of that namespace, as Kepware's manual writes node ids: ns=2;s=Channel.Device.Tag
_NUMBERS = frozenset(
    {"boolean", "bool", "char", "byte", "short", "word", "long", "dword", "llong", "qword", "float", "double", "bcd",
     "lbcd", "default", ""}
)  # fmt: skip
_READABLE = frozenset({"", "ro", "r", "rw", "r/w", "read only", "read/write"})
_TAKEN = frozenset(
    {
        "tag name",
        "address",
        "data type",
        "client access",
        "scan rate",
        "scaling",
        "scaled low",
        "scaled high",
        "eng units",
    }
)


def read_kepware(text: str, device: str) -> ForeignList:
    """Return the tags of an export.

    Args:
        text: The file.
        device: ``Channel.Device``, or ``Channel.Device.Group`` where a group was exported: the file does not say.

    Raises:
        UnreadableList: If it is no such file.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if is_header(line)), None)
    if start is None:
        raise UnreadableList("has no line that begins with Tag Name and Address")
    delimiter = max(",;\t", key=lines[start].count)
    cells = csv.reader(io.StringIO("\n".join(lines[start:]), newline=""), delimiter=delimiter, strict=True)
    header = [_plain(cell) for cell in next(cells)]
    entries: list[Entry] = []
    try:
        for row in cells:
            if any(row):
                told = dict(zip(header, (cell.strip() for cell in row), strict=False))
                entries.append(_entry(told, device, f"line {start + cells.line_num}"))
    except csv.Error as error:
        raise UnreadableList(f"line {start + cells.line_num}: {error}") from error
    ignored = ", ".join(column for column in header if column and column not in _TAKEN)
    notes = (f"columns that a tag list has no place for: {ignored}",) if ignored else ()
    return ForeignList(entries=tuple(entries), notes=notes, namespaces={INDEX: NAMESPACE})


def is_header(line: str) -> bool:
    """Return whether *line* is the heading of a tag export."""
    plain = line.lower().replace('"', "").replace("\ufeff", "").replace(" ", "")
    return plain.startswith(("tagname,address", "tagname;address", "tagname\taddress"))


def _plain(column: str) -> str:
    return column.strip().lower().replace("eng. units", "eng units")


def _entry(told: Mapping[str, str], device: str, where: str) -> Entry:
    name = told.get("tag name", "")
    settings: dict[str, Any] = {}
    low, high = -math.inf, math.inf
    refused = _why_not(told, name)
    try:
        if scan_rate := float(told.get("scan rate") or 0):
            settings["sampling_interval_ms"] = scan_rate
        if told.get("scaling", "").lower() not in {"", "none"}:
            low, high = (float(told[end]) if told.get(end) else other for end, other in
                         (("scaled low", low), ("scaled high", high)))  # fmt: skip
    except ValueError as error:
        refused = refused or str(error)
    return Entry(
        where=where,
        name=name,
        node=f"ns={INDEX};s={device}.{name}",
        asset_id=device,
        unit=told.get("eng units", ""),
        low=low,
        high=high,
        settings=settings,
        refused=refused,
    )


def _why_not(told: Mapping[str, str], name: str) -> str:
    """Return why a tag cannot be taken; nothing when it can."""
    kind = told.get("data type", "")
    if not name:
        return "has no name"
    if kind.lower().removesuffix("array").strip() not in _NUMBERS:
        return f"holds {kind}, not numbers"
    access = told.get("client access", "")
    return "" if access.lower() in _READABLE else f"cannot be read (Client Access {access})"
