"""Servers that allow little, or hold what nobody expects."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.server.internal_session import InternalSession
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes

from gateway.data_acquisition import OpcuaSource
from models.records import Stream
from tests.gateway.data_acquisition.small_plant import NOON, NOON_NS, SmallPlant, Store, collecting, until

MakeSource = Callable[..., OpcuaSource]
LIMIT = 2
MANY = tuple(f"channel_{number}" for number in range(7))
_SERVICES = {
    "read": "NodesToRead",
    "browse": "NodesToBrowse",
    "history_read": "NodesToRead",
    "create_monitored_items": "ItemsToCreate",
}


@pytest.fixture
def little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Have servers answer BadTooManyOperations to more than LIMIT nodes; gives how often each service did."""
    refusals = dict.fromkeys(_SERVICES, 0)

    def limited(service: str, nodes: str) -> Any:
        answer = getattr(InternalSession, service)

        async def checked(self: InternalSession, parameters: Any) -> Any:
            if self.external and len(getattr(parameters, nodes)) > LIMIT:
                refusals[service] += 1
                raise ServiceError(ua.UInt32(StatusCodes.BadTooManyOperations))
            return await answer(self, parameters)

        return checked

    for service, nodes in _SERVICES.items():
        monkeypatch.setattr(InternalSession, service, limited(service, nodes))
    return refusals


async def many_channels(plant: SmallPlant) -> None:
    for channel in MANY:
        await plant.add(channel)
        await plant.write(channel, 1, 1.0)


async def test_a_server_that_tells_its_limits_is_asked_within_them(
    plant: SmallPlant, source_of: MakeSource, store: Store, little_at_a_time: dict[str, int]
) -> None:
    """Browsing, reading, history and subscribing keep to OperationLimits, once these are read, and everything comes."""
    assert plant.server is not None
    for limit in ("MaxNodesPerRead", "MaxNodesPerBrowse", "MaxNodesPerHistoryReadData", "MaxMonitoredItemsPerCall"):
        node = ua.NodeId(ua.Int32(getattr(ObjectIds, f"Server_ServerCapabilities_OperationLimits_{limit}")))
        value = ua.DataValue(ua.Variant(LIMIT, ua.VariantType.UInt32))
        await plant.server.write_attribute_value(node, value)
    await many_channels(plant)
    source = source_of(plant, channels=MANY)
    async with collecting(source, store):
        await until(lambda: all(store.seconds(channel) == [0.0, 1.0] for channel in MANY))
    assert little_at_a_time.pop("read") <= 1
    assert not any(little_at_a_time.values())
    assert source.counters.missing == {}


async def test_a_server_that_hides_its_limits_is_asked_for_less(
    plant: SmallPlant,
    source_of: MakeSource,
    store: Store,
    little_at_a_time: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each refusal makes the requests smaller, until they are small enough."""
    monkeypatch.setattr("gateway.data_acquisition.source._BACK_OFF_MOST_S", 0.01)
    await many_channels(plant)
    source = source_of(plant, channels=MANY)
    async with collecting(source, store):
        await until(lambda: all(store.seconds(channel) == [0.0, 1.0] for channel in MANY))
        assert source.warnings == ()
    assert sum(little_at_a_time.values()) > 0


async def test_a_server_short_of_continuation_points_is_asked_again(
    plant: SmallPlant, source_of: MakeSource, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose references did not fit beside others' is browsed alone."""
    browse = InternalSession.browse

    async def short(self: InternalSession, parameters: ua.BrowseParameters) -> list[ua.BrowseResult]:
        results = await browse(self, parameters)
        for result in results[1:]:
            result.StatusCode, result.References = ua.StatusCode(ua.UInt32(StatusCodes.BadNoContinuationPoints)), []
        return results

    monkeypatch.setattr(InternalSession, "browse", short)
    async with collecting(source_of(plant), store):
        await until(lambda: bool(store.batches))
    units = [channel.unit for channel in store.batches[0].results.assets[0].channels]
    assert units == ["1/min", "1/min", "m/s²"]


KINDS = {
    "of_int16": (ua.Variant(-7, ua.VariantType.Int16), -7.0),
    "of_uint64": (ua.Variant(2**40, ua.VariantType.UInt64), float(2**40)),
    "of_boolean": (ua.Variant(True, ua.VariantType.Boolean), 1.0),
    "of_float": (ua.Variant(0.5, ua.VariantType.Float), 0.5),
    "of_enumeration": (ua.Variant(3, ua.VariantType.Int32), 3.0),
}


async def test_numbers_of_every_kind_are_numbers_and_texts_are_left_out(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """Integers, booleans and enumerations arrive by value; a text is left out by name and the others go on."""
    namespace = await added(plant, "of_text", ua.Variant("running", ua.VariantType.String))
    for name, (variant, _) in KINDS.items():
        await added(plant, name, variant, namespace + 1)  # browse names are found whatever their namespace
    source = source_of(plant, channels=(*KINDS, "of_text"))
    async with collecting(source, store):
        await until(lambda: all(store.values(name) for name in KINDS))
    assert {name: store.values(name) for name in KINDS} == {name: [value] for name, (_, value) in KINDS.items()}
    assert list(source.counters.missing) == ["pump-01/of_text"]
    assert "holds String, not numbers" in source.counters.missing["pump-01/of_text"]


async def added(plant: SmallPlant, name: str, variant: ua.Variant, namespace: int = 0) -> int:
    """Add a variable with one value of one second after noon; return the plant's namespace."""
    assert plant.server is not None
    space = namespace or plant.namespace
    node_id = ua.NodeId(ua.String(name), ua.Int16(plant.namespace))
    node = await plant.folder_node.add_variable(node_id, f"{space}:{name}", variant)
    time: Any = NOON
    await plant.server.write_attribute_value(node.nodeid, ua.DataValue(variant, SourceTimestamp=time))
    return plant.namespace


async def test_a_waveform_of_integers_may_change_its_length(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """Raw counts of a converter, as many as it had."""
    assert plant.server is not None
    await added(plant, "raw_waveform", ua.Variant([1, -2, 3], ua.VariantType.Int16))
    node_id = ua.NodeId(ua.String("raw_waveform"), ua.Int16(plant.namespace))
    async with collecting(source_of(plant, channels=("raw_waveform",)), store):
        await until(lambda: len(store.waveforms) == 1)
        for second, count in enumerate((5, 2)):
            time: Any = NOON + timedelta(seconds=second + 1)
            raw = ua.Variant(list(range(count)), ua.VariantType.Int16)
            await plant.server.write_attribute_value(node_id, ua.DataValue(raw, SourceTimestamp=time))
        await until(lambda: len(store.waveforms) == 3)
    assert store.waveforms == [[1.0, -2.0, 3.0], [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0]]


async def test_values_without_source_time_take_the_servers_and_say_so(
    plant: SmallPlant, source_of: MakeSource, store: Store
) -> None:
    """A standing warning names the channel; its values are timed by the server."""
    assert plant.server is not None
    await plant.add("untimed")
    untimed = plant.nodes["untimed"].nodeid
    moment: Any = NOON

    async def write(value: float) -> None:
        await plant.server.write_attribute_value(  # type: ignore[union-attr]  # asserted above
            untimed, ua.DataValue(ua.Variant(value), SourceTimestamp=None, ServerTimestamp=moment)
        )

    await write(1.0)
    source = source_of(plant, channels=("untimed",))
    async with collecting(source, store):
        await until(lambda: store.values("untimed") == [1.0])
        assert store.rows[Stream("pump-01", "untimed")][0][0] == NOON_NS
        assert any("pump-01/untimed" in w and "no source time comes with" in w for w in source.warnings)
