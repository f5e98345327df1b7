"""The wall clock steps by an hour or a year, forth and back, while the journal runs and while it does not."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

from gateway.errors import JournalError
from tests.chaos.acts import Act, Dose, Trial
from tests.chaos.disk import Disk
from tests.chaos.oracle import found_at
from tests.chaos.plant import Plant
from tests.chaos.program import LIVE
from tests.chaos.promises import batches_said, batches_there, judge_work
from tests.chaos.running import Program

_HOUR_S, _YEAR_S = 3600.0, 365 * 86_400.0
_STEPS = {"an hour forth": _HOUR_S, "an hour back": -_HOUR_S, "a year forth": _YEAR_S, "a year back": -_YEAR_S}
_STEPS_A_RUN = 4


async def _clocks(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _clock_series(folder, seed, trials, {}):
        yield trial


async def _wall_clocks(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _clock_series(folder, seed, trials, {"AGE": "WALL"}):
        yield trial


async def _clock_series(folder: Path, seed: int, trials: int, environment: dict[str, str]) -> AsyncIterator[Trial]:
    """Run the program again and again on one journal; its clock steps while it runs, and between runs."""
    state_dir = folder / "state"
    state_dir.mkdir(parents=True)
    disk, chance = Disk(folder / "disk", state_dir), random.Random(seed)
    plant, said = Plant(seed=seed, **LIVE), set[int]()
    for _ in range(trials):
        offsets = [chance.choice(list(_STEPS)) for _ in range(_STEPS_A_RUN)]
        program = Program("live", state_dir, seed, environment={**disk.environment, **environment})
        disk.control.shift_clock(_STEPS[offsets[0]])
        await program.start()
        for offset in offsets[1:]:
            await program.hear(chance.randint(20, 60))
            disk.control.shift_clock(_STEPS[offset])
        await program.hear(20)
        death = await program.kill()
        said |= batches_said(program.said)
        wrong = [death] if death else []
        try:
            found = await found_at(state_dir)
            wrong += judge_work(plant, found, said).wrong
            said |= batches_there(plant, found)  # stored, though it died before it said so
            if found.purged_pages or found.counters.expired:
                wrong.append(f"{found.purged_pages} pages were purged, {dict(found.counters.expired)} expired")
        except JournalError as error:
            wrong.append(f"cannot be opened or read: {error}")
        yield Trial(what=f"clock {', '.join(offsets)}", wrong=tuple(wrong))


CLOCKS = Act(
    name="clocks",
    promise="whatever the wall clock does, nothing is purged, lost or there twice",
    series=_clocks,
    trials={Dose.QUICK: 2, Dose.STANDARD: 10, Dose.NIGHTLY: 200},
    per_series=5,
)
CLOCKS_CONTROL = Act(
    name="clocks-control",
    promise="a journal whose age goes by the wall clock purges what is not old",
    series=_wall_clocks,
    trials={Dose.QUICK: 1, Dose.STANDARD: 5, Dose.NIGHTLY: 5},
    per_series=5,
    is_control=True,
)
