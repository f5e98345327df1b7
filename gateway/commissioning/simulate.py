"""A snapshot served as a real OPC UA server: the same nodes, and the recorded values again with fresh times."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import NodeData
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from gateway.commissioning.snapshot_file import Contents, Node, SnapshotError
from gateway.commissioning.watching import Arrived
from gateway.data_acquisition.address_space import node_of
from gateway.data_acquisition.certificate import ensure_application_certificate
from gateway.data_acquisition.profiles import chunks
from gateway.data_acquisition.trust import fingerprint
from gateway.errors import SourceUnavailable
from models.records import from_ns

APPLICATION_URI = "urn:wearsight:simulated-plant"
_AT_A_TIME = 500  # writes between two turns of the event loop
_LATE_S = 1.0
_LATEST_NS = 7_258_118_400_000_000_000  # the year 2200
_INTEGERS = {2: (-(2**7), 2**7), 3: (0, 2**8), 4: (-(2**15), 2**15), 5: (0, 2**16), 6: (-(2**31), 2**31),
             7: (0, 2**32), 8: (-(2**63), 2**63), 9: (0, 2**64)}  # fmt: skip
_TEXT = 12


class _Anybody(UserManager):
    """Lets in whoever comes, under whatever name: it is a play."""

    def get_user(
        self,
        iserver: Any,  # noqa: ARG002 - asyncua's signature
        username: str | None = None,  # noqa: ARG002 - the same
        password: str | None = None,  # noqa: ARG002 - the same
        certificate: Any = None,  # noqa: ARG002 - the same
    ) -> User | None:
        return User(role=UserRole.User)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A server that plays.

    Attributes:
        server: The server, started.
        endpoint: Its address.
        certificate: Its certificate's file.
        fingerprint: SHA-256 of that.
        nodes: The nodes of the snapshot, in its order.
    """

    server: Server
    endpoint: str
    certificate: Path
    fingerprint: str
    nodes: Sequence[ua.NodeId]


@asynccontextmanager
async def serving(contents: Contents, *, host: str, port: int, pki: Path) -> AsyncIterator[Stage]:
    """Serve the nodes of *contents* meanwhile, in clear and encrypted, to anybody.

    Args:
        contents: The snapshot.
        host: Address of this machine to listen at.
        port: 0 takes one that is free.
        pki: Folder of the server's certificate, which is made when it is not there.

    Raises:
        SourceUnavailable: If the address cannot be listened at.
        SnapshotError: If the nodes cannot be made.
    """
    port = port or _free_port(host)
    certificate, key = await asyncio.to_thread(ensure_application_certificate, pki, APPLICATION_URI, "Simulated plant")
    server = Server(user_manager=_Anybody())
    await server.init()
    await server.set_application_uri(APPLICATION_URI)
    server.set_server_name("Wearsight simulated plant")
    server.set_endpoint(f"opc.tcp://{host}:{port}/wearsight/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity, ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    server.set_identity_tokens([ua.AnonymousIdentityToken, ua.UserNameIdentityToken])
    await server.load_certificate(certificate)
    await server.load_private_key(key, format="pem")
    nodes = await _build(server, contents)
    try:
        await server.start()
    except OSError as error:
        raise SourceUnavailable(f"cannot listen at {host}:{port} ({error.strerror}); choose another --port") from error
    try:
        yield Stage(
            server=server,
            endpoint=f"opc.tcp://{host}:{port}/wearsight/",
            certificate=certificate,
            fingerprint=fingerprint(certificate.read_bytes()),
            nodes=nodes,
        )
    finally:
        await server.stop()


async def simulate(
    contents: Contents,
    host: str,
    port: int,
    pki: Path,
    speed: float,
    seconds: float | None,
    *,
    loop: bool,
    as_json: bool,
) -> None:
    """Serve *contents* and play its values, saying where; for *seconds*, or until somebody ends it.

    Raises:
        SourceUnavailable: As `serving`.
        SnapshotError: Likewise.
    """
    async with serving(contents, host=host, port=port, pki=pki) as stage:
        _tell(stage, contents, as_json=as_json)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                written = await play(stage, contents, speed=speed, loop=loop, behind=_tell_behind)
                click.echo(f"played {written:,} values; the last ones stay until Ctrl-C", err=True)
                await asyncio.Event().wait()


def _tell(stage: Stage, contents: Contents, *, as_json: bool) -> None:
    """Say what is served where, and how to read it."""
    header, end = contents.header, contents.end
    if as_json:
        body = {
            "endpoint": stage.endpoint,
            "fingerprint": stage.fingerprint,
            "certificate": str(stage.certificate),
            "nodes": end.nodes,
            "values": end.values,
        }
        click.echo(msgspec.json.encode(body).decode())
        return
    click.echo(f"{contents.path.name}: {end.nodes:,} nodes and {end.values:,} values of {header.server}")
    click.echo(f"endpoint     {click.style(stage.endpoint, bold=True)}  (None, Basic256Sha256; any user)")
    click.echo(f"certificate  {stage.certificate}")
    click.echo(f"fingerprint  {stage.fingerprint}")
    click.echo(f"  → look at it: wearsight-gateway opcua browse {stage.endpoint} --insecure --values", err=True)


def _tell_behind(seconds: float) -> None:
    text = f"{seconds:.1f} s behind: this machine cannot serve so many values; choose a lower --speed, or fewer nodes"
    click.secho(text, fg="yellow", err=True)


def _silent(_seconds: float) -> None:
    """Tell nobody."""


async def play(
    stage: Stage,
    contents: Contents,
    *,
    speed: float = 1.0,
    loop: bool = False,
    behind: Callable[[float], None] = _silent,
) -> int:
    """Write the recorded values as they arrived, *speed* times as fast, again and again with *loop*.

    Source times are as far from one another as they were (less by *speed*), and end about now.

    Args:
        stage: The server.
        contents: The snapshot.
        speed: Times as fast.
        loop: Whether to begin again at its end, for ever.
        behind: Told after a round that ended more than a second late, by how many seconds.

    Returns:
        How many values were written.
    """
    written, again = 0, False
    while True:
        began, late_s = await _play_once(stage, contents, speed, again=again)
        written += began
        if late_s > _LATE_S:
            behind(late_s)
        again = True
        if not loop or not began:
            return written


async def _play_once(stage: Stage, contents: Contents, speed: float, *, again: bool) -> tuple[int, float]:
    """Play all once; return how many values were written, and by how many seconds the end was late."""
    clock = asyncio.get_running_loop().time
    begin, begin_ns, written = clock(), time.time_ns(), 0
    made_ns, length_s = contents.header.made_ns, contents.header.seconds
    for arrived in contents.values():
        at_s = (arrived.received_ns - made_ns) / 1e9
        length_s = max(length_s, at_s)
        await asyncio.sleep(max(0.0, begin + at_s / speed - clock()))
        written += await _write(stage, contents.nodes, arrived, made_ns, begin_ns, speed, again=again)
    # The rest of the recorded time, so that rounds do not overlap.
    left_s = begin + length_s / speed - clock()
    await asyncio.sleep(max(0.0, left_s))
    return written, -left_s


async def _write(
    stage: Stage, nodes: Sequence[Node], arrived: Arrived, made_ns: int, begin_ns: int, speed: float, *, again: bool
) -> int:
    """Write the values of one message; return how many there were."""
    values, at, written = arrived.values, 0, 0
    for row, handle in enumerate(values.handle.tolist()):
        if written % _AT_A_TIME == _AT_A_TIME - 1:
            await asyncio.sleep(0)
        length = int(values.sample_count[row])
        samples = values.samples[at : at + length].tolist()
        at += length
        source_ns = int(values.source_time[row])
        if again and source_ns < made_ns:
            continue  # what was so before the recording was told in the first round
        moment_ns = begin_ns + round((source_ns - made_ns) / (speed if source_ns > made_ns else 1.0))
        node = nodes[handle]
        number = float(values.value[row])
        value = _variant(node.kind, samples if length else None if math.isnan(number) else number)
        moment: Any = _moment(moment_ns)
        told = ua.DataValue(value, ua.StatusCode(ua.UInt32(int(values.status[row]))), SourceTimestamp=moment)
        await stage.server.write_attribute_value(stage.nodes[handle], told)
        written += 1
    return written


def _moment(time_ns: int) -> datetime | None:
    return from_ns(time_ns) if 0 < time_ns < _LATEST_NS else None


def _variant(kind: int, value: Any) -> ua.Variant:
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


async def _build(server: Server, contents: Contents) -> list[ua.NodeId]:
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
            measured: Any = _moment(time.time_ns() - age_ns)
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
        attributes.Value = _variant(node.kind, node.value)
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


def _free_port(host: str) -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind((host, 0))
        return int(listener.getsockname()[1])
