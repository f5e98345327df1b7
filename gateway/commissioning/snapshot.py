"""Taking a server home: its address space below a path, and what its variables told for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from asyncua import ua

from gateway.commissioning.browse import Found, variables_of
from gateway.commissioning.server_argument import Session, Target, session
from gateway.commissioning.snapshot_file import End, Header, Link, Node, SnapshotWriter, writing
from gateway.commissioning.walk import Place, Raw, Variable, find
from gateway.commissioning.watching import Granted, watched
from gateway.config import Sampling
from gateway.data_acquisition.address_space import node_text
from gateway.data_acquisition.columns import Columns
from gateway.data_acquisition.publishing import Item
from gateway.progress import progress_bar
from gateway.tag_list import split_path
from models.records import to_ns

_SCALARS = frozenset(range(1, 13))  # Boolean to String
_TEXT_MOST = 1_000
_VALUES_MOST = 10_000


async def snapshot(target: Target, path: str, output: Path, seconds: float, most: int) -> tuple[End, Found, Granted]:
    """Write the nodes below *path*, and what they tell within *seconds*, to *output*.

    Returns:
        How much was written, what was found, and what the server did not grant.

    Raises:
        SourceUnavailable: If the server cannot be reached, has no such path, or the link is lost.
    """
    async with session(target) as opened:
        found = await variables_of(opened, path, values=True, most=most)
        way = (await find(opened.space, split_path(path)))[1:]
        nodes, links, numbers = _nodes(opened.space.namespaces, way, found)
        granted = Granted()
        with writing(output) as file:
            file.header(
                Header(
                    made_ns=time.time_ns(),
                    server=target.server.endpoint,
                    seconds=seconds,
                    namespaces=list(opened.space.namespaces),
                )
            )
            file.nodes(nodes, links)
            watchable = [v for v in found.variables if not v.why_not]
            items = [Item(handle=numbers[v.place.node] + 1, node=v.place.node, sampling=Sampling()) for v in watchable]
            await _record(opened, target.server.name, items, seconds, granted, file)
            return file.end(), found, granted


async def _record(
    opened: Session, server: str, items: Sequence[Item], seconds: float, granted: Granted, file: SnapshotWriter
) -> None:
    """Write what *items*, whose handles are numbers of nodes and 1, tell within *seconds*."""
    with progress_bar("recording ") as progress:
        async for arrived in watched(opened, server, items, seconds, granted, progress):
            file.values(type(arrived)(values=_numbered(arrived.values), received_ns=arrived.received_ns))


def _numbered(values: Columns) -> Columns:
    """Return *values* with the numbers of their nodes for handles."""
    return Columns(
        handle=values.handle - np.uint32(1),
        source_time=values.source_time,
        server_time=values.server_time,
        value=values.value,
        status=values.status,
        sample_count=values.sample_count,
        samples=values.samples,
    )


def _nodes(
    namespaces: Sequence[str], way: Sequence[Place], found: Found
) -> tuple[list[Node], list[Link], dict[ua.NodeId, int]]:
    """Return the nodes on *way* and those *found*, the links between them, and the number of each."""
    variables = {variable.place.node: variable for variable in found.variables}
    nodes: list[Node] = []
    numbers: dict[ua.NodeId, int] = {}
    for place in (*way, *found.walk.places):
        told = _told(variables.get(place.node), namespaces)
        numbers[place.node] = len(nodes)
        nodes.append(
            Node(
                node=node_text(place.node, namespaces),
                parent=numbers.get(place.parent, -1),
                name=place.names[-1],
                namespace=place.namespace,
                is_variable=place.is_variable,
                **told,
            )
        )
    links = [
        Link(numbers.get(parent, -1), numbers[node])
        for parent, node in found.walk.links
        if node in numbers and (parent in numbers or parent == _OBJECTS)
    ]
    return nodes, links, numbers


_OBJECTS = ua.NodeId(ua.Int32(ua.object_ids.ObjectIds.ObjectsFolder))


def _told(variable: Variable | None, namespaces: Sequence[str]) -> dict[str, Any]:
    """Return what a `Node` tells of *variable*."""
    if variable is None:
        return {}
    raw = variable.raw
    kind, value = _value(raw)
    has_range = math.isfinite(variable.low) and math.isfinite(variable.high)
    interval = variable.sampling_interval_ms
    return {
        "data_type": node_text(raw.data_type, namespaces) if raw.data_type is not None else "",
        "type_name": variable.type,
        "standard_type": raw.standard_type,
        "kind": kind,
        "value": value,
        "source_ns": _ns(raw.value.SourceTimestamp),
        "status": raw.value.StatusCode.value if raw.value.StatusCode is not None else 0,
        "low": variable.low if has_range else None,
        "high": variable.high if has_range else None,
        "unit": _unit(raw.unit),
        "sample_rate_hz": variable.sample_rate_hz or None,
        "sampling_interval_ms": -1.0 if math.isnan(interval) else interval,
    }


def _value(raw: Raw) -> tuple[int, Any]:
    """Return type and value of a variable, if it holds numbers or texts; else nothing."""
    variant = raw.value.Value
    if variant is None or variant.VariantType.value not in _SCALARS or len(variant.Dimensions or ()) > 1:
        return 0, None
    value = variant.Value
    if isinstance(value, str):
        value = value[:_TEXT_MOST]
    if isinstance(value, list) and len(value) > _VALUES_MOST:
        value = None  # it comes with the recorded values
    return int(variant.VariantType.value), value


def _unit(unit: ua.EUInformation | None) -> tuple[str, int, str, str] | None:
    if unit is None:
        return None
    return (
        str(unit.NamespaceUri or ""),
        int(unit.UnitId),
        str(unit.DisplayName.Text or ""),
        str(unit.Description.Text or ""),
    )


def _ns(moment: datetime | None) -> int:
    return to_ns(moment) if moment is not None else 0
