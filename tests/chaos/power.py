"""The power is cut, and what was not flushed is gone: everything acknowledged is there all the same."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.errors import JournalError
from tests.chaos.acts import Act, Dose, Trial
from tests.chaos.cuts import Keeps, ReplayedDisk
from tests.chaos.disk import Disk, Op, Record
from tests.chaos.oracle import found_at
from tests.chaos.plant import Plant
from tests.chaos.program import SCRIPTED
from tests.chaos.promises import batches_said, judge_work
from tests.chaos.running import Program

_BATCHES = 90
_AT_A_MARK = 0.4  # of the cuts come right after something was said: what it says must be safe
_KEEPS = (Keeps.NOTHING, Keeps.NOTHING, Keeps.SOME, Keeps.SOME, Keeps.ALL)


async def _cuts(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _cut_series(folder, seed, trials, {}):
        yield trial


async def _cuts_without_flush(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _cut_series(folder, seed, trials, {"SYNCHRONOUS": "NORMAL"}):
        yield trial


async def _cut_series(folder: Path, seed: int, trials: int, environment: dict[str, str]) -> AsyncIterator[Trial]:
    """Run the script once on a recorded disk, and cut the power in *trials* moments of that."""
    state_dir = folder / "state"
    state_dir.mkdir(parents=True)
    disk = Disk(folder / "disk", state_dir, is_recorded=True)
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
    marks = [place + 1 for place, record in enumerate(records) if record.op == Op.MARK]
    return [
        chance.choice(marks) if chance.random() < _AT_A_MARK else chance.randint(1, len(records)) for _ in range(trials)
    ]


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
