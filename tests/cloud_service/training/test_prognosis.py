"""Life models learn from machines that failed, choose by others of them, and answer as graphs as they were trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloud_service.evaluate.remaining_life import Graphs, told_lives
from cloud_service.training.gru import GruSettings
from cloud_service.training.lesson import Lesson
from cloud_service.training.life_parts import FittedPrognosis
from cloud_service.training.prognosis import PrognosisSettings, fit_prognosis, history_for
from cloud_service.training.sequence import make_kernels
from models.bundle.contents import GRU, LIFE, LIFE_CUT, PROGNOSIS
from models.prognosis.life import LIFE_CUT_HEAD, LIFE_HEAD
from models.prognosis.prognoses import MAX_LIFE_H, decode_prognoses
from models.records import Basis
from tests.cloud_service.training.wearing import worn_lesson

QUICK = PrognosisSettings(rounds=(15, 30), leaves=6, rate=0.15, ridges=(30.0, 300.0), folds=4, cut_draws=1)


def fitted(
    lesson: Lesson, settings: PrognosisSettings = QUICK, *, seed: int = 1, kernels: bool = True
) -> FittedPrognosis:
    """Return life models of *lesson*, with heads on a hundred kernels unless told otherwise."""
    given = lesson.prepared.sequences
    graph = None
    if kernels and given is not None:
        graph = make_kernels(given.shape[1], given.shape[2], 100, 1, given)
    models = fit_prognosis(lesson, settings, seed, kernels=graph)
    assert models is not None
    return models


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    return worn_lesson(16)


@pytest.fixture(scope="module")
def models(lesson: Lesson) -> FittedPrognosis:
    return fitted(lesson)


def test_lives_of_machines_not_seen_are_told(models: FittedPrognosis) -> None:
    """Other machines of the kind are told within a few cycles, and the blend is no worse than its members."""
    others = worn_lesson(40).take(worn_lesson(40).asset >= 16)

    life = told_lives(models.trainers, others.prepared)
    known = life.basis == Basis.WHOLE_HISTORY
    error = life.life_s[known, 1] / 3600.0 - others.life_h[known]

    assert known.mean() > 0.8
    assert np.sqrt(np.mean(error**2)) < 0.35 * others.life_h.std()
    for report in models.reports.values():
        assert report.rmse_h["blend"] <= min(report.rmse_h.values()) + 1e-9


def test_graphs_answer_as_the_trainers_did(lesson: Lesson, models: FittedPrognosis) -> None:
    """What a gateway loads tells every window what LightGBM and the heads told, and rests on the same."""
    graphs = Graphs.of(models, lesson.spec)

    for prepared in (lesson.prepared, lesson.cut(5, shortest=3, longest=30).prepared):
        answer, wanted = told_lives(graphs, prepared), told_lives(models.trainers, prepared)
        assert (answer.basis == wanted.basis).all()
        assert answer.life_s == pytest.approx(wanted.life_s, rel=1e-6, abs=0.5, nan_ok=True)
    assert {proof.model for proof in models.proofs} == {LIFE, LIFE_CUT}


def test_a_head_is_what_its_statistics_say(models: FittedPrognosis) -> None:
    """The statistics in the bundle are those the head was solved from, so that sites can add theirs."""
    for name, variant in ((LIFE_HEAD, "whole"), (LIFE_CUT_HEAD, "cut")):
        again = models.statistics[name].solve(models.reports[variant].ridge)
        assert np.array_equal(again.weights, models.heads[name].weights)


def test_the_same_seed_gives_the_same_bytes(lesson: Lesson, models: FittedPrognosis) -> None:
    """A training repeats; another seed draws other folds, cuts and trees."""
    assert fitted(lesson).parts == models.parts
    assert fitted(lesson, seed=2).parts[LIFE] != models.parts[LIFE]


def test_the_file_says_what_was_fitted(models: FittedPrognosis) -> None:
    """``prognosis.json`` holds what the trainers are read by."""
    told = decode_prognoses(models.parts[PROGNOSIS])

    assert told == models.prognosis
    assert told.cap_h == 40.0


def test_without_sequences_there_are_trees_alone() -> None:
    """A class whose features have no sequences has no heads, and lives all the same."""
    models = fitted(worn_lesson(12, sequences=False))

    assert models.kernels is None
    assert not models.heads
    assert models.prognosis.members == {"whole": {"trees"}, "cut": {"trees"}}


def test_machines_whose_failure_is_not_known_teach_nothing() -> None:
    """What has not failed says no life: its windows may hold anything."""
    half = worn_lesson(16, failed=8, sequences=False)
    other = half.prepared.inputs.copy()
    other[half.asset >= 8] = 7.0
    changed = replace(half, prepared=replace(half.prepared, inputs=other))

    assert fitted(changed).parts[LIFE] == fitted(half).parts[LIFE]
    assert fitted(half).reports["whole"].lives == 8


def test_too_few_failures_make_no_model() -> None:
    """Two lives are an anecdote; three are learnt from, and the quantiles are as wide as they must be."""
    assert fit_prognosis(worn_lesson(8, failed=2, sequences=False), QUICK, 1) is None

    models = fitted(worn_lesson(8, failed=3, sequences=False))
    assert models.reports["whole"].lives == 3


def test_lives_watched_too_briefly_are_no_lives(lesson: Lesson) -> None:
    """One machine watched for long among some that were watched for a window is one life, too few to judge by."""
    rows = np.concatenate([np.flatnonzero(lesson.asset == asset)[: 70 if asset == 0 else 1] for asset in range(4)])

    assert fit_prognosis(lesson.take(rows), QUICK, 1) is None


def test_machines_that_are_always_at_their_end_have_a_model_too(lesson: Lesson) -> None:
    """Where most that was seen is the last window of a life, a member is still told: nothing else is decoded."""
    last = np.flatnonzero(np.diff(lesson.asset, append=-1))
    rows = np.sort(np.concatenate([np.flatnonzero(lesson.asset == 0)[-60:], last[1:3]]))

    models = fitted(lesson.take(rows), kernels=False)

    assert all(models.prognosis.members.values())
    assert np.isfinite(told_lives(models.trainers, lesson.prepared).life_s).any()


def test_without_any_life_left_there_is_no_model(lesson: Lesson) -> None:
    """Windows that all end with the failure say nothing of what comes before it."""
    assert fit_prognosis(replace(lesson, life_h=lesson.life_h * 0.0), QUICK, 1) is None


def test_only_cut_histories_make_no_model_for_whole_ones(lesson: Lesson) -> None:
    """Where no machine was watched from its start, nothing is said of those that are."""
    late = lesson.cut(1, shortest=8, longest=30)

    models = fitted(late)

    assert models.prognosis.whole is None
    assert LIFE not in models.parts
    assert LIFE_CUT in models.parts


def test_lives_of_one_machine_are_learnt_from_too() -> None:
    """Where all that was watched from the start is one machine's, its lives stand for machines when one is left out."""
    lesson = worn_lesson(9, sequences=False)
    asset = np.where(lesson.asset < 4, 0, lesson.asset)
    of_one = replace(lesson, asset=asset, prepared=replace(lesson.prepared, whole=asset == 0))

    reports = fitted(of_one).reports

    assert reports["whole"].lives == 4
    assert reports["cut"].lives == 9


def test_without_a_cap_the_longest_life_seen_is_the_longest_told(lesson: Lesson) -> None:
    """Nothing is told that was never seen; a cap that is given holds."""
    assert fitted(lesson, kernels=False).prognosis.cap_h == lesson.life_h.max()
    assert fitted(lesson, replace(QUICK, cap_h=20.0), kernels=False).prognosis.cap_h == 20.0
    few = worn_lesson(4, sequences=False)
    assert fitted(replace(few, life_h=1e7 * few.life_h)).prognosis.cap_h == MAX_LIFE_H


def test_long_data_are_thinned(lesson: Lesson) -> None:
    """Of more windows than are to be learnt from every second is taken, of all machines."""
    models = fitted(lesson, replace(QUICK, most_rows=len(lesson) // 2), kernels=False)

    assert models.reports["whole"].rows == pytest.approx(len(lesson) / 2, abs=1)
    assert models.reports["whole"].lives == 16


def test_a_recurrent_unit_joins_the_blend(lesson: Lesson) -> None:
    """With the extra, its graph is among the parts and answers as JAX does."""
    models = fitted(lesson, replace(QUICK, gru=GruSettings(units=8, steps=60, batch=32)), kernels=False)

    assert "gru" in models.reports["whole"].rmse_h
    if "gru" in models.prognosis.members["whole"]:
        graphs = Graphs.of(models, lesson.spec)
        assert GRU in models.parts
        assert told_lives(graphs, lesson.prepared).life_s == pytest.approx(
            told_lives(models.trainers, lesson.prepared).life_s, rel=1e-5, abs=2.0, nan_ok=True
        )


def test_how_far_models_look_back_follows_the_lives() -> None:
    """Lengths are shares of a life, within what a gateway can keep."""
    short, usual, long = (history_for(windows) for windows in (20.0, 200.0, 2000.0))

    assert short.rolling == (2, 4, 6)
    assert usual.rolling == (10, 40, 60)
    assert long.rolling == (20, 60, 120)
    assert usual.sequence_windows == long.sequence_windows == 30
    assert history_for(200.0, sequences=False).sequence_windows == 0
