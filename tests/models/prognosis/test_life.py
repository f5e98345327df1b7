"""Which life models are asked of which window, and what a prognosis then rests on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from models.prognosis.life import LIFE_CUT_HEAD, LIFE_HEAD, Graph, bases, check_life_models, predict_life
from models.prognosis.prognoses import Offsets, Prognoses, PrognosisError, Variant
from models.records import Basis, Float32Array, FloatArray
from models.scoring import Prepared
from models.sequence.heads import Head

WIDE = Offsets(life_h=(0.0,), p10_h=(-10.0,), p50_h=(0.0,), p90_h=(10.0,))
WHOLE = Variant(weights={"trees": 0.5, "kernels": 0.5}, offsets=WIDE, least_windows=2)
CUT = Variant(weights={"trees": 1.0, "gru": 0.0}, offsets=WIDE, least_windows=10)


def told(value: float) -> Graph:
    """Return a graph that tells *value* hours for every row."""

    def answer(rows: Float32Array, /) -> FloatArray:
        return np.full((len(rows), 1), value)

    return answer


@dataclass(frozen=True, kw_only=True)
class Models:
    """Life models of which each tells a number of its own."""

    prognosis: Prognoses | None = field(default_factory=lambda: Prognoses(cap_h=125.0, whole=WHOLE, cut=CUT))
    life: Graph | None = field(default_factory=lambda: told(60.0))
    life_cut: Graph | None = field(default_factory=lambda: told(30.0))
    gru: Graph | None = None
    gru_cut: Graph | None = None
    kernels: Graph | None = field(default_factory=lambda: told(4.0))
    heads: dict[str, Head] = field(
        default_factory=lambda: {
            LIFE_HEAD: Head(weights=np.array([[10.0]]), bias=np.array([0.0])),
            LIFE_CUT_HEAD: Head(weights=np.array([[1.0]]), bias=np.array([0.0])),
        }
    )


def windows(known: list[int], whole: list[bool]) -> Prepared:
    """Return windows of which so many of their lives are known."""
    count = len(known)
    rows = np.zeros((count, 3), np.float32)
    return Prepared(
        features=rows.astype(np.float64),
        deviations=rows,
        inputs=rows,
        sequences=np.zeros((count, 2, 4), np.float32),
        windows_known=np.array(known, np.int64),
        whole=np.array(whole, np.bool_),
    )


def test_each_window_is_told_by_the_models_for_what_is_known_of_its_life() -> None:
    """Whole lives by theirs, cut ones by theirs, and with too few windows nothing, which is said."""
    life = predict_life(Models(), windows([2, 1, 10, 9], [True, True, False, False]))

    assert life is not None
    assert list(life.basis) == [
        Basis.WHOLE_HISTORY,
        Basis.NOT_ENOUGH_DATA,
        Basis.CUT_HISTORY,
        Basis.NOT_ENOUGH_DATA,
    ]
    assert life.life_s[[0, 2]] / 3600.0 == pytest.approx(np.array([[40.0, 50.0, 60.0], [20.0, 30.0, 40.0]]))
    assert np.isnan(life.life_s[[1, 3]]).all()


def test_without_models_for_whole_lives_all_are_told_as_cut() -> None:
    """A gateway that knows more than the models need is told by those there are, and says which."""
    models = Models(prognosis=Prognoses(cap_h=125.0, cut=CUT), life=None)

    basis = bases(models.prognosis, windows([20, 5], [True, True]))  # type: ignore[arg-type]

    assert list(basis) == [Basis.CUT_HISTORY, Basis.NOT_ENOUGH_DATA]


def test_without_models_for_cut_lives_nothing_is_made_up() -> None:
    """A window whose life's start is not known gets no prognosis from models that need it."""
    models = Models(prognosis=Prognoses(cap_h=125.0, whole=WHOLE))

    life = predict_life(models, windows([50, 50], [True, False]))

    assert life is not None
    assert list(life.basis) == [Basis.WHOLE_HISTORY, Basis.NOT_ENOUGH_DATA]


def test_no_prognosis_in_the_bundle_is_none() -> None:
    """A class whose machines never failed has no life model, and nothing is told."""
    assert predict_life(Models(prognosis=None), windows([5], [True])) is None


def test_no_window_is_no_life() -> None:
    """An empty page gives an empty answer."""
    life = predict_life(Models(), windows([], []))

    assert life is not None
    assert life.life_s.shape == (0, 3)


def test_windows_are_told_alike_alone_and_together() -> None:
    """Which rows come together makes no difference to any of them."""
    rows = windows([2, 30, 30, 12], [True, True, False, False])
    together = predict_life(Models(), rows)
    alone = [predict_life(Models(), rows.take(slice(row, row + 1))) for row in range(4)]

    assert together is not None
    assert np.concatenate([one.life_s for one in alone if one is not None]) == pytest.approx(together.life_s)


MISSING = {
    "trees": {"life": None},
    "the cut trees": {"life_cut": None},
    "kernels": {"kernels": None},
    "a head": {"heads": {}},
}


@pytest.mark.parametrize("missing", MISSING.values(), ids=MISSING.keys())
def test_a_member_that_counts_must_be_there(missing: dict[str, None]) -> None:
    """What the prognosis weighs and the bundle lacks is found when it is loaded; with all there is no complaint."""
    check_life_models(Models())

    with pytest.raises(PrognosisError, match="missing"):
        check_life_models(replace(Models(), **missing))  # type: ignore[arg-type]
