"""The gate asks where two answers differ when they differ at all, and lets no decision change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.export.parity import (
    FAR,
    ParityError,
    check_answers,
    clear_of,
    gate_rows,
    gate_sequences,
)
from models.records import Float32Array, FloatArray, Int64Array

TRAINING = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)


def zone(answers: FloatArray) -> Int64Array:
    return (answers[:, 0] >= 0.5).astype(np.int64)


def test_the_gate_asks_with_training_rows_splits_holes_and_far_out() -> None:
    edge = np.float32(0.25)
    rows = gate_rows(TRAINING, [(2, 0.25)], seed=3)

    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows[:400], TRAINING)
    below, above = np.nextafter(edge, np.float32(-1.0)), np.nextafter(edge, np.float32(1.0))
    assert {below, edge, above} <= set(rows[:, 2].tolist())
    assert np.isnan(rows).any(axis=1).sum() > 50
    assert np.isnan(rows).all(axis=1).sum() == 1
    assert set(FAR) <= set(rows[~np.isnan(rows)].tolist())
    for end in (TRAINING.min(axis=0), TRAINING.max(axis=0)):
        assert (rows == end).all(axis=1).any()


def test_the_gate_asks_with_sequences_far_out() -> None:
    training = np.random.default_rng(1).normal(size=(50, 3, 8)).astype(np.float32)
    rows = gate_sequences(training, seed=3)

    np.testing.assert_array_equal(rows[:50], training)
    assert rows.shape[1:] == (3, 8)
    assert np.isfinite(rows).all()
    assert set(FAR) <= set(rows.ravel().tolist())


@pytest.mark.parametrize("training", [TRAINING.astype(np.float64), TRAINING[:0]])
def test_models_trained_on_anything_but_float32_rows_are_stopped(training: Float32Array) -> None:
    """A threshold between two float64 values may part two rows that are one in float32."""
    with pytest.raises(ParityError, match="float32"):
        gate_rows(training, [], seed=1)
    with pytest.raises(ParityError, match="float32"):
        gate_sequences(training[:, None], seed=1)


def test_answers_and_decisions_that_agree_are_told() -> None:
    wanted = np.array([[0.2], [0.8], [np.nan]])
    parity = check_answers("detector", wanted + 1e-7, wanted, decide=zone)

    assert (parity.rows, parity.decisions) == (3, 3)
    assert parity.largest_difference == pytest.approx(1e-7)


def test_a_changed_decision_stops_the_release_however_small_the_difference() -> None:
    """Control: without the decision the same answers are within the tolerance."""
    wanted = np.array([0.2, 0.5, 0.8])
    answer = wanted[:, None] - 1e-9

    with pytest.raises(ParityError, match=r"row 1 is decided 0 by the graph, 1 by the trainer \(1 of 3 rows"):
        check_answers("detector", answer, wanted, decide=zone)
    check_answers("detector", answer, wanted)


@pytest.mark.parametrize("off", [1e-4, np.nan, np.inf])
def test_a_difference_stops_the_release_though_nothing_is_decided_otherwise(off: float) -> None:
    wanted = np.array([0.2, 0.3, 0.8])
    answer = wanted[:, None] + np.array([[0.0], [off], [0.0]])

    with pytest.raises(ParityError, match="row 1, output 0"):
        check_answers("detector", answer, wanted, decide=lambda answers: np.zeros(len(answers), np.int64))


def test_a_number_where_the_trainer_has_none_stops_the_release() -> None:
    with pytest.raises(ParityError, match="row 0"):
        check_answers("life", np.array([[1.0]]), np.array([[np.nan]]))


def test_answers_of_another_shape_or_none_at_all_stop_the_release() -> None:
    for answer, wanted in ((np.zeros((3, 2)), np.zeros(3)), (np.zeros((2, 1)), np.zeros(3)), (np.zeros((0, 1)),) * 2):
        with pytest.raises(ParityError, match="shape"):
            check_answers("life", answer, wanted)


@given(
    outputs=st.lists(st.floats(-100.0, 100.0), max_size=40),
    limit=st.floats(-100.0, 100.0),
)
def test_a_limit_is_moved_off_every_output_and_no_further(outputs: list[float], limit: float) -> None:
    known = np.array(outputs)
    moved = clear_of(limit, known)
    free = 1e-5 * max(abs(limit), 1.0)

    assert not (known == moved).any()
    if not known.size or np.abs(known - limit).min() > free:
        assert moved == limit
    assert abs(moved - limit) <= 2.001 * free * (known.size + 1)


def test_a_limit_on_a_rows_own_answer_is_what_changes_decisions() -> None:
    """Control: the limit as it was decides a rounding, the one moved off does not."""
    outputs = np.random.default_rng(2).random(1000)
    limit = float(np.sort(outputs)[990])
    told = outputs.astype(np.float32).astype(np.float64)
    moved = clear_of(limit, outputs)

    assert ((told >= moved) == (outputs >= moved)).all()
    assert abs(moved - limit) < 1e-3
    assert any(((outputs.astype(np.float32) >= one) != (outputs >= one)).any() for one in np.sort(outputs)[980:])


def test_a_limit_in_a_crowd_goes_to_the_widest_room() -> None:
    crowd = np.concatenate([1.0 + 1e-7 * np.arange(2000), [1.0 + 1e-7 * 2003]])
    moved = clear_of(1.0 + 1e-7 * 1990, crowd)

    assert np.abs(crowd - moved).min() >= 1e-7
