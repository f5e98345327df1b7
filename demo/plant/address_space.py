"""The address space: ``Objects/Machines/<asset>/{Identification, Monitoring}``, after OPC UA for Machinery.

A channel is an ``AnalogUnitRangeType`` variable (OPC UA Part 8) with ``EURange`` and ``EngineeringUnits``; a
waveform is an array of Float with ``SampleRate`` beside. Nodes are made straight in the address space: one call
of asyncua's node interface for each would take a cell of hundred replayed engines minutes to start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from asyncua import ua
from asyncua.server.server import Server
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from demo.plant.channels import unit_id
from demo.plant.source import Machine
from demo.plant.timeline import Timeline
from demo.plant.values import NOT_YET, data_values
from models.records import Channel, Stream

UNECE_URI: Final = "http://www.opcfoundation.org/UA/units/un/cefact"
READABLE: Final = ua.AccessLevel.CurrentRead.mask | ua.AccessLevel.HistoryRead.mask

Nodes = Sequence[ua.NodeId]


def build(server: Server, namespace: int, machines: Sequence[Machine], timeline: Timeline) -> Nodes:
    """Add *machines* below ``Objects`` and return the node of each stream, in the timeline's order."""
    builder = _Builder(server, namespace)
    folder = builder.folder(_standard(ObjectIds.ObjectsFolder), "Machines", ObjectIds.FolderType)
    nodes: dict[Stream, ua.NodeId] = {}
    for machine in machines:
        root = builder.folder(folder, machine.asset_id, ObjectIds.BaseObjectType)
        identification = builder.folder(root, "Identification", ObjectIds.FolderType)
        for name, text in (
            ("Manufacturer", machine.manufacturer),
            ("Model", machine.model),
            ("SerialNumber", machine.serial_number),
            ("ProductInstanceUri", f"urn:wearsight:demo:{machine.asset_class}:{machine.serial_number}"),
        ):
            builder.prop(identification, name, ua.Variant(text, ua.VariantType.String), ObjectIds.String)
        monitoring = builder.folder(root, "Monitoring", ObjectIds.FolderType)
        for channel in machine.channels:
            stream = Stream(machine.asset_id, channel.name)
            nodes[stream] = builder.channel(monitoring, channel)
            newest = timeline.newest(timeline.index[stream])
            builder.start_with(nodes[stream], next(data_values(newest), NOT_YET))
    return [nodes[stream] for stream in timeline.streams]


class _Builder:
    def __init__(self, server: Server, namespace: int) -> None:
        self._space = server.iserver.aspace
        self._service = server.iserver.node_mgt_service
        self._namespace = namespace

    def folder(self, parent: ua.NodeId, name: str, kind: int) -> ua.NodeId:
        """Add an object below *parent*."""
        attributes = ua.ObjectAttributes(DisplayName=ua.LocalizedText(name))
        return self._add(parent, name, ua.NodeClass.Object, attributes, kind, ObjectIds.Organizes)

    def prop(self, parent: ua.NodeId, name: str, value: ua.Variant, data_type: int) -> ua.NodeId:
        """Add a property to *parent*."""
        attributes = _variable(name, value, data_type, ua.AccessLevel.CurrentRead.mask)
        # Properties carry names of OPC UA's own namespace.
        return self._add(
            parent, name, ua.NodeClass.Variable, attributes, ObjectIds.PropertyType, ObjectIds.HasProperty, namespace=0
        )

    def channel(self, parent: ua.NodeId, channel: Channel) -> ua.NodeId:
        """Add a channel with its range and unit."""
        waveform = channel.sample_rate_hz > 0.0
        empty = (
            ua.Variant([], ua.VariantType.Float, is_array=True) if waveform else ua.Variant(0.0, ua.VariantType.Double)
        )
        attributes = _variable(channel.name, empty, ObjectIds.Float if waveform else ObjectIds.Double, READABLE)
        attributes.Historizing = True
        node = self._add(
            parent,
            channel.name,
            ua.NodeClass.Variable,
            attributes,
            ObjectIds.AnalogUnitRangeType,
            ObjectIds.HasComponent,
        )
        unit = ua.EUInformation(
            NamespaceUri=UNECE_URI,
            UnitId=unit_id(channel.unit),
            DisplayName=ua.LocalizedText(channel.unit),
            Description=ua.LocalizedText(channel.unit),
        )
        span = ua.Range(Low=channel.low, High=channel.high)
        self.prop(node, "EURange", ua.Variant(span, ua.VariantType.ExtensionObject), ObjectIds.Range)
        self.prop(node, "EngineeringUnits", ua.Variant(unit, ua.VariantType.ExtensionObject), ObjectIds.EUInformation)
        if waveform:
            self.prop(node, "SampleRate", ua.Variant(channel.sample_rate_hz, ua.VariantType.Double), ObjectIds.Double)
        return node

    def start_with(self, node: ua.NodeId, value: ua.DataValue) -> None:
        """Let *node* show *value* from the first moment."""
        self._space[node].attributes[AttributeIds.Value].value = value

    def _add(
        self, parent: ua.NodeId, name: str, node_class: ua.NodeClass, attributes: Any, kind: int, reference: int,
        *, namespace: int | None = None,
    ) -> ua.NodeId:  # fmt: skip
        item = ua.AddNodesItem(
            ParentNodeId=parent,
            ReferenceTypeId=_standard(reference),
            RequestedNewNodeId=ua.NodeId(ua.Int32(0), ua.Int16(self._namespace)),
            BrowseName=ua.QualifiedName(name, self._namespace if namespace is None else namespace),
            NodeClass=node_class,
            NodeAttributes=attributes,
            TypeDefinition=_standard(kind),
        )
        answer = self._service.add_nodes([item])[0]
        answer.StatusCode.check()
        node: ua.NodeId = answer.AddedNodeId
        return node


def _standard(number: int) -> ua.NodeId:
    """Return a node of OPC UA's own namespace."""
    return ua.NodeId(ua.Int32(number))


def _variable(name: str, value: ua.Variant, data_type: int, access: int) -> ua.VariableAttributes:
    array = bool(value.is_array)
    return ua.VariableAttributes(
        DisplayName=ua.LocalizedText(name),
        Description=ua.LocalizedText(name),
        Value=value,
        DataType=_standard(data_type),
        ValueRank=ua.ValueRank.OneDimension if array else ua.ValueRank.Scalar,
        ArrayDimensions=[0] if array else [],
        AccessLevel=access,
        UserAccessLevel=access,
    )
