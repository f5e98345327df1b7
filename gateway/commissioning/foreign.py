"""What the tag lists of other programs have in common, and how an entry of one becomes a row of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.config import AcquisitionConfig
from gateway.tag_list import TagRow, parse_node, problem_of

STANDARD_NAMESPACE = "http://opcfoundation.org/UA/"
_INDEXED = re.compile(r"(?:ns=(\d+);)?([sigb]=.*)", re.DOTALL)
_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SHORT = {"sampling_interval_ms": "sampling", "publishing_interval_ms": "publishing", "queue_size": "queue",
          "deadband_value": "by", "heartbeat_s": "heartbeat"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One node of a foreign list.

    Attributes:
        where: Its place in the list, for messages.
        name: The channel's name.
        node: Node id, with ``ns=`` or ``nsu=``.
        asset_id: What the list groups it by; empty when by nothing.
        endpoint: The server's address; empty when the list names none.
        unit: Unit, if told.
        low: Lower end of the range.
        high: Upper end.
        settings: Keys of ``[acquisition.group.NAME]`` that the list asks for.
        refused: Why the entry cannot be taken; empty when it can.
    """

    where: str
    name: str
    node: str = ""
    asset_id: str = ""
    endpoint: str = ""
    unit: str = ""
    low: float = -float("inf")
    high: float = float("inf")
    settings: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class ForeignList:
    """A foreign list, read.

    Attributes:
        entries: Its nodes.
        notes: What of it has no place in a tag list, one sentence each.
        namespaces: What its namespace indexes mean, where the format says so.
    """

    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    namespaces: Mapping[int, str] = field(default_factory=dict)


class UnreadableList(ValueError):
    """The file is not a list of this format; the message says why."""


@dataclass(frozen=True, kw_only=True)
class NotTaken:
    """An entry that does not become a row."""

    where: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a foreign list: each entry is in ``rows`` or in ``not_taken``."""

    rows: tuple[TagRow, ...]
    not_taken: tuple[NotTaken, ...]
    groups: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]


def to_rows(
    foreign: ForeignList,
    *,
    server: str,
    endpoint: str = "",
    asset_id: str = "",
    asset_class: str = "",
    namespaces: Mapping[int, str],
    present: Iterable[tuple[str, str]] = (),
) -> Imported:
    """Return what of *foreign* can be read from *server*.

    Args:
        foreign: The list.
        server: Name of our server.
        endpoint: Entries of other addresses are not taken; empty takes all.
        asset_id: The asset of all entries; empty takes what the list groups them by.
        asset_class: Its class.
        namespaces: URI of each namespace index that is known.
        present: Asset and channel of tags that are there already.
    """
    rows: list[TagRow] = []
    not_taken: list[NotTaken] = []
    groups: dict[str, Mapping[str, Any]] = {}
    first: dict[tuple[str, str], str] = dict.fromkeys(present, "in the tag list")
    for entry in foreign.entries:
        group = _group_name(entry.settings, groups)
        row = TagRow(
            server=server,
            asset_id=asset_id or entry.asset_id,
            asset_class=asset_class,
            channel=entry.name,
            node=_with_uri(entry.node, namespaces),
            unit=entry.unit,
            low=entry.low,
            high=entry.high,
            group=group,
        )
        if reason := entry.refused or _why_not(entry, row, endpoint, first):
            not_taken.append(NotTaken(where=entry.where, name=entry.name, reason=reason))
            continue
        first[row.asset_id, row.channel] = f"at {entry.where}"
        if group:
            groups[group] = entry.settings
        rows.append(row)
    return Imported(rows=tuple(rows), not_taken=tuple(not_taken), groups=groups, notes=foreign.notes)


def _why_not(entry: Entry, row: TagRow, endpoint: str, first: Mapping[tuple[str, str], str]) -> str:
    """Return why *entry* does not become *row*; nothing when it does."""
    if endpoint and entry.endpoint and entry.endpoint != endpoint:
        return f"of another server, {entry.endpoint}"
    if not row.asset_id:
        return "the list does not say of which machine it is; give --asset-id"
    if (indexed := _INDEXED.fullmatch(row.node)) is not None:
        index = indexed[1]
        return f"{entry.node}: nobody told which namespace {index} is; give --namespace {index}=URI, or --connect"
    if problem := problem_of(row):
        return problem
    if there := first.get((row.asset_id, row.channel)):
        return f"{row.asset_id}/{row.channel} is there already, {there}"
    return ""


def _with_uri(node: str, namespaces: Mapping[int, str]) -> str:
    """Return *node* with its namespace's URI for its index, if that is known."""
    indexed = _INDEXED.fullmatch(node)
    if indexed is None:
        return node
    uri = ({0: STANDARD_NAMESPACE} | dict(namespaces)).get(int(indexed[1] or 0))
    return node if uri is None else f"nsu={escaped(uri)};{indexed[2]}"


def escaped(uri: str) -> str:
    """Return *uri* as it stands in a node id."""
    return uri.replace("%", "%25").replace(";", "%3B")


def identifier_of(node: str) -> str:
    """Return what names *node* inside its namespace, without the quotes that Siemens puts there."""
    try:
        identifier: object = parse_node(node)[1]
    except ValueError:
        indexed = _INDEXED.fullmatch(node)
        identifier = indexed[2][2:] if indexed is not None else node
    return str(identifier).replace('"', "")


def _group_name(settings: Mapping[str, Any], groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of a group with *settings*; empty when they are those of channels in no group."""
    defaults = AcquisitionConfig()
    told = {key: value for key, value in settings.items() if value != getattr(defaults, key)}
    if not told:
        return ""
    words = [f"{_SHORT[key]}-{value:g}" if key in _SHORT else str(value) for key, value in told.items()]
    name = "-".join(words)
    if _GROUP_NAME.fullmatch(name):
        return name
    return next((known for known, keys in groups.items() if keys == settings), f"imported-{len(groups) + 1}")
