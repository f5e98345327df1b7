"""The power is cut, and what was not flushed is gone: everything acknowledged is there all the same."""

from __future__ import annotations

import asyncio
import errno
import random
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from gateway.errors import JournalError
from tests.chaos.acts import Act, Dose, Trial
from tests.chaos.cuts import Keeps, ReplayedDisk
from tests.chaos.disk import Disk, Fault, Op, Record
from tests.chaos.oracle import found_at
from tests.chaos.plant import Plant
from tests.chaos.program import SCRIPTED
from tests.chaos.promises import batches_said, judge_work
from tests.chaos.running import Program

_BATCHES = 90
_FAILS_FROM = (20, 150)  # of the flushes: the first ones are the opening's
_AT_A_MARK = 0.4  # so many of the cuts come right after something was said: what it says must be safe
_SOON, _SOON_AFTER_A_FAILURE = 150, 0.7
_KEEPS = (Keeps.NOTHING, Keeps.NOTHING, Keeps.SOME, Keeps.SOME, Keeps.ALL)


async def _cuts(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _cut_series(folder, seed, trials, {}):
        yield trial


async def _cuts_without_flush(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _cut_series(folder, seed, trials, {"SYNCHRONOUS": "NORMAL"}):
        yield trial


async def _cuts_after_failures(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    chance = random.Random(seed)
    first, lasting = chance.randint(*_FAILS_FROM), chance.choice((1, 1, 2, 5))
    fault = Fault(ops=(Op.SYNC,), first=first, until=first + lasting, error=errno.EIO)
    async for trial in _cut_series(folder, seed, trials, {}, fault):
        yield replace(trial, what=f"flush {first} failed, {lasting} times; {trial.what}")


async def _cut_series(
    folder: Path, seed: int, trials: int, environment: dict[str, str], fault: Fault | None = None
) -> AsyncIterator[Trial]:
    """Run the script once on a recorded disk, with *fault*, and cut the power in *trials* moments of that."""
    state_dir = folder / "state"
    state_dir.mkdir(parents=True)
    disk = Disk(folder / "disk", state_dir, is_recorded=True)
    if fault is not None:
        disk.control.fail(fault)
    plant = Plant(seed=seed, **SCRIPTED)
    program = Program("script", state_dir, seed, _BATCHES, environment={**disk.environment, **environment})
    await program.ended()
    records = list(disk.records())
    chance = random.Random(seed)
    replayed, said, done = ReplayedDisk(state_dir.resolve()), list[str](), 0
    for place, moment in enumerate(sorted(_moments(records, trials, chance))):
        for record in records[done:moment]:
            replayed.apply(record)
            if record.op == Op.MARK:
                said.append(record.data.decode())
        done, keeps = moment, chance.choice(_KEEPS)
        after = folder / f"cut-{place}"
        await asyncio.to_thread(replayed.rebuild, after, keeps, chance)
        what = f"cut after {moment} of {len(records)} changes, {keeps} of what was not flushed stays"
        yield Trial(what=what, wrong=await _judged(plant, after, batches_said(said)))
        shutil.rmtree(after)


def _moments(records: list[Record], trials: int, chance: random.Random) -> list[int]:
    """Return after how many changes the power is cut; where a flush has failed, mostly soon after it."""
    marks = [place + 1 for place, record in enumerate(records) if record.op == Op.MARK]
    failed = [place for place, record in enumerate(records) if record.op == Op.SYNC and record.offset == 1]
    soon = [mark for mark in marks if failed and failed[0] < mark < failed[-1] + _SOON]

    def moment() -> int:
        drawn = chance.random()
        if soon and drawn < _SOON_AFTER_A_FAILURE:
            return chance.choice(soon)
        return chance.choice(marks) if drawn < _AT_A_MARK else chance.randint(1, len(records))

    return [moment() for _ in range(trials)]


async def _judged(plant: Plant, state_dir: Path, acknowledged: set[int]) -> tuple[str, ...]:
    try:
        return judge_work(plant, await found_at(state_dir), acknowledged).wrong
    except JournalError as error:
        return (f"cannot be opened or read: {error}",)


CUTS = Act(
    name="cuts",
    promise="what was acknowledged before the power was cut is there exactly once, nothing half",
    series=_cuts,
    trials={Dose.QUICK: 12, Dose.STANDARD: 60, Dose.NIGHTLY: 1000},
    per_series=12,
)
CUTS_CONTROL = Act(
    name="cuts-control",
    promise="with synchronous NORMAL the same cuts lose what was acknowledged",
    series=_cuts_without_flush,
    trials={Dose.QUICK: 12, Dose.STANDARD: 24, Dose.NIGHTLY: 24},
    per_series=12,
    is_control=True,
)
FLUSHES = Act(
    name="flushes",
    promise="a flush fails, the system forgets what was to be written, the power is cut: what was acknowledged stays",
    series=_cuts_after_failures,
    trials={Dose.QUICK: 6, Dose.STANDARD: 48, Dose.NIGHTLY: 1000},
    per_series=6,
)
