"""What a value costs on its way through the gateway: ``python -m benchmarks.pipeline [--json] [--seconds S]``.

One server (another process), one load, one after the other: from the OPC UA socket to the journal's commit; to the
advisory; and asyncua's stock subscription with a handler that does nothing with the values. Counted is the CPU time of
this process, all threads, while values come; connecting is left out. Higher is better.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.utils import Buffer
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from asyncua.crypto.uacrypto import CertProperties
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.load_server import NAMESPACE, PASSWORD, UNITS, USER
from benchmarks.measurement import Measurement, compared, tell
from gateway.condition_monitoring.blocks import Blocks
from gateway.condition_monitoring.monitor import monitor
from gateway.config import AcquisitionConfig, AssetClassConfig, AssetConfig, BundlesConfig, GatewayConfig, ServerConfig
from gateway.data_acquisition import OpcuaSource, ensure_application_certificate, open_sources
from gateway.data_acquisition.certificate import application_uri
from gateway.data_acquisition.messages import read_publish_response
from gateway.journal import Journal
from gateway.pipeline import acquire, bundle_slots
from gateway.testing import ASSET_CLASS, make_bundle, public_pem

PUBLISHING_INTERVAL_MS = 250.0
WARM_UP_S = 3.0
STOCK = "asyncua 2.1 subscription, handler does nothing"
GATEWAY_ID = "gw-benchmark"


@dataclass(frozen=True, kw_only=True)
class Load:
    """The server to read from, and who we are there."""

    endpoint: str
    folder: Path
    assets: int
    seconds: float


@asynccontextmanager
async def serving(folder: Path, assets: int, ticks_per_s: float, seconds: float) -> AsyncIterator[Load]:
    """Run the load server in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load_server", "--folder", str(folder / "server")),
        *("--assets", str(assets), "--ticks-per-s", str(ticks_per_s)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        endpoint = (await process.stdout.readline()).decode().strip()
        if not endpoint:
            raise RuntimeError("the load server did not start; see its message above")
        yield Load(endpoint=endpoint, folder=folder, assets=assets, seconds=seconds)
    finally:
        process.stdin.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10.0)
        if process.returncode is None:
            process.kill()
            await process.wait()


def gateway_config(load: Load, state_dir: Path) -> GatewayConfig:
    """Return the configuration of a gateway that reads the load, in the folder *state_dir*."""
    trusted = state_dir / "pki" / "trusted"
    trusted.mkdir(parents=True)
    (trusted / "load.der").write_bytes((load.folder / "server" / "application.der").read_bytes())
    (state_dir / "password").write_text(PASSWORD)
    return GatewayConfig(
        gateway_id=GATEWAY_ID,
        state_dir=state_dir,
        acquisition=AcquisitionConfig(publishing_interval_ms=PUBLISHING_INTERVAL_MS, backfill_limit_h=0.0),
        server=(
            ServerConfig(
                name="load",
                endpoint=load.endpoint,
                user=USER,
                password_file=state_dir / "password",
                clock_tolerance_s=0.0,  # a tick is ten minutes: the load runs ahead of every clock
            ),
        ),
        asset=tuple(
            AssetConfig(asset_id=name, asset_class=ASSET_CLASS, server="load", path=f"Machines/{name}")
            for name in (f"machine-{number:04d}" for number in range(load.assets))
        ),
        asset_class={ASSET_CLASS: AssetClassConfig()},
        bundles=BundlesConfig(trusted_key_file=state_dir / "bundle.pub"),
    )


async def to_commit(load: Load) -> float:
    """Return values per cpu-second from the socket to the journal's commit."""
    config = gateway_config(load, load.folder / "to-commit")
    journal = await Journal.open(config.state_dir, config.gateway_id)
    try:
        source = _source(config, journal)
        return await _measured(load, acquire(source, journal), lambda: source.counters.observations)
    finally:
        await journal.close()


async def to_advisory(load: Load) -> float:
    """Return values per cpu-second from the socket to the advisory, everything scored that came in."""
    config = gateway_config(load, load.folder / "to-advisory")
    key = Ed25519PrivateKey.generate()
    (config.state_dir / "bundle.pub").write_bytes(public_pem(key))
    slots = bundle_slots(config)
    await asyncio.to_thread(slots.install, make_bundle(config.state_dir, version=1, signing_key=key))
    journal = await Journal.open(config.state_dir, config.gateway_id)
    try:
        source = _source(config, journal)
        assets = {asset.asset_id: asset.asset_class for asset in config.asset}
        blocks = Blocks(gateway_id=config.gateway_id, assets=assets, slots=slots)
        reader = await journal.reader("monitor")

        async def flow() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(monitor(reader, blocks))
                group.create_task(acquire(source, journal))

        async def all_scored() -> None:
            while reader.position < journal.last_seq:  # noqa: ASYNC110 - the reader tells nobody
                await asyncio.sleep(0.01)

        rate = await _measured(load, flow(), lambda: source.counters.observations, all_scored)
        if not blocks.open_advisories():
            raise RuntimeError("no advisory came of the load; run it longer (--seconds)")
        return rate
    finally:
        await journal.close()


async def stock(load: Load) -> float:
    """Return values per cpu-second that asyncua's own subscription hands to a handler that does nothing."""
    received = 0

    class Handler:
        def datachange_notification(self, _node: Any, _value: Any, _data: Any) -> None:
            nonlocal received
            received += 1

    own, key = ensure_application_certificate(load.folder / "stock", application_uri(GATEWAY_ID), "stock")
    client = Client(load.endpoint)
    client.application_uri = application_uri(GATEWAY_ID)
    client.set_user(USER)
    client.set_password(PASSWORD)
    await client.set_security(SecurityPolicyBasic256Sha256, CertProperties(own, "der"), CertProperties(key, "pem"))
    async with client:
        space = await client.get_namespace_index(NAMESPACE)
        machines = [
            await client.nodes.objects.get_child([f"{space}:Machines", f"{space}:machine-{number:04d}"])
            for number in range(load.assets)
        ]
        nodes = [await machine.get_child(f"{space}:{channel}") for machine in machines for channel in UNITS]
        subscription = await client.create_subscription(PUBLISHING_INTERVAL_MS, Handler())
        await subscription.subscribe_data_change(nodes, queuesize=1000, sampling_interval=ua.Double(0.0))
        return await _measured(load, asyncio.sleep(1e6), lambda: received)


async def _measured(
    load: Load,
    flow: Awaitable[None],
    received: Callable[[], int],
    finish: Callable[[], Awaitable[None]] | None = None,
) -> float:
    """Run *flow* for the load's time, after a warm-up, and return values received per cpu-second."""
    task = asyncio.ensure_future(flow)
    try:
        while not received():
            if task.done():
                await task
            await asyncio.sleep(0.05)
        await asyncio.sleep(WARM_UP_S)
        values, cpu_s = received(), time.process_time()
        await asyncio.sleep(load.seconds)
        values = received() - values
        if finish is not None:
            await finish()
        return values / (time.process_time() - cpu_s)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _source(config: GatewayConfig, journal: Journal) -> OpcuaSource:
    return open_sources(config, journal)["load"]


def decoding(values: int = 1000, rounds: int = 30) -> Measurement:
    """Return how fast one PublishResponse of that many doubles is read, beside asyncua's decoder."""
    moment: Any = ua.get_win_epoch()
    items = [
        ua.MonitoredItemNotification(handle, ua.DataValue(ua.Variant(float(handle)), SourceTimestamp=moment))
        for handle in range(values)
    ]
    result = ua.PublishResult()
    result.NotificationMessage.NotificationData = [ua.DataChangeNotification(MonitoredItems=items)]
    body = struct_to_binary(ua.PublishResponse(Parameters=result))
    ours = _rate(lambda: read_publish_response(body), values, rounds * 10)
    theirs = _rate(lambda: struct_from_binary(ua.PublishResponse, Buffer(body)), values, rounds)
    return compared("decode one message of 1000 doubles", ours, theirs, "asyncua 2.1 decoder", "values/cpu-s")


def _rate(job: Callable[[], object], values: int, rounds: int) -> float:
    job()
    begin = time.process_time()
    for _ in range(rounds):
        job()
    return values * rounds / (time.process_time() - begin)


async def run(seconds: float, assets: int, ticks_per_s: float) -> list[Measurement]:
    """Measure all, against one server under one load."""
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), assets, ticks_per_s, seconds) as load:
            reference = await stock(load)
            commit = await to_commit(load)
            advisory = await to_advisory(load)
    unit = "values/cpu-s"
    return [
        compared("OPC UA socket to journal commit", commit, reference, STOCK, unit),
        compared("OPC UA socket to advisory", advisory, reference, STOCK, unit),
        decoding(),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--seconds", type=float, default=10.0, help="time of each measure")
    parser.add_argument("--assets", type=int, default=300)
    parser.add_argument("--ticks-per-s", type=float, default=4.0)
    options = parser.parse_args()
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    tell(asyncio.run(run(options.seconds, options.assets, options.ticks_per_s)), as_json=options.json)


if __name__ == "__main__":
    main()
