"""Runs acts: series after series, stages side by side, with progress, seeds, and a table at the end."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.acts import Act, Dose

Tell = Callable[[str], None]


@dataclass
class Outcome:
    """What came of an act.

    Attributes:
        act: It.
        trials: How many there were.
        broken: By seed of its series: what was broken, one line for each trial.
        failed: By seed: why a series could not be played to its end, which says nothing good of anybody.
        seconds: How long it took.
    """

    act: Act
    trials: int = 0
    broken: list[tuple[int, str]] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether the promise held; of a control: whether it was broken, as it must be."""
        return self.trials > 0 and not self.failed and bool(self.broken) == self.act.is_control

    @property
    def told(self) -> str:
        """The same in a few words."""
        if self.failed:
            return "FAILED"
        if self.act.is_control:
            return "as it must" if self.is_kept else "PROVES NOTHING"
        return "held" if self.is_kept else "BROKEN"


async def play(acts: Sequence[Act], dose: Dose, seed: int, tell: Tell, *, series: int | None = None) -> list[Outcome]:
    """Play *acts*, those of one stage after each other, and return what came of each in their order.

    Args:
        acts: Which.
        dose: How much.
        seed: Of the first series of each; each further one has the next.
        tell: Takes lines for people.
        series: How many of each; None: as many as the dose says.
    """
    outcomes = {act.name: Outcome(act) for act in acts}

    async def stage(name: str) -> None:
        for act in acts:
            if act.stage == name:
                await _play(outcomes[act.name], dose, seed, tell, series)

    await asyncio.gather(*(stage(name) for name in dict.fromkeys(act.stage for act in acts)))
    return list(outcomes.values())


async def _play(outcome: Outcome, dose: Dose, seed: int, tell: Tell, series: int | None) -> None:
    act, started = outcome.act, time.monotonic()
    wanted = act.trials[dose] if series is None else series * act.per_series
    sizes = [min(act.per_series, wanted - done) for done in range(0, wanted, act.per_series)]
    turns = asyncio.Semaphore(act.at_once)

    async def in_turn(number: int, trials: int) -> None:
        async with turns:
            try:
                await _play_series(outcome, number, trials, tell)
            except Exception as error:  # noqa: BLE001 - the other acts are still worth their time
                outcome.failed.append((number, f"{type(error).__name__}: {error}"))
                tell(f"{act.name}: FAILED, seed {number}: {error}")
        outcome.seconds = time.monotonic() - started
        tell(
            f"{act.name}: {outcome.trials} of {wanted} trials, {len(outcome.broken)} broken, {outcome.seconds:.0f} s "
            f"(seed {number})"
        )

    async with asyncio.TaskGroup() as group:
        for place, size in enumerate(sizes):
            group.create_task(in_turn(seed + place, size))


async def _play_series(outcome: Outcome, seed: int, trials: int, tell: Tell) -> None:
    """Play the series of *seed*, in a folder that goes with it."""
    act, place = outcome.act, 0
    with tempfile.TemporaryDirectory(prefix=f"chaos-{act.name}-") as folder:
        async for trial in act.series(Path(folder) / "it", seed, trials):
            place += 1
            outcome.trials += 1
            if trial.wrong:
                outcome.broken.append((seed, f"{trial.what}: {'; '.join(trial.wrong)}"))
                if not act.is_control:
                    tell(f"{act.name}: BROKEN, seed {seed}, trial {place}: {outcome.broken[-1][1]}")
    if place < trials:
        raise RuntimeError(f"act {act.name}: the series of seed {seed} has {place} of {trials} trials")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the final table."""
    head = ("act", "trials", "broken", "seconds", "", "promise")
    rows = [
        (o.act.name, str(o.trials), str(len(o.broken)), f"{o.seconds:.0f}", o.told, o.act.promise) for o in outcomes
    ]
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in (head, *rows)
    ]
    return "\n".join(lines)
