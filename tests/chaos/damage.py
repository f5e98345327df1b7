"""Bytes of a journal's files turn over or are cut off while nobody looks: it opens all the same, and tells the loss."""

from __future__ import annotations

import random
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from gateway.errors import JournalError
from tests.chaos.acts import Act, Dose, Trial
from tests.chaos.oracle import found_at
from tests.chaos.plant import Plant
from tests.chaos.program import SCRIPTED
from tests.chaos.promises import batches_said, judge_work
from tests.chaos.running import Program

_BATCHES = 70
_CUT_OFF = 0.25  # of the damages; the rest are bytes that turned over
_IN_THE_HEAD, _HEAD_BYTES = 0.2, 8192  # so many of the bytes turn over where the file says what it is
_MOST_BYTES = 3
_FILES = ("journal.sqlite", "journal.sqlite-wal", "*.wseg", "journal.sqlite", "journal.sqlite-wal", "journal.last")


async def _damages(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _damage_series(folder, seed, trials, reads_past=False):
        yield trial


async def _damages_unsaid(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _damage_series(folder, seed, trials, reads_past=True):
        yield trial


async def _damage_series(folder: Path, seed: int, trials: int, *, reads_past: bool) -> AsyncIterator[Trial]:
    """Make a journal, as a killed gateway leaves it or a stopped one, and damage a copy of it for each trial.

    With *reads_past* the journal's word about what is lost is not listened to, which has to be found.
    """
    whole = folder / "whole"
    is_killed = seed % 2 == 1
    program = Program("halting" if is_killed else "script", whole, seed, _BATCHES)
    await (program.halted() if is_killed else program.ended())
    plant, said, chance = Plant(seed=seed, **SCRIPTED), batches_said(program.said), random.Random(seed)
    for place in range(trials):
        copy = folder / f"copy-{place}"
        shutil.copytree(whole, copy)
        what = _damage(copy, chance)
        yield Trial(what=what, wrong=await _judged(plant, copy, said, reads_past=reads_past))
        shutil.rmtree(copy)


def _damage(state_dir: Path, chance: random.Random) -> str:
    """Damage one file below *state_dir*, the database, its log, a segment or what remembers; return what was done."""
    kinds = [sorted(state_dir.rglob(pattern)) for pattern in _FILES]
    path = chance.choice(chance.choice([paths for paths in kinds if paths and paths[0].stat().st_size]))
    data = bytearray(path.read_bytes())
    if chance.random() < _CUT_OFF:
        left = chance.randrange(len(data))
        path.write_bytes(data[:left])
        return f"{path.name} of {len(data)} bytes cut off after {left}"
    within = min(len(data), _HEAD_BYTES) if chance.random() < _IN_THE_HEAD else len(data)
    places = [chance.randrange(within) for _ in range(chance.randint(1, _MOST_BYTES))]
    for place in places:
        data[place] ^= chance.randint(1, 255)
    path.write_bytes(data)
    return f"bytes {places} of {path.name} turned over"


async def _judged(plant: Plant, state_dir: Path, acknowledged: set[int], *, reads_past: bool) -> tuple[str, ...]:
    try:
        await found_at(state_dir)
        found = await found_at(state_dir)  # the second start tells no more and no less
    except JournalError as error:
        return (f"cannot be opened or read: {error}",)
    if reads_past:
        found = replace(found, counters=replace(found.counters, expired={}))
    return judge_work(plant, found, acknowledged, set_back=True).wrong


DAMAGES = Act(
    name="damages",
    promise="with bytes turned over or cut off it opens, and the loss it tells is the loss there is",
    series=_damages,
    trials={Dose.QUICK: 10, Dose.STANDARD: 100, Dose.NIGHTLY: 2000},
    per_series=25,
)
DAMAGES_CONTROL = Act(
    name="damages-control",
    promise="the same losses, not told, are found out",
    series=_damages_unsaid,
    trials={Dose.QUICK: 10, Dose.STANDARD: 25, Dose.NIGHTLY: 25},
    per_series=25,
    is_control=True,
)
