from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.condition_monitoring.health_assessment import Assessor, grade
from gateway.condition_monitoring.prognostic_assessment import LONGEST_S, predict
from gateway.condition_monitoring.state_detection import Detector, Span
from models.bundle.manifest import Thresholds
from models.records import Basis, ChannelShare, State, Zone

THRESHOLDS = Thresholds(
    warning=0.5,
    alarm=0.65,
    minimum_good_share=0.7,
    on_delay_windows=3,
    off_delay_windows=4,
    minimum_confidence=0.6,
)
END = datetime(2026, 3, 2, 12, tzinfo=UTC)
DETECTOR = Detector(asset_class="centrifugal_pump", thresholds=THRESHOLDS, model_version=3)
ASSESSOR = Assessor(thresholds=THRESHOLDS, failure_modes=("normal", "imbalance", "seal_leak"), model_version=3)
CHANNEL = ChannelShare(
    channel="load_pct", share=0.7, feature="mean", now=90.0, normal_low=40.0, normal_high=60.0, unit="%"
)


def span(good_share: float = 1.0) -> Span:
    return Span(asset_id="pump-01", start=END - timedelta(hours=2), end=END, good_share=good_share)


def state(output: float | None, good_share: float = 1.0) -> State:
    return DETECTOR.detect(span(good_share), output, (CHANNEL,))


def test_zones_begin_at_their_thresholds() -> None:
    """The score counts in warning thresholds; a value on the threshold is in the zone."""
    outputs = (0.3, 0.49, 0.5, 0.64, 0.65, 0.9)

    assert [str(state(o).zone) for o in outputs] == ["normal", "normal", "warning", "warning", "alarm", "alarm"]
    assert state(0.5).score == 1.0


def test_too_few_good_values_are_unknown_with_the_reason() -> None:
    """However normal the detector thinks the rest is."""
    seen = state(0.1, good_share=0.69)

    assert (seen.zone, seen.score) == (Zone.UNKNOWN, None)
    assert seen.reason == "69% of the values are good, 70% are needed"
    assert seen.good_share == 0.69


def test_enough_good_values_are_judged() -> None:
    """Control to the one above: the limit itself is enough."""
    assert state(0.1, good_share=0.7).zone is Zone.NORMAL


def test_an_output_that_is_no_number_is_unknown() -> None:
    assert state(float("nan")).zone is Zone.UNKNOWN
    assert state(None).reason


def test_only_windows_out_of_normal_name_channels() -> None:
    assert state(0.6).top_channels == (CHANNEL,)
    assert "load_pct (70%)" in state(0.6).reason
    assert state(0.1).top_channels == ()


def test_the_likeliest_mode_is_named_when_it_is_sure_enough() -> None:
    health = ASSESSOR.assess(state(0.6), np.array([0.1, 0.8, 0.1], np.float32))

    assert health.failure_mode == "imbalance"
    assert abs(health.confidence - 0.8) < 1e-6
    assert abs(sum(health.probabilities.values()) - 1) < 1e-6


def test_below_the_least_confidence_the_mode_is_unclassified() -> None:
    assert ASSESSOR.assess(state(0.6), np.array([0.3, 0.4, 0.3])).failure_mode == "unclassified"
    assert ASSESSOR.assess(state(0.6), None).failure_mode == "unclassified"


def test_a_normal_window_has_no_failure_mode() -> None:
    """The classifier alone raises nothing: the detector says when there is something to name."""
    health = ASSESSOR.assess(state(0.2), np.array([0.1, 0.8, 0.1]))

    assert (health.failure_mode, health.grade) == (None, "A")


def test_an_unknown_window_has_no_health() -> None:
    health = ASSESSOR.assess(state(0.2, good_share=0.1), np.array([1.0, 0.0, 0.0]))

    assert (health.index, health.grade, health.failure_mode, health.probabilities) == (None, "U", None, {})


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=2).map(sorted))
def test_health_never_rises_with_the_score(scores: list[float]) -> None:
    low, high = (ASSESSOR.index(s) for s in scores)

    assert 0.0 <= high <= low <= 100.0


def test_grades_follow_the_zones() -> None:
    """A is normal, B is warning, C and D are alarm."""
    grades = [grade(ASSESSOR.index(s)) for s in (0.0, 0.99, 1.0, 1.29, 1.31, 3.0)]

    assert grades == ["A", "A", "B", "B", "C", "D"]


@given(st.lists(st.floats(-1e12, 1e12), min_size=3, max_size=3))
def test_quantiles_of_life_are_in_order_and_bounded(quantiles: list[float]) -> None:
    told = predict(state(0.6), np.array(quantiles), 3)

    assert told is not None
    assert told.p10_s is not None
    assert told.p50_s is not None
    assert told.p90_s is not None
    assert 0.0 <= told.p10_s <= told.p50_s <= told.p90_s <= LONGEST_S


def test_too_little_history_is_said_and_no_number_made_up() -> None:
    """The prognosis is there, so that people see why there is no life in it."""
    told = predict(state(0.6), np.full(3, np.nan), 3, Basis.NOT_ENOUGH_DATA)

    assert told is not None
    assert told.basis is Basis.NOT_ENOUGH_DATA
    assert (told.p10_s, told.p50_s, told.p90_s) == (None, None, None)


def test_no_life_is_told_without_a_model_a_number_or_a_known_state() -> None:
    assert predict(state(0.6), None, 3) is None
    assert predict(state(0.6), np.array([1.0, np.nan, 3.0]), 3) is None
    assert predict(state(0.1, good_share=0.1), np.array([1.0, 2.0, 3.0]), 3) is None
    assert predict(state(0.1), np.array([1.0, 2.0, 3.0]), 3) is not None
