"""One cell of the plant as a program: ``python -m demo.plant --cell cell-1 --port 4841 --folder DIR``.

It prints one JSON object a line: ``ready``, then ``clock`` each second while time runs, ``paused``, ``ended`` and
``stopped``. It takes commands on standard input: ``go``, ``pause``, ``resume``, ``speed X``, ``stop``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

import click

from demo.plant.clock import Clock
from demo.plant.fleet import CELLS, demo_fleet
from demo.plant.replay import cmapss_source, skab_source
from demo.plant.server import CellServer
from demo.plant.source import SimulatorSource, Source, live_end
from models.datasets import DatasetError
from models.records import from_ns

WRITE_EVERY_S: Final = 5


@click.command()
@click.option("--cell", type=click.Choice(list(CELLS)), required=True, help="Which cell of the plant.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port; 0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--folder", type=click.Path(path_type=Path), required=True, help="Keys, users, and the plant's own records."
)
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True)
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=8000.0, show_default=True)
@click.option("--until-days", type=click.FloatRange(min=0), default=None, help="Live days after which time stops.")
@click.option("--source", "kind", type=click.Choice(["simulator", "cmapss-fd001", "skab"]), default="simulator")
@click.option("--data", type=click.Path(path_type=Path), default=None, help="Folder of the public data sets.")
def main(  # noqa: PLR0917 - click passes them by name
    cell: str, port: int, host: str, folder: Path, seed: int, speed: float, until_days: float | None, kind: str,
    data: Path | None,
) -> None:  # fmt: skip
    """Run one cell of the plant behind an OPC UA server."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    try:
        source = _source(cell, kind, seed, until_days, data)
    except DatasetError as error:
        raise click.ClickException(str(error)) from error
    asyncio.run(_run(CellServer(source, folder, cell=cell, port=port, host=host), speed))


def _source(cell: str, kind: str, seed: int, until_days: float | None, data: Path | None) -> Source:
    if kind == "simulator":
        return SimulatorSource(demo_fleet(seed, cell), end=live_end(until_days))
    if data is None:
        raise click.UsageError(f"--source {kind} needs --data, the folder of the public data sets")
    return cmapss_source(data, cell) if kind == "cmapss-fd001" else skab_source(data, cell)


def _say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


async def _run(server: CellServer, speed: float) -> None:
    async with server:
        server.write_made()
        server.write_truth()
        _say(
            "ready",
            cell=server.cell,
            endpoint=server.endpoint,
            certificate=str(server.certificate),
            trusted=str(server.trusted),
            user=server.user,
            password_file=str(server.password),
            assets={machine.asset_id: machine.asset_class for machine in server.source.machines},
            in_service_since={
                machine.asset_id: machine.in_service_since.isoformat()
                for machine in server.source.machines
                if machine.in_service_since is not None
            },
            source_time=from_ns(server.source.live_start).isoformat(),
            made=server.timeline.made,
        )
        clock = Clock(server, speed)
        commands: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, commands.put_nowait, "stop")
        threading.Thread(target=_listen, args=(loop, commands), daemon=True).start()
        live = asyncio.create_task(_live(server, clock))
        # Ended by an error, there is nothing to wait for; the error is raised below.
        live.add_done_callback(
            lambda task: None if task.cancelled() or not task.exception() else commands.put_nowait("stop")
        )
        report = asyncio.create_task(_report(server, clock))
        try:
            await _obey(server, clock, commands)
        finally:
            await clock.pause()
            for task in (live, report):
                task.cancel()
            ends = await asyncio.gather(live, report, return_exceptions=True)
            _settle(server, "stopped")
        for end in ends:
            if isinstance(end, Exception):
                raise end


def _listen(loop: asyncio.AbstractEventLoop, commands: asyncio.Queue[str]) -> None:
    """Carry lines of standard input into *commands*, in a thread: a file or /dev/null cannot be polled."""
    pending = b""
    # Not through sys.stdin: its lock would be held, and waited for, when the program ends.
    while piece := os.read(sys.stdin.fileno(), 65536):
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            loop.call_soon_threadsafe(commands.put_nowait, line.decode("utf-8", "replace").strip())
    with contextlib.suppress(RuntimeError):  # the loop has ended before
        loop.call_soon_threadsafe(commands.put_nowait, "stop")  # whoever started the plant is gone


async def _obey(server: CellServer, clock: Clock, commands: asyncio.Queue[str]) -> None:
    while (command := await commands.get()) != "stop":
        match command.split():
            case ["go" | "resume"]:
                clock.go()
            case ["pause"]:
                await clock.pause()
                _settle(server, "paused")
            case ["speed", number] if number.replace(".", "", 1).isdigit() and float(number) > 0:
                clock.speed = float(number)
            case _:
                _say("refused", command=command, reason="known are go, pause, resume, speed X, stop")


async def _live(server: CellServer, clock: Clock) -> None:
    await clock.run()
    _settle(server, "ended")


async def _report(server: CellServer, clock: Clock) -> None:
    seconds = 0
    while True:
        await asyncio.sleep(1.0)
        seconds += 1
        if clock.going and not server.timeline.ended:
            _say("clock", source_time=from_ns(server.timeline.now).isoformat(), made=server.timeline.made)
            if seconds % WRITE_EVERY_S == 0:
                server.write_made()


def _settle(server: CellServer, event: str) -> None:
    server.write_made()
    server.write_truth()
    _say(event, source_time=from_ns(server.timeline.now).isoformat(), made=server.timeline.made)


if __name__ == "__main__":
    main()
