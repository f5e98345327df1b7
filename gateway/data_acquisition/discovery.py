"""Finding the channels of assets in a server's address space, with unit, range and rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes

from gateway.config import AssetConfig
from gateway.data_acquisition.limits import RequestLimits, chunks
from gateway.data_acquisition.messages import status_name
from models.records import AssetDescription, Channel, Stream

_PAGES_LIMIT = 10_000  # continuation points followed for one node
_PROPERTIES = ("EURange", "EngineeringUnits", "SampleRate")
_HISTORY_READ = 0x04  # bit of AccessLevel
_NUMBERS = frozenset(kind for kind in ua.VariantType if 1 <= kind.value <= 11)  # Boolean to Double
_NO_ACCESS = frozenset(
    {StatusCodes.BadNodeIdUnknown, StatusCodes.BadNodeIdInvalid, StatusCodes.BadNotReadable,
     StatusCodes.BadUserAccessDenied, StatusCodes.BadAttributeIdInvalid}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FoundChannel:
    """A variable of the server that is a channel of one of our assets."""

    stream: Stream
    node: ua.NodeId
    channel: Channel
    has_history: bool


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """What was found, and the reason for each thing that was not (key: asset, or asset/channel).

    ``untimed`` are the streams found whose values come without a source time.
    """

    found: tuple[FoundChannel, ...]
    missing: Mapping[str, str]
    untimed: tuple[Stream, ...] = ()

    def descriptions(self, assets: Iterable[AssetConfig]) -> tuple[AssetDescription, ...]:
        """Return the *assets* that have at least one channel, as found."""
        channels: dict[str, list[Channel]] = {}
        for found in self.found:
            channels.setdefault(found.stream.asset_id, []).append(found.channel)
        return tuple(
            AssetDescription(
                asset_id=asset.asset_id,
                asset_class=asset.asset_class,
                channels=tuple(sorted(channels[asset.asset_id], key=lambda channel: channel.name)),
            )
            for asset in assets
            if asset.asset_id in channels
        )


@dataclass(frozen=True)
class _Candidate:
    stream: Stream
    node: ua.NodeId
    named: bool  # in the configuration; otherwise it has to have a unit


@dataclass(frozen=True)
class _Reference:
    name: str
    node: ua.NodeId
    is_variable: bool


async def discover(
    client: Client, assets: Sequence[AssetConfig], channels: Mapping[str, Sequence[str]], limits: RequestLimits
) -> Discovery:
    """Find the channels of *assets*.

    Args:
        client: The connected client.
        assets: With the browse path of each below Objects; the namespaces of the names do not matter.
        channels: Browse names of the channels by asset class; none means every variable with EngineeringUnits.
        limits: How much one request may ask for.
    """
    folders = await _folders(client, limits, assets)
    children = await _browse(
        client, limits, [node for node in folders.values() if node is not None], ObjectIds.HierarchicalReferences
    )
    missing: dict[str, str] = {}
    candidates: list[_Candidate] = []
    for asset in assets:
        folder = folders[asset.asset_id]
        if folder is None:
            missing[asset.asset_id] = f"no node at {asset.path}; asset left out"
            continue
        by_name = {child.name: child.node for child in children[folder] if child.is_variable}
        wanted = channels.get(asset.asset_class, ())
        for name in wanted:
            if name not in by_name:
                missing[f"{asset.asset_id}/{name}"] = f"no variable {name} at {asset.path}; channel left out"
        candidates += [
            _Candidate(Stream(asset.asset_id, name), by_name[name], bool(wanted))
            for name in wanted or by_name
            if name in by_name
        ]
    untimed: list[Stream] = []
    found = await _describe(client, limits, candidates, missing, untimed)
    return Discovery(found=tuple(found), missing=missing, untimed=tuple(untimed))


async def _folders(client: Client, limits: RequestLimits, assets: Sequence[AssetConfig]) -> dict[str, ua.NodeId | None]:
    """Return the node at each asset's path, all paths one level at a time."""
    objects = ua.NodeId(ua.Int32(ObjectIds.ObjectsFolder))
    at: dict[str, ua.NodeId | None] = {asset.asset_id: objects for asset in assets}
    steps = {asset.asset_id: [step for step in asset.path.split("/") if step] for asset in assets}
    for level in range(max((len(path) for path in steps.values()), default=0)):
        open_nodes = {node for asset, node in at.items() if node is not None and level < len(steps[asset])}
        children = await _browse(client, limits, list(open_nodes), ObjectIds.HierarchicalReferences)
        for asset, path in steps.items():
            node = at[asset]
            if node is not None and level < len(path):
                at[asset] = next((child.node for child in children[node] if child.name == path[level]), None)
    return at


async def _browse(
    client: Client, limits: RequestLimits, nodes: Sequence[ua.NodeId], reference: int
) -> dict[ua.NodeId, list[_Reference]]:
    """Return what *nodes* refer to by *reference* or a subtype of it."""
    found: dict[ua.NodeId, list[_Reference]] = {}
    for some in chunks(nodes, limits.browse):
        descriptions = [
            ua.BrowseDescription(
                NodeId=node,
                BrowseDirection=ua.BrowseDirection.Forward,
                ReferenceTypeId=ua.NodeId(ua.Int32(reference)),
                IncludeSubtypes=True,
                NodeClassMask=ua.NodeClass.Object | ua.NodeClass.Variable,
                ResultMask=ua.BrowseResultMask.All,
            )
            for node in some
        ]
        # No view; asyncua would put the present time into it, which async-opcua takes for one it does not know.
        no_view = ua.ViewDescription(Timestamp=ua.get_win_epoch())
        parameters = ua.BrowseParameters(View=no_view, NodesToBrowse=descriptions)
        results = await client.uaclient.browse(parameters)
        for node, result in zip(some, results, strict=True):
            found[node] = await _all_references(client, result)
        # A server keeps few continuation points; who got none asks again, alone.
        if len(some) > 1:
            for node, result in zip(some, results, strict=True):
                if result.StatusCode.value == StatusCodes.BadNoContinuationPoints:
                    found |= await _browse(client, limits, [node], reference)
    return found


async def _all_references(client: Client, result: ua.BrowseResult) -> list[_Reference]:
    """Return the references in *result* and behind its continuation points."""
    references = [_reference(r) for r in result.References]
    for _ in range(_PAGES_LIMIT):
        if not result.ContinuationPoint:
            break
        parameters = ua.BrowseNextParameters(
            ReleaseContinuationPoints=False, ContinuationPoints=[result.ContinuationPoint]
        )
        (result,) = await client.uaclient.browse_next(parameters)
        references += [_reference(r) for r in result.References]
    return references


def _reference(description: ua.ReferenceDescription) -> _Reference:
    node = description.NodeId
    plain = ua.NodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType)
    return _Reference(str(description.BrowseName.Name), plain, description.NodeClass == ua.NodeClass.Variable)


async def _describe(
    client: Client,
    limits: RequestLimits,
    candidates: Sequence[_Candidate],
    missing: dict[str, str],
    untimed: list[Stream],
) -> list[FoundChannel]:
    """Return the *candidates* that carry numbers, with their properties.

    Others that were named go to *missing*, those without a source time to *untimed*.
    """
    nodes = [candidate.node for candidate in candidates]
    properties = await _properties(client, limits, nodes)
    levels = await _read(client, limits, nodes, AttributeIds.AccessLevel)
    values = await _read(client, limits, nodes, AttributeIds.Value)
    found = []
    for candidate, told, level, value in zip(candidates, properties, levels, values, strict=True):
        if not candidate.named and "EngineeringUnits" not in told:
            continue
        if reason := _why_not(value):
            missing["/".join(candidate.stream)] = f"node {candidate.node.to_string()} {reason}; channel left out"
            continue
        if value.SourceTimestamp is None and value.Value is not None and value.Value.Value is not None:
            untimed.append(candidate.stream)
        found.append(
            FoundChannel(
                stream=candidate.stream,
                node=candidate.node,
                channel=_channel(candidate.stream.channel, told),
                has_history=bool(_plain(level, int, 0) & _HISTORY_READ),
            )
        )
    return found


async def _properties(
    client: Client, limits: RequestLimits, nodes: Sequence[ua.NodeId]
) -> list[dict[str, ua.DataValue]]:
    """Return the properties of each of *nodes* that tell about its values."""
    references = await _browse(client, limits, nodes, ObjectIds.HasProperty)
    wanted = [(node, p.name, p.node) for node in nodes for p in references[node] if p.name in _PROPERTIES]
    values = await _read(client, limits, [node for _, _, node in wanted], AttributeIds.Value)
    told: dict[ua.NodeId, dict[str, ua.DataValue]] = {node: {} for node in nodes}
    for (node, name, _), value in zip(wanted, values, strict=True):
        told[node][name] = value
    return [told[node] for node in nodes]


async def _read(
    client: Client, limits: RequestLimits, nodes: Sequence[ua.NodeId], attribute: AttributeIds
) -> list[ua.DataValue]:
    values: list[ua.DataValue] = []
    for some in chunks(nodes, limits.read):
        values += await client.uaclient.read_attributes(list(some), attribute)
    return values


def _why_not(value: ua.DataValue) -> str:
    """Return why a variable whose current value is *value* cannot be a channel; nothing when it can."""
    status = value.StatusCode.value if value.StatusCode is not None else 0
    if status in _NO_ACCESS:
        return f"cannot be read ({status_name(status)})"
    kind = value.Value.VariantType if value.Value is not None else ua.VariantType.Null
    # A variable that has no value yet may get one.
    if kind not in _NUMBERS and kind is not ua.VariantType.Null:
        return f"holds {getattr(kind, 'name', kind)}, not numbers"
    return ""


def _channel(name: str, told: Mapping[str, ua.DataValue]) -> Channel:
    unit = _plain(told.get("EngineeringUnits"), ua.EUInformation, None)
    limits = _plain(told.get("EURange"), ua.Range, None)
    rate = _plain(told.get("SampleRate"), (int, float), 0.0)
    return Channel(
        name=name,
        unit=str(unit.DisplayName.Text or "") if unit is not None else "",
        low=float(limits.Low) if limits is not None else -math.inf,
        high=float(limits.High) if limits is not None else math.inf,
        sample_rate_hz=float(rate),
    )


def _plain(value: ua.DataValue | None, kind: Any, default: Any) -> Any:
    """Return what *value* holds if it is of *kind*, else *default*: a server may hold anything."""
    held = value.Value.Value if value is not None and value.Value is not None else None
    return held if isinstance(held, kind) else default
