"""The nodes of a snapshot in the address space of a server, and recorded numbers as OPC UA values."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from asyncua import ua
from asyncua.server.address_space import NodeData
from asyncua.server.server import Server
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from gateway.commissioning.snapshot_file import Contents, Node, SnapshotError
from gateway.data_acquisition.address_space import node_of
from gateway.data_acquisition.profiles import chunks
from models.records import from_ns

_AT_A_TIME = 500  # nodes between two turns of the event loop
_LATEST_NS = 7_258_118_400_000_000_000  # the year 2200
_INTEGERS = {2: (-(2**7), 2**7), 3: (0, 2**8), 4: (-(2**15), 2**15), 5: (0, 2**16), 6: (-(2**31), 2**31),
             7: (0, 2**32), 8: (-(2**63), 2**63), 9: (0, 2**64)}  # fmt: skip
_TEXT = 12


def moment(time_ns: int) -> datetime | None:
    """Return *time_ns* (since 1970 UTC) as OPC UA takes it; None outside 1970 to 2200."""
    return from_ns(time_ns) if 0 < time_ns < _LATEST_NS else None


def variant(kind: int, value: Any) -> ua.Variant:
    """Return *value* as a variant of *kind*; nothing of what does not fit.

    Raises:
        SnapshotError: If it is of no such kind at all.
    """
    if value is None or not 1 <= kind <= _TEXT:
        return ua.Variant()
    whole = value if isinstance(value, list) else [value]
    if any(isinstance(one, str) != (kind == _TEXT) for one in whole):
        raise SnapshotError(f"a value of built-in type {kind} is {value!r:.60}; the snapshot is damaged")
    fitted = [_fitted(kind, one) for one in whole]
    return ua.Variant(fitted if isinstance(value, list) else fitted[0], ua.VariantType(kind))


def _fitted(kind: int, one: Any) -> Any:
    """Return *one* within what numbers of *kind* can be."""
    if kind == _TEXT:
        return one
    if kind == 1:
        return bool(one)
    if kind not in _INTEGERS:
        return float(one)
    low, end = _INTEGERS[kind]
    if isinstance(one, float) and not math.isfinite(one):
        return 0
    return min(max(int(one), low), end - 1)


async def build(server: Server, contents: Contents) -> list[ua.NodeId]:
    """Make all nodes of *contents* in *server*; return them in order."""
    indexes = [await server.register_namespace(uri) for uri in contents.header.namespaces]
    namespaces = await server.get_namespace_array()
    building = _Building(server, namespaces, contents.header.made_ns)
    objects = ua.NodeId(ua.Int32(ObjectIds.ObjectsFolder))
    made: list[ua.NodeId] = []
    try:
        for some in chunks(contents.nodes, _AT_A_TIME):
            for node in some:
                parent = made[node.parent] if node.parent >= 0 else objects
                made.append(building.add(node, parent, indexes[node.namespace]))
            await asyncio.sleep(0)
        for link in contents.links:
            building.refer(made[link.parent] if link.parent >= 0 else objects, made[link.node], ObjectIds.Organizes)
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise SnapshotError(f"{contents.path}: node {len(made)} cannot be made ({error!r})") from error
    return made


class _Building:
    """Nodes put straight into a server's address space: asking for each takes a time that grows with its siblings."""

    def __init__(self, server: Server, namespaces: Sequence[str], made_ns: int) -> None:
        self._made_ns = made_ns
        self._space = server.iserver.aspace
        self._service = server.iserver.node_mgt_service
        self._namespaces = namespaces

    def add(self, node: Node, parent: ua.NodeId, namespace: int) -> ua.NodeId:
        """Make *node* below *parent*; return its id."""
        told = node_of(node.node, self._namespaces)
        if told in self._space:  # a standard one, such as Locations
            return told
        name = ua.QualifiedName(node.name, ua.UInt16(namespace))
        if node.is_variable:
            attributes = self._variable(node)
            self._add(told, name, parent, ObjectIds.HasComponent, attributes)
            status = ua.StatusCode(ua.UInt32(node.status))
            age_ns = self._made_ns - node.source_ns if node.source_ns else 0
            measured: Any = moment(time.time_ns() - age_ns)
            self._space[told].attributes[AttributeIds.Value].value = ua.DataValue(
                attributes.Value, status, SourceTimestamp=measured
            )
            self._add_properties(node, told)
        else:
            reference = ObjectIds.Organizes if parent.NamespaceIndex == 0 else ObjectIds.HasComponent
            self._add(told, name, parent, reference, ua.ObjectAttributes(DisplayName=ua.LocalizedText(node.name)))
        return told

    def refer(self, parent: ua.NodeId, node: ua.NodeId, reference: int) -> None:
        """Have *parent* refer to *node*."""
        source, target = self._space[parent], self._space[node]
        for one, other, forward in ((source, target, True), (target, source, False)):
            values = {name: _attribute(other, attribute) for name, attribute in _SHOWN.items()}
            one.references.append(
                ua.ReferenceDescription(
                    ReferenceTypeId=ua.NodeId(ua.Int32(reference)), IsForward=forward, NodeId=other.nodeid, **values
                )
            )

    def _add(self, told: ua.NodeId, name: ua.QualifiedName, parent: ua.NodeId, reference: int, attributes: Any) -> None:
        is_variable = isinstance(attributes, ua.VariableAttributes)
        of_property = reference == ObjectIds.HasProperty
        kind = ObjectIds.BaseDataVariableType if is_variable else ObjectIds.BaseObjectType
        item = ua.AddNodesItem(
            RequestedNewNodeId=told,
            BrowseName=name,
            NodeClass=ua.NodeClass.Variable if is_variable else ua.NodeClass.Object,
            TypeDefinition=ua.NodeId(ua.Int32(ObjectIds.PropertyType if of_property else kind)),
            NodeAttributes=attributes,
        )
        for refused in self._service.try_add_nodes([item], check=False):
            raise ValueError(f"{refused.RequestedNewNodeId} is refused")
        self.refer(parent, told, reference)

    def _variable(self, node: Node) -> ua.VariableAttributes:
        attributes = _attributes(node.name, self._data_type(node))
        attributes.MinimumSamplingInterval = node.sampling_interval_ms
        attributes.ValueRank = ua.ValueRank.OneDimension if isinstance(node.value, list) else ua.ValueRank.Any
        attributes.Value = variant(node.kind, node.value)
        return attributes

    def _data_type(self, node: Node) -> ua.NodeId:
        """Return the data type of *node*, which is made where it is the plant's own."""
        if not node.data_type:
            return ua.NodeId(ua.Int32(ObjectIds.BaseDataType))
        told = node_of(node.data_type, self._namespaces)
        if told not in self._space:
            standard = ua.NodeId(ua.Int32(node.standard_type or ObjectIds.BaseDataType))
            text = ua.LocalizedText(node.type_name)
            item = ua.AddNodesItem(
                RequestedNewNodeId=told,
                BrowseName=ua.QualifiedName(node.type_name, ua.UInt16(told.NamespaceIndex)),
                NodeClass=ua.NodeClass.DataType,
                NodeAttributes=ua.DataTypeAttributes(DisplayName=text),
            )
            for _ in self._service.try_add_nodes([item], check=False):
                raise ValueError(f"data type {told} is refused")
            self.refer(standard if standard in self._space else _BASE_TYPE, told, ObjectIds.HasSubtype)
        return told

    def _add_properties(self, node: Node, told: ua.NodeId) -> None:
        if node.low is not None and node.high is not None:
            self._add_property(told, "EURange", ObjectIds.Range, ua.Variant(ua.Range(Low=node.low, High=node.high)))
        if node.unit is not None:
            uri, number, name, description = node.unit
            unit = ua.EUInformation(
                NamespaceUri=uri,
                UnitId=ua.Int32(number),
                DisplayName=ua.LocalizedText(name),
                Description=ua.LocalizedText(description),
            )
            self._add_property(told, "EngineeringUnits", ObjectIds.EUInformation, ua.Variant(unit))
        if node.sample_rate_hz is not None:
            self._add_property(told, "SampleRate", ObjectIds.Double, ua.Variant(node.sample_rate_hz))

    def _add_property(self, of: ua.NodeId, name: str, data_type: int, value: ua.Variant) -> None:
        attributes = _attributes(name, ua.NodeId(ua.Int32(data_type)))
        attributes.Value = value
        told = self._space.generate_nodeid(1)
        self._add(told, ua.QualifiedName(name, ua.UInt16(0)), of, ObjectIds.HasProperty, attributes)


_SHOWN = {name: AttributeIds[name] for name in ("BrowseName", "DisplayName", "NodeClass")}
_BASE_TYPE = ua.NodeId(ua.Int32(ObjectIds.BaseDataType))


def _attribute(node: NodeData, attribute: AttributeIds) -> Any:
    told = node.attributes[attribute].value
    return told.Value.Value if told is not None and told.Value is not None else None


def _attributes(name: str, data_type: ua.NodeId) -> ua.VariableAttributes:
    readable = ua.Byte(ua.AccessLevel.CurrentRead.mask)
    return ua.VariableAttributes(
        DisplayName=ua.LocalizedText(name), DataType=data_type, AccessLevel=readable, UserAccessLevel=readable
    )
