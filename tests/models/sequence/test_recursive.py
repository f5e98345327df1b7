import numpy as np
import pytest

from models.sequence.heads import HeadError, HeadStatistics
from models.sequence.recursive import RecursiveHead
from tests.models.sequence.conftest import Learned, make_learned


@pytest.mark.parametrize("at_once", [1, 17, 600])
def test_learning_on_equals_a_refit(learned: Learned, at_once: int) -> None:
    """However many windows come at a time; the issue's bound is the reason for the 1e-8."""
    before = HeadStatistics.of(learned.features, learned.targets, learned.weights)
    new = make_learned(600, seed=7)
    live = RecursiveHead(before, 2.0)

    for start in range(0, 600, at_once):
        part = slice(start, start + at_once)
        live.update(new.features[part], new.targets[part], new.weights[part])

    refit = (before + HeadStatistics.of(new.features, new.targets, new.weights)).solve(2.0)
    scale = np.abs(refit.weights).max()
    np.testing.assert_allclose(live.head.weights, refit.weights, rtol=0.0, atol=1e-8 * scale)
    np.testing.assert_allclose(live.head.bias, refit.bias, rtol=1e-8)


def test_a_window_of_no_weight_teaches_nothing(learned: Learned) -> None:
    live = RecursiveHead(HeadStatistics.of(learned.features, learned.targets), 2.0)
    before = live.head

    live.update(learned.features[:1] + 5.0, learned.targets[:1] - 100.0, np.zeros(1))

    np.testing.assert_allclose(live.head.weights, before.weights, atol=1e-12)


def test_what_is_no_window_is_refused_and_nothing_learned(learned: Learned) -> None:
    live = RecursiveHead(HeadStatistics.of(learned.features, learned.targets), 2.0)
    before = live.head
    holes = learned.features.copy()
    holes[-1, 0] = np.inf

    with pytest.raises(HeadError, match="not finite"):
        live.update(holes, learned.targets)
    with pytest.raises(HeadError, match="do not fit"):
        live.update(learned.features[:, 1:], learned.targets)
    with pytest.raises(HeadError, match="less than nothing"):
        live.update(learned.features, learned.targets, -learned.weights)

    np.testing.assert_array_equal(live.head.weights, before.weights)


def test_nothing_is_not_enough_to_start_from() -> None:
    with pytest.raises(HeadError, match="no solution"):
        RecursiveHead(HeadStatistics.empty(5, 1), 1.0)
