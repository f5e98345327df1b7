from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from gateway.advisory_generation.advisor import CLOSE_FACTOR, Advisor
from gateway.advisory_generation.context import AssetContext
from models.bundle.manifest import Thresholds
from models.records import Advisory, AdvisoryState, Basis, ChannelShare, Health, Prognosis, State, Zone

START = datetime(2026, 3, 2, tzinfo=UTC)
STEP = timedelta(hours=1)
THRESHOLDS = Thresholds(
    warning=0.5,
    alarm=0.7,
    minimum_good_share=0.7,
    on_delay_windows=3,
    off_delay_windows=4,
    minimum_confidence=0.6,
)
CHANNEL = ChannelShare(
    channel="vibration_rms_mm_s",
    share=0.6,
    feature="mean",
    now=4.2,
    normal_low=1.1,
    normal_high=2.3,
    unit="mm/s",
)
N, W, U = Zone.NORMAL, Zone.WARNING, Zone.UNKNOWN


class Machine:
    """Feeds an advisor one window after the other of one asset and keeps all it said."""

    def __init__(self, contexts: dict[str, AssetContext] | None = None, *, model_version: int = 1) -> None:
        self.advisor = Advisor(
            gateway_id="gw-1",
            asset_class="centrifugal_pump",
            thresholds=THRESHOLDS,
            actions={"imbalance": "Balance the impeller."},
            model_version=model_version,
            contexts=contexts,
        )
        self.hour = 0
        self.said: list[Advisory] = []

    def windows(
        self,
        zones: Sequence[Zone],
        *,
        good_share: float = 1.0,
        life_h: float | None = None,
        basis: Basis | None = None,
        **probabilities: float,
    ) -> list[Advisory]:
        said: list[Advisory] = []
        for zone in zones:
            self.hour += 1
            end = START + self.hour * STEP
            state = State(
                asset_id="pump-01",
                asset_class="centrifugal_pump",
                window_start=end - 2 * STEP,
                window_end=end,
                zone=zone,
                score=None if zone is U else 1.2,
                good_share=good_share,
                reason="",
                model_version=1,
                top_channels=() if zone in {N, U} else (CHANNEL,),
            )
            health = Health(
                asset_id="pump-01",
                window_end=end,
                index=70.0,
                grade="B",
                failure_mode=None,
                confidence=0.0,
                probabilities=probabilities,
                model_version=1,
            )
            lives = []
            if life_h is not None and zone is W:
                p10, p50, p90 = (f * (life_h - self.hour) * 3600 for f in (0.5, 1.0, 1.5))
                told = Prognosis(asset_id="pump-01", window_end=end, p10_s=p10, p50_s=p50, p90_s=p90, model_version=1)
                lives = [replace(told, basis=basis)]
                if basis is Basis.NOT_ENOUGH_DATA:
                    lives = [replace(lives[0], p10_s=None, p50_s=None, p90_s=None)]
            said += self.advisor.advise([state], [health], lives)
        self.said += said
        return said


def test_an_advisory_waits_for_the_on_delay() -> None:
    """Two windows out of normal are chance; the third raises one advisory."""
    machine = Machine()
    assert machine.windows([N, W, W, N, W, W], imbalance=0.9) == []

    raised = machine.windows([W], imbalance=0.9)

    assert [(a.state, a.failure_mode, a.revision) for a in raised] == [(AdvisoryState.ACTIVE, "imbalance", 1)]


def test_a_window_that_is_unknown_neither_raises_nor_resets() -> None:
    """Bad data is no sign of a fault, and none of health."""
    machine = Machine()

    assert machine.windows([U] * 20, good_share=0.1) == []
    machine.windows([W, W, U], imbalance=0.9)
    assert len(machine.windows([W], imbalance=0.9)) == 1


def test_an_advisory_returns_after_the_off_delay_and_closes_later() -> None:
    machine = Machine()
    machine.windows([W] * 3, imbalance=0.9)

    assert machine.windows([N] * 3, normal=0.9) == []
    assert [a.state for a in machine.windows([N], normal=0.9)] == [AdvisoryState.RETURNED]
    later = machine.windows([N] * (CLOSE_FACTOR * THRESHOLDS.off_delay_windows), normal=0.9)
    assert [a.state for a in later] == [AdvisoryState.CLOSED]
    assert len({a.advisory_id for a in machine.said}) == 1


def test_a_problem_that_comes_back_soon_is_the_same_advisory() -> None:
    machine = Machine()
    machine.windows([W] * 3 + [N] * 5, imbalance=0.9)

    again = machine.windows([W] * 3, imbalance=0.9)

    assert again[0].state is AdvisoryState.ACTIVE
    assert {a.advisory_id for a in machine.said} == {again[0].advisory_id}


def test_a_problem_after_the_first_was_closed_is_another_advisory() -> None:
    """Control: identity is one problem's, not one machine's."""
    machine = Machine()
    machine.windows([W] * 3 + [N] * 40, imbalance=0.9)

    machine.windows([W] * 3, imbalance=0.9)

    assert len({a.advisory_id for a in machine.said}) == 2


def test_a_mode_that_becomes_clear_takes_over_in_the_same_advisory() -> None:
    """The first sign has no name yet; identity stays when it gets one."""
    machine = Machine()
    first = machine.windows([W] * 3, imbalance=0.3, cavitation=0.3, normal=0.4)
    machine.windows([W] * 20, imbalance=0.9, cavitation=0.1)

    assert first[0].failure_mode == "unclassified"
    assert "cause is not clear yet" in first[0].reason
    assert machine.said[-1].failure_mode == "imbalance"
    assert {a.advisory_id for a in machine.said} == {first[0].advisory_id}


def test_a_mistaken_mode_is_corrected_in_the_same_advisory() -> None:
    machine = Machine()
    first = machine.windows([W] * 3, imbalance=0.7, cavitation=0.2)
    machine.windows([W] * 30, imbalance=0.02, cavitation=0.95)

    assert machine.said[-1].failure_mode == "cavitation"
    assert {a.advisory_id for a in machine.said} == {first[0].advisory_id}


def test_a_mode_beside_another_gets_its_own_advisory() -> None:
    """While the first keeps its share, the second is not a correction."""
    machine = Machine()
    machine.windows([W] * 3, imbalance=0.9)
    machine.windows([W] * 60, imbalance=0.32, cavitation=0.65)

    assert {a.failure_mode for a in machine.said} == {"imbalance", "cavitation"}
    assert len({a.advisory_id for a in machine.said}) == 2


def test_a_revision_has_something_new_to_say() -> None:
    """A steady fault of 200 windows is told a few times, with revisions without holes."""
    machine = Machine()
    machine.windows([W] * 200, imbalance=0.9)

    assert [a.revision for a in machine.said] == list(range(1, len(machine.said) + 1))
    assert len(machine.said) < 15


def test_a_technician_reads_why_how_sure_what_and_by_when() -> None:
    machine = Machine()
    advisory = machine.windows([W] * 3, imbalance=0.8, life_h=103, good_share=0.95)[-1]

    assert advisory.reason.startswith("pump-01: signs of imbalance (80% sure), since 2026-03-01 23:00 UTC")
    assert "vibration_rms_mm_s makes up 60% of the deviation" in advisory.reason
    assert "is 4.2 mm/s, normally 1.1 to 2.3 mm/s" in advisory.reason
    assert "95% of the values" in advisory.reason
    assert advisory.data_trust == pytest.approx(0.95)
    assert advisory.act_by is not None
    assert advisory.act_by.strftime("%Y-%m-%d") == "2026-03-04"
    assert advisory.recommended_action.startswith("Balance the impeller. Do it by 2026-03-04")


def test_without_a_prognosis_no_date_is_made_up() -> None:
    advisory = Machine().windows([W] * 3, imbalance=0.8)[-1]

    assert advisory.act_by is None
    assert advisory.life_p10_s is None
    assert "No life estimate yet" in advisory.recommended_action


@pytest.mark.parametrize(
    ("basis", "said"),
    [
        (Basis.WHOLE_HISTORY, "(judged by its whole life)"),
        (Basis.CUT_HISTORY, "(judged by its last windows: its earlier life is not known here)"),
        (Basis.NOT_ENOUGH_DATA, "Not enough of this machine's history is known for a life estimate"),
    ],
    ids=str,
)
def test_a_technician_reads_what_the_life_rests_on(basis: Basis, said: str) -> None:
    """An estimate from a few windows is not to be taken for one from a whole life."""
    advisory = Machine().windows([W] * 3, imbalance=0.8, life_h=103, basis=basis)[-1]

    assert said in advisory.recommended_action
    assert (advisory.life_p50_s is None) is (basis is Basis.NOT_ENOUGH_DATA)


def test_one_wild_life_estimate_does_not_move_the_date() -> None:
    """The date is a median over a few windows."""
    machine = Machine()
    machine.windows([W] * 6, imbalance=0.9, life_h=100)
    before = machine.said[-1].life_p50_s
    said = machine.windows([W], imbalance=0.9, life_h=100_000)

    assert before is not None
    assert all(a.life_p50_s is not None and a.life_p50_s < 2 * before for a in said)


def test_an_advisor_that_was_saved_goes_on_as_if_nothing_had_happened() -> None:
    """What a restart reads back gives the same advisories as never having stopped."""
    steady, first = Machine(), Machine()
    steady.windows([W] * 2 + [U] + [W] * 10, imbalance=0.9, life_h=200)

    first.windows([W] * 2 + [U], imbalance=0.9, life_h=200)
    saved = msgspec.msgpack.encode(first.advisor.contexts)
    second = Machine(msgspec.msgpack.decode(saved, type=dict[str, AssetContext]))
    second.hour = first.hour
    second.windows([W] * 10, imbalance=0.9, life_h=200)

    assert first.said + second.said == steady.said


def test_a_new_bundle_takes_the_open_advisory_over() -> None:
    """A changed model revises what is open under the same identity."""
    old = Machine()
    old.windows([W] * 3, imbalance=0.9)
    new = Machine(old.advisor.contexts, model_version=2)
    new.hour = old.hour

    revised = new.windows([W], imbalance=0.9)

    assert [(a.advisory_id, a.revision, a.model_version) for a in revised] == [(old.said[0].advisory_id, 2, 2)]


def test_what_a_version_raised_is_withdrawn_when_it_is_rolled_back() -> None:
    """A release that cried wolf leaves no advisory behind; one raised before it stays."""
    old = Machine()
    old.windows([W] * 3, imbalance=0.9)
    wolf = Machine(model_version=2)
    wolf.windows([W] * 3, imbalance=0.9)

    kept = Machine(old.advisor.contexts).advisor.withdraw()
    back = Machine(wolf.advisor.contexts)
    withdrawn = back.advisor.withdraw()

    assert kept == ()
    assert [(a.state, a.revision) for a in withdrawn] == [(AdvisoryState.CLOSED, 2)]
    assert "withdrawn with model version 2" in withdrawn[0].reason
    back.hour = wolf.hour
    assert back.windows([W] * 2, imbalance=0.9) == []  # the delays start anew
