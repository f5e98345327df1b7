"""Wanted tags are found in the address space of a real server, each by itself."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from asyncua.server.server import Server
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from gateway.config import AssetConfig, Deadband, Sampling
from gateway.data_acquisition.address_space import AddressSpace, node_of, node_text
from gateway.data_acquisition.profiles import RequestLimits
from gateway.data_acquisition.resolution import Discovery, resolve
from gateway.data_acquisition.tags import Folder, Tag, WantedTags
from models.records import Channel, Stream
from tests.gateway.data_acquisition.small_plant import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

URI = "urn:test:resolution"
MANY = 300
PERCENT = Sampling(deadband=Deadband.PERCENT, deadband_value=5.0)


@dataclass
class Plant:
    """An open server with one machine, and a client of it."""

    server: Server
    client: Client
    namespace: int
    machine: Any

    async def add(self, name: str, value: Any, kind: ua.VariantType | None = None, **told: Any) -> Any:
        """Add a variable with properties to the machine."""
        node_id = ua.NodeId(ua.String(name), ua.Int16(self.namespace))
        variant = ua.Variant(value, kind) if kind is not None else ua.Variant(value)
        return await self.machine.add_variable(node_id, f"{self.namespace}:{name}", variant, **told)

    async def resolve(
        self, *tags: Tag, folders: Iterable[Folder] = (), limits: RequestLimits | None = None
    ) -> Discovery:
        wanted = WantedTags(assets=(), tags=tags, folders=tuple(folders))
        return await resolve(self.client, wanted, limits or RequestLimits())


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plant() -> AsyncIterator[Plant]:
    server = Server()
    await server.init()
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    server.set_endpoint(f"opc.tcp://127.0.0.1:{free_port()}/")
    await server.register_namespace("urn:test:before")
    namespace = await server.register_namespace(URI)
    machines = await server.nodes.objects.add_folder(namespace, "Machines")
    machine = await machines.add_object(namespace, "pump/1")
    async with server, Client(server.endpoint.geturl()) as client:
        plant = Plant(server, client, namespace, machine)
        flow = await plant.add("flow", 3.5)
        await flow.add_property(0, "EURange", ua.Range(Low=0.0, High=40.0))
        await flow.add_property(0, "EngineeringUnits", ua.EUInformation(DisplayName=ua.LocalizedText("m³/h")))
        await plant.add("plain", 7, ua.VariantType.UInt16)
        await fill(plant)
        yield plant


async def fill(plant: Plant) -> None:
    """Add what is no channel, or not at first sight."""
    spectrum, _ = await new_struct(
        plant.server, plant.namespace, "Spectrum", [new_struct_field("n", ua.VariantType.Int32)]
    )
    await new_enum(plant.server, plant.namespace, "RunState", ["Off", "On"])
    await plant.server.load_data_type_definitions()
    await plant.add("spectrum", ua.Spectrum(), datatype=spectrum.nodeid)  # type: ignore[attr-defined]  # made above
    state = await plant.add("state", 1, ua.VariantType.Int32)
    await state.write_attribute(
        AttributeIds.DataType,
        ua.DataValue(ua.Variant((await plant.server.nodes.enum_data_type.get_children())[-1].nodeid)),
    )
    await plant.add("text", "on")
    await plant.add("empty_text", None, ua.VariantType.String, datatype=ua.NodeId(ua.Int32(ObjectIds.String)))
    await plant.add("empty_number", None, ua.VariantType.Null, datatype=ua.NodeId(ua.Int32(ObjectIds.Double)))
    await plant.add("empty_anything", None, ua.VariantType.Null, datatype=ua.NodeId(ua.Int32(ObjectIds.BaseDataType)))
    await plant.add("empty_spectrum", None, ua.VariantType.Null, datatype=spectrum.nodeid)
    matrix = ua.Variant([[1.0, 2.0], [3.0, 4.0]], ua.VariantType.Double)
    await plant.machine.add_variable(plant.namespace, "matrix", matrix)
    await plant.machine.add_variable(plant.namespace, "waveform", [1.0, 2.0])
    unset = await plant.add("unset_range", 1.0)
    await unset.add_property(0, "EURange", ua.Range(Low=0.0, High=0.0))
    await plant.machine.add_variable(0, "twin", 1.0)
    await plant.machine.add_variable(plant.namespace, "twin", 2.0)
    stored = await plant.add("stored", 1.0)
    await stored.set_attr_bit(AttributeIds.AccessLevel, ua.AccessLevel.HistoryRead)
    untimed = await plant.add("untimed", 1.0)
    await plant.server.write_attribute_value(untimed.nodeid, ua.DataValue(ua.Variant(2.0), SourceTimestamp=None))


def by_path(name: str, **told: Any) -> Tag:
    return Tag(stream=Stream("pump", name), path=f"Machines/pump\\/1/{name}", **{"sampling": Sampling(), **told})


def by_node(name: str, uri: str = URI, **told: Any) -> Tag:
    return Tag(stream=Stream("pump", name), node=f"nsu={uri};s={name}", **{"sampling": Sampling(), **told})


async def test_a_tag_is_found_by_path_and_by_node(plant: Plant) -> None:
    """Both ways lead to the same node, with unit, range and history as the server tells them."""
    expected = Channel(name="flow", unit="m³/h", low=0.0, high=40.0, sample_rate_hz=0.0)
    for tag in (by_path("flow"), by_node("flow")):
        discovery = await plant.resolve(tag)
        assert discovery.missing == {}
        (found,) = discovery.found
        assert (found.stream, found.channel, found.has_history) == (tag.stream, expected, False)
        assert found.node == ua.NodeId(ua.String("flow"), ua.Int16(plant.namespace))
    (stored,) = (await plant.resolve(by_node("stored"))).found
    assert stored.has_history


async def test_numbers_arrays_and_enumerations_are_channels_and_nothing_else_is(plant: Plant) -> None:
    """Each that is none is left out with its type's name; the others go on."""
    names = ("plain", "state", "text", "spectrum", "matrix", "waveform", "twin", "empty_number", "empty_anything",
             "empty_text", "empty_spectrum")  # fmt: skip
    discovery = await plant.resolve(*(by_path(name) for name in names))
    found = {channel.stream.channel for channel in discovery.found}
    assert found == {"plain", "state", "waveform", "empty_number", "empty_anything"}
    reasons = {
        "text": "holds String, not numbers",
        "empty_text": "holds String, not numbers",
        "spectrum": "holds Spectrum (a structure), not numbers",
        "empty_spectrum": "holds Spectrum (a structure), not numbers",
        "matrix": "holds a matrix of 2 dimensions",
        "twin": f"2 nodes are called twin in Machines/pump/1 (namespaces 0, {plant.namespace}); name its nsu= id",
    }
    assert set(discovery.missing) == {f"pump/{name}" for name in reasons}
    for name, reason in reasons.items():
        assert reason in discovery.missing[f"pump/{name}"]


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        (by_node("flow", uri="urn:nobody"), "the server has no namespace 'urn:nobody'"),
        (by_node("gone"), "cannot be read (BadNodeIdUnknown)"),
        (by_path("gone"), "no node gone in Machines/pump/1"),
        (Tag(stream=Stream("pump", "x"), path="Machines/fan/flow", sampling=Sampling()), "no node fan in Machines"),
        (Tag(stream=Stream("pump", "x"), path="Machines", sampling=Sampling()), "is no variable"),
    ],
)
async def test_a_tag_that_is_not_there_stops_no_other(plant: Plant, tag: Tag, reason: str) -> None:
    """Its reason says which step of its name leads nowhere."""
    discovery = await plant.resolve(tag, by_path("flow"))
    assert [found.stream.channel for found in discovery.found] == ["flow"]
    assert list(discovery.missing) == [tag.place]
    assert reason in discovery.missing[tag.place]
    assert discovery.missing[tag.place].endswith("; channel left out")


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (f"nsu={URI};s=was_flow", "the server has no such node"),
        ("nsu=urn:replaced;s=flow", "the server has no namespace 'urn:replaced'"),
    ],
)
async def test_a_node_that_is_gone_is_looked_for_at_its_path(plant: Plant, node: str, reason: str) -> None:
    """As after a server was replaced: what is there is read, and a note tells it, with the id to put right."""
    tag = replace(by_path("flow"), node=node)
    discovery = await plant.resolve(by_node("plain"), tag, replace(by_path("gone"), node=node))
    assert [found.node.Identifier for found in discovery.found] == ["plain", "flow"]
    assert list(discovery.notes) == ["pump/flow"]
    assert reason in discovery.notes["pump/flow"]
    assert f"nsu={URI};s=flow at its path Machines/pump\\/1/flow is taken" in discovery.notes["pump/flow"]
    assert list(discovery.missing) == ["pump/gone"]


async def test_a_node_that_is_there_goes_before_its_path(plant: Plant) -> None:
    """Wherever the path leads, even when the node is no channel: then it is told, not replaced."""
    discovery = await plant.resolve(replace(by_path("plain"), node=f"nsu={URI};s=flow"))
    assert [found.node.Identifier for found in discovery.found] == ["flow"]
    assert discovery.notes == {}
    text = await plant.resolve(replace(by_path("plain"), node=f"nsu={URI};s=text"))
    assert "holds String" in text.missing["pump/plain"]


async def test_a_folder_gives_what_has_a_unit(plant: Plant) -> None:
    """Variables without a unit are no channels unless named; a channel with a tag of its own is left to that."""
    folder = Folder(
        asset_id="pump", path="Machines/pump\\/1", sampling=Sampling(), channel_sampling=(("flow", PERCENT),)
    )
    discovery = await plant.resolve(folders=[folder])
    assert [(found.stream, found.sampling) for found in discovery.found] == [(Stream("pump", "flow"), PERCENT)]
    other = Folder(asset_id="pump", path=folder.path, sampling=Sampling(), own_tags=frozenset({"flow"}))
    assert "no variable with a unit" in (await plant.resolve(folders=[other])).missing["pump"]
    lost = Folder(asset_id="fan", path="Machines/fan", sampling=Sampling())
    assert (await plant.resolve(folders=[lost])).missing == {"fan": "no node fan in Machines; asset left out"}


async def test_what_is_configured_goes_before_what_the_server_tells(plant: Plant) -> None:
    """Each of unit and range by itself; a unit that differs is noted."""
    discovery = await plant.resolve(by_path("flow", unit="l/s", high=11.0))
    assert discovery.found[0].channel == Channel(name="flow", unit="l/s", low=0.0, high=11.0, sample_rate_hz=0.0)
    assert discovery.notes == {
        "pump/flow": "pump/flow: configured in l/s, while its server tells m³/h; the configured unit is taken"
    }


async def test_a_percent_deadband_needs_a_range(plant: Plant) -> None:
    """The server's, or the configured one as an absolute dead band; without any, every change is taken."""
    discovery = await plant.resolve(
        by_path("flow", sampling=PERCENT),
        by_path("plain", sampling=PERCENT, low=0.0, high=200.0),
        by_path("stored", sampling=PERCENT),
    )
    deadbands = [(found.sampling.deadband, found.sampling.deadband_value) for found in discovery.found]
    assert deadbands == [(Deadband.PERCENT, 5.0), (Deadband.ABSOLUTE, 10.0), (Deadband.NONE, 0.0)]
    assert set(discovery.notes) == {"pump/plain", "pump/stored"}
    (unset,) = (await plant.resolve(by_path("unset_range", sampling=PERCENT))).found
    assert (unset.channel.low, unset.channel.high, unset.sampling.deadband) == (-math.inf, math.inf, Deadband.NONE)
    assert "there is none; every change is taken" in discovery.notes["pump/stored"]


async def test_values_without_a_source_time_are_told(plant: Plant) -> None:
    """Only those: a variable that has no value yet has no time either, and nobody minds."""
    discovery = await plant.resolve(by_path("untimed"), by_path("flow"), by_path("empty_number"))
    assert discovery.untimed == (Stream("pump", "untimed"),)


async def test_a_late_tag_is_found_by_asking_again(plant: Plant) -> None:
    """And one that is gone is missing from then on."""
    tag = by_path("late")
    assert tag.place in (await plant.resolve(tag)).missing
    node = await plant.add("late", 1.0)
    assert (await plant.resolve(tag)).found[0].node == node.nodeid
    await plant.server.delete_nodes([node])
    assert tag.place in (await plant.resolve(tag)).missing


async def test_a_namespace_that_moved_is_found_at_its_new_index(plant: Plant) -> None:
    """The index is looked up each time; the old one would lead to the wrong node, or to none."""
    array = ua.NodeId(ua.Int32(ObjectIds.Server_NamespaceArray))
    uris: Any = (await plant.server.get_node(array).read_data_value()).Value
    before = list(uris.Value)
    index = await plant.server.register_namespace("urn:test:moved")
    moved = await plant.machine.add_variable(ua.NodeId(ua.String("flow"), ua.Int16(index)), f"{index}:moved", 1.0)
    permuted = [*before]
    permuted[plant.namespace] = "urn:test:moved"
    await plant.server.write_attribute_value(array, ua.DataValue(ua.Variant([*permuted, URI])))
    try:
        (found,) = (await plant.resolve(by_node("flow"))).found
        assert found.node == moved.nodeid
    finally:
        await plant.server.write_attribute_value(array, ua.DataValue(ua.Variant(before)))
    assert (await plant.resolve(by_node("flow"))).found[0].node != moved.nodeid


async def test_many_tags_take_few_requests(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several attributes and properties of many tags share a request; the limits hold."""
    for number in range(MANY):
        node = await plant.add(f"many_{number}", float(number))
        await node.add_property(0, "EURange", ua.Range(Low=0.0, High=1.0))
    sizes: dict[str, list[int]] = {"read": [], "browse": []}
    read, browse = plant.client.uaclient.read, plant.client.uaclient.browse

    async def counted_read(parameters: ua.ReadParameters) -> list[ua.DataValue]:
        sizes["read"].append(len(parameters.NodesToRead))
        return await read(parameters)

    async def counted_browse(parameters: ua.BrowseParameters) -> list[ua.BrowseResult]:
        sizes["browse"].append(len(parameters.NodesToBrowse))
        return await browse(parameters)

    monkeypatch.setattr(plant.client.uaclient, "read", counted_read)
    monkeypatch.setattr(plant.client.uaclient, "browse", counted_browse)
    tags = [by_path(f"many_{n}") if n % 2 else by_node(f"many_{n}") for n in range(MANY)]
    discovery = await plant.resolve(*tags, limits=RequestLimits(browse=60, read=150))
    assert len(discovery.found) == MANY
    assert {found.channel.high for found in discovery.found} == {1.0}
    assert max(sizes["read"]) == 150
    assert max(sizes["browse"]) == 60
    assert len(sizes["read"]) == math.ceil(4 * MANY / 150) + 1  # three attributes and a property each; the type's name
    assert len(sizes["browse"]) == MANY // 60 + 3  # and the three folders on the way


async def test_a_value_nobody_can_decode_stops_no_other(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request that holds it is halved until it stands alone; its tag is left out with the reason."""
    read = plant.client.uaclient.read

    async def choking(parameters: ua.ReadParameters) -> list[ua.DataValue]:
        if any(
            asked.NodeId.Identifier == "plain" and asked.AttributeId == AttributeIds.Value
            for asked in parameters.NodesToRead
        ):
            raise ValueError("not what OPC UA says")
        return await read(parameters)

    monkeypatch.setattr(plant.client.uaclient, "read", choking)
    discovery = await plant.resolve(by_path("flow"), by_path("plain"), by_path("state"))
    assert [found.stream.channel for found in discovery.found] == ["flow", "state"]
    assert "cannot be read (BadDecodingError)" in discovery.missing["pump/plain"]


async def test_a_node_is_named_so_that_it_is_found_again(plant: Plant) -> None:
    """Ids of each kind, with a URI that needs escapes, survive the way to text and back."""
    space = await AddressSpace.open(plant.client, RequestLimits())
    assert node_text(ua.NodeId(ua.String("flow"), ua.Int16(plant.namespace)), space.namespaces) == f"nsu={URI};s=flow"
    namespaces = ["http://opcfoundation.org/UA/", "urn:a;b%c"]
    for node in (
        ua.NodeId(ua.Int32(70_000), ua.Int16(1)),
        ua.NodeId(ua.String("a;b=c"), ua.Int16(1)),
        ua.NodeId(ua.Guid("09087e75-8e5e-499b-954f-f2a9603db28a"), ua.Int16(1)),
        ua.NodeId(ua.ByteString(b"\x00\xff"), ua.Int16(1)),
    ):
        assert node_of(node_text(node, namespaces), namespaces) == node
    assert node_text(ua.NodeId(ua.Int32(85), ua.Int16(2)), namespaces) == "ns=2;i=85"
    assert node_text(ua.NodeId(ua.Int32(85)), namespaces) == "nsu=http://opcfoundation.org/UA/;i=85"


async def test_descriptions_are_of_the_assets_with_channels(plant: Plant) -> None:
    """An asset of which nothing was found is not described."""
    assets = [
        AssetConfig(asset_id=asset_id, asset_class="pump", server="s", path="x") for asset_id in ("pump", "elsewhere")
    ]
    discovery = await plant.resolve(by_path("plain"), by_path("flow"))
    (description,) = discovery.descriptions(assets)
    assert (description.asset_id, [channel.name for channel in description.channels]) == ("pump", ["flow", "plain"])
