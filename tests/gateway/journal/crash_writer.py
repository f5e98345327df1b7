"""A program that writes to a journal and says what it was told is stored, until it is killed.

``python crash_writer.py DIR MODE``: mode ``append`` stores one observation at a time and prints its seq and value after
the journal has said it is stored; ``early`` prints them before, as a gateway that acknowledges before the commit would;
``commit`` carries each observation on through a reader, its result, the position and the state in one transaction;
``split`` does that in two. ``backfill`` stores a live observation, opening a hole of five seconds before it, and fills
part of one with what history has for it; ``backfill-split`` stores what history has, and says in a second commit that
the hole is filled. ``early`` and the splits stop in the dangerous moment until a line comes in.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

import structlog

from gateway.journal import Hole, Journal, JournalReader, compact_once
from models.records import Observations, Page
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations

HOLE_S = 5


def time_of(number: int) -> int:
    """Return the source time of the observation *number*: so many seconds after noon."""
    return NOON_NS + number * SECOND_NS


def one_observation(number: int) -> Observations:
    """Return the observation that carries *number* as its value."""
    return make_observations(streams=1, rows=1, start_ns=time_of(number), first_value=number)


def say(*words: object) -> None:
    """Write *words* as one line at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def append(journal: Journal, number: int, mode: str) -> None:
    """Store the observation *number*; sometimes compact, so that kills come there too."""
    if mode == "early":
        say(journal.last_seq + 1, number)
        sys.stdin.readline()
    seq = await journal.append(one_observation(number))
    if mode != "early":
        say(seq, number)
    if number % 20 == 0:
        await compact_once(journal, max_pages=15)
        await journal.write(lambda database: database.trim())


async def carry_on(reader: JournalReader, page: Page, mode: str) -> None:
    """Commit what the reader made of *page*."""
    if mode == "split":
        await reader.journal.append_results(make_event(str(page.seq)))
        say(page.seq)
        sys.stdin.readline()
        await reader.commit(page.seq, state=str(page.seq).encode())
    else:
        await reader.commit(page.seq, results=make_event(str(page.seq)), state=str(page.seq).encode())
        say(page.seq)


async def backfill(journal: Journal, live: int, mode: str) -> None:
    """Store the observation *live* after a hole, bring a late one into it, and fill some second of some hole."""
    stream = one_observation(live).streams[0]
    opened = Hole(stream=stream, start_ns=time_of(live - HOLE_S), end_ns=time_of(live), cause="test")
    await journal.append(one_observation(live), results=make_event(str(live)), opened=[opened])
    await journal.append(one_observation(live - 2))
    holes = journal.holes()
    second = (holes[live % len(holes)].end_ns - NOON_NS) // SECOND_NS - 1
    done = Hole(stream=stream, start_ns=time_of(second), end_ns=time_of(second + 1))
    if mode == "backfill":
        await journal.append(one_observation(second), results=make_event(str(second)), filled=[done])
    else:
        await journal.append(one_observation(second), results=make_event(str(second)))
        say(live)
        sys.stdin.readline()
        await journal.append(Observations.empty(), filled=[done])
    say(live)
    if live % 120 == 0:
        await compact_once(journal, max_pages=15)
        await journal.write(lambda database: database.trim())


async def main(folder: Path, mode: str) -> None:
    """Write for ever."""
    journal = await Journal.open(folder, "gw-1")
    if mode in ("append", "early"):
        number = journal.counters.appended
        while True:
            number += 1
            await append(journal, number, mode)
    if mode.startswith("backfill"):
        live = (journal.newest_source_time(one_observation(0).streams[0]) or NOON_NS) - NOON_NS
        for number in itertools.count(live // SECOND_NS + HOLE_S + 1, HOLE_S + 1):
            await backfill(journal, number, mode)
    reader = await journal.reader("monitor")
    await journal.append(one_observation(journal.last_seq + 1))
    async for page in reader.pages():
        if isinstance(page.content, Observations):
            await carry_on(reader, page, mode)
            await journal.append(one_observation(journal.last_seq + 1))


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
