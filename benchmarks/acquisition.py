"""What a value costs from the OPC UA socket to the journal's commit: ``python -m benchmarks.acquisition [--json]``.

One run, one server (another process), the same load for each client in turn, without and with encryption: the gateway's
acquisition into its journal, Telegraf's inputs.opcua_listener into a file, and asyncua's stock subscription with a
handler that does nothing. Counted is the CPU time of the client's process, all threads, after a warm-up. Then the
highest rate that the gateway's acquisition holds on one core, from a server that replays frames. Linux only (/proc).

The server is ours on async-opcua (`scripts/opcua-peers`), Telegraf is built by `scripts/telegraf/build`; what is not
there is named in the output, and the frame server stands in for a server that is not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec

from benchmarks import telegraf
from benchmarks.measurement import Measurement, compared
from benchmarks.peer_server import AsyncOpcua, FrameServer, LoadServer, Process, running
from benchmarks.reading import QUEUE_SIZE

NODES = 1000
PUBLISHING_INTERVAL_MS = 250.0
PERIODS_MS = (10, 1000)
OURS, TELEGRAF, STOCK = "ours", f"Telegraf {telegraf.VERSION} opcua_listener to a file", "stock asyncua, idle handler"
UNIT = "values/cpu-s"
# ratio of ours that is aimed at, by period and reference
AIMS = {(10, TELEGRAF): 10.0, (10, STOCK): 35.0, (1000, TELEGRAF): 2.0}
RATE_AIM = 1_000_000
_SHARES = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4)  # of the rate taken when as much as goes is sent
_BEHIND_S = 0.75  # values due but not sent, beside one publishing interval: more is falling behind
_CONNECT_S = 60.0
_QUIET_S = 1.5


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds: before measuring, and of measuring, by the period of the load in ms."""

    warm_up_s: float
    measure_s: dict[int, float]
    held_s: float


FULL = Timing(warm_up_s=4.0, measure_s={10: 12.0, 1000: 30.0}, held_s=10.0)
QUICK = Timing(warm_up_s=2.0, measure_s={10: 3.0, 1000: 5.0}, held_s=3.0)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One client under one load.

    Attributes:
        client: Which.
        security: ``None`` or ``SignAndEncrypt``.
        load: Nodes and rate.
        values_per_cpu_s: What was received, over the CPU time of the client's process.
        us_per_value: The same, in microseconds of CPU for each value.
        cpu_share: Cores in use.
        offered_per_s: Changes at the server.
        received_per_s: Values stored, written or handed over.
        lost: Changes that never came, of ``offered`` from the first to the last.
        offered: See ``lost``.
        memory_mib: The process's most resident memory.
        server_cpu_share: Cores the server used.
    """

    client: str
    security: str
    load: str
    values_per_cpu_s: float
    us_per_value: float
    cpu_share: float
    offered_per_s: float
    received_per_s: float
    lost: int
    offered: int
    memory_mib: float
    server_cpu_share: float


@dataclass(frozen=True, kw_only=True)
class OneCore:
    """What ours takes on one core: as much as goes, and the highest rate held without falling behind."""

    security: str
    most_per_s: float
    held_per_s: float
    held_cpu_share: float
    server_cpu_share: float
    lost: int


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Something to be reached, and what was."""

    measure: str
    aim: float
    reached: float
    met: bool


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole run."""

    date: str
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    server: str
    publishing_interval_ms: float
    absent: list[str]
    measurements: list[Measurement]
    aims: list[Aim]
    readings: list[Reading]
    one_core: list[OneCore]


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client that runs: its process, and how many values it has."""

    process: Process
    count: Callable[[], Awaitable[int]]


def cpu_s(pid: int) -> float:
    """Return the CPU time of the process *pid* so far, all its threads, s."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def memory_mib(pid: int) -> float:
    """Return the most memory that the process *pid* had resident, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@asynccontextmanager
async def reading(
    which: str, server: LoadServer, folder: Path, *, encrypted: bool, core: int | None = None
) -> AsyncIterator[Client]:
    """Run *which* client against *server*, in the new folder *folder*."""
    folder.mkdir()  # noqa: ASYNC240 - nothing else runs
    if which == TELEGRAF:
        config, values = telegraf.write_config(
            folder,
            server.endpoint,
            namespace=await server.namespace(),
            encrypted=encrypted,
            nodes=NODES,
            publishing_interval_ms=PUBLISHING_INTERVAL_MS,
            queue_size=QUEUE_SIZE,
        )
        written = telegraf.Written(values)

        async def lines() -> int:
            return written.count()

        async with running(telegraf.program(), "--config", config, log=folder / "log") as process:
            yield Client(process=process, count=lines)
        return
    options: list[str | Path] = [
        *("--endpoint", server.endpoint),
        *("--certificate", server.certificate),
        *("--folder", folder),
    ]
    options += [*("--nodes", str(NODES)), *("--publishing-interval-ms", str(PUBLISHING_INTERVAL_MS))]
    options += ["--encrypted"] * encrypted + (["--core", str(core)] if core is not None else [])
    command = (sys.executable, "-m", "benchmarks.reading", "ours" if which == OURS else "stock")
    async with running(*command, *options) as process:

        async def asked() -> int:
            return int(await process.ask("count"))

        yield Client(process=process, count=asked)


async def settled(client: Client, at_least: int, patience_s: float = _CONNECT_S) -> int:
    """Return the client's count when it has *at_least* so many values and no more come; or what it has in the end."""
    deadline = time.monotonic() + patience_s
    count, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        if client.process.ended:
            raise RuntimeError("a client ended by itself; see its message above")
        now = await client.count()
        if now != count:
            count, since = now, time.monotonic()
        if count >= at_least and time.monotonic() - since > _QUIET_S:
            break
        await asyncio.sleep(0.1)
    return count


async def measured(
    which: str, server: LoadServer, folder: Path, *, encrypted: bool, period_ms: int, timing: Timing
) -> Reading:
    """Put *server*'s load on *which* client and return what it cost."""
    async with reading(which, server, folder, encrypted=encrypted) as client:
        first = await settled(client, NODES)
        if first < NODES:
            raise RuntimeError(f"{which}: {first} of {NODES} nodes sent a first value; see {folder}")
        before = await server.changes()
        await server.go()
        await asyncio.sleep(timing.warm_up_s)
        begin = await _moment(client, server)
        await asyncio.sleep(timing.measure_s[period_ms])
        end = await _moment(client, server)
        await server.stop()
        offered = await server.changes() - before
        received = await settled(client, first + offered, 3 * _QUIET_S) - first
        memory = memory_mib(client.process.pid)
    seconds = end.time - begin.time
    values, cost = end.values - begin.values, end.cpu_s - begin.cpu_s
    return Reading(
        client=which,
        security="SignAndEncrypt" if encrypted else "None",
        load=_load(period_ms),
        values_per_cpu_s=round(values / cost),
        us_per_value=round(1e6 * cost / max(values, 1), 3),
        cpu_share=round(cost / seconds, 3),
        offered_per_s=round((end.offered - begin.offered) / seconds),
        received_per_s=round(values / seconds),
        lost=offered - received,
        offered=offered,
        memory_mib=round(memory),
        server_cpu_share=round((end.server_cpu_s - begin.server_cpu_s) / seconds, 3),
    )


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """Counters of client and server at one time."""

    time: float
    values: int
    cpu_s: float
    offered: int
    server_cpu_s: float


async def _moment(client: Client, server: LoadServer) -> _Moment:
    values = await client.count()
    return _Moment(
        time=time.monotonic(),
        values=values,
        cpu_s=cpu_s(client.process.pid),
        offered=await server.changes(),
        server_cpu_s=cpu_s(server.process.pid),
    )


async def one_core(folder: Path, *, encrypted: bool, timing: Timing) -> OneCore:
    """Return the highest rate that ours holds while it may run on one core alone, and the server on the others."""
    cores = sorted(os.sched_getaffinity(0))
    security = "SignAndEncrypt" if encrypted else "None"
    async with FrameServer.serving(folder / "server", NODES) as server:
        if len(cores) > 1:
            os.sched_setaffinity(server.process.pid, set(cores[:-1]))
        async with reading(OURS, server, folder / "ours", encrypted=encrypted, core=cores[-1]) as client:
            first = await settled(client, NODES)
            most, *_ = await _at_rate(client, server, float("inf"), timing)
            for share in _SHARES:
                held, cpu_share, server_cpu_share, behind_s = await _at_rate(client, server, share * most, timing)
                if behind_s <= _BEHIND_S + PUBLISHING_INTERVAL_MS / 1000 and cpu_share <= 1.0:
                    break
            else:
                held, cpu_share, server_cpu_share = 0.0, 0.0, 0.0
            sent = await server.changes()
            received = await settled(client, first + sent, 10 * _QUIET_S) - first
    return OneCore(
        security=security,
        most_per_s=round(most),
        held_per_s=round(held),
        held_cpu_share=round(cpu_share, 3),
        server_cpu_share=round(server_cpu_share, 3),
        lost=sent - received,
    )


async def _at_rate(
    client: Client, server: FrameServer, rate: float, timing: Timing
) -> tuple[float, float, float, float]:
    """Return, with *rate* values per second due: stored per s, cores of the client, of the server, s it is behind."""
    server.rate = rate
    await server.go()
    await asyncio.sleep(timing.warm_up_s)
    begin = await _moment(client, server)
    await asyncio.sleep(timing.held_s)
    end, told = await _moment(client, server), await server.told()
    await server.stop()
    await settled(client, 0, 10 * _QUIET_S)
    seconds = end.time - begin.time
    behind = (told["due"] - told["sent"]) / rate + max(end.offered - end.values, 0) / rate
    return (
        (end.values - begin.values) / seconds,
        (end.cpu_s - begin.cpu_s) / seconds,
        (end.server_cpu_s - begin.server_cpu_s) / seconds,
        behind,
    )


async def run(timing: Timing, say: Callable[[str], None]) -> Report:
    """Measure all; *say* tells how far it is."""
    absent = [text for text in (telegraf.lacking(), AsyncOpcua.lacking()) if text]
    clients = [OURS, STOCK] if telegraf.lacking() else [OURS, TELEGRAF, STOCK]
    readings, cores = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for period_ms in PERIODS_MS:
            for encrypted, which in itertools.product((False, True), clients):
                work = folder / f"{period_ms}-{encrypted}-{clients.index(which)}"
                work.mkdir()
                # Each client has the server to itself: what one leaves behind there is not another's load.
                async with _server(work / "server", period_ms) as server:
                    readings.append(
                        await measured(
                            which, server, work / "client", encrypted=encrypted, period_ms=period_ms, timing=timing
                        )
                    )
                say(_line(readings[-1]))
        for encrypted in (False, True):
            (folder / f"one-core-{encrypted}").mkdir()
            cores.append(await one_core(folder / f"one-core-{encrypted}", encrypted=encrypted, timing=timing))
            say(_core_line(cores[-1]))
    return Report(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        versions=_versions(),
        server="frame server" if AsyncOpcua.lacking() else f"async-opcua {AsyncOpcua.version()}",
        publishing_interval_ms=PUBLISHING_INTERVAL_MS,
        absent=absent,
        measurements=list(_measurements(readings)),
        aims=list(_aims(readings, cores)),
        readings=readings,
        one_core=cores,
    )


@asynccontextmanager
async def _server(folder: Path, period_ms: int) -> AsyncIterator[LoadServer]:
    if AsyncOpcua.lacking():
        async with FrameServer.serving(folder, NODES, NODES * 1000 / period_ms) as frames:
            yield frames
    else:
        async with AsyncOpcua.serving(folder, NODES, period_ms) as server:
            yield server


def _load(period_ms: int) -> str:
    return f"{NODES:,} nodes x {1000 / period_ms:g} Hz"


def _measurements(readings: list[Reading]) -> Iterator[Measurement]:
    """Yield ours beside each reference, under the same load."""
    for ours in readings:
        for reference in readings:
            same = (ours.security, ours.load) == (reference.security, reference.load)
            if same and ours.client == OURS and reference.client != OURS:
                measure = f"OPC UA socket to journal commit, {ours.load}, {ours.security}"
                yield compared(measure, ours.values_per_cpu_s, reference.values_per_cpu_s, reference.client, UNIT)


def _aims(readings: list[Reading], cores: list[OneCore]) -> Iterator[Aim]:
    by_what = {(m.measure, m.reference_name): m.ratio for m in _measurements(readings)}
    for (period_ms, reference), aim in AIMS.items():
        for (measure, name), ratio in by_what.items():
            if name == reference and _load(period_ms) in measure:
                yield Aim(measure=f"{measure}: times {name}", aim=aim, reached=ratio, met=ratio >= aim)
    for core in cores:
        measure = f"values/s held on one core, {core.security}"
        yield Aim(measure=measure, aim=RATE_AIM, reached=core.held_per_s, met=core.held_per_s >= RATE_AIM)


def _machine() -> dict[str, str | int | float]:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].split(":", 1)[1].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _versions() -> dict[str, str]:
    return {
        "wearsight": version("wearsight"),
        "python": platform.python_version(),
        "asyncua": version("asyncua"),
        "numpy": version("numpy"),
        "telegraf": "absent" if telegraf.lacking() else telegraf.VERSION,
        "async-opcua": "absent" if AsyncOpcua.lacking() else AsyncOpcua.version(),
    }


def _line(r: Reading) -> str:
    lost = f"{r.lost:,} of {r.offered:,} lost" if r.lost else "none lost"
    return (
        f"{r.load:<22} {r.security:<14} {r.client:<42} {r.values_per_cpu_s:>11,.0f} {UNIT} ({r.us_per_value:.2f} us)"
        f"  {r.received_per_s:>9,.0f}/s of {r.offered_per_s:,.0f}/s at {r.cpu_share:.2f} cores, {lost}, "
        f"{r.memory_mib:.0f} MiB; server {r.server_cpu_share:.2f} cores"
    )


def _core_line(c: OneCore) -> str:
    return (
        f"one core, {c.security}: {c.held_per_s:,.0f} values/s held at {c.held_cpu_share:.2f} cores "
        f"(at most {c.most_per_s:,.0f}/s; server {c.server_cpu_share:.2f} cores; {c.lost:,} lost)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="a few seconds for each measure: to try, not to quote")
    options = parser.parse_args()
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    stream = sys.stderr if options.json else sys.stdout
    report = asyncio.run(run(QUICK if options.quick else FULL, lambda text: print(text, file=stream, flush=True)))
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
        return
    for m in report.measurements:
        print(f"{m.measure:<72} {m.ours:>11,.0f} {m.unit}  ({m.ratio:g} x {m.reference:,.0f}, {m.reference_name})")
    for aim in report.aims:
        print(f"{'met ' if aim.met else 'MISSED'} {aim.measure}: {aim.reached:,.10g}, aim {aim.aim:,g}")
    for name in report.absent:
        print(f"absent: {name}")


if __name__ == "__main__":
    main()
