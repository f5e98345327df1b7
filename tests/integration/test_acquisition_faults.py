"""Nothing is lost unsaid and nothing doubled, whatever happens to the link, the server, the disk or the tag list.

Each run drives the program from outside: configuration, HTTP, journal. See `tests.integration.faults.field`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from models.records import Gap, Stream
from tests.chaos.disk import Disk
from tests.chaos.oracle import Verdict
from tests.gateway.data_acquisition.small_plant import free_port
from tests.integration.faults.chaos_proxy import ChaosProxy, Door, Ending, Way
from tests.integration.faults.field import ALL, BOUND_S, GOAL_S, PUMPS, Fault, Field, running
from tests.integration.faults.judge import OVERFLOW, Stored, judge_ticks, pages_of_journal
from tests.integration.faults.program import GATEWAY_ID, GatewayProgram, Server
from tests.integration.faults.tail import JournalTail
from tests.integration.peers.asyncua_plant import URI, Settings
from tests.integration.peers.server import WITH_HISTORY, Measured, Milo, MiloLoad, Peer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

Record = Callable[[str, object], None]

RECORDED = [stream for stream in ALL if stream.channel in WITH_HISTORY]
PLANT = Settings(assets=tuple(PUMPS), is_open=True, takes_few=False, history_page=500)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


def lasting(seconds: float, *acts: Callable[[ChaosProxy], None]) -> Fault:
    """Return the fault that does *acts* to each link, one after the other, each for so many seconds."""

    async def fault(proxies: Sequence[ChaosProxy]) -> None:
        for act in acts:
            for proxy in proxies:
                act(proxy)
            await asyncio.sleep(seconds)

    return fault


CUTS: dict[str, Fault] = {
    "reset, 0.3 s": lasting(0.3, lambda link: link.cut(Ending.RESET)),
    "closed, 0.3 s": lasting(0.3, lambda link: link.cut(Ending.CLOSE)),
    "reset, nobody answers for 3 s": lasting(3, lambda link: link.cut(Ending.RESET, Door.SILENCE)),
    "closed, reset at the door for 6 s": lasting(6, lambda link: link.cut(Ending.CLOSE, Door.RESET)),
    "forgotten by a firewall": lasting(0, lambda link: link.cut(Ending.SILENCE, Door.OPEN)),
    "dead for 8 s": lasting(8, lambda link: link.cut(Ending.SILENCE, Door.SILENCE)),
    "frozen for 1 s": lasting(1, ChaosProxy.freeze),
    "frozen for 5 s": lasting(5, ChaosProxy.freeze),
    "frozen for 15 s": lasting(15, ChaosProxy.freeze),
    "frozen to the gateway for 4 s": lasting(4, lambda link: link.freeze(Way.TO_GATEWAY)),
    "frozen to the server for 4 s": lasting(4, lambda link: link.freeze(Way.TO_SERVER)),
    "loss to the gateway for 2 s": lasting(2, lambda link: link.lose(Way.TO_GATEWAY)),
    "loss to the server for 2 s": lasting(2, lambda link: link.lose(Way.TO_SERVER)),
    "loss both ways for 4 s": lasting(4, ChaosProxy.lose),
    "reset after one byte to the gateway": lasting(1, lambda link: link.reset_after(1, Way.TO_GATEWAY)),
    "reset inside a message": lasting(2, lambda link: link.reset_after(1500, Way.TO_GATEWAY)),
    "reset inside a request": lasting(2, lambda link: link.reset_after(60, Way.TO_SERVER)),
    "reset, and again while it connects": lasting(
        1.5,
        ChaosProxy.cut,
        lambda link: (link.heal(), link.reset_after(900, Way.TO_GATEWAY))[0],  # type: ignore[func-returns-value]  # two acts
    ),
    "slow: 2 kB/s for 5 s": lasting(5, lambda link: link.slow(bytes_per_s=2000)),
    "slow: a second late for 5 s": lasting(5, lambda link: link.slow(latency_s=1)),
    "flapping": lasting(0.4, *[ChaosProxy.cut, ChaosProxy.heal] * 5),
    "reset, 10 s": lasting(10, ChaosProxy.cut),
}


@pytest.mark.timeout(600)
async def test_twenty_link_cuts(tmp_path: Path, record_property: Record) -> None:
    """However a link fails, nothing is missing unsaid, nothing doubled, and values flow again."""
    async with running(tmp_path, PLANT) as field:
        for name, fault in CUTS.items():
            await field.suffer(name, fault)
        await keeps_its_promise(field, record_property)


@pytest.mark.timeout(600)
async def test_five_restarts(tmp_path: Path, record_property: Record) -> None:
    """A server comes back without sessions, with other indexes, without its history, with nodes that come late."""
    late = {"pump-01": 30.0, "pump-02/speed_rpm": 30.0}
    restarts = {
        "the same server": (PLANT, 1.0),
        "indexes permuted": (replaced(PLANT, strangers=3), 2.0),
        "nodes late by 30 s, indexes permuted": (replaced(PLANT, strangers=1, late_s=late), 1.0),
        "history forgotten": (replaced(PLANT, remembers=False), 4.0),
        "indexes permuted, one channel late": (replaced(PLANT, strangers=2, late_s={"pump-01/load_pct": 5.0}), 0.0),
    }
    async with running(tmp_path, PLANT) as field:
        for name, (settings, down_s) in restarts.items():
            await field.restart_plant(name, settings, down_s=down_s)
        await keeps_its_promise(field, record_property)


@pytest.mark.timeout(300)
async def test_an_hour_of_history(tmp_path: Path, record_property: Record) -> None:
    """A plant is away for an hour and measures on: live values come at once, and the hour from its history."""
    async with running(tmp_path, replaced(PLANT, behind_s=3700.0)) as field:
        await field.restart_plant("an hour away", replaced(PLANT, behind_s=100.0, catches_up=True), down_s=0.0)
        stored = await keeps_its_promise(field, record_property)
        verdict = field.verdict(stored, RECORDED)
        assert (verdict.is_kept, verdict.in_gaps) == (True, 0), str(verdict)
        assert verdict.made > 2 * 3600


@pytest.mark.timeout(300)
async def test_a_queue_that_overflows(tmp_path: Path, record_property: Record) -> None:
    """A server that can queue two seconds, and a link that is frozen for ten."""
    async with running(
        tmp_path, replaced(PLANT, queue_most=20), acquisition={"publishing_interval_ms": 200.0}
    ) as field:
        await field.suffer("frozen for 10 s", lasting(10, ChaosProxy.freeze))
        stored = await keeps_its_promise(field, record_property)
        marked = sum(row.status & OVERFLOW == OVERFLOW for rows in stored.rows.values() for row in rows)
        told = sum("overflow" in gap.cause for gaps in stored.gaps.values() for gap in gaps)
        assert marked + told > 0, "no queue overflowed; nothing is shown"


def tag(server: str, asset: str, channel: str, node: str = "") -> str:
    """Return a line of the tag list."""
    return f"{server},{asset},pump,{channel},{node or f'nsu={URI};s={asset}.{channel}'}"


@pytest.mark.timeout(300)
async def test_a_bad_tag_among_good_ones(tmp_path: Path, record_property: Record) -> None:
    """What is not there, holds no number or names no namespace is told; the rest comes, late ones too."""
    bad = {
        "no_such": f"nsu={URI};s=no.such",
        "no_namespace": "nsu=urn:nobody;s=pump-01.load_pct",
        "serial_number": f"nsu={URI};s=pump-01.serial_number",
    }
    good = [Stream("pump-01", "speed_rpm"), Stream("pump-01", "bearing_temperature_c"), Stream("pump-02", "load_pct")]
    late = Stream("pump-01", "load_pct")
    tags = [tag(PUMPS[s.asset_id], s.asset_id, s.channel) for s in [*good, late]]
    tags += [tag("secured", "pump-01", channel, node) for channel, node in bad.items()]
    settings = replaced(PLANT, late_s={"pump-01/load_pct": 20.0})
    async with running(tmp_path, settings, tags=tags, streams=good) as field:
        refused = {f"pump-01/{channel}" for channel in [*bad, late.channel]}
        await field.gateway.until(lambda health: set(health["acquisition"]["secured"]["missing"]) == refused)
        field.streams += (late,)
        first = await field.first_after(late, 0)
        live = await field.tail.until_live([late], first, within_s=2 * BOUND_S)
        field.again_s["a tag that came late"] = (live - first) / 1e9
        field.since_of[late] = field.tail.stored.rows[late][0].source_time
        await keeps_its_promise(field, record_property)


@pytest.mark.timeout(300)
async def test_a_tag_list_that_changes(tmp_path: Path, record_property: Record) -> None:
    """A tag added comes, a tag taken out goes, and of the others nothing is missing, told or doubled."""
    kept = [Stream("pump-01", "speed_rpm"), Stream("pump-01", "bearing_temperature_c"), Stream("pump-02", "speed_rpm")]
    out, new = Stream("pump-02", "load_pct"), Stream("pump-01", "load_pct")

    def lines(*streams: Stream) -> list[str]:
        return [tag(PUMPS[stream.asset_id], *stream) for stream in streams]

    async with running(tmp_path, PLANT, tags=lines(*kept, out), streams=[*kept, out]) as field:
        changed = time.time_ns()
        field.gateway.list_tags(lines(*kept, new))
        live = await field.tail.until_live([new], changed, within_s=2 * BOUND_S)
        field.again_s["a tag that was added"] = (live - changed) / 1e9
        changed = time.time_ns()
        field.gateway.configure(
            field.servers, {}, acquisition={"publishing_interval_ms": 250.0}, tags=lines(*kept, new)
        )
        await asyncio.sleep(5)
        field.streams = tuple(kept)
        stored = await keeps_its_promise(field, record_property)
        assert not any(stored.gaps.get(stream) for stream in kept), stored.gaps
        assert stored.rows[out][-1].source_time < changed
        assert len([event for event in stored.events if event.kind == "source_connected"]) == len(PUMPS)


@pytest.mark.timeout(400)
async def test_a_disk_that_stalls_for_a_minute(tmp_path: Path, record_property: Record) -> None:
    """10,000 values a second, and no flush returns for 60 s: memory stays bounded, and every value is kept or told."""
    if lacking := Milo().lacking():
        skip_or_fail(lacking)
    if shutil.which("cc") is None:
        skip_or_fail("a stalled disk needs cc, which is not on PATH")
    gateway = GatewayProgram(tmp_path / "gateway")
    disk = Disk(tmp_path / "disk", gateway.state_dir)
    plant = Peer(MiloLoad(1000, 100), tmp_path / "plant", free_port(), clients=[gateway.certificate])
    gateway.trust(plant.certificate, "plant")
    gateway.configure([Server(name="load", port=plant.port)], {"load": "load"})
    streams = [Stream("load", f"c{number:04}") for number in range(1000)]
    tail = JournalTail(gateway.state_dir / "journal.sqlite", keeps_rows=False)
    try:
        await asyncio.to_thread(plant.start)
        await gateway.start(disk.environment)
        await tail.until_live(streams, 0, within_s=120)
        await asyncio.sleep(5)
        before = gateway.rss_mib()
        most, slowest_s = await stalled_for(60.0, disk, gateway)
        ended = time.time_ns()
        live = await tail.until_live(streams, ended, within_s=2 * BOUND_S)
        tell(record_property, "acquisition", str((await gateway.health())["acquisition"]))
        ticks = int(await asyncio.to_thread(plant.tell, "pause"))
        await quiet(tail)
        await gateway.stop()
    finally:
        gateway.kill()
        plant.kill()
    verdict = judge_ticks(await pages_of_journal(gateway.state_dir, GATEWAY_ID), streams=1000, last=ticks)
    tell(record_property, "memory", f"{before:.0f} MiB before, {most:.0f} MiB at most")
    tell(record_property, "slowest answer of /health", f"{slowest_s:.1f} s")
    tell(record_property, "live again", f"{(live - ended) / 1e9:.1f} s after the stall")
    tell(record_property, "verdict", str(verdict))
    assert verdict.is_kept, str(verdict)
    assert verdict.made > 1000 * 600
    assert most < before + 300
    assert (live - ended) / 1e9 <= BOUND_S


async def stalled_for(seconds: float, disk: Disk, gateway: GatewayProgram) -> tuple[float, float]:
    """Stall the disk; return the gateway's largest memory in MiB meanwhile, and how long its slowest answer took."""
    disk.control.stall(holds=True)
    most = slowest_s = 0.0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        asked = time.monotonic()
        assert await gateway.health(), "it does not answer while the disk stalls"
        slowest_s = max(slowest_s, time.monotonic() - asked)
        most = max(most, gateway.rss_mib())
        await asyncio.sleep(1)
    disk.control.stall(holds=False)
    return max(most, gateway.rss_mib()), slowest_s


async def quiet(tail: JournalTail) -> None:
    """Wait until nothing more comes for some seconds."""
    since = time.monotonic()
    while time.monotonic() - since < 3:
        seq = tail.seq
        await asyncio.to_thread(tail.look)
        if tail.seq != seq:
            since = time.monotonic()
        await asyncio.sleep(0.2)


@pytest.mark.timeout(300)
async def test_a_journal_that_another_program_holds(tmp_path: Path, record_property: Record) -> None:
    """A backup that has the journal's write lock for 20 s, longer than SQLite waits by itself, costs nothing."""
    async with running(tmp_path, PLANT) as field:
        backup = sqlite3.connect(field.gateway.state_dir / "journal.sqlite", isolation_level=None, timeout=10)
        backup.execute("BEGIN IMMEDIATE")
        for _ in range(20):
            await asyncio.sleep(1)
            assert await field.gateway.health(), "it does not answer while the journal is held"
        backup.execute("ROLLBACK")
        backup.close()
        await field.suffer("the journal held for 20 s", lasting(0))
        stored = await keeps_its_promise(field, record_property)
        assert not stored.gaps


def replaced(settings: Settings, **changes: object) -> Settings:
    """Return *settings* with *changes*."""
    return msgspec.structs.replace(settings, **changes)


def skip_or_fail(reason: str) -> NoReturn:
    """Skip for *reason*, where skipping is allowed."""
    if os.environ.get("WEARSIGHT_NO_SKIP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def tell(record: Record, name: str, text: str) -> None:
    """Have the report, and -rP, show what was measured."""
    print(f"{name}: {text}")  # noqa: T201 - as said
    record(name, text)


def breaks_are_seen(field: Field, stored: Stored) -> None:
    """Hold that the judge sees a row taken out of this journal, one doubled, and the gap records taken out."""
    stream = field.streams[0]
    rows = stored.rows[stream]
    newest = max(rows, key=lambda row: row.source_time)

    def verdict(changed: list[Measured], gaps: Mapping[Stream, list[Gap]] = stored.gaps) -> Verdict:
        return field.verdict(Stored(rows={**stored.rows, stream: changed}, gaps=dict(gaps)))

    assert verdict([row for row in rows if row != newest]).missing == 1
    assert verdict([*rows, newest]).twice == 1
    assert verdict(rows, {}).missing == verdict(rows).in_gaps


async def keeps_its_promise(field: Field, record: Record) -> Stored:
    """End the run and hold that the promise was kept; that the judge would have seen it broken, too."""
    tell(record, "acquisition", str((await field.gateway.health()).get("acquisition")))
    verdict, stored = await field.end()
    for name, seconds in field.again_s.items():
        tell(record, name, f"live again after {seconds:.1f} s{', LATE' if seconds > GOAL_S else ''}")
    tell(record, "verdict", str(verdict))
    assert verdict.is_kept, str(verdict)
    breaks_are_seen(field, stored)
    assert max(field.again_s.values(), default=0.0) <= BOUND_S, field.again_s
    return stored
