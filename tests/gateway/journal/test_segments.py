"""Compaction moves pages into segments and loses none; the uplink's account of them always adds up."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import JournalError
from gateway.journal import Journal, JournalReader, SegmentEntry, SegmentStore, compact, compact_once
from gateway.journal.mending import mend
from models.records import Observations, Page, Results, from_ns
from models.segment import Expired, decode_segment, encode_segment, segment_digest
from tests.gateway.journal.chain import verify_chain
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations, same


async def fill(journal: Journal, pages: int) -> None:
    """Append *pages* pages of three observations."""
    for _ in range(pages):
        await journal.append(make_observations(rows=1, start_ns=NOON_NS + journal.last_seq * SECOND_NS))


async def trim(journal: Journal) -> int:
    """Delete the pages that may go."""
    return await journal.write(lambda database: database.trim())


def adds_up(journal: Journal) -> bool:
    """Return whether nothing that was stored is missing from the counters, and none is there twice."""
    now = journal.counters
    return now.appended == now.delivered + now.withheld + now.pending + sum(now.expired.values())


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


async def test_a_reader_gets_a_tombstone_of_what_is_gone(journal: Journal) -> None:
    """Of a segment whose file is gone, and of one that was purged: it goes on behind the hole, and knows of it."""
    await fill(journal, 6)
    store = SegmentStore(journal)
    for _ in range(3):
        await compact_once(journal, max_pages=2)
    await trim(journal)
    purged, lost, _ = await store.segments()
    await store.mark_delivered([(1, 2)])
    assert await journal.write(lambda database: database.segments.purge([purged], "size_limit")) == [purged]
    lost.path.unlink()
    pages = [page async for page in until(await journal.reader("late"), 6)]
    assert [page.seq for page in pages] == [2, 4, 5, 6]
    kinds = [page.content.events[0].kind for page in pages if isinstance(page.content, Results)]
    assert kinds == ["pages_purged", "segment_expired"]
    assert journal.counters.expired == {"damaged": 6}
    assert adds_up(journal)


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


async def test_a_file_without_a_record_is_removed(journal: Journal, tmp_path: Path) -> None:
    """What a crash between writing and recording leaves; recorded files stay."""
    await fill(journal, 2)
    entry = await compact_once(journal, max_pages=1)
    assert entry is not None
    orphans = [entry.path.with_name(f"{journal.epoch}-000000000002-000000000002.wseg{end}") for end in ("", ".part")]
    for orphan in orphans:
        orphan.write_bytes(b"half")
    await journal.close()
    await (await Journal.open(tmp_path, "gw-1")).close()
    assert list(entry.path.parent.iterdir()) == [entry.path]


async def test_a_file_of_another_epoch_is_set_aside(journal: Journal, tmp_path: Path) -> None:
    """It may be all that is left of what the cloud does not have."""
    await journal.close()
    other = tmp_path / "segments" / "00ff00ff00ff00ff-000000000001-000000000002.wseg"
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"of the journal that was here before")
    await (await Journal.open(tmp_path, "gw-1")).close()
    assert not other.exists()
    assert (tmp_path / "set-aside" / "00ff00ff00ff00ff" / "segments" / other.name).exists()


async def test_a_recorded_range_never_changes(journal: Journal) -> None:
    """A segment that overlaps, or leaves a hole, is not recorded."""
    await fill(journal, 4)
    entry = await compact_once(journal, max_pages=2)
    assert entry is not None
    with pytest.raises(JournalError, match="does not follow page 2"):
        await journal.write(lambda database: database.segments.record(replace(entry, digest="other")))
    await journal.write(lambda database: database.segments.record(entry))  # as when its commit is tried again
    assert ranges(await SegmentStore(journal).segments()) == [(1, 2)]


def change(path: Path) -> None:
    """Change a byte of the file's last third."""
    data = bytearray(path.read_bytes())
    data[-len(data) // 3] ^= 0x55
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    """Leave a file without content."""
    path.write_bytes(b"")


damages = pytest.mark.parametrize("damage", [change, Path.unlink, empty], ids=["change", "gone", "empty"])


@damages
async def test_a_damaged_segment_is_made_anew_from_its_pages(
    journal: Journal, damage: Callable[[Path], object]
) -> None:
    """While they are still in the table: in the very same bytes."""
    await fill(journal, 4)
    await compact_once(journal, max_pages=2)
    entry = await compact_once(journal, max_pages=2)
    assert entry is not None
    whole = entry.path.read_bytes()
    damage(entry.path)
    assert await SegmentStore(journal).read(entry) == whole
    assert entry.path.read_bytes() == whole
    assert verify_chain(await SegmentStore(journal).segments()) == []
    assert journal.counters.expired == {}


@damages
async def test_a_tombstone_takes_the_place_of_what_cannot_be_had_back(
    journal: Journal, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """It is to be uploaded like any other, what it stands for counts as expired, and the chain holds."""
    await fill(journal, 6)
    for _ in range(3):
        await compact_once(journal, max_pages=2)
    await trim(journal)
    store = SegmentStore(journal)
    entry = (await store.segments())[1]
    damage(entry.path)
    segment = decode_segment(await store.read(entry))
    assert (segment.kind, segment.first_seq, segment.last_seq) == ("tombstone", 3, 4)
    assert segment.expired == Expired(reason="damaged", observations=6)
    assert (segment.previous, segment.chain_digest) == (entry.previous, entry.digest)
    if damage is change:
        gaps = segment.results[0][1].gaps
        assert {gap.channel for gap in gaps} == {"channel_0", "channel_1", "channel_2"}
        assert {(gap.from_time, gap.to_time) for gap in gaps} == {
            (from_ns(NOON_NS + 2 * SECOND_NS), from_ns(NOON_NS + 3 * SECOND_NS))
        }
        assert (entry.path.parent / "damaged" / entry.path.name).exists()
    assert ranges(await store.pending()) == [(1, 2), (3, 4), (5, 6)]
    assert verify_chain(await store.segments()) == []
    assert (journal.counters.expired, journal.counters.pending) == ({"damaged": 6}, 12)
    assert adds_up(journal)
    await store.mark_delivered([(1, 6)])
    assert (journal.counters.delivered, journal.counters.pending) == (12, 0)
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    assert adds_up(again)
    assert again.counters.expired == {"damaged": 6}
    await again.close()


async def test_a_damaged_tombstone_is_made_again(journal: Journal) -> None:
    """And what it stands for is not counted a second time."""
    await fill(journal, 2)
    await compact_once(journal, max_pages=2)
    await trim(journal)
    store = SegmentStore(journal)
    for _ in range(2):
        entry = (await store.segments())[0]
        entry.path.unlink()
        segment = decode_segment(await store.read(entry))
        assert segment.expired == Expired(reason="damaged", observations=6)
        assert journal.counters.expired == {"damaged": 6}
        assert adds_up(journal)


async def test_a_damaged_segment_that_was_delivered_stays_delivered(journal: Journal) -> None:
    """Only local history has a hole; should the cloud lose it too, it is gone."""
    await fill(journal, 4)
    await compact_once(journal, max_pages=2)
    await compact_once(journal, max_pages=2)
    await trim(journal)
    store = SegmentStore(journal)
    entry = (await store.segments())[0]
    await store.set_cut(entry, b"all of channel_0", 2)
    await store.mark_delivered([(1, 2)])
    assert (journal.counters.delivered, journal.counters.withheld) == (4, 2)
    entry.path.unlink()
    assert decode_segment(await store.read(entry)).kind == "tombstone"
    assert (journal.counters.delivered, journal.counters.withheld, journal.counters.expired) == (4, 0, {"damaged": 2})
    assert adds_up(journal)
    await store.withdraw_outside([])
    assert (journal.counters.delivered, journal.counters.expired) == (0, {"damaged": 6})
    assert adds_up(journal)
    assert any("pages 1 to 2" in told for told in journal.warnings)


async def test_what_is_not_damaged_is_not_mended(journal: Journal) -> None:
    """The control: whoever was told of damage too late, or wrongly, changes nothing."""
    await fill(journal, 2)
    entry = await compact_once(journal, max_pages=2)
    await trim(journal)
    assert entry is not None
    before = await SegmentStore(journal).segments()
    await mend(journal, entry.first_seq)
    assert await SegmentStore(journal).segments() == before
    assert await mend(journal, 99) is None


async def test_a_segment_that_was_exchanged_breaks_the_chain(journal: Journal) -> None:
    """The chain tells of a file that fits its row, when both were exchanged."""
    await fill(journal, 6)
    for _ in range(3):
        await compact_once(journal, max_pages=2)
    store = SegmentStore(journal)
    second = (await store.segments())[1]
    pages = [
        Page(gateway_id="gw-1", epoch=journal.epoch, seq=n, committed_time=0, content=make_event("x")) for n in (3, 4)
    ]
    data = encode_segment(pages, previous=second.previous)
    second.path.write_bytes(data)
    await journal.write(
        lambda database: database.writer.execute(
            "UPDATE segment SET digest = ? WHERE first_seq = 3", (segment_digest(data),)
        ).close()
    )
    (problem,) = verify_chain(await store.segments())
    assert (problem.entry.first_seq, problem.problem) == (5, "does not follow the segment before it")


async def test_the_shelf_is_durable(journal: Journal, tmp_path: Path) -> None:
    """What the cloud refused waits on it over a restart, until it is offered again or held after all."""
    await fill(journal, 6)
    for _ in range(3):
        await compact_once(journal, max_pages=2)
    store = SegmentStore(journal)
    first, second, _ = await store.pending()
    assert await store.refuse(first, "conflict: page 1")
    assert await store.refuse(second, "chain")
    assert ranges(await store.pending(newest_first=True)) == [(5, 6)]
    assert (journal.counters.segments_pending, journal.counters.segments_refused) == (3, 2)
    await store.mark_delivered([(1, 2)])
    assert (journal.counters.segments_pending, journal.counters.segments_refused) == (2, 1)
    assert not await store.refuse(first, "late")
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    store = SegmentStore(again)
    assert again.counters.segments_refused == 1
    assert [entry.refused for entry in await store.segments()] == ["", "chain", ""]
    assert await store.offer_again() == 1
    assert ranges(await store.pending(newest_first=True)) == [(5, 6), (3, 4)]
    assert again.counters.segments_refused == 0
    await again.close()


async def test_a_cut_is_decided_once(journal: Journal) -> None:
    """Before the first send; what it leaves out counts as withheld once the rest is delivered."""
    await fill(journal, 4)
    await compact_once(journal, max_pages=2)
    await compact_once(journal, max_pages=2)
    store = SegmentStore(journal)
    first, second = await store.pending()
    await store.set_cut(first, b"raw", 4)
    await store.set_cut(first, b"raw", 4)
    assert (await store.segments())[0].cut == b"raw"
    assert (journal.counters.pending, journal.counters.withheld) == (12, 0)
    with pytest.raises(JournalError, match="cut otherwise"):
        await store.set_cut(first, b"other", 4)
    with pytest.raises(JournalError, match="not left out"):
        await store.set_cut(second, b"raw", 7)
    await store.mark_delivered([(1, 2)])
    assert (journal.counters.delivered, journal.counters.withheld, journal.counters.pending) == (2, 4, 6)
    with pytest.raises(JournalError, match="delivered"):
        await store.set_cut(first, b"raw", 4)
    assert adds_up(journal)


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
