"""The program under test: a plant's batches go into a real journal, readers follow, pages become segments.

``python -m tests.chaos.program MODE STATE_DIR SEED [BATCHES]``, where it says what it was told is stored, one line each
(``ack 17``: batch 17), to its caller and into the log of the disk it runs on:

``script``  one step after the other as the seed wants them, the same ones each time, for so many batches;
``halting`` the same, but it does not end: it waits to be killed with its journal open;
``live``    everything at once, as in a gateway, until it is killed;
``early``   the same, but it acknowledges a while before the commit: the control of the kills;
``crowded`` the same as ``live``, with more rows than the journal may keep; with an even seed some are delivered.

``SYNCHRONOUS=NORMAL`` in its environment makes it a control: commits that do not wait for the disk; and ``AGE=WALL``: a
journal whose age goes by the wall clock.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from gateway.config import JournalConfig
from gateway.errors import JournalError
from gateway.journal import Journal, JournalReader, SegmentStore, compact, compact_once
from gateway.journal.age import RunningTime
from gateway.journal.retention import enforce
from models.records import GatewayEvent, Observations, Page, Results, from_ns
from tests.chaos.disk import mark
from tests.chaos.oracle import GATEWAY_ID
from tests.chaos.plant import Plant
from tests.strategies import NOON_NS

MONITORED, OF_BATCH = "monitored", "batch"  # kinds of events
SCRIPTED, LIVE = {"streams": 32, "rows": 24}, {"streams": 16, "rows": 4}  # plants
_AGED = JournalConfig(max_age_days=30.0, min_free_mib=0, purge_unsent=True)
_CROWDED = JournalConfig(max_size_mib=1, min_free_mib=0, purge_unsent=True)
_REOPENINGS = 2
_STARTS = 8
_SEGMENT_INTERVAL_S, _SEGMENT_PAGES = 0.1, 24
_EARLY_S = 0.5  # longer than it takes until it is killed
EVERY_NTH_WITH_RESULTS = 3


def say(text: str) -> None:
    """Tell *text* to the caller and the disk's log at once."""
    mark(text)
    os.write(1, f"{text}\n".encode())


def event(kind: str, number: int) -> Results:
    """Return results that carry *number*."""
    return Results(events=(GatewayEvent(kind=kind, gateway_time=from_ns(NOON_NS), message=str(number)),))


@dataclass
class Work:
    """What is done with one open journal.

    Attributes:
        journal: It.
        plant: What makes the batches.
        next_batch: The first one that is not stored.
        received: Rows that were offered and whose fate was told.
        is_early: Whether it says what is stored before it is.
        later: What is being stored then.
    """

    journal: Journal
    plant: Plant
    next_batch: int = 0
    received: int = 0
    is_early: bool = False
    later: set[asyncio.Task[int | None]] = field(default_factory=set)
    monitor: JournalReader = field(init=False)
    historian: JournalReader = field(init=False)

    @classmethod
    async def on(cls, journal: Journal, plant: Plant) -> Work:
        """Return the work that goes on where the journal ends."""
        work = cls(journal, plant, plant.batch_at(journal.newest_source_time(plant.names[0])) + 1)
        work.monitor = await journal.reader("monitor")
        work.historian = await journal.reader("historian")
        return work

    async def acquire(self, count: int = 1) -> None:
        """Store the next *count* batches, offered all at once, and say which are."""
        numbers = range(self.next_batch, self.next_batch + count)
        self.next_batch += count
        await asyncio.gather(*(self.store(number) for number in numbers))

    async def store(self, number: int) -> None:
        """Store the batch *number* and say so."""
        results = event(OF_BATCH, number) if number % EVERY_NTH_WITH_RESULTS == 0 else None
        appending = self.journal.append(self.plant.batch(number), results=results)
        if self.is_early:
            say(f"ack {number}")
            self.later.add(asyncio.create_task(_later(appending)))
            return
        await appending
        self.received += self.plant.batch_rows
        say(f"ack {number}")

    async def repeat(self) -> None:
        """Offer the newest row of each stream again, as servers do after a reconnect."""
        if self.next_batch:
            batch = self.plant.batch(self.next_batch - 1)
            await self.journal.append(batch.take(batch.source_time >= batch.source_time.max() - 500_000_000))
            self.received += self.plant.streams

    async def follow(self, limit: int) -> None:
        """Have the monitor do up to *limit* pages, each with its result, and the historian as many."""
        for reader in (self.monitor, self.historian):
            done = 0
            while done < limit and reader.position < self.journal.last_seq:
                async for page in reader.pages():
                    await self.commit(reader, page)
                    done += 1
                    if done >= limit or page.seq >= self.journal.last_seq:
                        break

    async def commit(self, reader: JournalReader, page: Page) -> None:
        """Commit what *reader* made of *page*."""
        if reader is self.monitor and isinstance(page.content, Observations):
            await reader.commit(page.seq, results=event(MONITORED, page.seq), state=str(page.seq).encode())
        else:
            await reader.commit(page.seq)

    async def deliver(self) -> None:
        """Mark the oldest segment as delivered, as when the cloud has answered."""
        store = SegmentStore(self.journal)
        for entry in await store.pending(1):
            await store.mark_delivered([(entry.first_seq, entry.last_seq)])

    async def compact(self) -> None:
        """Write a segment, and now and then have only segments keep what everybody has read."""
        entry = None
        with suppress(OSError):  # on a disk that fails; the pages stay
            entry = await compact_once(self.journal, max_pages=_SEGMENT_PAGES)
        if entry is not None and entry.last_seq % 2:
            await self.journal.write(lambda database: database.trim())

    async def limit(self, config: JournalConfig) -> None:
        """Purge what *config* leaves no room for."""
        await enforce(self.journal, config)

    async def step(self, chance: random.Random) -> None:
        """Do one thing."""
        drawn = chance.random()
        if drawn < 0.5:
            await self.acquire()
        elif drawn < 0.65:
            await self.acquire(chance.randint(2, 5))
        elif drawn < 0.85:
            await self.follow(chance.randint(1, 8))
        elif drawn < 0.92:
            await self.compact()
        elif drawn < 0.95:
            await self.deliver()
        elif drawn < 0.97 and self.plant.seed % 3 == 0:
            await self.limit(_CROWDED)
        else:
            await self.repeat()


async def script(state_dir: Path, plant: Plant, *, batches: int, halts: bool = False) -> None:
    """Do one step after the other until so many *batches* are stored, with the journal closed and opened in between."""
    chance = random.Random(plant.seed)
    for part in range(1, _REOPENINGS + 2):
        journal = await _opened(state_dir)
        work = await Work.on(journal, plant)
        while work.next_batch < batches * part // (_REOPENINGS + 1):
            await work.step(chance)
        if part <= _REOPENINGS:
            await journal.close()
    say("end")
    if halts:
        await asyncio.Event().wait()
    await journal.close()


async def _opened(state_dir: Path) -> Journal:
    """Open the journal; as often as a gateway is started again on a disk that fails for a moment."""
    for _ in range(_STARTS):
        with suppress(JournalError):
            return await Journal.open(state_dir, GATEWAY_ID)
    return await Journal.open(state_dir, GATEWAY_ID)


async def live(state_dir: Path, plant: Plant, mode: str) -> None:
    """Do everything at once for ever."""
    journal = await Journal.open(state_dir, GATEWAY_ID)
    work = await Work.on(journal, plant)
    work.is_early = mode == "early"
    say("open")
    async with asyncio.TaskGroup() as group:
        group.create_task(compact(journal, interval_s=_SEGMENT_INTERVAL_S, max_pages=_SEGMENT_PAGES))
        group.create_task(_following(work, work.monitor))
        group.create_task(_following(work, work.historian))
        if mode != "crowded" or plant.seed % 2 == 0:
            group.create_task(_delivering(work))
        group.create_task(_limiting(work, _CROWDED if mode == "crowded" else _AGED))
        group.create_task(_acquiring(work))


async def _later(appending: Coroutine[object, object, int | None]) -> int | None:
    await asyncio.sleep(_EARLY_S)
    return await appending


async def _following(work: Work, reader: JournalReader) -> None:
    async for page in reader.pages():
        await work.commit(reader, page)


async def _delivering(work: Work) -> None:
    while True:
        await work.deliver()
        await asyncio.sleep(0.15)


async def _limiting(work: Work, config: JournalConfig) -> None:
    while True:
        await work.limit(config)
        await asyncio.sleep(0.1)


async def _acquiring(work: Work) -> None:
    chance = random.Random(work.plant.seed)
    await work.repeat()
    while True:
        await work.acquire(chance.randint(1, 4))
        await asyncio.sleep(0.002)


class _Hasty(sqlite3.Connection):
    """A connection whose commits do not wait for the disk."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        """Execute *sql*, or its opposite."""
        return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *arguments)


def main() -> None:
    """Run as the arguments say."""
    mode, state_dir, seed, *rest = sys.argv[1:]
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if os.environ.get("SYNCHRONOUS") == "NORMAL":
        sqlite3.connect = partial(sqlite3.connect, factory=_Hasty)  # type: ignore[assignment]  # for this process
    if os.environ.get("AGE") == "WALL":
        RunningTime.__init__.__defaults__ = (time.time,)
    folder, number = Path(state_dir), int(seed)
    if mode in ("script", "halting"):
        work = script(folder, Plant(seed=number, **SCRIPTED), batches=int(rest[0]), halts=mode == "halting")
    else:
        work = live(folder, Plant(seed=number, **(SCRIPTED if mode == "crowded" else LIVE)), mode)
    asyncio.run(work)


if __name__ == "__main__":
    main()
