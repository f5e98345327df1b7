"""Finding wanted tags in a server's address space, with unit, range and rate.

Nothing is remembered from one time to the next: node ids go through the server's namespace array as it is now, paths
through its folders. What moved or came late is found again by asking again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes

from gateway.config import AssetConfig, Deadband, Sampling
from gateway.data_acquisition.address_space import AddressSpace, Browsed, node_of, node_text
from gateway.data_acquisition.data_types import data_types, held
from gateway.data_acquisition.profiles import RequestLimits
from gateway.data_acquisition.tags import Folder, Tag, WantedTags
from gateway.tag_list import split_path
from models.records import AssetDescription, Channel, Stream

_PROPERTIES = ("EURange", "EngineeringUnits", "SampleRate")
_HISTORY_READ = 0x04  # bit of AccessLevel
_OBJECTS = ua.NodeId(ua.Int32(ObjectIds.ObjectsFolder))
_ATTRIBUTES = (AttributeIds.DataType, AttributeIds.AccessLevel, AttributeIds.Value)
_NO_NODE = (StatusCodes.BadNodeIdUnknown, StatusCodes.BadNodeIdInvalid)


@dataclass(frozen=True, kw_only=True)
class FoundChannel:
    """A variable of the server that is a channel of one of our assets."""

    stream: Stream
    node: ua.NodeId
    channel: Channel
    has_history: bool
    sampling: Sampling


@dataclass(frozen=True, kw_only=True)
class Discovery:
    """What was found, and the reason for each thing that was not (key: asset, or asset/channel).

    Attributes:
        found: The channels.
        missing: Why a tag, or an asset's folder, is left out.
        untimed: Streams found whose values come without a source time.
        notes: What is not as configured with a channel that was found, one sentence each.
    """

    found: tuple[FoundChannel, ...]
    missing: Mapping[str, str]
    untimed: tuple[Stream, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

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


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A node that may be the channel *tag*.

    Attributes:
        tag: The tag.
        node: The node.
        named: False for one of a folder, and then it has to have a unit.
        instead: Why it is not the tag's own node; empty when it is.
    """

    tag: Tag
    node: ua.NodeId
    named: bool = True
    instead: str = ""


@dataclass(frozen=True, kw_only=True)
class _Described:
    data_type: ua.DataValue
    access_level: ua.DataValue
    value: ua.DataValue
    properties: Mapping[str, ua.DataValue]


async def resolve(client: Client, wanted: WantedTags, limits: RequestLimits) -> Discovery:
    """Find what is *wanted*, each tag by itself: one that cannot be had stops no other.

    Args:
        client: The connected client.
        wanted: Tags and folders.
        limits: How much one request may ask for.

    Raises:
        UaStatusCodeError: If the server refuses a request as a whole, such as one that asks for too much.
    """
    missing: dict[str, str] = {}
    space = await AddressSpace.open(client, limits)
    candidates = list(_by_node(wanted.tags, space.namespaces, missing))
    paths = _Paths()
    pathed = [tag for tag in wanted.tags if tag.path and (not tag.node or tag.place in missing)]
    ways = [split_path(tag.path) for tag in pathed]
    insides = [
        [*split_path(folder.path), ""] for folder in wanted.folders
    ]  # a step more: the folder is looked into too
    await paths.follow(space, [*ways, *insides])
    candidates += _by_path(pathed, paths, missing)
    for folder in wanted.folders:
        candidates += _in_folder(folder, paths, missing)
    described = await _describe(space, [candidate.node for candidate in candidates])
    await _look_elsewhere(space, paths, candidates, described)
    discovery = await _discovery(space, candidates, described, missing)
    with_channels = {found.stream.asset_id for found in discovery.found}
    for folder in wanted.folders:
        if folder.asset_id not in with_channels and folder.place not in missing:
            missing[folder.place] = f"no variable with a unit in {folder.path}; asset left out"
    return discovery


def _by_node(tags: Iterable[Tag], namespaces: Sequence[str], missing: dict[str, str]) -> Iterator[_Candidate]:
    """Yield the *tags* that are named by a node id, without a look whether the node exists."""
    for tag in tags:
        if not tag.node:
            continue
        try:
            yield _Candidate(tag=tag, node=node_of(tag.node, namespaces))
        except LookupError as unknown:
            missing[tag.place] = f"{tag.node}: the server has no namespace {unknown.args[0]!r}; channel left out"
        except ValueError as error:
            missing[tag.place] = f"{error}; channel left out"


def _by_path(tags: Iterable[Tag], paths: _Paths, missing: dict[str, str]) -> Iterator[_Candidate]:
    """Yield the *tags* at their paths; those with a node id have it in a namespace that the server lacks."""
    for tag in tags:
        node, problem = paths.at(split_path(tag.path))
        before = missing.pop(tag.place, "").removesuffix("; channel left out") if tag.node else ""
        if node is None:
            missing[tag.place] = f"{', and '.join(filter(None, (before, problem)))}; channel left out"
        else:
            yield _Candidate(tag=tag, node=node, instead=before)


async def _look_elsewhere(
    space: AddressSpace, paths: _Paths, candidates: list[_Candidate], described: list[_Described]
) -> None:
    """Put in the place of nodes that are not there the ones at their tags' paths, where there are any."""
    gone = [
        i
        for i, (candidate, one) in enumerate(zip(candidates, described, strict=True))
        if candidate.tag.node and candidate.tag.path and not candidate.instead and _is_gone(one)
    ]
    await paths.follow(space, [split_path(candidates[i].tag.path) for i in gone])
    instead: dict[int, _Candidate] = {}
    for i in gone:
        tag = candidates[i].tag
        node, _ = paths.at(split_path(tag.path))
        if node is not None:
            instead[i] = _Candidate(tag=tag, node=node, instead=f"{tag.node}: the server has no such node")
    for (i, candidate), one in zip(
        instead.items(), await _describe(space, [candidate.node for candidate in instead.values()]), strict=True
    ):
        candidates[i], described[i] = candidate, one


def _is_gone(described: _Described) -> bool:
    status = described.data_type.StatusCode
    return status is not None and status.value in _NO_NODE


def _in_folder(folder: Folder, paths: _Paths, missing: dict[str, str]) -> list[_Candidate]:
    """Return the variables of *folder* that have no tag of their own."""
    node, problem = paths.at(split_path(folder.path))
    if node is None:
        missing[folder.place] = f"{problem}; asset left out"
        return []
    inside = paths.inside(node)
    if inside.problem:
        missing[folder.place] = f"{folder.path} cannot be looked into ({inside.problem}); asset left out"
    by_name = {r.name: r.node for r in inside.references if r.is_variable and r.name not in folder.own_tags}
    return [
        _Candidate(
            tag=Tag(stream=Stream(folder.asset_id, name), path=folder.path, sampling=folder.sampling_of(name)),
            node=variable,
            named=False,
        )
        for name, variable in by_name.items()
    ]


class _Paths:
    """The part of the address space that the wanted paths lead through, each folder looked into once."""

    def __init__(self) -> None:
        self._inside: dict[ua.NodeId, Browsed] = {}
        self._named: dict[ua.NodeId, dict[str, dict[ua.NodeId, int]]] = {}  # namespaces of the nodes of a name

    async def follow(self, space: AddressSpace, paths: Sequence[Sequence[str]]) -> None:
        """Look into every folder on the way of *paths*, all of one depth together."""
        for depth in range(max(map(len, paths), default=0)):
            folders = {tuple(path[:depth]) for path in paths if len(path) > depth}
            nodes = {node for node, _ in map(self.at, folders) if node is not None and node not in self._inside}
            for node, inside in (await space.browse(nodes)).items():
                self._inside[node] = inside
                named = self._named.setdefault(node, {})
                for reference in inside.references:
                    named.setdefault(reference.name, {})[reference.node] = reference.namespace

    def inside(self, node: ua.NodeId) -> Browsed:
        """Return what is in the folder *node*, which a path led into."""
        return self._inside[node]

    def at(self, path: Sequence[str]) -> tuple[ua.NodeId | None, str]:
        """Return the node at *path* below Objects, or None and why there is none."""
        node = _OBJECTS
        for depth, name in enumerate(path):
            parent = "/".join(path[:depth]) or "Objects"
            nodes = self._named[node].get(name, {})
            if len(nodes) > 1:
                spaces = ", ".join(map(str, nodes.values()))
                return None, f"{len(nodes)} nodes are called {name} in {parent} (namespaces {spaces}); name its nsu= id"
            if not nodes:
                problem = self._inside[node].problem
                return None, f"no node {name} in {parent}" + f" ({problem})" * bool(problem)
            (node,) = nodes
        return node, ""


async def _describe(space: AddressSpace, nodes: Sequence[ua.NodeId]) -> list[_Described]:
    """Return what there is to know of each of *nodes*: attributes and properties, in as few requests as it takes."""
    references = await space.browse(nodes, ObjectIds.HasProperty)
    properties = [[p for p in references[node].references if p.name in _PROPERTIES] for node in nodes]
    asked = [(node, attribute) for node in nodes for attribute in _ATTRIBUTES]
    asked += [(p.node, AttributeIds.Value) for some in properties for p in some]
    values = iter(await space.read(asked))
    attributes = [(next(values), next(values), next(values)) for _ in nodes]
    return [
        _Described(data_type=a[0], access_level=a[1], value=a[2], properties={p.name: next(values) for p in some})
        for a, some in zip(attributes, properties, strict=True)
    ]


async def _discovery(
    space: AddressSpace,
    candidates: Sequence[_Candidate],
    described: Sequence[_Described],
    missing: dict[str, str],
) -> Discovery:
    """Return the *candidates* that carry numbers; others that were named, or have a unit, go to *missing*."""
    told = [held(one.data_type, ua.NodeId) for one in described]
    types = await data_types(space, [data_type for data_type in told if data_type is not None])
    found: list[FoundChannel] = []
    untimed: list[Stream] = []
    notes: dict[str, str] = {}
    for candidate, one in zip(candidates, described, strict=True):
        tag = candidate.tag
        if not candidate.named and "EngineeringUnits" not in one.properties:
            continue
        if reason := types.why_not(one.data_type, one.value):
            missing[tag.place] = f"{_name(candidate)} {reason}; channel left out"
            continue
        if one.value.SourceTimestamp is None and one.value.Value is not None and one.value.Value.Value is not None:
            untimed.append(tag.stream)
        channel = _channel(tag, one.properties)
        sampling, note = _sampling(tag, one.properties)
        if note := "; ".join(filter(None, (_place_note(candidate, space), note, _unit_note(tag, one.properties)))):
            notes[tag.place] = note
        found.append(
            FoundChannel(
                stream=tag.stream,
                node=candidate.node,
                channel=channel,
                has_history=bool((held(one.access_level, int) or 0) & _HISTORY_READ),
                sampling=sampling,
            )
        )
    return Discovery(found=tuple(found), missing=missing, untimed=tuple(untimed), notes=notes)


def _channel(tag: Tag, properties: Mapping[str, ua.DataValue]) -> Channel:
    """Return the channel of *tag*: as configured, and where nothing is, as its server tells."""
    low, high = _range(properties)
    rate = held(properties.get("SampleRate"), int) or held(properties.get("SampleRate"), float) or 0.0
    return Channel(
        name=tag.stream.channel,
        unit=tag.unit or _unit(properties),
        low=tag.low if math.isfinite(tag.low) else low,
        high=tag.high if math.isfinite(tag.high) else high,
        sample_rate_hz=float(rate),
    )


def _unit(properties: Mapping[str, ua.DataValue]) -> str:
    unit = held(properties.get("EngineeringUnits"), ua.EUInformation)
    return str(unit.DisplayName.Text or "") if unit is not None else ""


def _range(properties: Mapping[str, ua.DataValue]) -> tuple[float, float]:
    """Return the range that the server tells; one with nothing in it, such as 0 to 0, is none."""
    told = held(properties.get("EURange"), ua.Range)
    return (float(told.Low), float(told.High)) if told is not None and told.Low < told.High else (-math.inf, math.inf)


def _sampling(tag: Tag, properties: Mapping[str, ua.DataValue]) -> tuple[Sampling, str]:
    """Return how *tag* can be asked for, and a note: a percent of a range that the server does not know is none."""
    if tag.sampling.deadband is not Deadband.PERCENT or _range(properties) != (-math.inf, math.inf):
        return tag.sampling, ""
    if math.isfinite(tag.high - tag.low):
        share = tag.sampling.deadband_value * (tag.high - tag.low) / 100
        sampling = replace(tag.sampling, deadband=Deadband.ABSOLUTE, deadband_value=share)
        return sampling, f"{tag.place}: its server tells no range; {share:g}, of the configured one, is the dead band"
    sampling = replace(tag.sampling, deadband=Deadband.NONE, deadband_value=0.0)
    return sampling, f"{tag.place}: a dead band in percent needs a range, and there is none; every change is taken"


def _name(candidate: _Candidate) -> str:
    """Return what *candidate* is called in the configuration, as far as that found it."""
    tag = candidate.tag
    if tag.node and not candidate.instead:
        return f"node {tag.node}"
    return f"node {candidate.node.to_string()} at {tag.path}"


def _place_note(candidate: _Candidate, space: AddressSpace) -> str:
    if not candidate.instead:
        return ""
    tag, node = candidate.tag, node_text(candidate.node, space.namespaces)
    return f"{tag.place}: {candidate.instead}; {node} at its path {tag.path} is taken; correct the id if that is right"


def _unit_note(tag: Tag, properties: Mapping[str, ua.DataValue]) -> str:
    told = _unit(properties)
    if not tag.unit or not told or tag.unit == told:
        return ""
    return f"{tag.place}: configured in {tag.unit}, while its server tells {told}; the configured unit is taken"
