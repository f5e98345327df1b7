"""Finding variables: which of a server's nodes are wanted, and the tree of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from gateway.commissioning.pattern import Pattern
from gateway.commissioning.server_argument import Session, Target, session
from gateway.commissioning.walk import NODES_MOST, Variable, Walk, describe, find, walk
from gateway.commissioning.width import fitted, widths_of
from gateway.progress import progress_bar
from gateway.tag_list import join_path, split_path

_NAME_WIDTH_MOST = 48
_NODE = 4
_GIVE_WAY = (_NODE, 0, 2)  # columns of a line: type, range, interval, value, node
NUMBER = "number"


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which variables are wanted; what is empty asks for nothing.

    Attributes:
        pattern: Their paths match it.
        search: Part of path, unit or node id, in whatever case.
        type: Name of the data type, or ``number``: what can be a channel.
        unit: The unit, as it is told.
    """

    pattern: Pattern | None = None
    search: str = ""
    type: str = ""
    unit: str = ""

    def __bool__(self) -> bool:
        return bool(self.pattern or self.search or self.type or self.unit)

    def wants(self, variable: Variable) -> bool:
        """Return whether *variable* is wanted."""
        return (
            (self.pattern is None or self.pattern.matches(variable.place.names) is not None)
            and (not self.search or self._is_in(variable))
            and (not self.type or self._is_of_type(variable))
            and (not self.unit or self.unit == variable.unit)
        )

    def _is_in(self, variable: Variable) -> bool:
        texts = ("/".join(variable.place.names), variable.unit, variable.node)
        return any(self.search.casefold() in text.casefold() for text in texts)

    def _is_of_type(self, variable: Variable) -> bool:
        if self.type.casefold() == NUMBER:
            return not variable.why_not
        return self.type.casefold() == variable.type.casefold()


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found: the walk, and the variables in it that are wanted."""

    walk: Walk
    variables: tuple[Variable, ...]
    most: int

    @property
    def note(self) -> str:
        """What is missing from it, in words; nothing when it is all."""
        told = (
            [] if self.walk.complete else [f"stopped at {self.most:,} nodes; name a path, or a --glob, to see the rest"]
        )
        told += [f"{path or 'Objects'} cannot be looked into ({why})" for path, why in self.walk.problems.items()]
        return "; ".join(told[:5]) + ("; …" if len(told) > 5 else "")


async def variables_of(
    opened: Session,
    path: str = "",
    *,
    wanted: Filter = Filter(),
    depth: int | None = None,
    most: int = NODES_MOST,
    values: bool = False,
) -> Found:
    """Return the variables below *path* that are *wanted*, of the first *most* nodes.

    Raises:
        SourceUnavailable: If there is no such path.
    """
    way = await find(opened.space, split_path(path))
    with progress_bar("looking into nodes ") as progress:
        walked = await walk(opened.space, way, pattern=wanted.pattern, depth=depth, most=most, progress=progress)
    places = [*walked.places, *(way[-1:] if way[-1].is_variable else [])]
    if wanted.pattern is not None:
        places = [place for place in places if wanted.pattern.matches(place.names) is not None]
    with progress_bar("reading variables  ") as progress:
        # Live values of what nobody wants are not asked for.
        filtered = values and bool(wanted.search or wanted.type or wanted.unit)
        variables = await describe(opened.space, places, values=values and not filtered, progress=progress)
        variables = [variable for variable in variables if wanted.wants(variable)]
        if filtered:
            variables = await describe(opened.space, [v.place for v in variables], values=True, progress=progress)
    return Found(walk=walked, variables=tuple(variables), most=most)


async def browse(
    target: Target, path: str, wanted: Filter, *, depth: int | None, most: int, values: bool
) -> tuple[Found, list[str]]:
    """Return what is *wanted* of the target's server, and its namespaces."""
    async with session(target) as opened:
        found = await variables_of(opened, path, wanted=wanted, depth=depth, most=most, values=values)
        return found, list(opened.space.namespaces)


def as_data(variable: Variable) -> dict[str, Any]:
    """Return *variable* for JSON; what is not known is null."""
    return {
        "path": variable.place.path,
        "node": variable.node,
        "type": variable.type or None,
        "unit": variable.unit or None,
        "low": variable.low if math.isfinite(variable.low) else None,
        "high": variable.high if math.isfinite(variable.high) else None,
        "sampling_interval_ms": _known(variable.sampling_interval_ms),
        "sample_rate_hz": variable.sample_rate_hz or None,
        "can_be_channel": not variable.why_not,
        "why_not": variable.why_not or None,
        "value": _known(variable.value) if isinstance(variable.value, float) else variable.value,
        "length": variable.length,
        "status": variable.status or None,
        "source_time": variable.source_time,
    }


def _known(number: float) -> float | None:
    return number if math.isfinite(number) else None


def tree(found: Found, *, filtered: bool, room: int | None = None) -> tuple[list[str], str]:
    """Return the tree, a line a node, and a note on what there was no room for.

    Args:
        found: What was found.
        filtered: Show only what is wanted and what leads to it.
        room: Width of the terminal; None is any.
    """
    variables = {variable.place.names: variable for variable in found.variables}
    names = list(variables) if filtered else [place.names for place in found.walk.places]
    nodes = dict.fromkeys(path[: i + 1] for path in names for i in range(len(path)))
    children: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for path in nodes:
        children.setdefault(path[:-1], []).append(path)
    drawn = list(_drawn((), children, ""))
    width = min(
        max((len(frame) + len(path[-1]) for frame, path in drawn if path in variables), default=0), _NAME_WIDTH_MOST
    )
    rows, shown, note = fitted(
        [_cells(variable) for variable in variables.values()],
        _NODE,
        _GIVE_WAY,
        None if room is None else room - width - 2,
    )
    styled = dict(zip(variables, _styled(variables.values(), rows, shown), strict=True))
    lines = []
    for frame, path in drawn:
        name = click.style(frame, dim=True) + click.style(path[-1], bold=path not in variables)
        padding = " " * (width - len(frame) - len(path[-1])) + "  " if path in variables else ""
        lines.append(f"{name}{padding}{styled.get(path, '')}".rstrip())
    return lines, note


def _drawn(
    path: tuple[str, ...], children: dict[tuple[str, ...], list[tuple[str, ...]]], frame: str
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what is below *path* with the lines that lead to it."""
    below = children.get(path, [])
    for i, child in enumerate(below):
        last = i == len(below) - 1
        corner = "" if not path else ("└─ " if last else "├─ ")
        yield frame + corner, child
        yield from _drawn(child, children, frame + ("" if not path else ("   " if last else "│  ")))


def _cells(variable: Variable) -> tuple[str, str, str, str, str]:
    """Return type, range with unit, interval, value and a remark for one line."""
    return (
        variable.type or "?",
        span_text(variable.low, variable.high, variable.unit),
        interval_text(variable),
        value_text(variable),
        variable.node,
    )


def _styled(variables: Iterable[Variable], rows: list[list[str]], shown: list[int]) -> Iterator[str]:
    """Yield each of *rows*, the columns *shown* of it, in colours that tell what is good."""
    widths = widths_of(rows)
    for variable, row in zip(variables, rows, strict=True):
        kind, span, interval, value, node = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        good = variable.status in ("", "Good")
        parts = [
            click.style(kind, fg=None if variable.why_not else "cyan", dim=bool(variable.why_not)),
            span,
            click.style(interval, dim=True),
            click.style(value, fg="green" if good else "red"),
            click.style(node.rstrip(), dim=True),
        ]
        yield "  ".join(parts[i] for i in shown)


def span_text(low: float, high: float, unit: str) -> str:
    """Return a range with its unit: ``0 … 3000 1/min``."""
    known = math.isfinite(low) or math.isfinite(high)
    return f"{low:g} … {high:g} {unit}".rstrip() if known else unit


def interval_text(variable: Variable) -> str:
    """Return how often the server samples at best."""
    if variable.sample_rate_hz:
        return f"{variable.sample_rate_hz:g} Hz waveform"
    if math.isnan(variable.sampling_interval_ms):
        return ""
    return f"≥ {variable.sampling_interval_ms:g} ms" if variable.sampling_interval_ms else "any change"


def value_text(variable: Variable) -> str:
    """Return what *variable* holds, with its status where that is not Good; nothing when it was not read."""
    if not variable.status:
        return ""
    match variable.value:
        case None:
            text = f"[{variable.length:,} values]" if variable.length else "no value"
        case bool() | str():
            text = str(variable.value)
        case _:
            text = f"{variable.value:.6g}"
    return text if variable.status == "Good" else f"{text} ({variable.status})"


def summary(found: Found, *, filtered: bool) -> str:
    """Return how much was found, in a sentence."""
    count, nodes = len(found.variables), len(found.walk.places)
    numbers = sum(not variable.why_not for variable in found.variables)
    told = f"{count:,} variable{'s' * (count != 1)}, {numbers:,} of them numbers"
    return f"{told}; {nodes:,} nodes looked at" if filtered else f"{nodes:,} nodes, {told}"


def paths(variables: Iterable[Variable]) -> list[str]:
    """Return the paths of *variables*."""
    return [join_path(variable.place.names) for variable in variables]
