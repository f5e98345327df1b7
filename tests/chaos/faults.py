"""Writes, flushes, renames fail, once or for a while: the journal says so, and comes through without a restart."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from tests.chaos.acts import Act, Dose, Trial
from tests.chaos.disk import Disk
from tests.integration.peers.server import ROOT

_trial_decoder = msgspec.json.Decoder(Trial)


async def _faults(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _sweep(folder, seed, trials, {}):
        yield trial


async def _faults_taken_for_done(folder: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
    async for trial in _sweep(folder, seed, trials, {"CARELESS": "1"}):
        yield trial


async def _sweep(folder: Path, seed: int, trials: int, environment: dict[str, str]) -> AsyncIterator[Trial]:
    watched = folder / "states"
    watched.mkdir(parents=True)
    disk = Disk(folder / "disk", watched)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.sweep", str(watched), str(folder / "disk" / "disk.control")),
        *(str(seed), str(trials)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, **disk.environment, **environment},
    )
    assert process.stdout is not None
    told, is_through = 0, False
    try:
        while line := await process.stdout.readline():
            if line.startswith(b"{"):
                told += 1
                yield _trial_decoder.decode(line)
        is_through = True
    finally:
        if not is_through:
            process.kill()
        await process.wait()
    if told < trials:
        yield Trial(what=f"trial {told + 1}", wrong=(f"the program ended with {process.returncode}",))


FAULTS = Act(
    name="faults",
    promise="a write, flush or rename that fails is told; the journal comes through without a restart, counts exact",
    series=_faults,
    trials={Dose.QUICK: 8, Dose.STANDARD: 192, Dose.NIGHTLY: 3000},
    per_series=48,
    at_once=4,
)
FAULTS_CONTROL = Act(
    name="faults-control",
    promise="a program that takes a failed commit for done is found out",
    series=_faults_taken_for_done,
    trials={Dose.QUICK: 4, Dose.STANDARD: 12, Dose.NIGHTLY: 12},
    per_series=12,
    is_control=True,
)
