"""How the demo judges itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from demo.outcome import (
    FaultOutcome,
    InjectedFault,
    ObservationBalance,
    Outcome,
    RolloutOutcome,
    false_advisories,
    judge_faults,
)
from models.records import Advisory, AdvisoryState, ChannelShare

DAY = timedelta(days=1)
START = datetime(2026, 3, 12, tzinfo=UTC)
FAULT = InjectedFault(
    asset_id="pump-01", mode="imbalance", onset=START, failure=START + 4 * DAY, repaired=START + 4.5 * DAY
)
SHARE = ChannelShare(
    channel="vibration_rms_mm_s", share=0.7, feature="mean", now=4.0, normal_low=1.0, normal_high=2.0, unit="mm/s"
)
ADVISORY = Advisory(
    advisory_id="a1",
    revision=1,
    asset_id="pump-01",
    asset_class="centrifugal_pump",
    failure_mode="unclassified",
    state=AdvisoryState.ACTIVE,
    raised_at=START + DAY,
    updated_at=START + DAY,
    evidence_start=START,
    evidence_end=START + DAY,
    top_channels=(SHARE,),
    confidence=0.5,
    life_p10_s=None,
    life_p50_s=None,
    life_p90_s=None,
    act_by=None,
    model_version=1,
    data_trust=1.0,
    reason="",
    recommended_action="",
)
KEPT = Outcome(
    seconds=1.0,
    faults=(),
    false_advisories=0,
    observations=ObservationBalance(made=5, stored=5, delivered=5, lost=0, duplicated=0),
    models=(),
    rollout=RolloutOutcome(released=True, refused_broken=True, rolled_back_bad=True),
)


def test_a_fault_is_found_by_its_first_advisory_and_named_by_its_last_word_before_the_failure() -> None:
    """Lead time counts from the first sign; what is said after the failure counts for nothing."""
    better = replace(ADVISORY, revision=2, failure_mode="imbalance", updated_at=START + 2 * DAY)
    too_late = replace(ADVISORY, revision=3, failure_mode="cavitation", updated_at=START + 5 * DAY)
    (outcome,) = judge_faults([FAULT], [too_late, ADVISORY, better])

    assert outcome.found
    assert outcome.right_mode
    assert outcome.lead_time_s == 3 * DAY.total_seconds()


def test_an_advisory_before_the_onset_finds_nothing() -> None:
    """It cannot have been about this fault."""
    early = replace(ADVISORY, raised_at=START - DAY, updated_at=START - DAY)

    assert not judge_faults([FAULT], [early])[0].found
    assert false_advisories([FAULT], [early], except_versions=frozenset()) == [early]


def test_an_advisory_on_a_healthy_machine_is_false_unless_its_release_was_meant_to_be_bad() -> None:
    """The bad bundle's own alarms are not held against the good ones."""
    healthy = replace(ADVISORY, asset_id="pump-06")

    assert false_advisories([FAULT], [healthy], except_versions=frozenset()) == [healthy]
    assert false_advisories([FAULT], [healthy], except_versions=frozenset({("centrifugal_pump", 1)})) == []


def test_every_broken_promise_is_told() -> None:
    """A demo with one flaw does not end well; the outcome without it does."""
    missed = FaultOutcome(
        asset="pump-01",
        mode="imbalance",
        found=False,
        named_mode=None,
        lead_time_s=None,
        top_channels=(),
        confidence=None,
    )
    flaws = [
        replace(KEPT, observations=replace(KEPT.observations, lost=1)),
        replace(KEPT, observations=replace(KEPT.observations, duplicated=1)),
        replace(KEPT, observations=replace(KEPT.observations, stored=4)),
        replace(KEPT, faults=(missed,)),
        replace(KEPT, false_advisories=1),
        replace(KEPT, rollout=replace(KEPT.rollout, released=False)),
        replace(KEPT, rollout=replace(KEPT.rollout, refused_broken=False)),
        replace(KEPT, rollout=replace(KEPT.rollout, rolled_back_bad=False)),
    ]

    assert KEPT.broken_promises() == []
    assert all(flawed.broken_promises() for flawed in flaws)
