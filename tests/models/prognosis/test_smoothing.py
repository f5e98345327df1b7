"""Told lives that do not jump up."""

from __future__ import annotations

import numpy as np
import pytest

from models.prognosis.life import Life
from models.prognosis.prognoses import PrognosisError
from models.prognosis.smoothing import Smoother
from models.records import Basis, FloatArray

HOUR_NS = 3_600_000_000_000


def life(hours: list[float]) -> Life:
    """Return lives with P10 an hour below and P90 two hours above *hours*."""
    middle = np.array(hours) * 3600.0
    return Life(
        life_s=np.stack([middle - 3600.0, middle, middle + 7200.0], axis=1),
        basis=np.full(len(hours), Basis.WHOLE_HISTORY, np.object_),
    )


def ends(count: int, first: int = 0) -> np.typing.NDArray[np.int64]:
    return (np.arange(count) + first) * HOUR_NS


def middle_h(told: Life) -> FloatArray:
    return np.asarray(told.life_s[:, 1] / 3600.0, np.float64)


def test_a_told_life_only_sinks() -> None:
    """With no rise allowed the smoothed life is the least that was told."""
    told = Smoother(0.0).smooth(["a"] * 4, ends(4), life([50.0, 60.0, 40.0, 45.0]))

    assert middle_h(told) == pytest.approx([50.0, 50.0, 40.0, 40.0])
    assert (np.diff(told.life_s, axis=1) > 0.0).all()


def test_a_rise_is_held_to_so_much_an_hour() -> None:
    """An estimate that was once too low recovers at the rate that is allowed."""
    told = Smoother(2.0).smooth(["a"] * 4, ends(4), life([50.0, 60.0, 60.0, 54.0]))

    assert middle_h(told) == pytest.approx([50.0, 52.0, 54.0, 54.0])


def test_assets_are_smoothed_apart_and_a_repair_begins_anew() -> None:
    """One asset's low life is no other's, nor its own after a repair."""
    smoother = Smoother(0.0)
    told = smoother.smooth(["a", "b"], ends(2), life([10.0, 90.0]))
    smoother.begin_life("a")
    after = smoother.smooth(["a", "b"], ends(2, 5), life([80.0, 95.0]))

    assert middle_h(told) == pytest.approx([10.0, 90.0])
    assert middle_h(after) == pytest.approx([80.0, 90.0])


def test_a_window_without_a_prognosis_stays_so() -> None:
    """Not enough data is no life of nothing, and what was told before it still holds."""
    lives = life([20.0, np.nan, 30.0])

    assert middle_h(Smoother(0.0).smooth(["a"] * 3, ends(3), lives)) == pytest.approx([20.0, np.nan, 20.0], nan_ok=True)


def test_in_how_many_calls_makes_no_difference() -> None:
    """A gateway that is stopped and started in between tells the same."""
    lives = [50.0, 60.0, 40.0, 45.0, 70.0]
    at_once = Smoother(1.0).smooth(["a"] * 5, ends(5), life(lives))
    first = Smoother(1.0)
    told = [first.smooth(["a"] * 2, ends(2), life(lives[:2]))]
    second = Smoother(1.0)
    second.restore(first.state())
    told.append(second.smooth(["a"] * 3, ends(3, 2), life(lives[2:])))

    assert np.concatenate([one.life_s for one in told]) == pytest.approx(at_once.life_s)


def test_what_is_no_rise_or_no_state_is_refused() -> None:
    """A negative rise and a damaged state are named; the smoother goes on as it was."""
    with pytest.raises(PrognosisError):
        Smoother(-1.0)
    smoother = Smoother(0.0)
    smoother.smooth(["a"], ends(1), life([10.0]))
    with pytest.raises(PrognosisError, match="start anew"):
        smoother.restore(b"\xc1")

    assert middle_h(smoother.smooth(["a"], ends(1, 1), life([50.0]))) == pytest.approx([10.0])
