"""A gateway that is killed at any moment loses nothing it said is stored, and splits nothing that belongs together."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.journal import Journal, JournalLocked, JournalReader, SegmentStore
from gateway.journal.replay import pages_after as pages_of_all
from models.records import Observations, Page, Results
from models.segment import decode_segment
from tests.gateway.journal.crash_writer import HOLE_S
from tests.gateway.journal.stored import stored_observations
from tests.strategies import NOON_NS, SECOND_NS

PROGRAM = Path(__file__).with_name("crash_writer.py")


def run_until_killed(folder: Path, mode: str, *, lines: int, further_s: float = 0.0) -> list[list[int]]:
    """Run the writer, SIGKILL it *further_s* after it has said *lines* lines, and return the numbers of all it said."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
        text=True,
    ) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        time.sleep(further_s)
        writer.kill()
        said += writer.stdout.read().splitlines(keepends=True)
    return [[int(word) for word in line.split()] for line in said if line.endswith("\n")]


async def stored_numbers(journal: Journal) -> dict[int, int]:
    """Return the number that each page holds, in segments or not."""
    store = SegmentStore(journal)
    numbers: dict[int, int] = {}
    for entry in await store.segments():
        segment = decode_segment(await store.read(entry))
        numbers |= dict(zip(segment.seq.tolist(), segment.observations.value.astype(int).tolist(), strict=True))
    after = max(numbers, default=0)
    for page in await pages_after(journal, after):
        assert isinstance(page.content, Observations)
        numbers[page.seq] = int(page.content.value[0])
    return numbers


async def pages_after(journal: Journal, after: int) -> list[Page]:
    """Return the committed pages after *after*."""
    return await journal.read(lambda database: database.decoded_pages(after, limit=10**6, max_bytes=10**9))


async def test_everything_acknowledged_is_there_after_kills(tmp_path: Path) -> None:
    """Killed at random moments, again and again: every acknowledged row once, seqs without a hole, nothing twice."""
    chance = random.Random(20260302)
    acknowledged: dict[int, int] = {}
    for _ in range(5):
        said = run_until_killed(tmp_path, "append", lines=chance.randint(1, 60), further_s=chance.uniform(0, 0.02))
        acknowledged |= dict(said)  # type: ignore[arg-type]  # pairs
        journal = await Journal.open(tmp_path, "gw-1")
        numbers = await stored_numbers(journal)
        assert acknowledged.items() <= numbers.items()
        assert sorted(numbers) == list(range(1, journal.last_seq + 1))
        assert len(set(numbers.values())) == len(numbers) == journal.counters.appended
        await journal.close()


async def test_acknowledging_before_the_commit_would_be_noticed(tmp_path: Path) -> None:
    """The control: the same check finds the row that was acknowledged and not stored."""
    said = run_until_killed(tmp_path, "early", lines=1)
    journal = await Journal.open(tmp_path, "gw-1")
    assert not dict(said).items() <= (await stored_numbers(journal)).items()  # type: ignore[arg-type]  # pairs
    await journal.close()


async def results_match_position(reader: JournalReader) -> bool:
    """Return whether there is a result for each observation page up to the position, none after, and its state."""
    pages = await pages_after(reader.journal, 0)
    done = [page.seq for page in pages if isinstance(page.content, Observations) and page.seq <= reader.position]
    made = [int(page.content.events[0].message) for page in pages if isinstance(page.content, Results)]
    return made == done and reader.state == (str(done[-1]).encode() if done else None)


async def test_position_results_and_state_move_together(tmp_path: Path) -> None:
    """A reader that is killed at random moments has its results exactly up to its position."""
    chance = random.Random(7)
    for _ in range(4):
        run_until_killed(tmp_path, "commit", lines=chance.randint(1, 40), further_s=chance.uniform(0, 0.02))
        journal = await Journal.open(tmp_path, "gw-1")
        reader = await journal.reader("monitor")
        assert reader.position > 0
        assert await results_match_position(reader)
        await journal.close()


async def test_a_position_that_moves_without_its_results_would_be_noticed(tmp_path: Path) -> None:
    """The control: results and position in two commits, killed between them, fail the same check."""
    run_until_killed(tmp_path, "split", lines=1)
    journal = await Journal.open(tmp_path, "gw-1")
    assert not await results_match_position(await journal.reader("monitor"))
    await journal.close()


async def hole_by_hole(journal: Journal) -> tuple[list[int], set[int], list[int]]:
    """Return the seconds that are stored, those that are in an open hole, and those the results say were filled."""
    held = await stored_observations(journal)
    missing = {
        second
        for hole in journal.holes()
        for second in range((hole.start_ns - NOON_NS) // SECOND_NS, (hole.end_ns - NOON_NS) // SECOND_NS)
    }
    reader = await journal.reader("events")
    said: list[int] = []
    while len(
        pages := await journal.read(
            lambda database: pages_of_all(database, reader.position, limit=1000, max_bytes=10**8)
        )
    ):
        said += [int(e.message) for page in pages if isinstance(page.content, Results) for e in page.content.events]
        reader.position = pages[-1].seq
    return sorted(held.value.astype(int).tolist()), missing, said


def rows_and_holes_match(stored: list[int], missing: set[int], said: list[int]) -> bool:
    """Return whether each second is stored once or in an open hole, as the results say, late ones in both."""
    late = {live - 2 for live in stored if live % (HOLE_S + 1) == 0}
    every = set(range(1, max(stored) + 1))
    return (
        len(set(stored)) == len(stored)
        and set(stored) | missing == every
        and set(stored) & missing <= late
        and sorted(set(said)) == sorted(said)
        and every - missing == set(said)
    )


async def test_rows_and_holes_move_together(tmp_path: Path) -> None:
    """Killed at random moments: what is not stored is in an open hole, what was filled is stored, and once."""
    chance = random.Random(11)
    newest = 0
    for _ in range(5):
        said = run_until_killed(tmp_path, "backfill", lines=chance.randint(1, 40), further_s=chance.uniform(0, 0.02))
        journal = await Journal.open(tmp_path, "gw-1")
        found = await hole_by_hole(journal)
        assert rows_and_holes_match(*found)
        assert max(found[0]) >= said[-1][0] > newest
        newest = max(found[0])
        await journal.close()


async def test_a_hole_filled_in_a_second_commit_would_be_noticed(tmp_path: Path) -> None:
    """The control: killed between rows and ledger, the same check fails."""
    run_until_killed(tmp_path, "backfill-split", lines=1)
    journal = await Journal.open(tmp_path, "gw-1")
    assert not rows_and_holes_match(*await hole_by_hole(journal))
    await journal.close()


async def test_only_one_process_has_the_journal_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    """No lock file is left to be removed by hand."""
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs here
        [sys.executable, str(PROGRAM), str(tmp_path), "early"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline()
        with pytest.raises(JournalLocked, match="open in another process"):
            await Journal.open(tmp_path, "gw-1")
        holder.kill()
    await (await Journal.open(tmp_path, "gw-1")).close()
