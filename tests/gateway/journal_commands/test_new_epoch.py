"""A journal under a new epoch: what the cloud has not confirmed goes on, once; the rest is set aside, whole."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.journal import Journal, SegmentStore, compact_once
from gateway.journal_commands.reading import Lost, Stretch, read_pages
from gateway.journal_commands.repair import repair
from gateway.journal_commands.verify import verify
from gateway.journal_commands.view import JournalView
from models.records import Observations, Results
from models.segment import decode_segment
from tests.gateway.journal.damage import ROWS, make_journal, time_of
from tests.strategies import SECOND_NS, make_observations

PROGRAM = Path(__file__).with_name("epoch_killer.py")
PAGE = 3 * ROWS  # observations


def values(folder: Path) -> list[float]:
    """Return every value of the journal in *folder*, in the order of the log."""
    with JournalView(folder) as view:
        parts = list(read_pages(view, Stretch()))
    pages = [page.content for part in parts if not isinstance(part, Lost) for page in part]
    return [value for content in pages if isinstance(content, Observations) for value in content.value.tolist()]


def events(folder: Path) -> list[str]:
    """Return the kinds of all gateway events."""
    with JournalView(folder) as view:
        parts = list(read_pages(view, Stretch()))
    pages = [page.content for part in parts if not isinstance(part, Lost) for page in part]
    return [event.kind for content in pages if isinstance(content, Results) for event in content.events]


def test_what_is_not_delivered_goes_on_numbered_anew(tmp_path: Path) -> None:
    """Pages from 1 without holes, a chain from its beginning, positions where they were, sums that add up."""
    asyncio.run(make_journal(tmp_path))
    before = values(tmp_path)
    with JournalView(tmp_path) as view:
        old, was = view.epoch, view.totals().counters
    done = repair(tmp_path, "gw-1", new_epoch=True)

    assert done.new_epoch is not None
    assert (done.new_epoch.carried_pages, done.new_epoch.aside_pages) == (5, 3)
    assert sorted(values(tmp_path)) == sorted(before[2 * PAGE :])
    assert verify(tmp_path).findings == ()
    with JournalView(tmp_path) as view:
        now = view.totals().counters
        assert view.epoch == done.new_epoch.new != old
        assert (now.pages, now.appended, now.pending, now.delivered) == (6, was.appended, was.pending, was.delivered)
        assert [(entry.first_seq, entry.last_seq, entry.previous) for entry in view.segments()] == [(1, 3, "")]
        segment = decode_segment(view.segments()[0].path.read_bytes())
        assert (segment.epoch, segment.first_seq) == (view.epoch, 1)
    assert events(tmp_path)[-1] == "new_epoch"


def test_what_is_delivered_is_set_aside_as_a_journal_of_its_own(tmp_path: Path) -> None:
    """It can be looked at and exported; the segment files are there once."""
    asyncio.run(make_journal(tmp_path))
    before = values(tmp_path)
    done = repair(tmp_path, "gw-1", new_epoch=True)
    assert done.new_epoch is not None

    assert values(done.new_epoch.aside) == before
    assert verify(done.new_epoch.aside).is_fine
    assert len(list((tmp_path / "segments").glob("*.wseg*"))) == 1


def test_a_backup_that_comes_back_again_overwrites_nothing(tmp_path: Path) -> None:
    """What was set aside the first time stays when an older copy of the same epoch is repaired as well."""
    asyncio.run(make_journal(tmp_path / "backup"))
    state = tmp_path / "state"
    for _ in range(2):
        for name in ("journal.sqlite", "journal.last", "segments"):
            path = state / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(tmp_path / "backup", state, dirs_exist_ok=True)
        repair(state, "gw-1", new_epoch=True)

    first, second = sorted((state / "set-aside").iterdir())
    assert second.name == f"{first.name}-2"
    assert values(first) == values(second) == values(tmp_path / "backup")


async def test_the_gateway_goes_on_from_there(tmp_path: Path) -> None:
    """Repeats are known, readers read on, segments are made and chained."""
    await make_journal(tmp_path)
    journal = await Journal.open(tmp_path, "gw-1")
    await (await journal.reader("monitor")).commit(5)
    await (await journal.reader("historian")).commit(2)
    await journal.close()
    done = repair_aside(tmp_path)
    assert done == {"historian": 3}

    journal = await Journal.open(tmp_path, "gw-1")
    newest = make_observations(rows=1, start_ns=time_of(8) - SECOND_NS, first_value=7000.0 + PAGE - 3)
    assert await journal.append(newest) is None
    assert (await journal.reader("monitor")).position == 2
    assert (await journal.reader("historian")).position == 0
    await journal.append(make_observations(start_ns=time_of(50)))
    entry = await compact_once(journal, max_pages=10)
    assert entry is not None
    assert entry.first_seq == 4
    assert entry.previous == (await SegmentStore(journal).segments())[0].digest
    await journal.close()
    assert verify(tmp_path).is_fine


def repair_aside(folder: Path) -> dict[str, int]:
    """Begin a new epoch in a thread's own loop, and return which readers had not done what is set aside."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(repair, folder, "gw-1", new_epoch=True).result()
    assert done.new_epoch is not None
    return done.new_epoch.unread


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["_set_aside", "_carried_segments", "_exchange", "_remove"])
def test_a_kill_at_any_step_leaves_the_old_epoch_or_the_new(tmp_path: Path, step: str, moment: str) -> None:
    """Whole either way, with exact sums; asked again, it is done."""
    asyncio.run(make_journal(tmp_path))
    before = values(tmp_path)
    with JournalView(tmp_path) as view:
        old = view.epoch
    killed = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), step, moment], check=False, cwd=Path(__file__).parents[3]
    )
    assert killed.returncode == 9

    found = verify(tmp_path)
    assert found.is_fine
    assert (found.epoch == old) is (step != "_remove")
    expected = before if found.epoch == old else before[2 * PAGE :]
    assert sorted(values(tmp_path)) == sorted(expected)
    if found.epoch == old:
        repair(tmp_path, "gw-1", new_epoch=True)
        assert sorted(values(tmp_path)) == sorted(before[2 * PAGE :])
        assert events(tmp_path).count("new_epoch") == 1
