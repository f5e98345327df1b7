"""A load for benchmarks: ``python -m benchmarks.load_server --folder DIR --assets N --ticks-per-s X``.

An OPC UA server (asyncua, SignAndEncrypt, user ``load``) with N test machines as `gateway.testing` knows them: load and
temperature at each tick, and 128 samples of vibration at each sixth. A tick is ten minutes of source time. One machine
in ten runs hot. It prints its endpoint when it is ready and ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from asyncua import ua
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from asyncua.ua.attribute_ids import AttributeIds

from gateway.data_acquisition import ensure_application_certificate

START = datetime.fromisoformat("2026-03-02T00:00:00+00:00")
TICK = timedelta(minutes=10)
USER, PASSWORD = "load", "load"
UNITS = {"load_pct": "%", "temperature_c": "°C", "vibration_waveform_m_s2": "m/s²"}
SAMPLES = 128
NAMESPACE = "urn:wearsight:benchmark:load"


class _OneUser(UserManager):
    def get_user(
        self,
        iserver: Any,  # noqa: ARG002 - asyncua's signature
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,  # noqa: ARG002 - the same
    ) -> User | None:
        return User(role=UserRole.User) if (username, password) == (USER, PASSWORD) else None


async def serve(folder: Path, assets: int, ticks_per_s: float) -> None:
    """Serve until standard input ends."""
    server = Server(user_manager=_OneUser())
    await server.init()
    await server.set_application_uri("urn:wearsight:benchmark")
    certificate, key = ensure_application_certificate(folder, "urn:wearsight:benchmark", "benchmark")
    await server.load_certificate(certificate)
    await server.load_private_key(key, format="pem")
    server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
    server.set_identity_tokens([ua.UserNameIdentityToken])
    server.set_endpoint("opc.tcp://127.0.0.1:0/load/")
    nodes = await _build(server, assets)
    async with server:
        assert server.bserver is not None
        port = server.bserver._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # noqa: SLF001 - told nowhere else
        print(f"opc.tcp://127.0.0.1:{port}/load/", flush=True)
        ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await _tick(server, nodes, ticks_per_s, ended)


async def _build(server: Server, assets: int) -> list[dict[str, ua.NodeId]]:
    namespace = await server.register_namespace(NAMESPACE)
    machines = await server.nodes.objects.add_folder(namespace, "Machines")
    nodes = []
    for number in range(assets):
        machine = await machines.add_object(namespace, f"machine-{number:04d}")
        of_machine = {}
        for channel, unit in UNITS.items():
            waveform = "waveform" in channel
            kind = ua.VariantType.Float if waveform else ua.VariantType.Double
            start: Any = [0.0] if waveform else 0.0
            node = await machine.add_variable(namespace, channel, ua.Variant(start, kind))
            await node.add_property(namespace, "EngineeringUnits", ua.EUInformation(DisplayName=ua.LocalizedText(unit)))
            of_machine[channel] = node.nodeid
        nodes.append(of_machine)
    return nodes


async def _tick(
    server: Server, nodes: list[dict[str, ua.NodeId]], ticks_per_s: float, ended: asyncio.Future[str]
) -> None:
    random = np.random.default_rng(1)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    tick = 0
    while not ended.done():
        time = START + tick * TICK
        for number, of_machine in enumerate(nodes):
            load = 60.0 + 10.0 * np.sin(tick / 18.0) + random.normal()
            heat = min(0.3 * tick, 60.0) if number % 10 == 0 else 0.0
            await _write(server, of_machine["load_pct"], float(load), time)
            await _write(server, of_machine["temperature_c"], 40.0 + 0.2 * load + random.normal() + heat, time)
            if tick % 6 == 0:
                await _write(server, of_machine["vibration_waveform_m_s2"], random.normal(size=SAMPLES).tolist(), time)
            if number % 50 == 0:
                await asyncio.sleep(0)
        tick += 1
        await asyncio.sleep(max(begin + tick / ticks_per_s - loop.time(), 0.0))


async def _write(server: Server, node: ua.NodeId, value: float | list[float], time: Any) -> None:
    kind = ua.VariantType.Float if isinstance(value, list) else ua.VariantType.Double
    # Past the session's checks: the server writes its own variables.
    await server.iserver.aspace.write_attribute_value(
        node, AttributeIds.Value, ua.DataValue(ua.Variant(value, kind), SourceTimestamp=time)
    )


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--assets", type=int, default=300)
    parser.add_argument("--ticks-per-s", type=float, default=4.0)
    options = parser.parse_args()
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    asyncio.run(serve(options.folder, options.assets, options.ticks_per_s))


if __name__ == "__main__":
    main()
