"""A walk through a server's address space: which nodes are where, each looked into once.

An address space is a graph: nodes stand in several places, and ways lead in circles. A node is shown where it is
reached first, in the fewest steps; the walk is bounded by a number of nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from gateway.commissioning.pattern import Pattern
from gateway.data_acquisition.address_space import AddressSpace, Reference, node_text
from gateway.data_acquisition.data_types import DataTypes, data_types, held
from gateway.data_acquisition.messages import status_name
from gateway.data_acquisition.profiles import chunks
from gateway.errors import SourceUnavailable
from gateway.progress import Progress, silent
from gateway.tag_list import join_path

NODES_MOST = 200_000
_AT_A_TIME = 2_000  # nodes between two signs of progress
_NAMES_TOLD = 12
_OBJECTS = ua.NodeId(ua.Int32(ObjectIds.ObjectsFolder))
_SERVER = ua.NodeId(ua.Int32(ObjectIds.Server))
_PROPERTIES = ("EURange", "EngineeringUnits", "SampleRate")
_ATTRIBUTES = (AttributeIds.DataType, AttributeIds.MinimumSamplingInterval)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One node where the walk found it.

    Attributes:
        names: Browse names from Objects down.
        namespace: Index of the last name's namespace.
        node: The node.
        parent: The node above.
        is_variable: Whether it has a value.
    """

    names: tuple[str, ...]
    namespace: int
    node: ua.NodeId
    parent: ua.NodeId
    is_variable: bool

    @property
    def path(self) -> str:
        """The path as a tag list has it."""
        return join_path(self.names)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What a walk found, in the order of its steps.

    Attributes:
        places: The nodes.
        links: Other ways to these nodes: from which node to which.
        complete: Whether that is all; the bound was hit otherwise.
        problems: Why a node could not be looked into, by path.
    """

    places: tuple[Place, ...]
    links: tuple[tuple[ua.NodeId, ua.NodeId], ...]
    complete: bool
    problems: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Raw:
    """What the server told of a variable, as it came.

    Attributes:
        data_type: Its data type.
        standard_type: The number of the standard type below which that stands; 0 when it is not known.
        value: What it holds; empty when not read.
        unit: Its EngineeringUnits.
    """

    data_type: ua.NodeId | None
    standard_type: int
    value: ua.DataValue
    unit: ua.EUInformation | None


@dataclass(frozen=True, kw_only=True)
class Variable:
    """What is known of a variable.

    Attributes:
        place: Where it is.
        node: Its ``nsu=`` id.
        type: Name of its data type.
        unit: Unit; empty when the server tells none.
        low: Lower end of the range; -inf when the server tells none.
        high: Upper end, likewise inf.
        sample_rate_hz: Of a waveform; 0 otherwise.
        sampling_interval_ms: The shortest the server samples at; 0 is every change, NaN when it does not tell.
        why_not: Why it is no channel; empty when it is one.
        value: What it holds now: a number, a text, or how many values (``length``); None when not read or none.
        length: Values of an array; 0 for a scalar.
        status: OPC UA name of the value's status; empty when not read.
        source_time: When the value was measured.
        raw: All that was read, for who needs it as it came.
    """

    place: Place
    node: str
    type: str
    unit: str
    low: float
    high: float
    sample_rate_hz: float
    sampling_interval_ms: float
    why_not: str
    value: float | int | bool | str | None = None
    length: int = 0
    status: str = ""
    source_time: datetime | None = None
    raw: Raw


async def find(space: AddressSpace, names: Sequence[str]) -> list[Place]:
    """Return the nodes on the path *names*, from Objects to its end.

    Raises:
        SourceUnavailable: If there is none; the message tells what is there instead.
    """
    way = [Place(names=(), namespace=0, node=_OBJECTS, parent=_OBJECTS, is_variable=False)]
    for i, name in enumerate(names):
        inside = (await space.browse([way[-1].node]))[way[-1].node]
        found = next((r for r in inside.references if r.name == name), None)
        if found is None:
            there = [r.name for r in inside.references]
            told = ", ".join(there[:_NAMES_TOLD]) + ", …" * (len(there) > _NAMES_TOLD)
            where = join_path(names[:i]) or "Objects"
            raise SourceUnavailable(f"no node {name!r} in {where}; there are: {told or inside.problem or 'none'}")
        way.append(_place(way[-1], found))
    return way


async def walk(
    space: AddressSpace,
    way: Sequence[Place],
    *,
    pattern: Pattern | None = None,
    depth: int | None = None,
    most: int = NODES_MOST,
    progress: Progress = silent,
) -> Walk:
    """Return the nodes below the end of *way*, but for those on the way.

    The server's own object is left out unless *way* or *pattern* leads into it.

    Args:
        space: The address space.
        way: From Objects to where to begin, as `find` gives it.
        pattern: Only ways that may lead to such a path are taken.
        depth: Steps down from there; None is all.
        most: Nodes after which the walk ends.
        progress: Told how many nodes were looked into, and how many are known to be.
    """
    start, seen = way[-1], {place.node for place in way}
    if pattern is None or not pattern.begins_with("Server"):
        seen.add(_SERVER)
    places: list[Place] = []
    links: list[tuple[ua.NodeId, ua.NodeId]] = []
    problems: dict[str, str] = {}
    level, looked_into = [start], 0
    while level and (depth is None or len(level[0].names) < len(start.names) + depth):
        below: list[Place] = []
        for some in chunks(level, _AT_A_TIME):
            found, refused = await _children(space, some)
            problems |= refused
            looked_into += len(some)
            for place in found:
                if pattern is not None and not _wanted(pattern, place):
                    continue
                if place.node in seen:
                    links.append((place.parent, place.node))
                    continue
                if len(places) >= most:
                    return Walk(places=tuple(places), links=tuple(links), complete=False, problems=problems)
                seen.add(place.node)
                places.append(place)
                if pattern is None or pattern.may_go_on(place.names):
                    below.append(place)
            progress(looked_into, len(places) + 1)
        level = below
    return Walk(places=tuple(places), links=tuple(links), complete=True, problems=problems)


async def describe(
    space: AddressSpace, places: Sequence[Place], *, values: bool = False, progress: Progress = silent
) -> list[Variable]:
    """Return what is known of the variables among *places*; with *values* what they hold now too."""
    variables = [place for place in places if place.is_variable]
    found: list[Variable] = []
    for some in chunks(variables, _AT_A_TIME):
        found += await _describe(space, some, values=values)
        progress(len(found), len(variables))
    return found


def _wanted(pattern: Pattern, place: Place) -> bool:
    return pattern.matches(place.names) is not None or pattern.may_go_on(place.names)


def _place(parent: Place, reference: Reference) -> Place:
    return Place(
        names=(*parent.names, reference.name),
        namespace=reference.namespace,
        node=reference.node,
        parent=parent.node,
        is_variable=reference.is_variable,
    )


async def _children(space: AddressSpace, places: Sequence[Place]) -> tuple[list[Place], dict[str, str]]:
    """Return what stands below *places*, their properties left out, and why some could not be looked into."""
    objects = [place.node for place in places if not place.is_variable]
    inside = await space.browse(objects)
    inside |= await space.browse([p.node for p in places if p.is_variable], ObjectIds.HasComponent)
    properties = await space.browse(objects, ObjectIds.HasProperty)
    found: list[Place] = []
    for place in places:
        described = properties.get(place.node)
        left_out = {r.node for r in described.references} if described is not None else set()
        found += [_place(place, r) for r in inside[place.node].references if r.node not in left_out]
    return found, {place.path: inside[place.node].problem for place in places if inside[place.node].problem}


async def _describe(space: AddressSpace, places: Sequence[Place], *, values: bool) -> Iterator[Variable]:
    references = await space.browse([place.node for place in places], ObjectIds.HasProperty)
    properties = [[r for r in references[p.node].references if r.name in _PROPERTIES] for p in places]
    attributes = (*_ATTRIBUTES, AttributeIds.Value) if values else _ATTRIBUTES
    asked = [(place.node, attribute) for place in places for attribute in attributes]
    asked += [(r.node, AttributeIds.Value) for some in properties for r in some]
    told = iter(await space.read(asked))
    own = [[next(told) for _ in attributes] for _ in places]
    types = await data_types(space, [t for one in own if (t := held(one[0], ua.NodeId)) is not None])
    rows = [
        (place, one, {r.name: next(told) for r in some})
        for place, one, some in zip(places, own, properties, strict=True)
    ]
    return (_variable(space, types, place, one, properties) for place, one, properties in rows)


def _variable(
    space: AddressSpace,
    types: DataTypes,
    place: Place,
    attributes: Sequence[ua.DataValue],
    properties: dict[str, ua.DataValue],
) -> Variable:
    data_type = held(attributes[0], ua.NodeId)
    unit, span = held(properties.get("EngineeringUnits"), ua.EUInformation), held(properties.get("EURange"), ua.Range)
    interval = held(attributes[1], float)
    value = attributes[2] if len(attributes) > len(_ATTRIBUTES) else ua.DataValue()
    inside = value.Value.Value if value.Value is not None else None
    return Variable(
        place=place,
        node=node_text(place.node, space.namespaces),
        type=types.names.get(data_type, "") if data_type is not None else "",
        unit=str(unit.DisplayName.Text or "") if unit is not None else "",
        low=float(span.Low) if span is not None else -math.inf,
        high=float(span.High) if span is not None else math.inf,
        sample_rate_hz=float(held(properties.get("SampleRate"), float) or 0.0),
        sampling_interval_ms=interval if interval is not None and interval >= 0 else math.nan,
        why_not=types.why_not(attributes[0], value),
        value=_shown(inside),
        length=len(inside) if isinstance(inside, list) else 0,
        status=_status(value) if len(attributes) > len(_ATTRIBUTES) else "",
        source_time=value.SourceTimestamp,
        raw=Raw(
            data_type=data_type,
            standard_type=types.standard.get(data_type, 0) if data_type is not None else 0,
            value=value,
            unit=unit,
        ),
    )


def _shown(value: object) -> float | int | bool | str | None:
    """Return *value* if it can be shown in one cell; a text in part when it is long."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list):
        return None
    text = str(value.Text) if isinstance(value, ua.LocalizedText) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _status(value: ua.DataValue) -> str:
    return status_name(value.StatusCode.value if value.StatusCode is not None else 0)
