"""A page that is not what was written is put aside, counted and told, and everything goes on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gateway.journal import Journal, compact_once
from models.records import Observations, Page, Results
from tests.gateway.journal.test_journal import take
from tests.strategies import NOON_NS, SECOND_NS, make_observations


async def journal_of(folder: Path, pages: int) -> None:
    """Make a journal of so many pages, three observations each."""
    journal = await Journal.open(folder, "gw-1")
    for number in range(pages):
        await journal.append(make_observations(rows=1, start_ns=NOON_NS + number * SECOND_NS))
    await journal.close()


def flip(folder: Path, seq: int, also: str = "") -> None:
    """Change the last byte of a page's payload: its last row becomes one of the first stream."""
    connection = sqlite3.connect(folder / "journal.sqlite")
    (payload,) = connection.execute("SELECT payload FROM page WHERE seq = ?", (seq,)).fetchone()
    changed = payload[:-1] + bytes(1)
    connection.execute(f"UPDATE page SET payload = ? {also} WHERE seq = ?", (changed, seq))  # noqa: S608 - a test's own
    connection.commit()
    connection.close()


def kinds(pages: list[Page]) -> list[str]:
    """Return of each page whether it holds rows, or the kind of its event."""
    return ["rows" if isinstance(page.content, Observations) else page.content.events[0].kind for page in pages]


async def test_readers_go_on_over_a_damaged_page(tmp_path: Path) -> None:
    """A tombstone has its seq, and its observations are counted as damaged, here and after a restart."""
    await journal_of(tmp_path, 3)
    flip(tmp_path, 2)
    for _ in range(2):
        journal = await Journal.open(tmp_path, "gw-1")
        pages = await take(await journal.reader("monitor"), 3)
        assert kinds(pages) == ["rows", "page_quarantined", "rows"]
        stone = pages[1].content
        assert isinstance(stone, Results)
        assert stone.events[0].detail == {"seq": "2", "observations": "3", "reason": "its checksum differs"}
        assert await journal.wait_until(lambda now: now.quarantined_pages == 1)
        counters = journal.counters
        assert (counters.appended, counters.pending, counters.expired) == (9, 6, {"damaged": 3})
        await journal.close()


async def test_without_its_checksum_the_damage_would_pass(tmp_path: Path) -> None:
    """The control: the same flip in a page that has none is read as if nothing were."""
    await journal_of(tmp_path, 3)
    flip(tmp_path, 2, also=", checksum = NULL")
    journal = await Journal.open(tmp_path, "gw-1")
    assert kinds(await take(await journal.reader("monitor"), 3)) == ["rows"] * 3
    await journal.close()


async def test_damage_is_found_before_somebody_reads(tmp_path: Path) -> None:
    """Every page is looked at after the start, and what is found is told."""
    await journal_of(tmp_path, 3)
    flip(tmp_path, 2)
    journal = await Journal.open(tmp_path, "gw-1")
    assert await journal.wait_until(lambda counters: counters.quarantined_pages == 1)
    assert "page 2 is damaged" in journal.warnings[0]
    await journal.close()


async def test_compaction_takes_the_tombstone(tmp_path: Path) -> None:
    """The segment has no hole, and all that is pending is in it."""
    await journal_of(tmp_path, 3)
    flip(tmp_path, 2)
    journal = await Journal.open(tmp_path, "gw-1")
    entry = await compact_once(journal, max_pages=10)
    assert entry is not None
    assert (entry.first_seq, entry.last_seq, entry.observations) == (1, 3, 6)
    assert journal.counters.pending == 6
    await journal.close()
    await (await Journal.open(tmp_path, "gw-1")).close()


async def test_a_page_that_is_in_a_segment_too_is_read_from_there(tmp_path: Path) -> None:
    """Nothing is lost and nothing counted."""
    await journal_of(tmp_path, 2)
    journal = await Journal.open(tmp_path, "gw-1")
    slow = await journal.reader("slow")
    await compact_once(journal, max_pages=10)
    await journal.close()
    flip(tmp_path, 2)
    journal = await Journal.open(tmp_path, "gw-1")
    slow = await journal.reader("slow")
    assert kinds(await take(slow, 2)) == ["rows", "rows"]
    assert (journal.counters.pending, journal.counters.expired) == (6, {})
    assert journal.counters.quarantined_pages == 1
    await journal.close()
