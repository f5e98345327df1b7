import asyncio
import json
import os
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from gateway.data_acquisition import Batch
from gateway.journal import CommitFailed, Hole, Journal
from gateway.pipeline import acquire
from gateway.testing import ScriptedSource, cut, run_machine
from models.records import Gap, GatewayEvent, Observations, Results, from_ns

MACHINE = cut(run_machine("m-1", hours=6), 3)
EVENT = GatewayEvent(kind="source_connected", gateway_time=from_ns(0), message="cell-1 is connected")


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    journal = await Journal.open(tmp_path, "gw-1")
    yield journal
    await journal.close()


async def test_batches_are_stored_then_acknowledged(journal: Journal) -> None:
    source = ScriptedSource([Batch(observations=piece) for piece in MACHINE])
    await acquire(source, journal)

    assert source.acknowledged == [0, 1, 2]
    assert journal.counters.appended == sum(len(piece) for piece in MACHINE)


async def test_what_cannot_be_committed_is_not_acknowledged(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server keeps what this side could not store, and sends it again."""

    async def full(_observations: Observations, **_beside: object) -> int | None:
        raise CommitFailed("no space left on device")

    source = ScriptedSource([Batch(observations=piece) for piece in MACHINE])
    monkeypatch.setattr(journal, "append", full)
    with pytest.raises(CommitFailed):
        await acquire(source, journal)

    assert source.acknowledged == []


async def test_a_batch_is_stored_whole(journal: Journal) -> None:
    """Gaps and holes go into the commit of the values beside which they were found."""
    stream = MACHINE[0].streams[0]
    gap = Gap(asset_id="m-1", channel="load_pct", from_time=from_ns(0), to_time=from_ns(10**9), cause="not listened")
    hole = Hole(stream=stream, start_ns=0, end_ns=10**9, cause="not listened")
    await acquire(
        ScriptedSource([Batch(observations=MACHINE[0], results=Results(gaps=(gap,)), opened=(hole,))]), journal
    )

    pages = await journal.read(lambda database: database.decoded_pages(0, limit=10, max_bytes=2**20))
    assert {type(page.content) for page in pages} == {Observations, Results}
    assert [page.content for page in pages if isinstance(page.content, Results)] == [Results(gaps=(gap,))]
    assert journal.holes() == (hole,)


async def test_an_acknowledgement_finds_its_batch_durable(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each acknowledgement the rows are on disk already, for another process to read."""
    seen: list[int] = []
    source = ScriptedSource([Batch(observations=piece) for piece in MACHINE])
    acknowledge = Batch.acknowledge

    async def looking(self: Batch) -> None:
        with sqlite3.connect(f"file:{tmp_path / 'journal.sqlite'}?mode=ro", uri=True) as other:
            seen.append(other.execute("SELECT sum(observations) FROM page").fetchone()[0])
        other.close()
        await acknowledge(self)

    monkeypatch.setattr(Batch, "acknowledge", looking)
    await acquire(source, journal)

    assert seen == [sum(len(piece) for piece in MACHINE[: n + 1]) for n in range(len(MACHINE))]


async def test_results_of_a_batch_are_stored_before_its_acknowledgement_too(journal: Journal) -> None:
    """A gap or an event is as durable as a value."""
    source = ScriptedSource([Batch(results=Results(events=(EVENT,)))])
    await acquire(source, journal)

    pages = await journal.read(lambda database: database.decoded_pages(0, limit=10, max_bytes=2**20))
    assert [page.content for page in pages] == [Results(events=(EVENT,))]
    assert source.acknowledged == [0]


CONFIG = """
gateway_id = "gw-1"
state_dir = "state"
[status]
address = "127.0.0.1:{status}"
[[server]]
name = "cell-1"
endpoint = "opc.tcp://127.0.0.1:{closed}/"
[[asset]]
asset_id = "m-1"
asset_class = "test_machine"
server = "cell-1"
path = "Machines/m-1"
[asset_class.test_machine]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def run_program(
    folder: Path, notify_socket: str, *, disk_is_full: bool = False
) -> tuple[asyncio.subprocess.Process, int]:
    """Start ``wearsight-gateway run``, whose only server is away; give the process and the port of its status.

    On a disk that is full no file may grow: a limit on its size, which can be taken back.
    """
    status = free_port()
    config = folder / "gateway.toml"
    config.write_text(CONFIG.format(status=status, closed=free_port()))
    environment = {**os.environ, "NOTIFY_SOCKET": notify_socket}
    full = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (0, r.RLIM_INFINITY))"
    start = f"{full if disk_is_full else ''}\nfrom gateway.cli import main; main()"
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", start, "run", "--config", str(config), env=environment,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    return program, status


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_a_gateway_starts_tells_systemd_and_stops_kindly(tmp_path: Path, stop: signal.Signals) -> None:
    """A server that is away keeps nothing from starting; the journal is open to others after the stop."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        program, status = await run_program(tmp_path, str(tmp_path / "notify"))
        ready = await asyncio.to_thread(systemd.recv, 100)
        health = json.loads(await asyncio.to_thread(_get, f"http://127.0.0.1:{status}/health"))
        program.send_signal(stop)
        _, errors = await program.communicate()

    assert ready == b"READY=1"
    assert (health["gateway_id"], health["status"]) == ("gw-1", "degraded")
    assert health["acquisition"]["cell-1"]["connected"] is False
    assert health["readers"]["monitor"] == 0  # from the beginning: whoever waits for it finds it
    assert program.returncode == 0, errors.decode()
    assert b"gateway stopped" in errors
    again = await Journal.open(tmp_path / "state", "gw-1")
    assert again.epoch == health["epoch"]
    await again.close()


async def test_a_gateway_that_starts_on_a_full_disk_waits_for_room(tmp_path: Path) -> None:
    """It tells systemd why it takes so long, and runs as soon as there is room; nobody has to start it again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        program, _ = await run_program(tmp_path, str(tmp_path / "notify"), disk_is_full=True)
        waiting = await asyncio.to_thread(systemd.recv, 1000)
        resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        while (told := await asyncio.to_thread(systemd.recv, 1000)) != b"READY=1":
            assert told == waiting
        program.send_signal(signal.SIGTERM)
        _, errors = await program.communicate()

    assert b"EXTEND_TIMEOUT_USEC" in waiting
    assert b"cannot be opened now" in waiting
    assert program.returncode == 0, errors.decode()
    assert errors.count(b"journal cannot be opened") == 1


async def test_a_second_gateway_on_the_same_folder_says_why_it_stops(tmp_path: Path) -> None:
    """Exit code 1 and one sentence, no traceback."""
    journal = await Journal.open(tmp_path / "state", "gw-1")
    program, _ = await run_program(tmp_path, "")
    _, errors = await program.communicate()
    await journal.close()

    assert program.returncode == 1
    assert "the gateway stops:" in errors.decode()
    assert "Traceback" not in errors.decode()


def _get(url: str) -> bytes:
    with urlopen(url, timeout=30) as answer:  # noqa: S310 - our own address
        return bytes(answer.read())
