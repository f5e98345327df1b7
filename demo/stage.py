"""The programs of a demo while they run: the plant's cells, the cloud service, the gateways and their links."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from demo.layout import GatewaySite, Layout, introduce, inventory, write_cloud_config, write_gateway_config
from demo.link import Link
from demo.processes import Program, ProgramFailed, installed, run_json

READY_DEADLINE_S = 60.0
_POLL_S = 0.25


class Cell:
    """One cell of the plant: its server's process and what it said last."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.ready: dict[str, Any] = {}
        self.clock: datetime | None = None
        self.made = 0
        self.paused = False
        self._ready = asyncio.Event()
        self.program = Program(name, command, log, self._hear)

    async def start(self) -> None:
        """Start it and wait until its server listens."""
        await self.program.start()
        waiting = asyncio.create_task(self._ready.wait())
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                while not waiting.done():
                    self.program.check_running()
                    await asyncio.wait([waiting], timeout=_POLL_S)
        finally:
            waiting.cancel()

    def _hear(self, line: dict[str, Any]) -> None:
        match line.get("event"):
            case "ready":
                self.ready = line
                self._heard(line)
                self._ready.set()
            case "clock" | "paused" | "ended":
                self._heard(line)
                self.paused = line["event"] != "clock"

    def _heard(self, line: dict[str, Any]) -> None:
        self.clock = datetime.fromisoformat(line["source_time"])
        self.made = line["made"]


class Stage:
    """Starts and ends everything a demo needs, and asks it how it is."""

    def __init__(self, layout: Layout, plant_options: Sequence[str]) -> None:
        self.layout = layout
        self._plant_options = list(plant_options)
        self._http: aiohttp.ClientSession | None = None
        self.cells: dict[str, Cell] = {}
        self.gateways: dict[str, Program] = {}
        self.links: dict[str, Link] = {}
        command = [installed("wearsight-cloud"), "serve", "--config", str(layout.cloud.config)]
        self.cloud = Program("cloud", command, layout.log("cloud"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Stage]:
        """End everything that was started, whatever happens in the block."""
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as self._http:
            try:
                yield self
            finally:
                await self.stop_gateways()
                await self.stop_cells()
                await self.cloud.stop()

    async def start_cloud(self) -> None:
        """Make the cloud's keys, enroll every gateway, and start the service."""
        cloud = self.layout.cloud
        write_cloud_config(cloud)
        await self.cloud_command("init", str(cloud.folder))
        for gateway_id in ("archive", *(gateway.gateway_id for gateway in self.layout.gateways)):
            await self.cloud_command("enroll", gateway_id, "--out", str(self.layout.folder / gateway_id / "tls"))
        await self.cloud.start()
        await self._until(lambda: self.get(f"{cloud.web_url}/healthz"), "the cloud service", self.cloud)

    async def start_cells(self) -> None:
        """Start the plant's servers; each makes its own certificate on this first start."""
        for gateway in self.layout.gateways:
            folder = self.layout.cell_folder(gateway.cell)
            folder.mkdir(parents=True)
            command = [
                *(sys.executable, "-m", "demo.plant", "--cell", gateway.cell, "--folder", str(folder)),
                *self._plant_options,
            ]
            self.cells[gateway.cell] = Cell(gateway.cell, command, self.layout.log(gateway.cell))
        await asyncio.gather(*(cell.start() for cell in self.cells.values()))

    async def start_gateways(self) -> None:
        """Introduce each gateway to its cell's server and start it, its uplink through a link that can be cut."""
        for gateway in self.layout.gateways:
            link = self.links[gateway.gateway_id] = Link(self.layout.cloud.ingest_port)
            await link.start()
            ready = self.cells[gateway.cell].ready
            introduce(
                gateway,
                certificate=Path(ready["certificate"]),
                trusted=Path(ready["trusted"]),
                password_file=Path(ready["password_file"]),
            )
            write_gateway_config(
                gateway,
                endpoint=ready["endpoint"],
                user=ready["user"],
                assets=ready["assets"],
                in_service_since=ready["in_service_since"],
                uplink_port=link.port,
            )
            await self.start_gateway(gateway)

    async def start_gateway(self, gateway: GatewaySite) -> None:
        """Start one gateway's process and wait until it tells how it is."""
        program = Program(
            gateway.gateway_id,
            [installed("wearsight-gateway"), "run", "--config", str(gateway.config)],
            self.layout.log(gateway.gateway_id),
        )
        self.gateways[gateway.gateway_id] = program
        await program.start()
        await self._until(lambda: self.get(gateway.health_url), f"gateway {gateway.gateway_id}", program)

    async def health(self, gateway: GatewaySite) -> dict[str, Any]:
        """Return what a gateway tells of itself."""
        answer: dict[str, Any] = await self.get(gateway.health_url)
        return answer

    async def get(self, url: str) -> Any:
        """Return the JSON behind *url*."""
        assert self._http is not None
        async with self._http.get(url) as response:
            response.raise_for_status()
            return await response.json(content_type=None)

    async def post(self, url: str, content: Any) -> Any:
        """Send *content* as JSON and return the answer."""
        assert self._http is not None
        async with self._http.post(url, json=content) as response:
            response.raise_for_status()
            return await response.json(content_type=None)

    async def cloud_command(self, *arguments: str, allowed: Sequence[int] = (0,)) -> Any:
        """Run one ``wearsight-cloud`` command and return its JSON."""
        config = () if arguments[0] == "init" else ("--config", str(self.layout.cloud.config))
        command = [installed("wearsight-cloud"), *arguments, *config, "--json"]
        log = self.layout.log(f"cloud-{arguments[0]}")
        return await run_json(f"wearsight-cloud {arguments[0]}", command, log, allowed=allowed)

    def inventory(self) -> dict[str, object]:
        """Return the Ansible inventory of this stage's gateways."""
        return inventory(self.layout.gateways, sys.executable)

    def check_running(self) -> None:
        """Raise `ProgramFailed` if anything ended that should not have."""
        for program in (self.cloud, *self.gateways.values(), *(cell.program for cell in self.cells.values())):
            program.check_running()

    async def stop_gateways(self) -> None:
        """Stop the gateways and their links."""
        await asyncio.gather(*(program.stop() for program in self.gateways.values()))
        await asyncio.gather(*(link.close() for link in self.links.values()))

    async def stop_cells(self) -> None:
        """Stop the plant; each cell writes its last count."""
        for cell in self.cells.values():
            if cell.program.running:
                await cell.program.tell("stop")
        await asyncio.gather(*(_stop_cell(cell) for cell in self.cells.values() if cell.program.running))

    async def _until(self, ask: Any, what: str, program: Program) -> None:
        """Wait until *ask* answers."""
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                while True:
                    program.check_running()
                    try:
                        await ask()
                    except (aiohttp.ClientError, TimeoutError):
                        await asyncio.sleep(_POLL_S)
                    else:
                        return
        except TimeoutError as error:
            raise ProgramFailed(
                f"{what} did not answer in {READY_DEADLINE_S:.0f} s:\n{program.last_words()}"
            ) from error


async def _stop_cell(cell: Cell) -> None:
    try:
        async with asyncio.timeout(READY_DEADLINE_S):
            await cell.program.wait()
    except TimeoutError:
        await cell.program.stop()
