"""A small fleet that is all real: two gateways, the OPC UA server they read, and signed bundles for their machines."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud_service.rollout import RolloutReport, Watch, roll_out
from demo.layout import GatewaySite, introduce, inventory
from demo.plant.clock import Clock
from demo.plant.server import CellServer
from demo.plant.source import Machine
from demo.processes import free_ports, installed
from gateway.config_file import load_config
from gateway.pipeline import bundle_slots
from gateway.testing import (
    ASSET_CLASS,
    SPECIFICATION,
    START_NS,
    THRESHOLDS,
    Fault,
    make_bundle,
    public_pem,
    run_machine,
)
from models.bundle.contents import MANIFEST, decode_manifest
from models.bundle.manifest import Manifest
from models.records import Observations

CELL: Final = "cell-1"
MACHINES: Final = {"gw-1": ("m-1", "m-2"), "gw-2": ("m-3", "m-4")}
# One machine of the canary has run hot for long: half of its windows are in alarm, whichever release is asked.
FAULTS: Final = {"m-1": Fault(start_h=-800.0, celsius_per_h=0.05)}
HISTORY_H: Final = 24
SPEED: Final = 10_000.0  # near three hours of the plant a second: five windows on each gateway
WATCH: Final = Watch(windows=12, timeout_s=60)
CALM: Final = THRESHOLDS
WOLF: Final = replace(THRESHOLDS, warning=0.01, alarm=0.02)  # takes every window for an alarm
HOUR_NS: Final = 3600 * 10**9

CONFIG: Final = """\
gateway_id = "{gateway_id}"
state_dir = "state"
[status]
address = "127.0.0.1:{port}"
[acquisition]
publishing_interval_ms = 100.0
[[server]]
name = "{cell}"
endpoint = "{endpoint}"
user = "{user}"
password_file = "secrets/{cell}.password"
[asset_class.{asset_class}]
channels = []
[bundles]
trusted_key_file = "signing.pub"
"""
ASSET: Final = """\
[[asset]]
asset_id = "{asset_id}"
asset_class = "{asset_class}"
server = "{cell}"
path = "Machines/{asset_id}/Monitoring"
"""


@dataclass(kw_only=True)
class Machines:
    """The fleet's machines as a source of the plant, without an end."""

    machines: tuple[Machine, ...]
    first: int = START_NS
    live_start: int = START_NS + HISTORY_H * HOUR_NS
    end: int | None = None

    def observations(self, start_ns: int, end_ns: int) -> Observations:
        """Return the rows of a span by time."""
        start_h, hours = (start_ns - START_NS) / HOUR_NS, (end_ns - start_ns) / HOUR_NS
        ids = [machine.asset_id for machine in self.machines]
        rows = Observations.concatenate(
            [run_machine(name, start_h=start_h, hours=hours, fault=FAULTS.get(name)) for name in ids]
        )
        return rows.take(np.lexsort((rows.stream, rows.source_time)))

    def truth(self, until_ns: int) -> dict[str, Any]:
        """Return nothing; nobody asks here."""
        del until_ns
        return {}


def machine(asset_id: str) -> Machine:
    """Return the name plate of a machine."""
    return Machine(
        asset_id=asset_id,
        asset_class=ASSET_CLASS,
        channels=SPECIFICATION.channels,
        manufacturer="",
        model="",
        serial_number=asset_id,
    )


@contextmanager
def live_plant(folder: Path) -> Iterator[CellServer]:
    """Run the OPC UA server of all machines, its time going by, on a thread of its own."""
    ready: Future[tuple[CellServer, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    source = Machines(machines=tuple(machine(name) for names in MACHINES.values() for name in names))

    async def live() -> None:
        stop = asyncio.Event()
        async with CellServer(source, folder, cell=CELL) as cell:
            clock = Clock(cell, SPEED)
            clock.go()
            going = asyncio.create_task(clock.run())
            ready.set_result((cell, asyncio.get_running_loop(), stop))
            await stop.wait()
            going.cancel()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    cell, loop, stop = ready.result(timeout=30)
    try:
        yield cell
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Two running gateways, each with half of the machines, ``gw-1`` the canary; a calm release is live on both."""

    folder: Path
    gateways: tuple[GatewaySite, ...]
    signing_key: Ed25519PrivateKey
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def versions(self) -> list[int]:
        """What is live on each gateway's disk, 0 for nothing."""
        return [bundle_slots(load_config(g.config)).live_version(ASSET_CLASS) or 0 for g in self.gateways]

    def archive(self, version: int) -> Path:
        """Return the archive of *version*."""
        return sorted(self.folder.glob("*.tar"))[version - 1]

    def bundle(self, *, wolf: bool = False) -> Path:
        """Return the archive of a release newer than all before it."""
        version = len(list(self.folder.glob("*.tar"))) + 1
        thresholds = WOLF if wolf else CALM
        return make_bundle(self.folder, version=version, signing_key=self.signing_key, thresholds=thresholds)

    def call(self, gateway: GatewaySite, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``wearsight-gateway bundle`` on the machine of *gateway*."""
        command = [installed("wearsight-gateway"), "bundle", *words, "--config", str(gateway.config)]
        return subprocess.run(command, check=True, capture_output=True, text=True)

    def roll_back(self, gateway: GatewaySite) -> None:
        """Have *gateway* go back, and wait until it has."""
        version = json.loads(self.call(gateway, "rollback", ASSET_CLASS, "--json").stdout)["version"]
        while self.health(gateway)["bundles"][ASSET_CLASS]["version"] != version:
            time.sleep(0.1)

    def health(self, gateway: GatewaySite) -> dict[str, Any]:
        """Return what *gateway* says of itself."""
        with urlopen(gateway.health_url) as answer:  # noqa: S310 - ours, on loopback
            health: dict[str, Any] = json.load(answer)
        return health

    def inventory(self) -> dict[str, Any]:
        """Return the inventory; ``gw-1`` is the canary."""
        listed: dict[str, Any] = inventory(self.gateways, sys.executable)
        return listed

    def canary_alone(self) -> dict[str, Any]:
        """Return the inventory of the canary."""
        listed = self.inventory()
        listed["gateways"]["hosts"] = {}
        return listed

    def release(self, archive: Path, **options: Any) -> RolloutReport:
        """Roll *archive* out."""
        settings: dict[str, Any] = {"inventory": self.inventory(), "watch": WATCH, "manifest": manifest_of(archive)}
        return roll_out(archive=archive, private_data_dir=self.folder / "runner", **(settings | options))

    def start(self, gateway: GatewaySite) -> None:
        """Start *gateway*, or start it again."""
        with (gateway.folder / "log").open("ab") as log:
            command = [installed("wearsight-gateway"), "run", "--config", str(gateway.config)]
            self.processes[gateway.gateway_id] = subprocess.Popen(command, stderr=log)

    def stop(self, gateway: GatewaySite) -> None:
        """Stop *gateway*."""
        self.processes[gateway.gateway_id].terminate()
        self.processes[gateway.gateway_id].wait(30)

    def wait_until_watched(self, gateway: GatewaySite) -> None:
        """Wait until the live bundle of *gateway* has scored windows that come live."""
        while True:
            try:
                bundles = self.health(gateway)["bundles"]
            except OSError:
                bundles = {}
            if ASSET_CLASS in bundles and bundles[ASSET_CLASS]["states"]["normal"] > HISTORY_H:
                return
            assert self.processes[gateway.gateway_id].poll() is None, (gateway.folder / "log").read_text()
            time.sleep(0.1)


def manifest_of(archive: Path) -> Manifest:
    """Return the manifest that the registry would have of *archive*."""
    with tarfile.open(archive) as tar:
        file = tar.extractfile(MANIFEST)
        assert file is not None
        return decode_manifest(file.read())


@contextmanager
def running_fleet(folder: Path) -> Iterator[Fleet]:
    """Start everything, and end it."""
    ports = free_ports(len(MACHINES))
    gateways = tuple(
        GatewaySite(gateway_id=name, cell=CELL, folder=folder / name, status_port=port)
        for name, port in zip(MACHINES, ports, strict=True)
    )
    fleet = Fleet(folder=folder, gateways=gateways, signing_key=Ed25519PrivateKey.generate())
    first = fleet.bundle()
    with ExitStack() as stack:
        cell = stack.enter_context(live_plant(folder / CELL))
        for gateway in gateways:
            introduce(gateway, certificate=cell.certificate, trusted=cell.trusted, password_file=cell.password)
            write_config(gateway, cell)
            (gateway.folder / "signing.pub").write_bytes(public_pem(fleet.signing_key))
            fleet.call(gateway, "install", str(first))
            fleet.start(gateway)
            stack.callback(fleet.stop, gateway)
        for gateway in gateways:
            fleet.wait_until_watched(gateway)
        yield fleet


def write_config(gateway: GatewaySite, cell: CellServer) -> None:
    """Write the configuration of *gateway*, without an uplink."""
    head = CONFIG.format(
        gateway_id=gateway.gateway_id,
        port=gateway.status_port,
        cell=CELL,
        endpoint=cell.endpoint,
        user=cell.user,
        asset_class=ASSET_CLASS,
    )
    assets = [ASSET.format(asset_id=name, asset_class=ASSET_CLASS, cell=CELL) for name in MACHINES[gateway.gateway_id]]
    gateway.config.write_text(head + "".join(assets))
