"""After an I/O error nobody knows whether the commit is on the disk: it is looked up, and stored once either way."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.journal import Hole, Journal
from gateway.journal.connections import Connections
from gateway.journal.errors import Unwritable
from tests.gateway.journal.stored import stored_observations
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations, same


@contextmanager
def failing_once(monkeypatch: pytest.MonkeyPatch, *, after_commit: bool) -> Iterator[list[str]]:
    """Let the next transaction fail as a disk does, before or after it has become durable."""
    real, failed = Connections.transaction, list[str]()

    @contextmanager
    def fails(connections: Connections) -> Iterator[None]:
        if failed:
            with real(connections):
                yield
            return
        failed.append("disk I/O error")
        if after_commit:
            with real(connections):
                yield
            connections.transactions -= 1
        connections.in_doubt = True
        if not after_commit:
            connections.writer.execute("BEGIN")
            yield
            connections.writer.execute("ROLLBACK")
        raise Unwritable("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(Connections, "transaction", fails)
        yield failed


@pytest.mark.parametrize("after_commit", [True, False], ids=["it was durable", "it was not"])
async def test_a_commit_in_doubt_is_stored_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after_commit: bool,  # noqa: FBT001 - drawn
) -> None:
    """Rows, results, holes and a reader's step, each tried again behind its caller's back."""
    journal = await Journal.open(tmp_path, "gw-1")
    monitor = await journal.reader("monitor")
    rows = make_observations(rows=5)
    with failing_once(monkeypatch, after_commit=after_commit) as failed:
        assert await journal.append(rows, results=make_event("beside")) == 2
    assert failed
    with failing_once(monkeypatch, after_commit=after_commit):
        await monitor.commit(2, results=make_event("monitor"), state=b"state")
    later = make_observations(rows=1, start_ns=NOON_NS + 60 * SECOND_NS)
    hole = Hole(stream=rows.streams[0], start_ns=NOON_NS + 10 * SECOND_NS, end_ns=NOON_NS + 60 * SECOND_NS)
    with failing_once(monkeypatch, after_commit=after_commit):
        assert await journal.append(later, opened=[hole]) == 4
    assert (journal.last_seq, journal.counters.appended, journal.holes()) == (4, 18, (hole,))
    held = await stored_observations(journal)
    assert same(held.take(held.source_time < later.source_time[0]), rows)
    await journal.close()
    journal = await Journal.open(tmp_path, "gw-1")
    assert (journal.last_seq, journal.counters.appended) == (4, 18)
    monitor = await journal.reader("monitor")
    assert (monitor.position, monitor.state) == (2, b"state")
    await journal.close()


async def test_repeats_before_a_failure_stay_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though no commit has told the disk of them: what came in is what was stored and what was dropped."""
    journal = await Journal.open(tmp_path, "gw-1")
    rows = make_observations(rows=1)
    await journal.append(rows)
    await journal.append(rows)
    with failing_once(monkeypatch, after_commit=False):
        await journal.append(make_observations(rows=1, start_ns=NOON_NS + 60 * SECOND_NS))
    assert (journal.counters.appended, journal.counters.repeats_dropped) == (6, 3)
    await journal.close()


async def test_whoever_holds_the_file_is_told_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup, say: what is stored can be read meanwhile, and what comes is stored once, as soon as it lets go."""
    monkeypatch.setattr("gateway.journal.connections._LOCKED_S", 0.02)
    journal = await Journal.open(tmp_path, "gw-1")
    rows = make_observations(rows=2)
    await journal.append(rows)
    with closing(sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)) as backup:
        backup.execute("BEGIN IMMEDIATE")
        appending = asyncio.create_task(journal.append(make_observations(rows=1, start_ns=NOON_NS + 60 * SECOND_NS)))
        while not journal.trouble:  # noqa: ASYNC110 - it is a text, not an event
            await asyncio.sleep(0.01)
        assert "locked" in journal.trouble
        assert same(await stored_observations(journal), rows)
    assert await appending == 2
    assert (journal.trouble, journal.counters.appended) == ("", 9)
    await journal.close()


async def test_without_the_look_it_would_be_stored_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: rows that are older than the newest of their stream are no repeats of it."""
    journal = await Journal.open(tmp_path, "gw-1")
    monkeypatch.setattr("gateway.journal.database.is_stored", lambda *_: False)
    with failing_once(monkeypatch, after_commit=True):
        await journal.append(make_observations(rows=5))
    assert journal.counters.appended > 15
    await journal.close()
