"""Compaction moves pages into segments and loses none; the uplink's account of them always adds up."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import JournalError
from gateway.journal import Journal, JournalReader, SegmentEntry, SegmentStore, compact, compact_once
from gateway.journal.segments import remove_orphans
from models.records import Observations, Page, Results
from models.segment import decode_segment, segment_digest
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations, same


async def fill(journal: Journal, pages: int) -> None:
    """Append *pages* pages of three observations."""
    for _ in range(pages):
        await journal.append(make_observations(rows=1, start_ns=NOON_NS + journal.last_seq * SECOND_NS))


async def trim(journal: Journal) -> int:
    """Delete the pages that may go."""
    return await journal.write(lambda database: database.trim())


def ranges(entries: list[SegmentEntry]) -> list[tuple[int, int]]:
    """Return the range of each entry."""
    return [(entry.first_seq, entry.last_seq) for entry in entries]


async def test_a_segment_holds_the_oldest_pages(journal: Journal) -> None:
    await fill(journal, 5)
    await journal.append_results(make_event("among them"))
    store = SegmentStore(journal)
    entry = await compact_once(journal, max_pages=4)
    assert entry is not None
    assert entry.path.name == f"{journal.epoch}-000000000001-000000000004.wseg"
    assert (entry.observations, entry.start_ns, entry.end_ns) == (12, NOON_NS, NOON_NS + 3 * SECOND_NS)
    data = await store.read(entry)
    assert (segment_digest(data), len(data)) == (entry.digest, entry.size)
    assert (decode_segment(data).gateway_id, decode_segment(data).epoch) == ("gw-1", journal.epoch)
    await compact_once(journal, max_pages=4)
    assert await compact_once(journal, max_pages=4) is None
    assert ranges(await store.segments()) == [(1, 4), (5, 6)]


async def test_pages_stay_until_every_reader_has_passed(journal: Journal) -> None:
    """And those in no segment stay in any case."""
    await fill(journal, 6)
    monitor, historian = await journal.reader("monitor"), await journal.reader("historian")
    await compact_once(journal, max_pages=4)
    await monitor.commit(6)
    assert await trim(journal) == 0
    await historian.commit(3)
    assert await trim(journal) == 3
    await historian.commit(6)
    assert await trim(journal) == 1
    await fill(journal, 1)
    assert journal.last_seq == 7


async def test_a_reader_that_is_forgotten_holds_no_page(journal: Journal) -> None:
    await fill(journal, 2)
    await journal.reader("historian")
    await compact_once(journal, max_pages=2)
    assert await trim(journal) == 0
    await journal.forget_reader("historian")
    assert await trim(journal) == 2


async def test_a_reader_that_comes_late_gets_every_page(journal: Journal) -> None:
    """Out of segments where the pages are deleted, from the table where not, as if it had always been there."""
    contents: list[Observations | Results] = []
    for number in range(8):
        contents.append(make_event(str(number)))
        contents.append(make_observations(streams=1, rows=3, start_ns=NOON_NS + number * 10**12))
    for content in contents:
        await (journal.append(content) if isinstance(content, Observations) else journal.append_results(content))
    await compact_once(journal, max_pages=5)
    await compact_once(journal, max_pages=6)
    assert await trim(journal) == 11
    reader = await journal.reader("late")
    async with asyncio.timeout(30):
        pages = [page async for page in until(reader, 16)]
    assert [page.seq for page in pages] == list(range(1, 17))
    for page, content in zip(pages, contents, strict=True):
        if isinstance(page.content, Observations) and isinstance(content, Observations):
            assert same(page.content, content)
        else:
            assert page.content == content


async def test_a_late_reader_whose_segment_is_gone_is_told(journal: Journal) -> None:
    """It never goes on behind a hole."""
    await fill(journal, 4)
    entry = await compact_once(journal, max_pages=2)
    assert entry is not None
    await trim(journal)
    entry.path.unlink()
    with pytest.raises(JournalError, match="cannot be read"):
        await anext(aiter((await journal.reader("late")).pages()))
    await journal.write(lambda database: database.writer.execute("DELETE FROM segment").close())
    with pytest.raises(JournalError, match="page 1 is in no segment"):
        await anext(aiter((await journal.reader("late")).pages()))


async def until(reader: JournalReader, seq: int) -> AsyncIterator[Page]:
    """Yield the pages of *reader* up to *seq*."""
    async for page in reader.pages():
        yield page
        if page.seq == seq:
            return


async def test_seqs_and_repeats_go_on_after_all_pages_are_deleted(journal: Journal, tmp_path: Path) -> None:
    """Also over a restart: no seq is used twice, a repeat is still known, the newest time too."""
    await fill(journal, 3)
    last = make_observations(rows=1, start_ns=NOON_NS + 2 * SECOND_NS)
    await compact_once(journal, max_pages=9)
    assert await trim(journal) == 3
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    assert again.last_seq == 3
    assert again.newest_source_time(last.streams[0]) == NOON_NS + 2 * SECOND_NS
    assert await again.append(last) is None
    await fill(again, 1)
    assert again.last_seq == 4
    await again.close()


async def test_a_file_without_a_record_is_removed(journal: Journal) -> None:
    """What a crash between writing and recording leaves; recorded files stay."""
    await fill(journal, 2)
    entry = await compact_once(journal, max_pages=1)
    assert entry is not None
    orphans = [entry.path.with_name(f"{journal.epoch}-000000000002-000000000002.wseg{end}") for end in ("", ".part")]
    for orphan in orphans:
        orphan.write_bytes(b"half")
    await remove_orphans(journal)
    assert list(entry.path.parent.iterdir()) == [entry.path]


async def test_a_recorded_range_never_changes(journal: Journal) -> None:
    """A segment that overlaps, or leaves a hole, is not recorded."""
    await fill(journal, 4)
    entry = await compact_once(journal, max_pages=2)
    assert entry is not None
    with pytest.raises(JournalError, match="does not follow page 2"):
        await journal.write(lambda database: database.segments.record(entry))
    assert ranges(await SegmentStore(journal).segments()) == [(1, 2)]


async def test_a_changed_or_missing_file_is_noticed(journal: Journal) -> None:
    await fill(journal, 1)
    entry = await compact_once(journal, max_pages=1)
    assert entry is not None
    entry.path.write_bytes(b"other")
    with pytest.raises(JournalError, match="not what was written"):
        await SegmentStore(journal).read(entry)
    entry.path.unlink()
    with pytest.raises(JournalError, match="cannot be read"):
        await SegmentStore(journal).read(entry)


async def test_delivered_segments_are_no_longer_pending(journal: Journal) -> None:
    """Only those wholly inside what the cloud holds; ranges that touch count as one."""
    await fill(journal, 6)
    while await compact_once(journal, max_pages=2):
        pass
    store = SegmentStore(journal)
    assert await store.mark_delivered([(1, 1), (2, 3)]) == 1
    assert ranges(await store.pending()) == [(3, 4), (5, 6)]
    assert (journal.counters.delivered, journal.counters.pending, journal.counters.segments_pending) == (6, 12, 2)
    assert await store.mark_delivered([(1, 2)]) == 0


async def test_a_cloud_that_lost_segments_gets_them_again(journal: Journal) -> None:
    await fill(journal, 6)
    while await compact_once(journal, max_pages=2):
        pass
    store = SegmentStore(journal)
    await store.mark_delivered([(1, 6)])
    assert await store.withdraw_outside([(3, 4)]) == 2
    assert ranges(await store.pending()) == [(1, 2), (5, 6)]
    assert await store.withdraw_outside([]) == 1


async def test_the_compactor_runs_until_the_close(journal: Journal) -> None:
    """Full segments at once, the rest after the interval; whoever waits for a segment is told."""
    compactor = asyncio.create_task(compact(journal, interval_s=0.01, max_pages=2))
    store = SegmentStore(journal)
    waiting = asyncio.create_task(store.wait_beyond(4))
    await fill(journal, 5)
    async with asyncio.timeout(30):
        assert await waiting
        assert sum(entry.observations for entry in await store.segments()) == 15
        last = asyncio.create_task(store.wait_beyond(5))
        await asyncio.sleep(0)
        await journal.close()
        await compactor
        assert not await last


async def test_a_close_while_a_segment_is_written_ends_the_compactor(journal: Journal, tmp_path: Path) -> None:
    """Quietly; the pages are compacted after the next start, and what was left of the file is gone."""
    await fill(journal, 3)
    compactor = asyncio.create_task(compact(journal, interval_s=0.001, max_pages=9))
    async with asyncio.timeout(30):
        while not list((tmp_path / "segments").glob("*")):  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0)
    await journal.close()
    await compactor
    again = await Journal.open(tmp_path, "gw-1")
    await remove_orphans(again)
    await compact_once(again, max_pages=9)
    assert ranges(await SegmentStore(again).segments()) == [(1, 3)]
    assert again.counters.pending == 9
    await again.close()


async def test_the_compactor_goes_on_after_a_fault(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written holds the pages back, not for ever."""
    monkeypatch.setattr("gateway.journal.segments._RETRY_S", 0.01)
    blocker = journal.state_dir / "segments"
    blocker.write_text("a file where the folder should be")
    compactor = asyncio.create_task(compact(journal, interval_s=0.01, max_pages=2))
    await fill(journal, 2)
    await asyncio.sleep(0.05)
    assert journal.counters.compacted_pages == 0
    blocker.unlink()
    async with asyncio.timeout(30):
        assert await SegmentStore(journal).wait_beyond(1)
    await journal.close()
    await compactor


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("compact"), st.integers(1, 3)),
        st.tuples(st.just("deliver"), st.integers(1, 12)),
        st.tuples(st.just("withdraw"), st.integers(1, 12)),
        st.tuples(st.just("trim"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(steps=steps)
async def test_stored_is_delivered_plus_pending_at_every_moment(steps: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order: nothing is lost from the account, and the tables say the same."""
    with tempfile.TemporaryDirectory() as folder:
        journal = await Journal.open(Path(folder), "gw-1")
        try:
            for step, number in steps:
                if step == "restart":
                    await journal.close()
                    journal = await Journal.open(Path(folder), "gw-1")
                else:
                    await take_step(journal, step, number)
                now = journal.counters
                assert now.appended == now.delivered + now.pending
                assert now == await journal.write(lambda database: database._count())
        finally:
            await journal.close()


async def take_step(journal: Journal, step: str, number: int) -> None:
    """Do one of the things that move observations on."""
    store = SegmentStore(journal)
    if step == "append":
        await fill(journal, number)
    elif step == "compact":
        await compact_once(journal, max_pages=number)
    elif step == "deliver":
        await store.mark_delivered([(number, number + 3)])
    elif step == "withdraw":
        await store.withdraw_outside([(1, number)])
    else:
        await trim(journal)


async def test_pages_go_in_lots_as_segments_are_written(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table does not grow for ever: from a certain number on, what is compacted and passed is deleted."""
    monkeypatch.setattr("gateway.journal.segments._TRIM_PAGES", 4)
    left = []
    for _ in range(6):
        await fill(journal, 1)
        await compact_once(journal, max_pages=9)
        left.append(len(await journal.read(lambda database: database.decoded_pages(0, limit=99, max_bytes=10**9))))
    assert left == [1, 2, 3, 0, 1, 2]
