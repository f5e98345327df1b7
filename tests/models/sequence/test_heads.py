import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.records import FloatArray
from models.sequence import heads
from models.sequence.heads import Head, HeadError, HeadStatistics
from tests.models.sequence.conftest import Learned, make_learned

RIDGE = 3.0


def relative(one: FloatArray, other: FloatArray) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def equal(one: HeadStatistics, other: HeadStatistics) -> bool:
    parts = [(one.gram, other.gram), (one.moment, other.moment), (one.square, other.square)]
    return one.rows == other.rows and all(relative(mine, theirs) < 1e-12 for mine, theirs in parts)


@given(sites=st.lists(st.integers(0, 399), max_size=6), order=st.randoms(use_true_random=False))
def test_sites_add_up_to_the_pool_in_any_order(sites: list[int], order: random.Random) -> None:
    """However windows are spread over sites, and whoever comes first, the head is the one of all windows."""
    learned = make_learned(400, seed=1)
    bounds = [0, *sorted(sites), 400]
    parts = [
        HeadStatistics.of(learned.features[low:high], learned.targets[low:high], learned.weights[low:high])
        for low, high in itertools.pairwise(bounds)
    ]
    order.shuffle(parts)

    together = sum(parts[1:], parts[0])
    pooled = HeadStatistics.of(learned.features, learned.targets, learned.weights)

    assert equal(together, pooled)
    assert relative(together.solve(RIDGE).weights, pooled.solve(RIDGE).weights) < 1e-9


def test_windows_taken_back_are_as_if_never_seen(learned: Learned) -> None:
    whole = HeadStatistics.of(learned.features, learned.targets)
    part = HeadStatistics.of(learned.features[:150], learned.targets[:150])

    assert equal(whole - part, HeadStatistics.of(learned.features[150:], learned.targets[150:]))


def test_more_windows_than_there_are_cannot_be_taken_back(learned: Learned) -> None:
    whole = HeadStatistics.of(learned.features, learned.targets)

    with pytest.raises(HeadError, match="800 windows cannot be taken from 400"):
        _ = whole - (whole + whole)


def test_a_head_is_the_least_of_what_it_says(learned: Learned) -> None:
    """The gradient of error and penalty vanishes; the bias is not penalised."""
    head = HeadStatistics.of(learned.features, learned.targets, learned.weights).solve(RIDGE)

    error = (head.predict(learned.features) - learned.targets) * learned.weights[:, None]

    np.testing.assert_allclose(learned.features.T @ error + RIDGE * head.weights, 0.0, atol=1e-7)
    np.testing.assert_allclose(error.sum(axis=0), 0.0, atol=1e-8)


def test_a_weight_of_two_is_the_window_twice(learned: Learned) -> None:
    twice = HeadStatistics.of(np.tile(learned.features, (2, 1)), np.tile(learned.targets, (2, 1)))
    double = HeadStatistics.of(learned.features, learned.targets, np.full(400, 2.0))

    assert relative(double.solve(RIDGE).weights, twice.solve(RIDGE).weights) < 1e-10


def test_the_error_on_windows_is_known_without_them(learned: Learned) -> None:
    sums = HeadStatistics.of(learned.features, learned.targets, learned.weights)
    head = Head(weights=np.full((30, 2), 0.1), bias=np.array([3.0, -4.0]))

    wanted = learned.weights @ (head.predict(learned.features) - learned.targets) ** 2

    np.testing.assert_allclose(sums.squared_error(head), wanted, rtol=1e-10)


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 200])
def test_blocks_of_a_triangle_solve_what_the_whole_does(columns: int) -> None:
    learned = make_learned(500, seed=2, columns=columns) if columns > 1 else make_learned(500, seed=2, columns=2)
    matrix = learned.features.T @ learned.features + np.eye(learned.features.shape[1])
    right = np.random.default_rng(3).normal(size=(len(matrix), 3))

    np.testing.assert_allclose(
        heads._solve_positive(matrix, right, floor=1.0), np.linalg.solve(matrix, right), rtol=1e-7, atol=1e-10
    )


def test_columns_that_repeat_each_other_still_have_a_head() -> None:
    """Rounding leaves such a matrix without a Cholesky root; eigenvalues below the ridge count as the ridge."""
    one = 1e6 * np.random.default_rng(4).normal(size=(200, 1))
    learned = HeadStatistics.of(np.tile(one, (1, 12)), one[:, 0])
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(learned.gram[:-1, :-1] + 1e-6 * np.eye(12))  # control: so it is

    head = learned.solve(1e-6)

    np.testing.assert_allclose(head.predict(np.tile(one, (1, 12)))[:, 0], one[:, 0], rtol=1e-3, atol=1e3)


def test_batches_change_nothing(learned: Learned, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HeadStatistics.of(learned.features, learned.targets, learned.weights)
    monkeypatch.setattr(heads, "_BATCH", 7)

    assert equal(HeadStatistics.of(learned.features, learned.targets, learned.weights), whole)


def test_what_is_no_window_is_refused(learned: Learned) -> None:
    holes = learned.features.copy()
    holes[3, 3] = np.nan
    with pytest.raises(HeadError, match="not finite"):
        HeadStatistics.of(holes, learned.targets)
    with pytest.raises(HeadError, match="do not fit"):
        HeadStatistics.of(learned.features, learned.targets, -learned.weights)
    with pytest.raises(HeadError, match="do not fit"):
        HeadStatistics.of(learned.features, learned.targets, learned.weights[1:])
    with pytest.raises(HeadError, match="do not go with"):
        _ = HeadStatistics.empty(30, 2) + HeadStatistics.empty(30, 1)


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_without_windows_or_ridge_there_is_no_head(learned: Learned, ridge: float) -> None:
    with pytest.raises(HeadError, match="no solution"):
        HeadStatistics.of(learned.features, learned.targets).solve(ridge)
    with pytest.raises(HeadError, match="no solution"):
        HeadStatistics.empty(30, 2).solve(1.0)
