"""Choosing channels by rule, and writing them into a tag list that may have others already."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.commissioning.pattern import Pattern
from gateway.commissioning.walk import Variable
from gateway.config import GatewayConfig
from gateway.errors import ConfigError
from gateway.tag_list import TagRow, problem_of, read_tags, split_path, write_tags


@dataclass(frozen=True, kw_only=True)
class Picked:
    """Rows for a tag list.

    Attributes:
        rows: One a channel.
        left_out: Why a variable that the rule found gives none, by path.
    """

    rows: tuple[TagRow, ...]
    left_out: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A tag list with rows added to it.

    Attributes:
        rows: All of them: those that were there, in their order, then the new ones.
        added: The new ones.
        kept: Channels that were there already, found again as they are.
        differing: Channels that were there already under another node or path, which they keep.
    """

    rows: tuple[TagRow, ...]
    added: tuple[TagRow, ...]
    kept: tuple[TagRow, ...]
    differing: tuple[TagRow, ...]


def rule_of(text: str) -> Pattern:
    """Return the rule that *text* is: a pattern with ``{asset}`` in it.

    Raises:
        ValueError: If it is no pattern, or names no asset.
    """
    rule = Pattern.parse(text)
    if "asset" not in rule.placeholders:
        raise ValueError(f"{text!r} does not say which name is the asset: put {{asset}} in its place")
    return rule


def rows_by_rule(
    variables: Iterable[Variable], rule: Pattern, *, server: str, asset_class: str, group: str = ""
) -> Picked:
    """Return a row for each of *variables* that matches *rule* and holds numbers."""
    rows: dict[tuple[str, str], TagRow] = {}
    left_out: dict[str, str] = {}
    for variable in variables:
        told = rule.matches(variable.place.names)
        if told is None:
            continue
        asset_id, channel = told["asset"].strip(), told.get("channel", variable.place.names[-1]).strip()
        row = row_of(variable, server=server, asset_id=asset_id, channel=channel, asset_class=asset_class, group=group)
        if variable.why_not:
            left_out[variable.place.path] = variable.why_not
        elif problem := problem_of(row):
            left_out[variable.place.path] = problem
        elif (asset_id, channel) in rows:
            left_out[variable.place.path] = f"{asset_id}/{channel} is {rows[asset_id, channel].node} already"
        else:
            rows[asset_id, channel] = row
    return Picked(rows=tuple(rows.values()), left_out=left_out)


def consistent(picked: Picked, config: GatewayConfig) -> Picked:
    """Return *picked* without rows that contradict *config*: of a machine of another class, or on another server."""
    machines = {asset.asset_id: (asset.server, asset.asset_class) for asset in config.asset}
    rows, left_out = [], dict(picked.left_out)
    for row in picked.rows:
        server, asset_class = machines.setdefault(row.asset_id, (row.server, row.asset_class))
        if row.server != server:
            left_out[f"{row.asset_id}/{row.channel}"] = f"is read from {server!r}, not from {row.server!r}"
        elif row.asset_class != asset_class:
            left_out[f"{row.asset_id}/{row.channel}"] = f"is of a {asset_class!r}, not of a {row.asset_class!r}"
        else:
            rows.append(row)
    return Picked(rows=tuple(rows), left_out=left_out)


def row_of(
    variable: Variable, *, server: str, asset_id: str, channel: str, asset_class: str, group: str = ""
) -> TagRow:
    """Return the row of *variable* as a channel of an asset, with the unit and range that its server tells."""
    empty = variable.low >= variable.high  # 0 to 0 is how servers say that they know none
    row = TagRow(
        server=server,
        asset_id=asset_id,
        asset_class=asset_class,
        channel=channel,
        node=variable.node,
        path=variable.place.path,
        unit=variable.unit,
        low=float("-inf") if empty else variable.low,
        high=float("inf") if empty else variable.high,
        group=group,
    )
    # Names that no list can hold, such as an empty one, leave the node id alone.
    fine = split_path(row.path) == list(variable.place.names) and not problem_of(row).startswith("path:")
    return row if fine else msgspec.structs.replace(row, path="")


def merge(path: Path, rows: Sequence[TagRow], configured: Iterable[TagRow] = ()) -> Merged:
    """Return the tag list in *path*, which need not exist, with *rows* added; it is not written.

    A channel that is there already, or among those *configured* beside the list, stays as it is: somebody may have set
    its unit or group.

    Raises:
        ConfigError: If what is there is no tag list.
    """
    there = list(read_tags(path).values()) if path.exists() else []
    known = {(row.asset_id, row.channel): row for row in (*configured, *there)}
    added, kept, differing = [], [], []
    for row in rows:
        before = known.get((row.asset_id, row.channel))
        if before is None:
            added.append(row)
        elif before.server == row.server and (row.node == before.node if before.node else row.path == before.path):
            kept.append(before)
        else:
            differing.append(before)
    return Merged(rows=(*there, *added), added=tuple(added), kept=tuple(kept), differing=tuple(differing))


def write(path: Path, rows: Sequence[TagRow]) -> None:
    """Write *rows* to *path* so that the whole list is there, or what was there before.

    Raises:
        ConfigError: If the file cannot be written.
    """
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.resolve().parent)
        os.close(descriptor)
        new = Path(name)
        try:
            write_tags(new, rows)
            new.chmod(mode)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(path.resolve())
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}); it is as it was") from error


def chosen_numbers(text: str, most: int) -> list[int]:
    """Return the numbers from 1 to *most* that *text* names: ``1-5,8``, ``all``, or nothing; each once, in order.

    Raises:
        ValueError: If it names anything else; the message says what.
    """
    if text.strip().casefold() == "all":
        return list(range(1, most + 1))
    chosen: dict[int, None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = (end.strip() for end in part.partition("-"))
        ends = (first, last) if dash else (first, first)
        if not all(end.isascii() and end.isdecimal() and len(end) < 10 for end in ends):
            raise ValueError(f"{part!r} is no number and no range such as 2-5")
        if not 1 <= int(ends[0]) <= int(ends[1]) <= most:
            raise ValueError(f"{part!r} is not within 1-{most}")
        chosen |= dict.fromkeys(range(int(ends[0]), int(ends[1]) + 1))
    return list(chosen)


def channel_names(variables: Sequence[Variable]) -> list[str]:
    """Return a name for each of *variables*, all different: the last of its path, or more of it."""
    for steps in range(1, max((len(v.place.names) for v in variables), default=1) + 1):
        names = [".".join(variable.place.names[-steps:]) for variable in variables]
        if len(set(names)) == len(names):
            return names
    return [variable.place.path for variable in variables]
