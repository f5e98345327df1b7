"""The gateway's process is killed at any moment, again and again, and started on what it left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.errors import JournalError
from tests.chaos.acts import Act, Dose, Trial
from tests.chaos.oracle import found_at
from tests.chaos.plant import Plant
from tests.chaos.program import LIVE, SCRIPTED
from tests.chaos.promises import batches_said, batches_there, judge_work
from tests.chaos.running import Program

_BEFORE_OPEN = 0.2  # of the kills come while it starts or opens the journal
_STARTING_S = 0.8


async def _kills(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _kill_series(folder, seed, trials, "live"):
        yield trial


async def _kills_of_early(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _kill_series(folder, seed, trials, "early"):
        yield trial


async def _kills_of_crowded(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _kill_series(folder, seed, trials, "crowded"):
        yield trial


async def _kill_series(folder: Path, seed: int, trials: int, mode: str) -> AsyncIterator[Trial]:
    chance = random.Random(seed)
    plant, said = Plant(seed=seed, **(SCRIPTED if mode == "crowded" else LIVE)), set[int]()
    for _ in range(trials):
        program = Program(mode, folder, seed)
        if mode != "early" and chance.random() < _BEFORE_OPEN:
            lines, further_s = 0, chance.uniform(0.3, _STARTING_S)
        else:
            lines, further_s = chance.randint(2, 120), chance.uniform(0, 0.02)
        await program.start()
        await program.hear(lines)
        await asyncio.sleep(further_s)
        death = await program.kill()
        said |= batches_said(program.said)
        wrong = [death] if death else []
        try:
            found = await found_at(folder)
            wrong += judge_work(plant, found, said).wrong
            said |= batches_there(plant, found)  # stored, though it died before it said so
            held = f"{len(found.rows)} rows, {sum(found.counters.expired.values())} expired"
        except JournalError as error:
            wrong.append(f"cannot be opened or read: {error}")
            held = "nothing to be read"
        yield Trial(what=f"killed after {lines} lines and {further_s * 1e3:.1f} ms, {held}", wrong=tuple(wrong))


KILLS = Act(
    name="kills",
    promise="killed during ingest and started again, it has all it acknowledged, once, and splits nothing",
    series=_kills,
    trials={Dose.QUICK: 3, Dose.STANDARD: 50, Dose.NIGHTLY: 500},
    per_series=10,
)
KILLS_CONTROL = Act(
    name="kills-control",
    promise="a program that acknowledges before the commit is found out",
    series=_kills_of_early,
    trials={Dose.QUICK: 3, Dose.STANDARD: 5, Dose.NIGHTLY: 5},
    per_series=5,
    is_control=True,
)
LIMITS = Act(
    name="limits",
    promise="killed while it purges for its limits, it tells by count and gap exactly what it has given up",
    series=_kills_of_crowded,
    trials={Dose.QUICK: 2, Dose.STANDARD: 10, Dose.NIGHTLY: 200},
    per_series=5,
)
