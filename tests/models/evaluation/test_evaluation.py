import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.evaluation.gate import decide
from models.evaluation.metrics import (
    NS_PER_HOUR,
    alarm_onsets,
    confusion,
    coverage,
    lead_hours,
    macro_f1,
    nasa_score,
    point_scores,
    ranking_auc,
    rmse,
)
from models.evaluation.splits import held_out_assets

FLEET = {f"pump-{number:02}": ("cavitation", "seal_leak", None)[number % 3] for number in range(30)}


def test_each_failure_mode_has_assets_on_both_sides() -> None:
    held_out = held_out_assets(FLEET)
    for mode in ("cavitation", "seal_leak"):
        members = {asset_id for asset_id, own in FLEET.items() if own == mode}
        assert members & held_out
        assert members - held_out


def test_a_mode_that_two_assets_had_keeps_one_to_learn_from() -> None:
    for number in range(40):
        held_out = held_out_assets({f"a-{number}": "tool_wear", f"b-{number}": "tool_wear"})
        assert len(held_out) < 2


@given(st.sets(st.text("abcdef", min_size=1), min_size=0, max_size=20))
def test_newcomers_move_no_asset_to_the_other_side(newcomers: set[str]) -> None:
    """An asset that the live release was tried on is not learnt from by the next one."""
    joined = FLEET | dict.fromkeys(newcomers)
    assert held_out_assets(FLEET) == held_out_assets(joined) & FLEET.keys()


def test_auc_counts_ties_half() -> None:
    assert ranking_auc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])) == pytest.approx(0.875)
    assert math.isnan(ranking_auc(np.array([0.1]), np.array([True])))


def test_point_scores_of_a_half_found_fault() -> None:
    scores = point_scores(np.array([True, True, False, False]), np.array([True, False, True, False]))
    assert (scores.precision, scores.recall, scores.f1) == (0.5, 0.5, 0.5)


def test_a_lone_flag_is_no_alarm() -> None:
    flags = np.array([True, False, True, True, True, False])
    np.testing.assert_array_equal(np.flatnonzero(alarm_onsets(flags, 2)), [3])


def test_lead_counts_from_the_first_warning_inside_the_horizon() -> None:
    ends = np.arange(10, dtype=np.int64) * NS_PER_HOUR
    raised = np.isin(np.arange(10), [1, 6, 8])
    assert lead_hours(ends, raised, 9 * NS_PER_HOUR, 5.0) == 3.0
    assert lead_hours(ends, raised, 1 * NS_PER_HOUR - 1, 5.0) is None


def test_macro_f1_of_a_perfect_answer_is_one() -> None:
    truth = np.array([0, 1, 2, 2], np.int64)
    assert macro_f1(confusion(truth, truth, 4)) == 1.0
    assert macro_f1(confusion(truth, np.array([0, 1, 1, 1], np.int64), 4)) == pytest.approx((1 + 0.5 + 0) / 3)


def test_late_answers_cost_more_than_early_ones() -> None:
    assert nasa_score(np.array([10.0])) == pytest.approx(math.e - 1)
    assert nasa_score(np.array([10.0])) > nasa_score(np.array([-10.0]))
    assert rmse(np.array([3.0, -4.0])) == pytest.approx(math.sqrt(12.5))
    assert coverage(np.array([1.0, 5.0]), np.array([0.0, 0.0]), np.array([2.0, 2.0])) == 0.5


GOOD = {"event_recall": 1.0, "detector_auc": 0.95, "false_alarms_per_asset_day": 0.02, "life_rmse_h": 20.0}


def test_the_first_release_is_compared_with_nothing() -> None:
    assert decide(GOOD, None).released


def test_an_equal_candidate_is_released() -> None:
    assert decide(GOOD, GOOD).released


@pytest.mark.parametrize(
    "worse",
    [{"event_recall": 0.8}, {"false_alarms_per_asset_day": 0.3}, {"life_rmse_h": 23.0}, {"life_rmse_h": math.nan}],
)
def test_a_worse_candidate_is_refused_and_the_figure_named(worse: dict[str, float]) -> None:
    decision = decide(GOOD | worse, GOOD)
    assert not decision.released
    assert any(next(iter(worse)) in reason for reason in decision.reasons)


def test_nothing_in_common_is_no_proof() -> None:
    assert not decide({}, {}).released
