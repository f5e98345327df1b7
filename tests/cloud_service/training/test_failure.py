"""Failure modes are learnt by group, calibrated and limited by answers to groups not seen, and exported as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloud_service.training.failure import FailureLesson, FailureSettings, FittedFailure, fit_modes
from cloud_service.training.tree_forms import BROAD, FINE, MOVING
from models.bundle.model import Model
from models.evaluation.failure import calibration_error
from models.export.graph import ExportError
from models.export.parity import check_parity, gate_rows
from models.records import Float32Array

SETTINGS = FailureSettings(forms=(replace(BROAD, rounds=15),), folds=3)
INPUTS = 6


def assets(count: int = 24, windows: int = 60, seed: int = 1) -> FailureLesson:
    """Return assets of which two in three fail, by one mode or the other; the last windows of these show it."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(count), windows)
    inputs = rng.normal(size=(len(group), INPUTS)).astype(np.float32)
    hits = np.zeros((len(group), 2), np.bool_)
    late = np.tile(np.arange(windows) >= windows - 15, count)
    for mode in range(2):
        hits[:, mode] = late & (group % 3 == mode)
        inputs[hits[:, mode], mode] += 3.0
    inputs[::17, 5] = np.nan
    return FailureLesson(names=("leak", "wear"), inputs=inputs, hits=hits, group=group)


@pytest.fixture(scope="module")
def lesson() -> FailureLesson:
    return assets()


@pytest.fixture(scope="module")
def fitted(lesson: FailureLesson) -> FittedFailure:
    return fit_modes(lesson, SETTINGS, seed=1)


def test_the_graph_answers_as_the_trees(lesson: FailureLesson, fitted: FittedFailure) -> None:
    """Also for rows on a split, rows with holes, and one with nothing known."""
    asked = gate_rows(lesson.inputs, fitted.splits(), seed=1, limit=300)
    proof = check_parity("classifier", fitted.export(), fitted.probabilities, asked)
    assert proof.largest_difference < 1e-6


def test_modes_have_probabilities_of_their_own(lesson: FailureLesson, fitted: FittedFailure) -> None:
    """None of them comes with the product of each not coming."""
    told = fitted.probabilities(lesson.inputs)
    np.testing.assert_allclose(told[:, 0], (1.0 - told[:, 1]) * (1.0 - told[:, 2]), atol=1e-12)
    both = np.zeros((1, INPUTS), np.float32)
    both[0, :2] = 4.0
    assert fitted.probabilities(both)[0, 1:].min() > 0.5


def test_unseen_answers_are_calibrated_and_tell_the_modes(lesson: FailureLesson, fitted: FittedFailure) -> None:
    """Thresholds chosen on them tell most rows of each mode, and few others."""
    unseen = fitted.unseen_probabilities()
    told = unseen[:, 1:] >= np.array(fitted.modes.thresholds)
    assert (told & lesson.hits).sum() > 0.8 * lesson.hits.sum()
    assert (told & ~lesson.hits).sum() < 0.3 * lesson.hits.sum()
    assert calibration_error(unseen[:, 1], lesson.hits[:, 0]) < 0.02


def test_importance_and_bands_are_of_what_matters(lesson: FailureLesson, fitted: FittedFailure) -> None:
    """Each mode rests on its own input; bands are of healthy rows alone."""
    assert fitted.modes.weights.argmax(axis=1).tolist() == [0, 1]
    np.testing.assert_allclose(fitted.modes.weights.sum(axis=1), 1.0)
    healthy = lesson.inputs[~lesson.hits.any(axis=1)]
    low, high = fitted.modes.band
    assert low[0] == pytest.approx(np.quantile(healthy[:, 0], 0.05), abs=1e-6)
    assert high[5] == pytest.approx(np.nanquantile(healthy[:, 5], 0.95), abs=1e-6)


def test_contributions_add_up_to_the_raw_score(lesson: FailureLesson, fitted: FittedFailure) -> None:
    """Row by row, each asked about a mode of its own."""
    mode = np.arange(40) % 2
    told = fitted.contributions(lesson.inputs[:40], mode)
    np.testing.assert_allclose(told.sum(axis=1), fitted.raw(lesson.inputs[:40])[np.arange(40), mode], atol=1e-9)


def test_the_seed_repeats(lesson: FailureLesson, fitted: FittedFailure) -> None:
    """The same graph byte for byte; the lesson's inputs stay as they were."""
    before = lesson.inputs.copy()
    again = fit_modes(lesson, SETTINGS, seed=1)
    assert again.export() == fitted.export()
    assert again.modes == fitted.modes
    np.testing.assert_array_equal(lesson.inputs, before)


def test_many_healthy_rows_weigh_the_same_when_few_are_drawn(lesson: FailureLesson) -> None:
    """Probabilities stay calibrated when every so many healthy row is learnt from."""
    few = fit_modes(lesson, replace(SETTINGS, rows_at_most=600), seed=1)
    assert few.unseen_probabilities()[:, 1].mean() == pytest.approx(lesson.hits[:, 0].mean(), rel=0.2)


def test_a_mode_of_one_asset_is_said_to_be_a_guess() -> None:
    """It cannot be tried on another; the other mode is none the worse for it."""
    lesson = assets(9)
    alone = replace(lesson, hits=np.column_stack([lesson.hits[:, 0], lesson.hits[:, 1] & (lesson.group == 1)]))
    told = fit_modes(alone, SETTINGS, seed=1)
    assert told.notes == ("wear is known of one asset or case alone: not calibrated, and its threshold is a guess",)
    assert told.modes.thresholds[1] == 0.5
    assert not told.modes.weights[1].any()
    assert np.isfinite(told.probabilities(lesson.inputs)).all()


def test_what_tells_assets_apart_is_not_looked_at_by_the_moving_form() -> None:
    """Control: the other form takes it, for it says which assets fail. What makes no difference is not preferred."""
    lesson = assets(12)
    slow = np.zeros(INPUTS, np.bool_)
    slow[4] = True
    lesson.inputs[:, 4] = lesson.group % 3
    told = {
        form.name: fit_modes(replace(lesson, slow=slow), replace(SETTINGS, forms=(form,)), seed=1).modes.weights[:, 4]
        for form in (MOVING, BROAD)
    }
    assert not told["moving"].any()
    assert told["broad"].all()
    lesson.inputs[:, 4] = 0.0
    forms = (MOVING, BROAD)
    assert fit_modes(replace(lesson, slow=slow), replace(SETTINGS, forms=forms), seed=1).forms == ("moving",) * 2


def test_the_better_form_is_taken_when_it_is_clearly_better() -> None:
    """A limit that few bins cannot tell is found with fine ones."""
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(3000, 1)).astype(np.float32)
    hits = np.asarray(inputs > 2.2)
    lesson = FailureLesson(names=("over",), inputs=inputs, hits=hits, group=np.arange(3000))
    coarse = replace(BROAD, name="coarse", bins=4)
    assert fit_modes(lesson, replace(SETTINGS, forms=(coarse, FINE)), seed=1).forms == ("fine",)
    assert fit_modes(lesson, replace(SETTINGS, forms=(FINE, coarse)), seed=1).forms == ("fine",)


def test_boosters_that_do_not_make_one_graph_are_refused(fitted: FittedFailure) -> None:
    """Of another width than the others."""
    narrow = fit_modes(
        FailureLesson(
            names=("leak",),
            inputs=assets(6).inputs[:, :2],
            hits=assets(6).hits[:, :1],
            group=assets(6).group,
        ),
        SETTINGS,
        seed=1,
    )
    with pytest.raises(ExportError, match="widths"):
        replace(fitted, boosters=(*fitted.boosters, *narrow.boosters), slope=np.ones(3), offset=np.zeros(3)).export()


def test_the_graph_is_loaded_as_a_bundles(lesson: FailureLesson, fitted: FittedFailure) -> None:
    """One column for none and one for each mode."""
    model = Model("classifier.onnx", fitted.export(), shape=(INPUTS,), columns=3)
    rows: Float32Array = lesson.inputs[:5]
    np.testing.assert_allclose(model(rows), fitted.probabilities(rows), atol=1e-6)
