"""What the journal promises to whoever appends and whoever reads."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gateway.errors import JournalError
from gateway.journal import CommitFailed, Journal, JournalLocked, JournalMismatch, JournalReader
from gateway.journal import pages as tables
from models.records import Observations, Page, Results
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations, make_results, make_waveform, same


async def take(reader: JournalReader, count: int) -> list[Page]:
    """Return the next *count* pages of *reader*."""
    pages: list[Page] = []
    async with asyncio.timeout(30):
        async for page in reader.pages():
            pages.append(page)
            if len(pages) == count:
                break
    return pages


@contextmanager
def full_disk(journal: Journal) -> Iterator[None]:
    """Let no file of this process grow beyond the journal's write-ahead log of now: the kernel refuses the write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (journal.state_dir / "journal.sqlite-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_pages_come_back_in_order(journal: Journal) -> None:
    """Observations and results, with seqs from 1 and the identity of the journal."""
    reader = await journal.reader("monitor")
    rows = make_observations()
    assert await journal.append(rows) == 1
    assert await journal.append_results(make_results()) == 2
    first, second = await take(reader, 2)
    assert (first.gateway_id, first.epoch, first.seq) == ("gw-1", journal.epoch, 1)
    assert isinstance(first.content, Observations)
    assert same(first.content, rows)
    assert second.content == make_results()


async def test_a_reader_waits_for_the_next_page(journal: Journal) -> None:
    reader = await journal.reader("monitor")
    waiting = asyncio.create_task(take(reader, 1))
    await asyncio.sleep(0)
    assert not waiting.done()
    await journal.append(make_observations())
    assert [page.seq for page in await waiting] == [1]


async def test_readers_go_their_own_ways(journal: Journal, tmp_path: Path) -> None:
    """Each starts where it stopped, also after a restart; one that is behind holds up nobody."""
    for number in range(5):
        await journal.append(make_observations(start_ns=NOON_NS + number * 60 * SECOND_NS))
    quick, slow = await journal.reader("quick"), await journal.reader("slow")
    await quick.commit(5, state=b"window")
    await slow.commit(2)
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    quick, slow = await again.reader("quick"), await again.reader("slow")
    assert (quick.position, quick.state, slow.position, slow.state) == (5, b"window", 2, None)
    assert [page.seq for page in await take(slow, 3)] == [3, 4, 5]
    assert await again.positions() == {"quick": 5, "slow": 2, "compactor": 0}
    await again.close()


async def test_a_commit_without_state_keeps_the_old_one(journal: Journal) -> None:
    reader = await journal.reader("monitor")
    await journal.append(make_observations(rows=1))
    await reader.commit(1, state=b"kept")
    await reader.commit(1)
    assert (await journal.reader("monitor")).state == b"kept"


async def test_a_position_never_goes_back_or_ahead_of_the_journal(journal: Journal) -> None:
    reader = await journal.reader("monitor")
    await journal.append(make_observations())
    await reader.commit(1)
    for seq in (0, 2):
        with pytest.raises(JournalError, match="cannot go to"):
            await reader.commit(seq)


async def test_close_ends_every_iteration(journal: Journal) -> None:
    reader = await journal.reader("monitor")
    waiting = asyncio.create_task(take(reader, 1))
    await asyncio.sleep(0)
    await journal.close()
    assert await waiting == []
    with pytest.raises(JournalError, match="closed"):
        await journal.append(make_observations())


async def test_every_commit_is_flushed(journal: Journal) -> None:
    """The two settings that stand behind "durable on return"."""
    pragmas = await journal.write(
        lambda database: [
            database.writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    )
    assert pragmas == ["wal", 2]


# Repeats


async def test_a_batch_that_comes_again_is_stored_once(journal: Journal) -> None:
    """As after a kill between commit and acknowledgement."""
    rows = make_observations(rows=1)
    assert await journal.append(rows) == 1
    assert await journal.append(rows) is None
    assert journal.counters.appended == 3
    assert journal.counters.repeats_dropped == 3


async def test_what_is_new_in_a_repeated_batch_is_stored(journal: Journal) -> None:
    await journal.append(make_observations(rows=1))
    longer = make_observations(rows=2)
    assert await journal.append(longer) == 2
    page = (await take(await journal.reader("monitor"), 2))[1]
    assert isinstance(page.content, Observations)
    assert same(page.content, longer.take(np.arange(3, 6)))


@pytest.mark.parametrize("change", ["source_time", "value", "status"])
async def test_a_row_that_differs_in_anything_is_no_repeat(journal: Journal, change: str) -> None:
    """The control: time, value and status all count."""
    rows = make_observations(streams=1, rows=1)
    await journal.append(rows)
    column = getattr(rows, change)
    changed = Observations.of_values(
        rows.streams,
        rows.stream,
        **{name: getattr(rows, name) for name in ("source_time", "value", "status") if name != change},
        **{change: column + column.dtype.type(1)},
    )
    assert await journal.append(changed) == 2


async def test_nan_and_waveforms_repeat_bit_by_bit(journal: Journal) -> None:
    assert await journal.append(make_waveform([1.0, 2.0])) == 1
    assert await journal.append(make_waveform([1.0, 2.0])) is None
    assert await journal.append(make_waveform([1.0, 2.5])) == 2
    assert await journal.append(make_waveform([1.0])) == 3


async def test_a_late_row_is_stored_and_is_not_the_newest(journal: Journal) -> None:
    """Backfill from before what came live; what came live is still known as repeated."""
    live = make_observations(streams=1, rows=1, start_ns=NOON_NS + SECOND_NS)
    late = make_observations(streams=1, rows=1, start_ns=NOON_NS)
    await journal.append(live)
    assert await journal.append(late) == 2
    assert journal.newest_source_time(live.streams[0]) == NOON_NS + SECOND_NS
    assert await journal.append(live) is None


async def test_the_newest_rows_survive_a_restart(journal: Journal, tmp_path: Path) -> None:
    rows = make_observations(streams=2, rows=3)
    await journal.append(rows)
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    assert again.newest_source_time(rows.streams[1]) == NOON_NS + 2 * SECOND_NS
    assert again.newest_source_time(make_waveform([1.0]).streams[0]) is None
    assert await again.append(rows.take(np.arange(4, 6))) is None
    await again.close()


# Refusals


async def test_a_journal_that_is_open_elsewhere_is_refused(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(JournalLocked, match="another process"):
        await Journal.open(tmp_path, "gw-1")
    await journal.close()
    await (await Journal.open(tmp_path, "gw-1")).close()


async def test_the_journal_of_another_gateway_is_refused(journal: Journal, tmp_path: Path) -> None:
    await journal.close()
    with pytest.raises(JournalMismatch, match="'gw-1', the configuration says 'gw-2'"):
        await Journal.open(tmp_path, "gw-2")


async def test_a_journal_of_a_later_schema_is_refused(journal: Journal, tmp_path: Path) -> None:
    await journal.close()
    change(tmp_path, "UPDATE journal SET schema = 99")
    with pytest.raises(JournalMismatch, match="schema 99"):
        await Journal.open(tmp_path, "gw-1")


def change(folder: Path, statement: str) -> None:
    """Change a closed journal behind its back."""
    connection = sqlite3.connect(folder / "journal.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()


# Faults


async def test_a_full_disk_is_waited_out(journal: Journal, tmp_path: Path) -> None:
    """Nothing of the batch is stored and it is told; with room again the same append goes on, and all is there once."""
    await journal.append(make_observations(rows=1))
    before = journal.counters
    rows = make_observations(streams=50, rows=200, start_ns=NOON_NS + 10**12)
    with full_disk(journal):
        appending = asyncio.create_task(journal.append(rows))
        async with asyncio.timeout(30):
            while not journal.trouble:  # noqa: ASYNC110 - it is a text, not an event
                await asyncio.sleep(0.01)
        assert (journal.counters, journal.warnings) == (before, (journal.trouble,))
        assert journal.newest_source_time(rows.streams[0]) == NOON_NS
        assert not appending.done()
    assert await appending == 2
    assert not journal.trouble
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    assert again.counters.appended == 3 + 10_000
    await again.close()


async def test_a_journal_that_is_closed_waits_for_no_disk(journal: Journal) -> None:
    """What could not be stored until then is not acknowledged."""
    rows = make_observations(streams=50, rows=200)
    with full_disk(journal):
        appending = asyncio.create_task(journal.append(rows))
        await asyncio.sleep(0.05)
        await journal.close()
        with pytest.raises(CommitFailed):
            await appending


async def failing_position(journal: Journal) -> None:
    """Make the table of positions refuse every change from now on."""
    trigger = "CREATE TRIGGER refuse BEFORE INSERT ON position BEGIN SELECT RAISE(ABORT, 'injected'); END"
    await journal.write(lambda database: database.writer.execute(trigger).close())


async def test_results_are_not_stored_when_the_position_cannot_move(journal: Journal) -> None:
    """Nothing of the commit stays: no page, no position, no state."""
    reader = await journal.reader("monitor")
    await journal.append(make_observations())
    await failing_position(journal)
    with pytest.raises(CommitFailed, match="injected"):
        await reader.commit(1, results=make_event("from page 1"), state=b"new")
    assert (journal.last_seq, reader.position, reader.state) == (1, 0, None)
    assert len(await journal.read(lambda database: database.decoded_pages(0, limit=9, max_bytes=10**9))) == 1


async def test_in_two_commits_the_results_would_stay(journal: Journal) -> None:
    """The control: the same fault leaves results behind when they are committed on their own."""
    reader = await journal.reader("monitor")
    await journal.append(make_observations())
    await failing_position(journal)
    await journal.append_results(make_event("from page 1"))
    with pytest.raises(CommitFailed):
        await reader.commit(1)
    assert journal.last_seq == 2


async def test_a_cancelled_append_is_stored_whole_and_seen(journal: Journal) -> None:
    """Whoever appended may give up waiting; readers still learn of the page."""
    reader = await journal.reader("monitor")
    waiting = asyncio.create_task(take(reader, 2))
    appending = asyncio.create_task(journal.append(make_observations()))
    await asyncio.sleep(0)
    appending.cancel()
    await journal.append_results(Results(events=make_event("after").events))
    stored = [page.seq for page in await asyncio.wait_for(take(reader, journal.last_seq), 30)]
    assert stored == list(range(1, journal.last_seq + 1))
    waiting.cancel()


async def test_a_batch_too_large_for_a_page_becomes_several(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one commit, each page small enough for a segment, no row lost."""
    monkeypatch.setattr(tables, "MAX_PAGE_ROWS", 4)
    monkeypatch.setattr(tables, "MAX_PAGE_SAMPLES", 5)
    waves = [make_waveform([float(n)] * 3, time_ns=NOON_NS + n) for n in range(3)]
    rows = Observations.concatenate([make_observations(streams=2, rows=3), *waves])
    assert await journal.append(rows) == 4
    pages = [page.content for page in await take(await journal.reader("monitor"), 4)]
    parts = [content for content in pages if isinstance(content, Observations)]
    assert max(len(part) for part in parts) <= 4
    assert max(part.samples.size for part in parts) <= 5
    assert same(Observations.concatenate(parts), rows)
