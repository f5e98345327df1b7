"""A detector's members as one graph: each answers as its trainer, and the whole is what a bundle may hold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from models.bundle.graph_form import check_form
from models.bundle.model import Model
from models.export.components import (
    Autoencoder,
    DetectorModel,
    Forest,
    Largest,
    MemberModel,
    PrincipalComponents,
    Screen,
    export_detector,
)
from models.export.graph import ExportError, without_missing
from models.export.parity import check_parity, gate_rows
from models.records import Float32Array

SCREEN = Screen(
    columns=np.array([1, 3, 4, 6], np.int64),
    centre=np.array([0.0, 0.5, -1.0, 2.0]),
    stray=np.array([1.0, 0.1, 3.0, 0.3]),
)
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def rows() -> Float32Array:
    """Inputs of which some are missing."""
    drawn = RNG.normal(size=(2000, 8)).astype(np.float32)
    drawn[RNG.random(drawn.shape) < 0.02] = np.nan
    return drawn


def members(rows: Float32Array) -> dict[str, MemberModel]:
    screened = SCREEN(without_missing(rows))
    forest = IsolationForest(n_estimators=20, max_samples=128, random_state=1).fit(screened)
    return {
        "largest": Largest(),
        "pca": PrincipalComponents(loadings=RNG.normal(size=(4, 4))),
        "autoencoder": Autoencoder(
            first=RNG.normal(size=(4, 2)),
            first_bias=RNG.normal(size=2),
            second=RNG.normal(size=(2, 4)),
            second_bias=RNG.normal(size=4),
        ),
        "forest": Forest(forest=forest),
    }


@pytest.mark.parametrize("name", ["largest", "pca", "autoencoder", "forest"])
def test_a_member_answers_as_its_trainer(name: str, rows: Float32Array) -> None:
    """On training rows, rows with holes, rows far out, and rows on the splits of a forest."""
    model = DetectorModel(members=((SCREEN, members(rows)[name]),))
    asked = gate_rows(rows, model.splits, seed=1)

    parity = check_parity(name, export_detector(model, inputs=8), model, asked)

    assert parity.rows >= len(rows)


def test_all_members_stand_in_one_graph_in_their_order(rows: Float32Array) -> None:
    """One column a member; a screen that several look through is computed once."""
    model = DetectorModel(members=tuple((SCREEN, member) for member in members(rows).values()))
    graph = export_detector(model, inputs=8)

    assert Model("detector", graph, shape=(8,), columns=4)(rows) == pytest.approx(
        model(without_missing(rows)), rel=1e-5, abs=1e-5
    )
    operators = [operator for _, operator in check_form(graph).operators]
    assert operators.count("Gather") == 1
    assert operators.count("TreeEnsembleRegressor") == 1


def test_screened_inputs_are_those_of_the_graph_to_the_last_bit(rows: Float32Array) -> None:
    """A forest's decision hangs on the last bit; so both sides multiply in single precision."""
    wide = Screen(columns=SCREEN.columns, centre=SCREEN.centre, stray=SCREEN.stray * 1e-3)
    model = DetectorModel(members=((wide, Largest()),))
    told = Model("detector", export_detector(model, inputs=8), shape=(8,))(rows)

    assert (told[:, 0] == np.abs(wide(without_missing(rows))).max(axis=1)).all()
    assert told.max() == 100.0


@pytest.mark.parametrize("stray", [0.0, -1.0, np.nan, np.inf])
def test_what_is_no_number_is_not_exported(stray: float) -> None:
    """A screen or a weight that is not finite would answer nonsense on every gateway."""
    broken = Screen(columns=SCREEN.columns, centre=SCREEN.centre, stray=np.array([1.0, 1.0, 1.0, stray]))
    if np.isinf(stray):
        broken = Screen(columns=SCREEN.columns, centre=np.full(4, stray), stray=SCREEN.stray)
    with pytest.raises(ExportError, match="not finite"):
        export_detector(DetectorModel(members=((broken, Largest()),)), inputs=8)
    with pytest.raises(ExportError, match="not finite"):
        export_detector(
            DetectorModel(members=((SCREEN, PrincipalComponents(loadings=np.full((4, 4), np.nan))),)), inputs=8
        )


def test_a_detector_has_a_member() -> None:
    with pytest.raises(ExportError, match="no member"):
        export_detector(DetectorModel(members=()), inputs=8)
