"""Making tables fit the terminal: columns that matter less give way, texts go on below. A file takes any width."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence

_GAP = 2
_TEXT_LEAST = 30


def terminal_width() -> int | None:
    """Return how many columns the terminal has; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def widths_of(rows: Iterable[Sequence[str]]) -> list[int]:
    """Return the width of each column of *rows*, all of one length; nothing without rows."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def kept(widths: Sequence[int], give_way: Sequence[int], room: int | None) -> list[int]:
    """Return which columns are shown: those with anything in them, less the first few of *give_way* if it must be.

    Args:
        widths: Of each column.
        give_way: Columns that need not be shown, the least important first.
        room: Width for all with the gaps between them; None is any.
    """
    shown = [i for i, width in enumerate(widths) if width]
    for column in give_way:
        if room is None or sum(widths[i] + _GAP for i in shown) - _GAP <= room:
            break
        shown = [i for i in shown if i != column]
    return shown


def with_text(cells: str, parts: Sequence[str], indent: int, room: int | None) -> list[str]:
    """Return the line of *cells* with the *parts* of a text after it; below it, indented, where there is no room."""
    line = f"{cells}  {'; '.join(parts)}".rstrip()
    if room is None or len(line) <= room or not parts:
        return [line]
    width = max(room - indent, _TEXT_LEAST)
    below = [
        row for part in parts for row in textwrap.wrap(part, width, break_on_hyphens=False, break_long_words=False)
    ]
    return [cells.rstrip(), *(" " * indent + row for row in below)]


def namespace_of(nodes: Collection[str]) -> str:
    """Return what all of *nodes*, texts as ``nsu=urn:plant;s=T1``, begin with when they are of one namespace."""
    beginnings = {node[: node.find(";") + 1] for node in nodes}
    return beginnings.pop() if len(beginnings) == 1 else ""


def fitted(
    rows: Sequence[Sequence[str]], nodes: int, give_way: Sequence[int], room: int | None
) -> tuple[list[list[str]], list[int], str]:
    """Return *rows* and which of their columns are shown within *room*, and a note on what is not.

    Args:
        rows: The cells, as many in each row.
        nodes: The column with node ids; a namespace that all share is not repeated where there is no room.
        give_way: Columns that need not be shown, the least important first.
        room: Width for all with the gaps between them; None is any.
    """
    cells = [list(row) for row in rows]
    shown = kept(widths_of(cells), give_way, room)
    if nodes in shown or not cells:
        return cells, shown, ""
    shared = namespace_of({row[nodes] for row in cells})
    for row in cells:
        row[nodes] = row[nodes].removeprefix(shared)
    shown = kept(widths_of(cells), give_way, room)
    if nodes not in shown:
        return cells, shown, "ids are not shown: the terminal is too narrow; --json has them"
    return cells, shown, f"ids begin with {shared}"
