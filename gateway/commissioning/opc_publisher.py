"""Reading the ``publishednodes.json`` of Microsoft's OPC Publisher, in its present and its first form."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.commissioning.foreign import Entry, ForeignList, UnreadableList, escaped, identifier_of

_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[\]}])', re.DOTALL)
_TIMESPAN = re.compile(r"(?:(\d+)\.)?(\d+):(\d+):(\d+(?:\.\d+)?)")
_WITH_HASH = re.compile(r"(\w+:[^;]+)#([sigb]=.+)", re.DOTALL)
_TAKEN = frozenset(
    {"Id", "ExpandedNodeId", "DisplayName", "DataSetFieldId", "OpcSamplingInterval", "OpcSamplingIntervalTimespan",
     "OpcPublishingInterval", "OpcPublishingIntervalTimespan", "HeartbeatInterval", "HeartbeatIntervalTimespan",
     "QueueSize", "DiscardNew", "DeadbandType", "DeadbandValue", "UseCyclicRead", "EventFilter", "AttributeId",
     "IndexRange", "BrowsePath"}
)  # fmt: skip
_OF_ENTRY = frozenset(
    {"EndpointUrl", "OpcNodes", "NodeId", "DataSetWriterId", "DataSetWriterGroup", "DataSetPublishingInterval",
     "DataSetPublishingIntervalTimespan", "DataSetSamplingInterval", "DataSetSamplingIntervalTimespan"}
)  # fmt: skip


def read_opc_publisher(text: str) -> ForeignList:
    """Return the nodes of a published nodes file, which may have comments and trailing commas.

    Raises:
        UnreadableList: If it is no such file.
    """
    plain = _COMMENT.sub(lambda match: match[0] if match[0].startswith('"') else " ", text)
    plain = _TRAILING_COMMA.sub(lambda match: match[1] or "", plain)
    try:
        writers = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise UnreadableList(f"not JSON ({error})") from error
    if not isinstance(writers, list) or not all(
        isinstance(writer, dict) and "EndpointUrl" in writer for writer in writers
    ):
        raise UnreadableList("not a list of objects with an EndpointUrl each")
    entries = [entry for i, writer in enumerate(writers) for entry in _entries(writer, f"[{i}]")]
    ignored = {key for writer in writers for key in writer if key not in _OF_ENTRY}
    ignored |= {f"OpcNodes.{key}" for writer in writers for node in _nodes(writer) for key in node if key not in _TAKEN}
    note = f"not taken over: {', '.join(sorted(ignored))}; how the server is reached stands in [[server]]"
    return ForeignList(entries=tuple(entries), notes=(note,) if ignored else ())


def _nodes(writer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the nodes of *writer*; its first form has one, without intervals."""
    if isinstance(nodes := writer.get("OpcNodes"), list):
        return [node for node in nodes if isinstance(node, dict)]
    old = writer.get("NodeId")
    return [{"Id": old["Identifier"]}] if isinstance(old, dict) and "Identifier" in old else []


def _entries(writer: Mapping[str, Any], where: str) -> Iterator[Entry]:
    asset_id = str(writer.get("DataSetWriterId") or writer.get("DataSetWriterGroup") or "")
    nodes = _nodes(writer)
    broken = len(writer["OpcNodes"]) - len(nodes) if isinstance(writer.get("OpcNodes"), list) else not nodes
    if broken:
        yield Entry(where=f"{where}.OpcNodes", name="", refused="holds something that is no object")
    for i, node in enumerate(nodes):
        told = _node(str(node.get("Id") or node.get("ExpandedNodeId") or ""))
        name = node.get("DisplayName") or node.get("DataSetFieldId") or identifier_of(told)
        place = f"{where}.OpcNodes[{i}]"
        settings: dict[str, Any] = {}
        refused = _why_not(node, told)
        if not refused:
            try:
                settings = _settings(writer, node)
            except ValueError as error:
                refused = str(error)
        yield Entry(
            where=place,
            name=str(name),
            node=told,
            asset_id=asset_id,
            endpoint=str(writer["EndpointUrl"]),
            settings=settings,
            refused=refused,
        )


def _node(told: str) -> str:
    """Return the node id *told*, which may be written as ``http://namespace#s=Name``."""
    match = _WITH_HASH.fullmatch(told)
    return told if match is None or told.startswith("nsu=") else f"nsu={escaped(match[1])};{match[2]}"


def _why_not(node: Mapping[str, Any], told: str) -> str:
    if node.get("EventFilter"):
        return "asks for events, which are not read"
    if not told:
        return "has neither Id nor ExpandedNodeId"
    if node.get("AttributeId") not in (None, "", "Value", 13):
        return f"asks for the attribute {node['AttributeId']}, not for the value"
    if node.get("IndexRange"):
        return f"asks for the part {node['IndexRange']} of an array; whole arrays are read"
    if node.get("BrowsePath"):
        return "has a BrowsePath that begins at a node; write the node's own id, or a path from Objects"
    return ""


def _settings(writer: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what *node* asks for; the defaults of its *writer* hold where it asks for nothing."""
    sampling = _ms(node, "OpcSamplingInterval") or _ms(writer, "DataSetSamplingInterval")
    publishing = _ms(node, "OpcPublishingInterval") or _ms(writer, "DataSetPublishingInterval")
    settings: dict[str, Any] = {}
    if node.get("UseCyclicRead"):
        settings["mode"] = "poll"
        sampling = sampling or 1000.0  # OPC Publisher's own default
    if sampling:
        settings["sampling_interval_ms"] = sampling
    if publishing:
        settings["publishing_interval_ms"] = publishing
    if node.get("QueueSize"):
        settings["queue_size"] = int(node["QueueSize"])
    if node.get("DiscardNew"):
        settings["discard"] = "newest"
    kind = str(node.get("DeadbandType") or "None").lower()
    if kind != "none":
        settings |= {"deadband": kind, "deadband_value": float(node.get("DeadbandValue") or 0.0)}
    if heartbeat := _ms(node, "HeartbeatInterval", unit_ms=1000.0):
        settings["heartbeat_s"] = heartbeat / 1000
    return settings


def _ms(table: Mapping[str, Any], key: str, unit_ms: float = 1.0) -> float:
    """Return the interval *key* of *table* in ms, given in *unit_ms* or as a time span; 0 when it is not there."""
    if (span := table.get(f"{key}Timespan")) is not None:
        match = _TIMESPAN.fullmatch(str(span))
        if match is None:
            raise ValueError(f"{key}Timespan {span!r} is no time span as 00:00:01.5")
        days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000
    told = table.get(key)
    if told is not None and (isinstance(told, bool) or not isinstance(told, int | float)):
        raise ValueError(f"{key} {told!r} is no number")
    return float(told or 0.0) * unit_ms
