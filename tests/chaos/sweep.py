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
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

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

_OPS = (Op.WRITE, Op.SYNC, Op.RENAME, Op.OPEN, Op.WRITE, Op.SYNC, Op.TRUNCATE, Op.UNLINK)
_ERRORS = (errno.EIO, errno.ENOSPC)
_BATCHES = 24
_STREAMS, _ROWS = 8, 40
_PATIENCE_S = 40.0  # with no call failing any more: recovery may wait a little, and the machine is busy
_HEALS_AFTER = 6  # errors


@dataclass
class Attempt:
    """A run of the whole work on a disk with a fault.

    Attributes:
        state_dir: Where its journal lies.
        plant: What is stored.
        control: The disk's.
        is_careless: Whether a failed commit is taken for done.
        errors: What was raised, as it should be.
        acknowledged: The batches whose append has returned.
        received: Rows of those, and of repeats.
    """

    state_dir: Path
    plant: Plant
    control: Control
    is_careless: bool
    errors: list[str] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    received: int = 0

    async def insist(self, job: Callable[[], Awaitable[object]]) -> None:
        """Do *job* until it is done; after some errors the disk is whole again."""
        while True:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await job()
            except (JournalError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
                self.errors.append(f"{type(error).__name__}: {error}")
                if len(self.errors) >= _HEALS_AFTER:
                    self.control.heal()
                if len(self.errors) > _HEALS_AFTER * 50:
                    raise RuntimeError(f"does not recover: {self.errors[-1]}") from error
                await asyncio.sleep(0.002 * min(len(self.errors), 100))
                if not self.is_careless:
                    continue
            return

    async def store(self, work: Work, number: int) -> None:
        """Store the batch *number*, whatever it takes."""
        await self.insist(lambda: work.store(number))
        self.acknowledged.add(number)
        self.received += self.plant.batch_rows

    async def run(self) -> tuple[int, int]:
        """Do all of it on one open journal; return its counts of appended and repeated rows."""
        work, number = await self._begun(), 0
        journal = work.journal
        try:
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
            self.control.heal()
            await self.store(work, number)
            return journal.counters.appended, journal.counters.repeats_dropped
        finally:
            self.control.heal()
            await journal.close()

    async def _begun(self) -> Work:
        """Return the work on the journal, opened once it can be opened and read by its readers."""
        journals: list[Journal] = []
        works: list[Work] = []

        async def begin() -> None:
            if not journals:
                journals.append(await Journal.open(self.state_dir, GATEWAY_ID))
            works.append(await Work.on(journals[0], self.plant))

        while not works:
            await self.insist(begin)
        return works[0]


async def attempt(folder: Path, control: Control, plant: Plant, fault: Fault, *, careless: bool) -> Trial:
    """Run the work on a disk with *fault*, and judge what came of it."""
    run = Attempt(folder, plant, control, careless)
    control.fail(fault)
    wrong: list[str] = []
    try:
        appended, repeated = await run.run()
        if appended + repeated != run.received:
            wrong.append(f"{run.received} rows received are not {appended} appended + {repeated} repeats")
    except Exception as error:  # noqa: BLE001 - whatever else it raises is what the trial is to find
        wrong.append(f"{type(error).__name__} instead of going on: {error}")
    control.heal()
    try:
        verdict = judge_work(plant, await found_at(folder), run.acknowledged)
        wrong += verdict.wrong
    except Exception as error:  # noqa: BLE001 - the same
        wrong.append(f"cannot be opened again or read: {type(error).__name__}: {error}")
    shutil.rmtree(folder, ignore_errors=True)
    return Trial(what=f"{told(fault)}; {len(run.errors)} errors", wrong=tuple(wrong))


def told(fault: Fault) -> str:
    """Return *fault* in words."""
    names = "/".join(op.name.lower() for op in fault.ops)
    lasting = "from then on" if fault.until == FOR_EVER else f"{fault.until - fault.first} times"
    return f"{errno.errorcode[fault.error]} on {names} {fault.first}{' (short)' * fault.is_short}, {lasting}"


async def faults(folder: Path, control: Control, plant: Plant, trials: int) -> list[Fault]:
    """Return *trials* faults, spread over the calls that a run without a fault makes."""
    control.heal()
    run = Attempt(folder, plant, control, is_careless=False)
    counts = dict.fromkeys(Op, 0)
    heal, control.heal = control.heal, lambda: None  # type: ignore[method-assign]  # the counts are wanted to the end
    await run.run()
    control.heal = heal  # type: ignore[method-assign]  # as it was
    counts = {op: control.calls(op) for op in Op}
    shutil.rmtree(folder)
    chance = random.Random(plant.seed)
    places = {op: chance.sample(range(1, count + 1), count) for op, count in counts.items()}
    found: list[Fault] = []
    while len(found) < trials:
        op = _OPS[len(found) % len(_OPS)]
        op = op if counts[op] else Op.WRITE
        first = places[op][len(found) % counts[op]]
        lasting = chance.choice((1, 1, 3, FOR_EVER - first))
        is_full = lasting > 3 and chance.random() < 0.5
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
    careless = os.environ.get("CARELESS") == "1"
    for place, fault in enumerate(await faults(folder / "whole", control, plant, trials)):
        trial = await attempt(folder / f"trial-{place}", control, plant, fault, careless=careless)
        os.write(1, msgspec.json.encode(trial) + b"\n")


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(Path(sys.argv[1]), Control(Path(sys.argv[2])), int(sys.argv[3]), int(sys.argv[4])))
