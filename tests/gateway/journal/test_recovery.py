"""A journal whose file is damaged goes on with all that can still be read, and says exactly what cannot."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from gateway.journal import Journal, JournalError, SegmentStore, compact_once
from gateway.journal import recovery as salvaging
from models.records import Observations
from tests.gateway.journal.damage import execute
from tests.gateway.journal.test_journal import take
from tests.gateway.journal.test_settling import adds_up
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations

PAGES, IN_SEGMENTS, STREAMS = 40, 10, 300


async def journal_of(folder: Path) -> str:
    """Make a journal of segments, pages that are in none, a reader with a state, and a hole; return its epoch."""
    journal = await Journal.open(folder, "gw-1")
    monitor = await journal.reader("monitor")
    for number in range(PAGES):
        await journal.append(make_observations(streams=STREAMS, rows=1, start_ns=NOON_NS + number * SECOND_NS))
    await compact_once(journal, max_pages=IN_SEGMENTS)
    await monitor.commit(20, results=make_event("20"), state=b"windows")
    await journal.write(lambda database: database.trim())
    epoch = journal.epoch
    await journal.close()
    return epoch


def root_page(folder: Path, table: str) -> int:
    """Return where the tree of *table* begins in the file, in bytes."""
    connection = sqlite3.connect(folder / "journal.sqlite")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    connection.close()
    return (int(page) - 1) * 4096


def overwrite(folder: Path, place: int, data: bytes) -> None:
    """Write *data* over the journal's file."""
    with (folder / "journal.sqlite").open("r+b") as file:
        file.seek(place)
        file.write(data)


async def counted(folder: Path, epoch: str) -> tuple[int, int]:
    """Open the journal, read all of it, and return how many rows are there and how many are said to be lost."""
    journal = await Journal.open(folder, "gw-1")
    assert (journal.epoch, journal.last_seq) == (epoch, PAGES + 1)
    pages = await take(await journal.reader("all"), PAGES + 1)
    assert [page.seq for page in pages] == list(range(1, PAGES + 2))
    rows = sum(len(page.content) for page in pages if isinstance(page.content, Observations))
    assert adds_up(journal)
    assert journal.counters.appended == PAGES * STREAMS
    lost = sum(journal.counters.expired.values())
    assert await journal.append(make_observations(start_ns=NOON_NS + 10**13)) == PAGES + 2
    await journal.close()
    return rows, lost


@pytest.mark.parametrize("table", ["page", "page_count", "journal", "position", "segment", "newest", "hole", "expired"])
async def test_a_table_whose_root_is_damaged_costs_what_was_in_it_alone(tmp_path: Path, table: str) -> None:
    """Identity and numbering stay; what is lost is counted; the damaged file is kept aside."""
    epoch = await journal_of(tmp_path)
    overwrite(tmp_path, root_page(tmp_path, table), b"\xff" * 4096)
    rows, lost = await counted(tmp_path, epoch)
    assert rows + lost == PAGES * STREAMS
    assert bool(lost) == (table == "page")
    if table != "expired":  # read only when something has expired
        assert (tmp_path / "journal.damaged-1" / "journal.sqlite").exists()
    journal = await Journal.open(tmp_path, "gw-1")
    monitor = await journal.reader("monitor")
    assert monitor.position == 20
    assert monitor.state == (None if table == "position" else b"windows")
    assert len(await SegmentStore(journal).segments()) == 1
    await journal.close()


async def test_damage_in_the_middle_costs_the_pages_it_hits(tmp_path: Path) -> None:
    """Everything beside them is carried over."""
    epoch = await journal_of(tmp_path)
    size = (tmp_path / "journal.sqlite").stat().st_size
    overwrite(tmp_path, size // 2 // 4096 * 4096, b"\xff" * 8192)
    rows, lost = await counted(tmp_path, epoch)
    assert rows + lost == PAGES * STREAMS
    assert 0 < lost <= 8 * STREAMS


@pytest.mark.parametrize("seed", range(12))
async def test_any_flip_or_truncation_is_survived(tmp_path: Path, seed: int) -> None:
    """No byte of the file can stop the gateway, or make a number wrong."""
    chance = random.Random(seed)
    epoch = await journal_of(tmp_path)
    size = (tmp_path / "journal.sqlite").stat().st_size
    if seed % 4 == 0:
        with (tmp_path / "journal.sqlite").open("r+b") as file:
            file.truncate(chance.randrange(size))
    else:
        for _ in range(3):
            overwrite(tmp_path, chance.randrange(size), bytes([chance.randrange(256)]))
    rows, lost = await counted(tmp_path, epoch)
    assert rows + lost == PAGES * STREAMS


@pytest.mark.parametrize("what", ["gone", "empty", "a folder", "not a database", "a damaged head"])
async def test_a_file_that_is_not_the_journal_any_more(tmp_path: Path, what: str) -> None:
    """What is in segments stays, seqs are not used again, and whatever lies there is put aside."""
    epoch = await journal_of(tmp_path)
    path = tmp_path / "journal.sqlite"
    if what == "a damaged head":
        overwrite(tmp_path, 0, bytes(16))
    else:
        path.unlink()
    if what == "empty":
        path.touch()
    if what == "a folder":
        path.mkdir()
        (path / "kept").touch()
    if what == "not a database":
        path.write_bytes(b"not a database" * 100)
    rows, lost = await counted(tmp_path, epoch)
    assert rows + lost == PAGES * STREAMS
    assert rows == STREAMS * (PAGES if what == "a damaged head" else IN_SEGMENTS)
    if what == "a folder":
        assert (tmp_path / "journal.damaged-1" / "journal.sqlite" / "kept").exists()


async def test_damage_that_is_met_later_is_salvaged_while_running(tmp_path: Path) -> None:
    """Whoever meets it only waits for that."""
    await journal_of(tmp_path)
    place = root_page(tmp_path, "page")
    journal = await Journal.open(tmp_path, "gw-1")
    journal._checking.cancel()  # it would have the pages in memory
    overwrite(tmp_path, place, b"\xff" * 4096)
    assert len(await take(await journal.reader("all"), PAGES + 1)) == PAGES + 1
    assert "put aside as journal.damaged-1" in journal.warnings[0]
    assert adds_up(journal)
    assert await journal.append(make_observations(start_ns=NOON_NS + 10**13)) == PAGES + 2
    await journal.close()


async def test_a_salvage_that_dies_is_finished_or_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of its files had been moved by then."""
    epoch = await journal_of(tmp_path)
    overwrite(tmp_path, root_page(tmp_path, "journal"), b"\xff" * 4096)

    def dies(*_: Path) -> None:
        raise OSError("died")

    for attempt in range(3):
        with monkeypatch.context() as dying:
            dying.setattr(salvaging, "_sync", dies)
            if attempt == 0:
                dying.setattr(salvaging, "_swap", dies)
            with pytest.raises(JournalError, match="died"):
                await Journal.open(tmp_path, "gw-1")
    rows, lost = await counted(tmp_path, epoch)
    assert (rows, lost) == (PAGES * STREAMS, 0)
    assert not [path for path in tmp_path.iterdir() if "salvag" in path.name]  # noqa: ASYNC240 - a handful


@pytest.mark.parametrize("damage", ["state = x'77696e646f7773ff'", "seq = 7"], ids=["state", "position"])
async def test_a_damaged_reader_remembers_nothing_rather_than_something_else(tmp_path: Path, damage: str) -> None:
    """It goes on where it was, which is told; the control is the reader beside it, which is whole."""
    journal = await Journal.open(tmp_path, "gw-1")
    for number in range(8):
        await journal.append(make_observations(start_ns=NOON_NS + number * SECOND_NS))
    for name in ("monitor", "historian"):
        reader = await journal.reader(name)
        await reader.commit(5, state=b"windows")
        await reader.commit(6)
    await journal.close()
    execute(tmp_path, f"UPDATE position SET {damage} WHERE reader = 'monitor'")  # noqa: S608 - our own words
    again = await Journal.open(tmp_path, "gw-1")
    monitor, historian = await again.reader("monitor"), await again.reader("historian")
    assert (monitor.position, monitor.state) == (6, None)
    assert (historian.position, historian.state) == (6, b"windows")
    assert sum("of reader monitor is damaged" in warning for warning in again.warnings) == 1
    await again.close()


@pytest.mark.parametrize("name", ["journal.sqlite-wal", "journal.sqlite-shm"])
async def test_what_lies_beside_the_journal_and_is_no_file_is_put_aside(tmp_path: Path, name: str) -> None:
    """Nothing of the journal is lost by it; of journals that were put aside earlier the newest stay."""
    epoch = await journal_of(tmp_path)
    for number in range(1, 8):
        (tmp_path / f"journal.damaged-{number}").mkdir()
        (tmp_path / f"journal.damaged-{number}" / "journal.sqlite").touch()
    (tmp_path / name).mkdir()
    assert await counted(tmp_path, epoch) == (PAGES * STREAMS, 0)
    assert (tmp_path / "journal.damaged-8" / name).is_dir()
    aside = [n for n in range(1, 10) if (tmp_path / f"journal.damaged-{n}").exists()]
    assert aside == [5, 6, 7, 8]


async def test_a_lock_that_cannot_be_taken_is_told(tmp_path: Path) -> None:
    """With the file that is in the way."""
    (tmp_path / "journal.lock").mkdir()
    with pytest.raises(JournalError, match=r"journal\.lock: cannot be opened"):
        await Journal.open(tmp_path, "gw-1")
