"""The program under test on a disk that fails: call after call is made to fail, and the journal has to come through.

``python -m tests.chaos.sweep FOLDER CONTROL SEED TRIALS``, preloaded with the disk, says a JSON object for each trial.
In each the journal is opened once and works until the end, whatever fails; who stores or reads tries again, as the
gateway does. ``CARELESS=1`` in its environment makes it the control, which takes a failed commit for done.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gateway.errors import JournalError
from gateway.journal import Journal
from tests.chaos.acts import Trial
from tests.chaos.disk import FOR_EVER, Control, Fault, Op
from tests.chaos.oracle import GATEWAY_ID, found_at
from tests.chaos.plant import Plant
from tests.chaos.program import Work
from tests.chaos.promises import judge_work

_IS_CARELESS = os.environ.get("CARELESS") == "1"
_ALL = (Op.WRITE, Op.SYNC, Op.RENAME, Op.OPEN, Op.WRITE, Op.SYNC, Op.TRUNCATE, Op.UNLINK)
_OPS = (Op.SYNC,) if _IS_CARELESS else _ALL
_LASTING = 20  # so many failed calls are no matter of one checkpoint
_ERRORS = (errno.EIO, errno.ENOSPC)
_BATCHES = 24
_STREAMS, _ROWS = 8, 40
_PATIENCE_S = 3.0 if _IS_CARELESS else 60.0  # with no call failing any more: recovery waits, and the machine is busy
_HEALS_AFTER_S = 0.3  # of a fault that lasts
_LOOKS_EVERY_S = 0.01


@dataclass
class Attempt:
    """A run of the whole work on a disk with a fault.

    Attributes:
        state_dir: Where its journal lies.
        plant: What is stored.
        control: The disk's.
        told: What was raised or said of the fault, each once.
        acknowledged: The batches whose append has returned.
        received: Rows of those, and of repeats.
        failed: Calls that failed until it was closed.
    """

    state_dir: Path
    plant: Plant
    control: Control
    told: set[str] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    received: int = 0
    failed: int = 0
    journal: Journal | None = None

    async def insist(self, job: Callable[[], Awaitable[object]]) -> None:
        """Do *job* until it is done."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                try:
                    await job()
                except TimeoutError:
                    raise
                except (JournalError, OSError) as error:
                    self.told.add(f"{type(error).__name__}: {error}")
                    await asyncio.sleep(_LOOKS_EVERY_S)
                else:
                    return

    async def store(self, work: Work, number: int) -> None:
        """Store the batch *number*, whatever it takes."""
        await self.insist(lambda: work.store(number))
        self.acknowledged.add(number)
        self.received += self.plant.batch_rows

    async def run(self) -> tuple[int, int]:
        """Do all of it on one open journal; return its counts of appended and repeated rows."""
        healing = asyncio.create_task(self._heal())
        try:
            work = await self._begun()
            await self._work(work)
            counters = work.journal.counters
            return counters.appended, counters.repeats_dropped
        finally:
            self.failed = self.control.failed  # what fails while it is closed, nobody waits for
            if self.journal is not None:
                async with asyncio.timeout(_PATIENCE_S):
                    await self.journal.close()
            healing.cancel()
            self.control.stop_failing()

    async def _work(self, work: Work) -> None:
        number = 0
        while number < _BATCHES:
            count = 3 if number % 8 == 0 else 1
            await asyncio.gather(*(self.store(work, number + more) for more in range(count)))
            number += count
            work.next_batch = number
            if number % 2:
                await self.insist(lambda: work.follow(6))
            if number % 5 == 0:
                await self.insist(work.compact)
                await self.insist(work.deliver)
            if number % 7 == 0:
                await self.insist(work.repeat)
                self.received += self.plant.streams

    async def _begun(self) -> Work:
        """Return the work on the journal, opened once it can be opened and read by its readers."""
        works: list[Work] = []

        async def begin() -> None:
            if self.journal is None:
                self.journal = await Journal.open(self.state_dir, GATEWAY_ID)
            works.append(await Work.on(self.journal, self.plant))

        await self.insist(begin)
        return works[0]

    async def _heal(self) -> None:
        """Listen to what the journal says of itself; make the disk whole a while after it began to fail."""
        first: float | None = None
        while True:
            if self.journal is not None and self.journal.trouble:
                self.told.add(self.journal.trouble)
            if self.control.failed and first is None:
                first = time.monotonic()
            if first is not None and time.monotonic() > first + _HEALS_AFTER_S:
                self.control.stop_failing()
            await asyncio.sleep(_LOOKS_EVERY_S)


async def attempt(folder: Path, control: Control, plant: Plant, fault: Fault) -> Trial:
    """Run the work on a disk with *fault*, and judge what came of it."""
    run = Attempt(folder, plant, control)
    control.fail(fault)
    wrong: list[str] = []
    try:
        appended, repeated = await run.run()
        if appended + repeated != run.received:
            wrong.append(f"{run.received} rows received are not {appended} appended + {repeated} repeats")
    except Exception as error:  # noqa: BLE001 - whatever else it raises is what the trial is to find
        wrong.append(f"{type(error).__name__} instead of going on: {error}; it told {sorted(run.told)[:2]}")
    failed = control.failed
    control.heal()
    if run.failed >= _LASTING and not run.told:
        wrong.append(f"{run.failed} calls failed and nothing was told")
    try:
        verdict = judge_work(plant, await found_at(folder), run.acknowledged)
        wrong += verdict.wrong
    except Exception as error:  # noqa: BLE001 - the same
        wrong.append(f"cannot be opened again or read: {type(error).__name__}: {error}")
    shutil.rmtree(folder, ignore_errors=True)
    return Trial(what=f"{told(fault)}: {failed} calls failed, {len(run.told)} things told", wrong=tuple(wrong))


def told(fault: Fault) -> str:
    """Return *fault* in words."""
    names = "/".join(op.name.lower() for op in fault.ops)
    lasting = "from then on" if fault.until == FOR_EVER else f"{fault.until - fault.first} times"
    return f"{errno.errorcode[fault.error]} on {names} {fault.first}{' (short)' * fault.is_short}, {lasting}"


async def faults(folder: Path, control: Control, plant: Plant, trials: int) -> list[Fault]:
    """Return *trials* faults, spread over the calls that a run without a fault makes."""
    control.heal()
    journal = await Journal.open(folder, GATEWAY_ID)
    await Attempt(folder, plant, control)._work(await Work.on(journal, plant))
    await journal.close()
    counts = {op: control.calls(op) for op in Op}
    shutil.rmtree(folder)
    chance = random.Random(plant.seed)
    places = {op: chance.sample(range(1, count + 1), count) for op, count in counts.items()}
    found: list[Fault] = []
    while len(found) < trials:
        op = _OPS[len(found) % len(_OPS)]
        op = op if counts[op] else Op.WRITE
        first = (
            counts[op] // 4 + len(found) % (counts[op] // 2) if _IS_CARELESS else places[op][len(found) % counts[op]]
        )
        lasting = FOR_EVER - first if _IS_CARELESS else chance.choice((1, 1, 3, FOR_EVER - first))
        is_full = not _IS_CARELESS and lasting > 3 and chance.random() < 0.5
        found.append(
            Fault(
                ops=(Op.WRITE, Op.TRUNCATE, Op.OPEN) if is_full else (op,),
                first=first,
                until=first + lasting,
                error=errno.ENOSPC if is_full else chance.choice(_ERRORS),
                is_short=op == Op.WRITE and chance.random() < 0.3,
            )
        )
    return found


async def main(folder: Path, control: Control, seed: int, trials: int) -> None:
    """Run the trials of *seed*."""
    plant = Plant(seed=seed, streams=_STREAMS, rows=_ROWS)
    for place, fault in enumerate(await faults(folder / "whole", control, plant, trials)):
        trial = await attempt(folder / f"trial-{place}", control, plant, fault)
        os.write(1, msgspec.json.encode(trial) + b"\n")


class _Careless(sqlite3.Connection):
    """A connection that takes a failed commit for done."""

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        """Execute *sql*."""
        try:
            return super().execute(sql, *arguments)
        except sqlite3.Error:
            if sql != "COMMIT":
                raise
            self.rollback()
            return self.cursor()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if _IS_CARELESS:
        sqlite3.connect = partial(sqlite3.connect, factory=_Careless)  # type: ignore[assignment]  # for this process
    asyncio.run(main(Path(sys.argv[1]), Control(Path(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4])))
