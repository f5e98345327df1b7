"""A program that writes to a journal and says what it was told is stored, until it is killed.

``python crash_writer.py DIR MODE``: mode ``append`` stores one observation at a time and prints its seq and value after
the journal has said it is stored; ``early`` prints them before, as a gateway that acknowledges before the commit would;
``commit`` carries each observation on through a reader, its result, the position and the state in one transaction;
``split`` does that in two. ``early`` and ``split`` stop in the dangerous moment until a line comes in.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import structlog

from gateway.journal import Journal, JournalReader, compact_once
from models.records import Observations, Page
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations


def one_observation(number: int) -> Observations:
    """Return the observation that carries *number* as its value."""
    return make_observations(streams=1, rows=1, start_ns=NOON_NS + number * SECOND_NS, first_value=number)


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


async def main(folder: Path, mode: str) -> None:
    """Write for ever."""
    journal = await Journal.open(folder, "gw-1")
    if mode in ("append", "early"):
        number = journal.counters.appended
        while True:
            number += 1
            await append(journal, number, mode)
    reader = await journal.reader("monitor")
    await journal.append(one_observation(journal.last_seq + 1))
    async for page in reader.pages():
        if isinstance(page.content, Observations):
            await carry_on(reader, page, mode)
            await journal.append(one_observation(journal.last_seq + 1))


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
