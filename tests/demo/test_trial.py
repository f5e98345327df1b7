"""A trial knows its truth, and its figures are of that truth."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from click.testing import CliRunner

from demo.__main__ import main
from demo.outcome import FaultOutcome
from demo.plant.fleet import LIVE_START_NS
from demo.plant.simulator import DAY_NS
from demo.trial import Trial, trial_fleet


def fault(*, lead_h: float | None, named: str | None = "imbalance") -> FaultOutcome:
    return FaultOutcome(
        asset="pump-t001",
        mode="imbalance",
        found=lead_h is not None,
        named_mode=named if lead_h is not None else None,
        lead_time_s=None if lead_h is None else 3600.0 * lead_h,
        top_channels=(),
        confidence=None,
    )


def test_faults_follow_each_other_and_lie_within_the_trial() -> None:
    """A machine is repaired, and runs on for a while, before its next fault begins."""
    fleet = trial_fleet(200, 30, seed=3)
    counts = [len(asset.faults) for asset in fleet]
    assert set(counts) == {0, 1, 2}
    for asset in fleet:
        for one in asset.faults:
            assert LIVE_START_NS < one.onset < one.failure < LIVE_START_NS + 30 * DAY_NS
        for before, after in pairwise(asset.faults):
            assert before.repaired + DAY_NS < after.onset


def test_a_seed_gives_the_same_fleet_half_of_each_class() -> None:
    """Another seed gives another one."""
    fleet = trial_fleet(50, 30, seed=1)
    assert fleet == trial_fleet(50, 30, seed=1) != trial_fleet(50, 30, seed=2)
    assert sum(asset.asset_class == "centrifugal_pump" for asset in fleet) == 25


def test_the_figures_are_shares_of_what_was_injected() -> None:
    """A fault that was missed counts, one that was found under another name counts as found."""
    faults = (fault(lead_h=60.0), fault(lead_h=20.0, named="cavitation"), fault(lead_h=None))
    figures = Trial(machines=10, days=15, faults=faults, false_advisories=2).figures()

    assert figures["event_recall"] == pytest.approx(2 / 3)
    assert figures["named_share"] == pytest.approx(0.5)
    assert (figures["median_lead_time_h"], figures["shortest_lead_time_h"]) == (40.0, 20.0)
    assert figures["false_advisories_per_machine_month"] == pytest.approx(0.4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_trial_finds_its_faults() -> None:
    """The whole way: earlier records, training, blocks of a gateway, the plant's own truth."""
    done = CliRunner().invoke(main, ["trial", "--machines", "4", "--days", "12", "--json"], catch_exceptions=False)

    told = json.loads(done.stdout)
    assert told["metrics"]["faults"] == len(told["faults"]) > 0
    assert told["metrics"]["event_recall"] == 1.0
    assert told["metrics"]["false_advisories_per_machine_month"] <= 1.0
