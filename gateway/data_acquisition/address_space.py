"""Asking about many nodes of a server at once: what they refer to, what their attributes hold, how they are called."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from gateway.data_acquisition.messages import status_name
from gateway.data_acquisition.profiles import RequestLimits, chunks
from gateway.errors import SourceUnavailable
from gateway.tag_list import parse_node

_PAGES_LIMIT = 10_000  # continuation points followed for one node
_NAMESPACES = ua.NodeId(ua.Int32(ObjectIds.Server_NamespaceArray))
_STANDARD = "http://opcfoundation.org/UA/"
_UNREADABLE = (UaError, ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a node refers to: a node, its browse name without and its namespace, and whether it is a variable."""

    name: str
    namespace: int
    node: ua.NodeId
    is_variable: bool


@dataclass(frozen=True, slots=True)
class Browsed:
    """What one node refers to; ``problem`` is the server's name for why that could not be told, or empty."""

    references: tuple[Reference, ...] = ()
    problem: str = ""


class AddressSpace:
    """The nodes of the server of *client*, asked within *limits*.

    Attributes:
        namespaces: The server's namespace URIs by index, as they were when this was opened.
    """

    def __init__(self, client: Client, limits: RequestLimits, namespaces: Sequence[str]) -> None:
        self.namespaces = tuple(namespaces)
        self._client = client
        self._limits = limits

    @classmethod
    async def open(cls, client: Client, limits: RequestLimits) -> AddressSpace:
        """Return the address space with its namespaces as they are now: a restart may order them anew."""
        (value,) = await client.uaclient.read_attributes([_NAMESPACES], AttributeIds.Value)
        told = value.Value.Value if value.Value is not None else None
        return cls(client, limits, [str(uri) for uri in told] if isinstance(told, list) else [_STANDARD])

    async def browse(
        self, nodes: Iterable[ua.NodeId], reference: int = ObjectIds.HierarchicalReferences, *, inverse: bool = False
    ) -> dict[ua.NodeId, Browsed]:
        """Return what *nodes* refer to by *reference* or a subtype of it, against its direction if *inverse*."""
        found: dict[ua.NodeId, Browsed] = {}
        for some in chunks(list(dict.fromkeys(nodes)), self._limits.browse):
            descriptions = [_description(node, reference, inverse=inverse) for node in some]
            # No view; asyncua would put the present time into it, which async-opcua takes for one it does not know.
            no_view = ua.ViewDescription(Timestamp=ua.get_win_epoch())
            parameters = ua.BrowseParameters(View=no_view, NodesToBrowse=descriptions)
            results = await self._client.uaclient.browse(parameters)
            for node, result in zip(some, results, strict=True):
                found[node] = await self._all_references(result)
            # A server keeps few continuation points; who got none asks again, alone.
            if len(some) > 1:
                for node, result in zip(some, results, strict=True):
                    if result.StatusCode.value == StatusCodes.BadNoContinuationPoints:
                        found |= await self.browse([node], reference, inverse=inverse)
        return found

    async def read(self, attributes: Sequence[tuple[ua.NodeId, AttributeIds]]) -> list[ua.DataValue]:
        """Return what each of *attributes* (node, attribute) holds.

        A value that cannot be decoded gets the status BadDecodingError, and the others are read without it.
        """
        values: list[ua.DataValue] = []
        for some in chunks(attributes, self._limits.read):
            values += await self._read_some(some)
        return values

    async def _all_references(self, result: ua.BrowseResult) -> Browsed:
        """Return the references in *result* and behind its continuation points."""
        status = result.StatusCode.value
        problem = status_name(status) if status >> 31 else ""
        references = list(result.References or ())
        for _ in range(_PAGES_LIMIT):
            if not result.ContinuationPoint:
                break
            parameters = ua.BrowseNextParameters(
                ReleaseContinuationPoints=False, ContinuationPoints=[result.ContinuationPoint]
            )
            (result,) = await self._client.uaclient.browse_next(parameters)
            references += result.References or ()
        return Browsed(tuple(filter(None, map(self._reference, references))), problem)

    def _reference(self, description: ua.ReferenceDescription) -> Reference | None:
        """Return *description* with a node of this server; None when it is of another."""
        node, index = description.NodeId, description.NodeId.NamespaceIndex
        if isinstance(node, ua.ExpandedNodeId):
            if node.ServerIndex or node.NamespaceUri not in (None, *self.namespaces):
                return None
            index = self.namespaces.index(node.NamespaceUri) if node.NamespaceUri is not None else index
        plain = ua.NodeId(node.Identifier, index, node.NodeIdType)
        name = description.BrowseName
        return Reference(str(name.Name), name.NamespaceIndex, plain, description.NodeClass == ua.NodeClass.Variable)

    async def _read_some(self, attributes: Sequence[tuple[ua.NodeId, AttributeIds]]) -> list[ua.DataValue]:
        asked = [ua.ReadValueId(NodeId=node, AttributeId=ua.IntegerId(attribute)) for node, attribute in attributes]
        parameters = ua.ReadParameters(TimestampsToReturn=ua.TimestampsToReturn.Both, NodesToRead=asked)
        try:
            values = await self._client.uaclient.read(parameters)
        except UaStatusCodeError:
            raise
        except _UNREADABLE:
            if len(attributes) == 1:
                return [ua.DataValue(StatusCode=ua.StatusCode(ua.UInt32(StatusCodes.BadDecodingError)))]
            half = len(attributes) // 2
            return [*await self._read_some(attributes[:half]), *await self._read_some(attributes[half:])]
        if len(values) != len(attributes):
            raise SourceUnavailable(f"asked for {len(attributes)} attributes, the server answered with {len(values)}")
        return values


def node_of(text: str, namespaces: Sequence[str]) -> ua.NodeId:
    """Return the node that *text* (``nsu=urn:plant;s=T1``) names on a server with these *namespaces*.

    Raises:
        LookupError: If the server does not have the namespace.
        ValueError: If *text* is no such name.
    """
    uri, identifier = parse_node(text)
    if uri not in namespaces:
        raise LookupError(uri)
    index = ua.Int16(namespaces.index(uri))
    match identifier:
        case int():
            return ua.NodeId(ua.Int32(identifier), index)
        case str():
            return ua.NodeId(ua.String(identifier), index)
        case UUID():
            return ua.NodeId(ua.Guid(str(identifier)), index)
        case bytes():
            return ua.NodeId(ua.ByteString(identifier), index)


def node_text(node: ua.NodeId, namespaces: Sequence[str]) -> str:
    """Return the name of *node* that outlives a restart of the server; `node_of` finds it again.

    A server that uses a namespace which its own list does not have gets an id with ``ns=``, which nothing takes.
    """
    identifier = node.Identifier
    if isinstance(identifier, bytes):
        told = f"b={base64.b64encode(identifier).decode()}"
    elif isinstance(identifier, int):
        told = f"i={identifier}"
    else:
        told = f"{'g' if isinstance(identifier, UUID) else 's'}={identifier}"
    if node.NamespaceIndex >= len(namespaces):
        return f"ns={node.NamespaceIndex};{told}"
    uri = quote(namespaces[node.NamespaceIndex], safe="/:?#[]@!$&'()*+,=-._~ ")
    return f"nsu={uri};{told}"


def _description(node: ua.NodeId, reference: int, *, inverse: bool) -> ua.BrowseDescription:
    return ua.BrowseDescription(
        NodeId=node,
        BrowseDirection=ua.BrowseDirection.Inverse if inverse else ua.BrowseDirection.Forward,
        ReferenceTypeId=ua.NodeId(ua.Int32(reference)),
        IncludeSubtypes=True,
        NodeClassMask=ua.NodeClass.Object | ua.NodeClass.Variable | ua.NodeClass.DataType,
        ResultMask=ua.BrowseResultMask.BrowseName | ua.BrowseResultMask.NodeClass,
    )
