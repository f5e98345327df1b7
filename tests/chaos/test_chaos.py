"""A quick dose of each act; `make chaos` gives whole ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.acts import Act, Dose, Trial
from tests.chaos.driver import play, table
from tests.chaos.repertoire import ACTS
from tests.integration.peers.server import ROOT

SEED = 20261121


@pytest.mark.integration
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.name)
async def test_the_promise_of_the_act_is_kept(act: Act) -> None:
    """The trials of an act break nothing, those of a control do."""
    lines: list[str] = []
    (outcome,) = await play([act], Dose.QUICK, SEED, lines.append)
    assert outcome.is_kept, "\n".join([act.promise, *lines])


async def test_a_broken_promise_is_told_with_its_seed() -> None:
    """A series that breaks is in the outcome, and a control that breaks nothing proves nothing."""

    async def series(_: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
        for place in range(trials):
            yield Trial(what="tried", wrong=("broken",) if seed == 8 and place == 1 else ())

    trials = dict.fromkeys(Dose, 6)
    act = Act(name="act", promise="it holds", series=series, trials=trials, per_series=2)
    control = Act(name="control", promise="it breaks", series=series, trials=trials, per_series=2, is_control=True)
    lines: list[str] = []
    broken, kept = await play([act], Dose.QUICK, 7, lines.append), await play([control], Dose.QUICK, 100, lines.append)
    assert not broken[0].is_kept
    assert broken[0].broken == [(8, "tried: broken")]
    assert not kept[0].is_kept
    assert "BROKEN" in table(broken)
    assert "PROVES NOTHING" in table(kept)


async def test_a_series_that_cannot_be_played_is_told_and_the_rest_goes_on() -> None:
    """Neither a promise nor a control is kept by it."""

    async def series(_: Path, seed: int, trials: int) -> AsyncIterator[Trial]:
        for _place in range(trials):
            yield Trial(what="tried", wrong=("broken",))
        if seed == 8:
            raise OSError("no program")

    act = Act(name="control", promise="", series=series, trials=dict.fromkeys(Dose, 6), per_series=2, is_control=True)
    (outcome,) = await play([act], Dose.QUICK, 7, lambda _: None)
    assert (outcome.trials, outcome.failed, outcome.told) == (6, [(8, "OSError: no program")], "FAILED")
    assert not outcome.is_kept


@pytest.mark.integration
def test_the_program_tells_its_outcome_as_json() -> None:
    """What was played, with which seed and how it went, for other programs; progress goes elsewhere."""
    command = [sys.executable, "-m", "tests.chaos", "--dose", "quick", "--only", "cuts", "--seed", "7", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    outcome = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert (outcome["seed"], outcome["is_kept"], outcome["acts"][0]["trials"]) == (7, True, 12)
    assert "cuts" in done.stderr
