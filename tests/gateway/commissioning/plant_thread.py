"""A plant on a real OPC UA server in a thread of its own, for commands that run a loop of theirs."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncua import ua
from asyncua.server.server import Server
from asyncua.ua.object_ids import ObjectIds

from tests.gateway.data_acquisition.small_plant import free_port

ASSETS = ("pump-01", "pump-02")
URI = "urn:test:plant"


def _node(name: str, index: int) -> ua.NodeId:
    return ua.NodeId(ua.String(name), ua.Int16(index))


async def _build(server: Server, index: int) -> list[ua.NodeId]:
    """Make the machines; return the nodes whose values change."""
    machines = await server.nodes.objects.add_folder(_node("M", index), ua.QualifiedName("Machines", ua.UInt16(index)))
    changing: list[ua.NodeId] = []
    mode = await server.nodes.enum_data_type.add_data_type(
        _node("Mode", index), ua.QualifiedName("RunMode", ua.UInt16(index))
    )
    for asset in ASSETS:
        machine = await machines.add_object(_node(asset, index), ua.QualifiedName(asset, ua.UInt16(index)))
        folder = await machine.add_object(
            _node(f"{asset}.mon", index), ua.QualifiedName("Monitoring", ua.UInt16(index))
        )
        await folder.add_reference(machines, ua.NodeId(ua.Int32(ObjectIds.Organizes)))  # a way in a circle
        for name, unit, high, value in (
            ("speed_rpm", "1/min", 3000.0, ua.Variant(1480.0)),
            ("winding_celsius", "°C", 150.0, ua.Variant(61.5, ua.VariantType.Float)),
            ("vibration_m_s2", "m/s²", 50.0, ua.Variant([0.5, -0.5, 0.25], ua.VariantType.Float)),
        ):
            node = await folder.add_variable(
                _node(f"{asset}.{name}", index), ua.QualifiedName(name, ua.UInt16(index)), value
            )
            await node.add_property(0, "EURange", ua.Range(Low=0.0, High=high))
            await node.add_property(
                0, "EngineeringUnits", ua.EUInformation(UnitId=ua.Int32(7), DisplayName=ua.LocalizedText(unit))
            )
            if name.startswith("vibration"):
                await node.add_property(0, "SampleRate", 6400.0)
            if name == "speed_rpm":
                changing.append(node.nodeid)
        await folder.add_variable(
            _node(f"{asset}.mode", index), ua.QualifiedName("mode", ua.UInt16(index)), 2,
            ua.VariantType.Int32, datatype=mode.nodeid,
        )  # fmt: skip
        await folder.add_variable(
            _node(f"{asset}.serial", index), ua.QualifiedName("serial/no", ua.UInt16(index)), "X-17"
        )
    await _build_odd(server, index)
    return changing


async def _build_odd(server: Server, index: int) -> None:
    """Make variables with something wrong, beside the machines."""
    odd = await server.nodes.objects.add_folder(_node("Odd", index), ua.QualifiedName("Odd", ua.UInt16(index)))
    now = datetime.now(UTC)
    anything = ua.NodeId(ua.Int32(ObjectIds.BaseDataType))
    name = ua.QualifiedName("empty", ua.UInt16(index))
    await odd.add_variable(_node("empty", index), name, None, ua.VariantType.Null, datatype=anything)
    for text, value, moment, status in (
        ("broken", 1.0, now, 0x808C0000),  # BadSensorFailure
        ("clock_1999", 1.0, datetime(1999, 1, 1, tzinfo=UTC), 0),
        ("clock_ahead", 1.0, now + timedelta(hours=1), 0),
    ):
        node = await odd.add_variable(_node(text, index), ua.QualifiedName(text, ua.UInt16(index)), 0.0)
        source_time: Any = moment
        told = ua.DataValue(ua.Variant(value), ua.StatusCode(ua.UInt32(status)), SourceTimestamp=source_time)
        await server.write_attribute_value(node.nodeid, told)


async def _serve(port: int, up: threading.Event, down: asyncio.Event) -> None:
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    changing = await _build(server, await server.register_namespace(URI))
    async with server:
        up.set()
        for count in itertools.count():
            for node in changing:
                moment: Any = datetime.now(UTC)
                value = ua.DataValue(ua.Variant(1480.0 + count % 10), SourceTimestamp=moment)
                await server.write_attribute_value(node, value)
            try:
                await asyncio.wait_for(down.wait(), 0.05)
            except TimeoutError:
                continue
            break


@contextmanager
def running_plant() -> Iterator[str]:
    """Run the plant meanwhile; yields its address."""
    port, up = free_port(), threading.Event()
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        down = asyncio.Event()
        stop.append((asyncio.get_running_loop(), down))
        await _serve(port, up, down)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert up.wait(60)
        yield f"opc.tcp://127.0.0.1:{port}/"
    finally:
        loop, down = stop[0]
        loop.call_soon_threadsafe(down.set)
        thread.join()
