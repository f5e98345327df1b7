"""What the program under test was promised, held against what its journal has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from tests.chaos.oracle import DAMAGED, EXPIRED, QUARANTINED, Found, Verdict, judge
from tests.chaos.plant import Plant
from tests.chaos.program import EVERY_NTH_WITH_RESULTS, MONITORED, OF_BATCH


def batches_said(lines: Iterable[str]) -> set[int]:
    """Return the batches that *lines* say are stored."""
    return {int(line.split()[1]) for line in lines if line.startswith("ack ")}


def batches_there(plant: Plant, found: Found) -> set[int]:
    """Return the batches of which a journal has anything."""
    return set(np.unique(plant.batches_of(found.rows.source_time)).tolist())


def judge_work(plant: Plant, found: Found, acknowledged: set[int], *, set_back: bool = False) -> Verdict:
    """Judge a journal of the program under test.

    A batch that was acknowledged is there. One that was not may be there, but whole; with its results, in order, and
    with what the monitor made of it exactly as far as the monitor says it has come. Where damage has *set_back* the
    monitor, with the state that it had then, it may have come further before; without damage nothing may be lost by it,
    told or not.
    """
    there = batches_there(plant, found)
    verdict = judge(plant.batches(sorted(acknowledged | {batch for batch in there if batch >= 0})), found)
    lost = {int(event.detail["seq"]) for event in found.events(QUARANTINED)}
    for event in found.events(EXPIRED):
        lost |= set(range(int(event.detail["first_seq"]), int(event.detail["last_seq"]) + 1))
    lost |= set(range(1, found.purged_pages + 1))
    wrong = [*verdict.wrong, *_results_wrong(found, there, lost, set_back=set_back)]
    if not set_back and (damaged := found.counters.expired.get(DAMAGED, 0)):
        wrong.append(f"{damaged} rows are lost as damaged, and nothing was")
    return replace(verdict, wrong=tuple(wrong))


def _results_wrong(found: Found, there: set[int], lost: set[int], *, set_back: bool) -> list[str]:
    """Return what is wrong with results; they may be missing when pages are *lost*."""
    of_batches = Counter(int(event.message) for event in found.events(OF_BATCH))
    monitored = Counter(int(event.message) for event in found.events(MONITORED))
    position = found.positions.get("monitor", 0)
    wanted = {batch for batch in there if batch % EVERY_NTH_WITH_RESULTS == 0}
    pages = {seq for seq in np.unique(found.seq).tolist() if seq <= position}
    wrong = []
    if any(count > 1 for count in (of_batches | monitored).values()):
        wrong.append("results are there twice")
    if not lost and wanted != of_batches.keys():
        wrong.append(f"results of batches {sorted(of_batches.keys() ^ wanted)[:5]} are without them, or they without")
    ahead = set() if set_back else monitored.keys() - pages - lost
    if ahead or (not lost and not pages <= monitored.keys()):
        wrong.append(
            f"the monitor is at {position}; pages {sorted(pages ^ monitored.keys())[:5]} are without its results, "
            "or these without it"
        )
    return wrong
