"""Looking at a journal changes nothing, and sees what a running gateway has committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import JournalError
from gateway.journal import Journal, JournalMismatch, SegmentStore, compact_once
from gateway.journal_commands.reading import Lost, Stretch, read_pages
from gateway.journal_commands.status import status_of
from gateway.journal_commands.view import JournalView
from models.records import Observations, Page
from tests.gateway.journal.damage import ROWS, change_page, execute, flip_byte, make_journal, segment_file, time_of
from tests.strategies import make_event, make_observations


def read(folder: Path, stretch: Stretch, *, results: bool = True) -> tuple[list[Page], list[Lost]]:
    """Return the pages of *stretch*, and what is lost."""
    with JournalView(folder) as view:
        parts = list(read_pages(view, stretch, results=results))
    pages = [page for part in parts if not isinstance(part, Lost) for page in part]
    return pages, [part for part in parts if isinstance(part, Lost)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below *folder*."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_look_leaves_no_trace(tmp_path: Path) -> None:
    """Where no gateway runs, not even a write-ahead log comes of it."""
    await make_journal(tmp_path)
    before = contents(tmp_path)
    with JournalView(tmp_path) as view:
        assert view.totals().counters.pages == 8
        assert list(read_pages(view, Stretch()))

    assert contents(tmp_path) == before


async def test_a_view_counts_as_the_journal_does(tmp_path: Path) -> None:
    """The same numbers, while the journal is open, and those of the next commit at the next look."""
    await make_journal(tmp_path)
    journal = await Journal.open(tmp_path, "gw-1")
    with JournalView(tmp_path) as view:
        assert view.totals().counters == journal.counters
        await journal.append(make_observations(start_ns=time_of(50)))
        await compact_once(journal, max_pages=9)
        assert view.totals().counters == journal.counters
        assert view.positions() == {"monitor": 1}
    await journal.close()


async def test_a_gateway_that_starts_during_a_look_is_seen(tmp_path: Path) -> None:
    """A view of a file nobody had open goes through the write-ahead log once there is one."""
    await make_journal(tmp_path)
    with JournalView(tmp_path) as view:
        assert view.last_seq() == 8
        journal = await Journal.open(tmp_path, "gw-1")
        await journal.append_results(make_event("later"))
        assert view.last_seq() == 9
        await journal.close()


async def test_pages_by_seq_come_from_rows_and_segments(tmp_path: Path) -> None:
    """What was trimmed comes from its segment, the rest from its row; each once and in order."""
    await make_journal(tmp_path)
    journal = await Journal.open(tmp_path, "gw-1")
    await (await journal.reader("monitor")).commit(6)
    assert await journal.write(lambda database: database.trim()) == 6
    await journal.close()

    pages, lost = read(tmp_path, Stretch(first_seq=2, last_seq=7))

    assert ([page.seq for page in pages], lost) == ([2, 3, 4, 5, 6, 7], [])
    assert read(tmp_path, Stretch(first_seq=9)) == ([], [])


async def test_pages_by_time_have_only_rows_of_that_time(tmp_path: Path) -> None:
    """Two rows of each stream, of the last second of one page and the first of the next."""
    await make_journal(tmp_path)
    stretch = Stretch(start_ns=time_of(4) - 1_000_000_000, end_ns=time_of(4) + 1_000_000_000)

    pages, _ = read(tmp_path, stretch, results=False)

    assert [page.seq for page in pages] == [4, 5]
    assert [len(page.content) for page in pages if isinstance(page.content, Observations)] == [3, 3]


async def test_results_by_time_are_found_after_their_window(tmp_path: Path) -> None:
    """Results are chosen by their own time, wherever in the log they stand."""
    await make_journal(tmp_path)
    pages, _ = read(tmp_path, Stretch(start_ns=time_of(300)))

    assert [page.seq for page in pages] == [2]


async def test_what_is_damaged_is_told_and_passed_over(tmp_path: Path) -> None:
    """A damaged page and a damaged segment are lost, everything else is read."""
    await make_journal(tmp_path)
    execute(tmp_path, "DELETE FROM page WHERE seq <= 6")
    change_page(tmp_path, 7)
    flip_byte(segment_file(tmp_path, 0))

    pages, lost = read(tmp_path, Stretch())

    assert [page.seq for page in pages] == [4, 5, 6, 8]
    assert [(gone.first_seq, gone.last_seq) for gone in lost] == [(1, 3), (7, 7)]
    assert "digest differs" in lost[0].reason


async def test_what_was_purged_is_told(tmp_path: Path) -> None:
    """Who asks for pages that were purged is told so."""
    await make_journal(tmp_path)
    journal = await Journal.open(tmp_path, "gw-1")
    await (await journal.reader("monitor")).commit(6)
    await journal.write(lambda database: database.trim())
    first = (await SegmentStore(journal).segments())[0]
    await journal.write(lambda database: database.segments.purge([first], "size_limit"))
    await journal.close()

    pages, lost = read(tmp_path, Stretch(first_seq=1))
    assert pages[0].seq == 4
    assert [(gone.first_seq, gone.last_seq) for gone in lost] == [(1, 3)]
    assert read(tmp_path, Stretch())[1] == []


def test_a_folder_without_a_journal_is_said_and_stays_empty(tmp_path: Path) -> None:
    """Nothing is created by looking."""
    with pytest.raises(JournalError, match="is not there"):
        JournalView(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "said"), [("- 1", "start the gateway"), ("+ 1", "use the version")], ids=["old", "new"]
)
async def test_another_schema_is_told_what_to_do(tmp_path: Path, step: str, said: str) -> None:
    """An older journal wants a start, a newer one a newer program."""
    await make_journal(tmp_path)
    execute(tmp_path, "UPDATE journal SET schema = schema " + step)  # noqa: S608 - our own words
    with pytest.raises(JournalMismatch, match=said):
        JournalView(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 400], ids=["empty", "other"])
def test_a_file_that_is_no_journal_is_said(tmp_path: Path, content: bytes) -> None:
    """One clear error, whatever lies there."""
    (tmp_path / "journal.sqlite").write_bytes(content)
    with pytest.raises(JournalError, match=r"journal\.sqlite"):
        JournalView(tmp_path)


async def test_status_tells_what_lies_aside(tmp_path: Path) -> None:
    """The shelf, the hole, the reader that is behind, and the law of conservation."""
    await make_journal(tmp_path)
    execute(tmp_path, "UPDATE segment SET refused = 'conflict: held with other content' WHERE first_seq = 4")
    with JournalView(tmp_path) as view:
        status = status_of(view, None)

    assert (status.observations_stored, status.observations_delivered) == (7 * 3 * ROWS, 2 * 3 * ROWS)
    assert status.adds_up
    assert [(shelf.first_seq, shelf.reason) for shelf in status.shelf] == [(4, "conflict: held with other content")]
    assert [(hole.channel, hole.cause) for hole in status.holes] == [("channel_0", "link down")]
    assert {place.reader: place.behind for place in status.readers} == {"compactor": 2, "monitor": 7}
    assert (status.oldest_ns, status.newest_ns) == (time_of(0), time_of(8) - 1_000_000_000)
