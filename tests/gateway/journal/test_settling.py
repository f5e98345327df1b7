"""Whatever is missing of a journal when it is opened is filled in, counted to the observation, and told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.journal import Journal, JournalMismatch, SegmentStore, compact_once
from models.records import Observations, Page
from tests.gateway.journal.test_journal import change, take
from tests.gateway.journal.test_quarantine import journal_of, kinds
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations

PAGES = 6


async def reopened(folder: Path) -> tuple[Journal, list[Page]]:
    """Return the journal in *folder* and its pages, which must be *PAGES* or more."""
    journal = await Journal.open(folder, "gw-1")
    return journal, await take(await journal.reader("monitor"), journal.last_seq)


def adds_up(journal: Journal) -> bool:
    """Return whether nothing that was ever stored is unaccounted for."""
    now = journal.counters
    return now.appended == now.delivered + now.withheld + now.pending + sum(now.expired.values())


async def test_commits_that_vanish_are_noticed(tmp_path: Path) -> None:
    """SQLite drops the tail of a damaged log without a word; their seqs are not used again, and all is counted."""
    journal = await Journal.open(tmp_path, "gw-1")
    for number in range(PAGES):
        await journal.append(make_observations(rows=1, start_ns=NOON_NS + number * SECOND_NS))
        if number == 2:
            await journal.write(lambda database: database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").close())
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in ("journal.sqlite", "journal.last"):
        shutil.copy(tmp_path / name, saved / name)
    await journal.close()

    journal, pages = await reopened(saved)
    assert kinds(pages) == ["rows"] * 3 + ["page_quarantined"] * 3
    assert (journal.counters.appended, journal.counters.expired) == (18, {"damaged": 9})
    assert await journal.append(make_observations(rows=1, start_ns=NOON_NS + 99 * SECOND_NS)) == PAGES + 1
    assert "pages from 4 to 6" in journal.warnings[0]
    assert adds_up(journal)
    await journal.close()

    (saved / "journal.last").unlink()
    change(saved, "DELETE FROM page WHERE seq = 7")
    change(saved, "UPDATE journal SET appended = appended - 3")
    journal = await Journal.open(saved, "gw-1")
    assert journal.last_seq == PAGES  # the control: without the witness the seq is used again
    await journal.close()


async def test_a_restored_backup_goes_on_behind_what_was_committed(tmp_path: Path) -> None:
    """Segments that were written since are taken over as they are, so that the chain in the cloud goes on."""
    journal = await Journal.open(tmp_path, "gw-1")
    await journal.append(make_observations(rows=1))
    await journal.write(lambda database: database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").close())
    shutil.copy(tmp_path / "journal.sqlite", tmp_path / "backup")
    for number in range(1, PAGES):
        await journal.append(make_observations(rows=1, start_ns=NOON_NS + number * SECOND_NS))
    entry = await compact_once(journal, max_pages=4)
    await journal.close()
    (tmp_path / "backup").replace(tmp_path / "journal.sqlite")

    journal = await Journal.open(tmp_path, "gw-1")
    (again,) = await SegmentStore(journal).segments()
    assert entry is not None
    assert (again.first_seq, again.last_seq, again.digest) == (1, 4, entry.digest)
    assert journal.last_seq == PAGES
    assert (journal.counters.appended, journal.counters.pending, journal.counters.expired) == (18, 12, {"damaged": 6})
    newest = make_observations(rows=1).streams[0]
    assert journal.newest_source_time(newest) == NOON_NS + 3 * SECOND_NS
    await journal.close()


@pytest.mark.parametrize(
    ("damage", "expired", "told"),
    [
        ("DELETE FROM page WHERE seq = 2", {"damaged": 3}, "1 pages from 2 to 2"),
        ("UPDATE journal SET appended = appended + 1024", {}, "as it was at the last commit"),
        ("UPDATE page SET observations = 7 WHERE seq = 2", {}, "recounted"),
    ],
    ids=["a page is gone", "a total is wrong", "a count is wrong"],
)
async def test_what_does_not_add_up_is_counted_again(
    tmp_path: Path, damage: str, expired: dict[str, int], told: str
) -> None:
    """The gateway starts, exact where that can be known, and says what it found."""
    await journal_of(tmp_path, PAGES)
    change(tmp_path, damage)
    journal, pages = await reopened(tmp_path)
    assert len(pages) == PAGES
    assert (journal.counters.appended, journal.counters.expired) == (18, expired)
    assert adds_up(journal)
    assert told in journal.warnings[0]
    await journal.close()


async def test_a_segment_row_that_is_lost_is_made_from_its_file(tmp_path: Path) -> None:
    """Also when it is between others; without the file nothing can explain the hole, and the way out is told."""
    await journal_of(tmp_path, PAGES)
    journal = await Journal.open(tmp_path, "gw-1")
    for _ in range(3):
        await compact_once(journal, max_pages=2)
    await journal.write(lambda database: database.trim())
    entries = await SegmentStore(journal).segments()
    await journal.close()
    change(tmp_path, "DELETE FROM segment WHERE first_seq = 3")
    journal = await Journal.open(tmp_path, "gw-1")
    assert [entry.digest for entry in await SegmentStore(journal).segments()] == [entry.digest for entry in entries]
    assert journal.counters.pending == 18
    await journal.close()

    change(tmp_path, "DELETE FROM segment WHERE first_seq = 3")
    entries[1].path.unlink()
    with pytest.raises(JournalMismatch, match="run `wearsight-gateway journal repair`"):
        await Journal.open(tmp_path, "gw-1")


async def test_damaged_newest_rows_are_found_again(tmp_path: Path) -> None:
    """A repeat is still known, from the segments and pages that there are."""
    await journal_of(tmp_path, PAGES)
    journal = await Journal.open(tmp_path, "gw-1")
    await compact_once(journal, max_pages=PAGES)
    await journal.write(lambda database: database.trim())
    await journal.close()
    damaged = "CAST(substr(snapshot, 1, 40) || x'01' || substr(snapshot, 42) AS BLOB)"
    change(tmp_path, f"UPDATE newest SET snapshot = {damaged}")  # noqa: S608 - a test's own
    journal = await Journal.open(tmp_path, "gw-1")
    repeated = make_observations(rows=1, start_ns=NOON_NS + (PAGES - 1) * SECOND_NS)
    assert isinstance(repeated, Observations)
    assert await journal.append(repeated) is None
    assert "newest rows" in journal.warnings[0]
    await journal.close()


async def test_a_segment_of_results_alone_is_taken_over_too(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path, "gw-1")
    await journal.append_results(make_event("alone"))
    await compact_once(journal, max_pages=1)
    await journal.close()
    change(tmp_path, "DELETE FROM segment")
    change(tmp_path, "DELETE FROM page")
    journal = await Journal.open(tmp_path, "gw-1")
    assert (journal.last_seq, len(await SegmentStore(journal).segments())) == (1, 1)
    await journal.close()
