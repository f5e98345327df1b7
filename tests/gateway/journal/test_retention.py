"""The limits are kept: what goes first, what never goes, and that every observation is still accounted for."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gateway.config import JournalConfig
from gateway.journal import Journal, SegmentEntry, SegmentStore, compact_once, retention
from gateway.journal.retention import enforce, usage
from models.records import Observations, Stream, from_ns
from models.segment import Expired, decode_segment
from tests.gateway.journal.chain import verify_chain
from tests.strategies import NOON_NS, SECOND_NS, make_observations, make_results

MIB = 2**20
ROWS = 20_000  # of noise: 160 KiB, whatever compresses it
STREAMS = (Stream("pump-01", "noise"), Stream("pump-02", "noise"))
UNLIMITED = JournalConfig(min_free_mib=0)


class DiskUsage(NamedTuple):
    """What `shutil.disk_usage` returns."""

    total: int
    used: int
    free: int


async def fill(journal: Journal, segments: int, *, compacted: bool = True) -> None:
    """Store so many segments of one page of noise, and forget the pages."""
    chance = np.random.default_rng(journal.last_seq)
    for _ in range(segments):
        start = NOON_NS + journal.last_seq * ROWS * SECOND_NS
        times = start + np.arange(ROWS, dtype=np.int64) * SECOND_NS
        stream = np.full(ROWS, journal.last_seq % 2, np.uint32)
        await journal.append(
            Observations.of_values(STREAMS, stream, times, chance.random(ROWS), np.zeros(ROWS, np.uint32))
        )
        if compacted:
            await compact_once(journal, max_pages=1)
    if compacted:
        await journal.write(lambda database: database.trim())


@pytest.fixture
def full_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the write-ahead log as it is, as when somebody reads in it all the time: it counts."""
    monkeypatch.setattr(retention, "_LOG_FROM", 2**40)


def ranges(entries: list[SegmentEntry]) -> list[tuple[int, int]]:
    """Return the range of each entry."""
    return [(entry.first_seq, entry.last_seq) for entry in entries]


async def check(journal: Journal, folder: Path) -> Journal:
    """Fail unless everything adds up, also after a restart, and files and rows are the same; return it opened anew."""
    counters = journal.counters
    assert counters.appended == counters.delivered + counters.withheld + counters.pending + sum(
        counters.expired.values()
    )
    await journal.close()
    again = await Journal.open(folder, "gw-1")
    assert again.counters == counters
    entries = await SegmentStore(again).segments()
    assert verify_chain(entries) == []
    assert {path.name for path in (folder / "segments").glob("*.wseg*")} == {entry.path.name for entry in entries}
    return again


async def test_without_limits_nothing_goes(journal: Journal) -> None:
    """The control of all that follows."""
    await fill(journal, 8)
    await SegmentStore(journal).mark_delivered([(1, 8)])
    await enforce(journal, UNLIMITED)
    assert len(await SegmentStore(journal).segments()) == 8
    assert journal.crowded == ""


@pytest.mark.usefixtures("full_log")
async def test_what_the_cloud_has_goes_first(journal: Journal, tmp_path: Path) -> None:
    """The oldest first, as many as must; what it has not stays, however old."""
    await fill(journal, 60)
    store = SegmentStore(journal)
    await store.mark_delivered([(11, 60)])
    size = (await usage(journal)).size
    await enforce(journal, JournalConfig(max_size_mib=size // MIB - 2, min_free_mib=0))
    assert (size // MIB - 3) * MIB < (await usage(journal)).size <= (size // MIB - 2) * MIB
    left = ranges(await store.segments())
    gone = 60 - len(left)
    assert gone > 10
    assert left == [(n, n) for n in (*range(1, 11), *range(11 + gone, 61))]
    assert journal.counters.expired == {}
    assert (journal.counters.delivered, journal.counters.pending) == (50 * ROWS, 10 * ROWS)
    assert journal.crowded == ""
    again = await check(journal, tmp_path)
    await fill(again, 1)
    assert verify_chain(await SegmentStore(again).segments()) == []
    await again.close()


async def test_what_was_not_sent_stays_and_is_told(journal: Journal) -> None:
    """Unless the configuration says so; the newest segment stays even when the cloud has it."""
    await fill(journal, 10)
    await SegmentStore(journal).mark_delivered([(8, 10)])
    await enforce(journal, JournalConfig(max_size_mib=1, min_free_mib=0))
    assert ranges(await SegmentStore(journal).segments()) == [(n, n) for n in (*range(1, 8), 10)]
    assert "nothing of it may be purged" in journal.crowded
    assert journal.crowded in journal.warnings
    await enforce(journal, UNLIMITED)
    assert journal.crowded == ""


@pytest.mark.usefixtures("full_log")
async def test_a_tombstone_tells_what_was_purged_unsent(journal: Journal, tmp_path: Path) -> None:
    """One for all that follow each other, exact, uploaded like any other; nothing of it is counted twice."""
    await fill(journal, 40)
    store = SegmentStore(journal)
    await store.mark_delivered([(1, 2)])
    size = (await usage(journal)).size
    config = JournalConfig(max_size_mib=size // MIB - 2, min_free_mib=0, purge_unsent=True)
    await enforce(journal, config)
    entries = await store.pending(100)
    tombstone = entries[0]
    gone = tombstone.last_seq - 2
    assert ranges(await store.segments()) == [(3, 2 + gone), *((n, n) for n in range(3 + gone, 41))]
    assert journal.counters.expired == {"size_limit": gone * ROWS}
    segment = decode_segment(await store.read(tombstone))
    assert segment.expired == Expired(reason="size_limit", observations=gone * ROWS)
    gaps = {gap.asset_id: gap for gap in segment.results[0][1].gaps}
    assert gaps["pump-01"].from_time == from_ns(NOON_NS + 2 * ROWS * SECOND_NS)
    assert gaps["pump-02"].from_time == from_ns(NOON_NS + 3 * ROWS * SECOND_NS)
    assert {gap.cause for gap in gaps.values()} == {"size_limit"}

    await enforce(journal, JournalConfig(max_size_mib=size // MIB - 4, min_free_mib=0, purge_unsent=True))
    grown = (await store.pending(1))[0]
    assert grown.first_seq == 3
    assert grown.last_seq > tombstone.last_seq
    assert journal.counters.expired == {"size_limit": (grown.last_seq - 2) * ROWS}
    assert decode_segment(await store.read(grown)).results[0][1].gaps[0].from_time == gaps["pump-01"].from_time
    await store.mark_delivered([(3, 40)])
    assert journal.counters.delivered == (42 - grown.last_seq) * ROWS
    await (await check(journal, tmp_path)).close()


async def test_a_damaged_tombstone_still_tells_why(journal: Journal, tmp_path: Path) -> None:
    """What was purged for a limit stays purged for it; only from when to when cannot be told any more."""
    await fill(journal, 20)
    await enforce(journal, JournalConfig(max_size_mib=1, min_free_mib=0, purge_unsent=True))
    store, counters = SegmentStore(journal), journal.counters
    tombstone = (await store.segments())[0]
    tombstone.path.write_bytes(b"damaged")
    segment = decode_segment(await store.read(tombstone))
    assert segment.expired == Expired(reason="size_limit", observations=counters.expired["size_limit"])
    detail = segment.results[0][1].events[0].detail
    assert (detail["reason"], detail["gaps"]) == ("size_limit", "lost")
    assert journal.counters == counters
    await (await check(journal, tmp_path)).close()


@pytest.mark.usefixtures("full_log")
async def test_what_a_policy_kept_here_is_counted_when_it_goes(journal: Journal, tmp_path: Path) -> None:
    await fill(journal, 3)
    store = SegmentStore(journal)
    await store.set_cut((await store.pending())[0], b"policy", 1234)
    await store.mark_delivered([(1, 3)])
    assert journal.counters.withheld == 1234
    await enforce(journal, JournalConfig(max_size_mib=1, min_free_mib=0))
    assert ranges(await store.segments()) == [(3, 3)]
    assert (journal.counters.withheld, journal.counters.expired) == (0, {"size_limit": 1234})
    assert journal.counters.delivered == 3 * ROWS - 1234
    await (await check(journal, tmp_path)).close()


async def test_copies_go_before_segments(journal: Journal) -> None:
    """Pages that a reader has not done are in the segments too: it has them from there, every one."""
    reader = await journal.reader("slow")
    await fill(journal, 30)
    await SegmentStore(journal).mark_delivered([(1, 30)])
    size = (await usage(journal)).size
    await enforce(journal, JournalConfig(max_size_mib=size // MIB - 3, min_free_mib=0))
    assert len(await SegmentStore(journal).segments()) == 30
    seen = []
    async for page in reader.pages():
        seen.append((page.seq, len(page.content) if isinstance(page.content, Observations) else 0))
        if page.seq == 30:
            break
    assert seen == [(n, ROWS) for n in range(1, 31)]


@pytest.mark.usefixtures("full_log")
async def test_what_a_reader_has_not_seen_goes_after_the_rest(journal: Journal) -> None:
    """And when it must go, the reader goes on behind it."""
    reader = await journal.reader("slow")
    await fill(journal, 12)
    await reader.commit(6)
    store = SegmentStore(journal)
    await store.mark_delivered([(5, 12)])
    oldest = await journal.read(lambda database: retention._select(database, where=retention._PASSED))
    assert ranges(oldest) == [(5, 5), (6, 6)]
    await enforce(journal, JournalConfig(max_age_days=1e-9, min_free_mib=0))
    assert ranges(await store.segments()) == [(n, n) for n in (*range(1, 5), *range(7, 13))]
    await enforce(journal, JournalConfig(max_size_mib=1, min_free_mib=0))
    assert ranges(await store.segments()) == [(n, n) for n in (*range(1, 5), 12)]
    async for page in reader.pages():
        if page.seq == 12:
            break
        assert page.seq == 11
        assert not isinstance(page.content, Observations)
        assert page.content.events[0].detail == {"first_seq": "7", "last_seq": "11"}


async def test_age_is_time_of_running(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set a year ahead purges nothing; having run for long does."""
    await fill(journal, 4)
    await SegmentStore(journal).mark_delivered([(1, 4)])
    config = JournalConfig(max_age_days=30, min_free_mib=0)
    year_ns = 365 * 86_400 * SECOND_NS
    monkeypatch.setattr("time.time_ns", lambda: NOON_NS + year_ns)
    monkeypatch.setattr("time.time", lambda: (NOON_NS + year_ns) / 1e9)
    await enforce(journal, config)
    assert len(await SegmentStore(journal).segments()) == 4
    await journal.write(
        lambda database: database.writer.execute("UPDATE journal SET age_s = age_s + ?", (31 * 86_400,)).close()
    )
    again = await check(journal, tmp_path)
    await enforce(again, config)
    assert ranges(await SegmentStore(again).segments()) == [(4, 4)]
    await again.close()


async def test_the_age_is_kept_over_restarts(journal: Journal, tmp_path: Path) -> None:
    await journal.write(lambda database: database.writer.execute("UPDATE journal SET age_s = 1000").close())
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    await fill(again, 1)
    assert (await SegmentStore(again).segments())[0].closed_age_s >= 1000
    assert await again.read(lambda database: database.reader.execute("SELECT age_s FROM journal").fetchone()[0]) >= 1000
    await again.close()


async def test_a_large_log_goes_before_any_data(journal: Journal, tmp_path: Path) -> None:
    """The write-ahead log is emptied when there is too much, and no segment has to go for it."""
    await fill(journal, 8)
    await SegmentStore(journal).mark_delivered([(1, 8)])
    await journal.append(make_observations(streams=50, rows=5_000, start_ns=NOON_NS))
    limit = JournalConfig(max_size_mib=(await usage(journal)).size // MIB - 1, min_free_mib=0)
    assert (tmp_path / "journal.sqlite-wal").stat().st_size > 2 * MIB
    await enforce(journal, limit)
    assert len(await SegmentStore(journal).segments()) == 8
    assert (tmp_path / "journal.sqlite-wal").stat().st_size == 0


async def test_values_wait_before_the_last_byte_is_taken(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is delivered and purged can still be noted; results and positions are stored all the while."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(80 * MIB, 0, 9 * MIB))
    appending = asyncio.create_task(journal.append(make_observations(streams=50, rows=5_000)))
    while not journal.trouble:  # noqa: ASYNC110 - it is a text, not an event
        await asyncio.sleep(0.01)
    assert "values wait at their servers" in journal.trouble
    assert await journal.append_results(make_results()) == 1
    assert not appending.done()
    assert journal.trouble
    monkeypatch.undo()
    assert await appending == 2
    assert journal.trouble == ""


@pytest.mark.usefixtures("full_log")
@pytest.mark.parametrize("free_mib", [100, 1], ids=["little", "hardly-any"])
async def test_room_is_left_on_the_disk(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int
) -> None:
    """Also when there is hardly room to write down what is deleted: then the files go first."""
    await fill(journal, 20)
    store = SegmentStore(journal)
    await store.mark_delivered([(1, 20)])
    before = folder_bytes(tmp_path)

    def disk_usage(_: Path) -> DiskUsage:
        return DiskUsage(8 * MIB, 0, free_mib * MIB + before - folder_bytes(tmp_path))

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    await enforce(journal, JournalConfig(min_free_mib=free_mib + 1))
    left = await store.segments()
    assert 10 < len(left) < 16
    assert left[-1].last_seq == 20
    monkeypatch.undo()
    await (await check(journal, tmp_path)).close()


def folder_bytes(folder: Path) -> int:
    """Return what the files in *folder* take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def test_the_database_shrinks_again(journal: Journal, tmp_path: Path) -> None:
    """After a reader was far behind, the disk has its room back; the file is not as large as it ever was."""
    reader = await journal.reader("slow")
    await fill(journal, 60)
    await journal.write(lambda database: database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    large = (tmp_path / "journal.sqlite").stat().st_size
    await reader.commit(60)
    await journal.write(lambda database: database.trim())
    await enforce(journal, UNLIMITED)
    await journal.close()
    assert (tmp_path / "journal.sqlite").stat().st_size < large / 2


@pytest.mark.usefixtures("full_log")
async def test_a_crash_before_the_files_go_leaves_orphans_that_go_later(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(journal, 4)
    await SegmentStore(journal).mark_delivered([(1, 4)])
    monkeypatch.setattr(retention, "_unlink", lambda _: None)
    await enforce(journal, JournalConfig(max_size_mib=1, min_free_mib=0))
    assert len(list((tmp_path / "segments").iterdir())) == 4
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    assert [path.name[-17:] for path in (tmp_path / "segments").iterdir()] == ["000000000004.wseg"]
    await again.close()
