"""The protocol of machines that ran to failure: what it learns from, where it judges, and what it counts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_service.errors import EvaluationFailed
from cloud_service.evaluate.outcome import Calibration, LifePoints, LifeTraces, Outcome
from cloud_service.evaluate.remaining_life import LAST, evaluate_remaining_life, learnt_from
from cloud_service.training.prognosis import PrognosisSettings
from models.datasets.named import read_named
from models.datasets.tasks import CYCLE_ZERO_NS, NS_PER_HOUR, LifeSplit, RemainingLife, Runs
from tests.cloud_service.training.wearing import CHANNELS, wear

DATA = Path(os.environ.get("WEARSIGHT_DATA", Path(__file__).parents[4] / "shared" / "data"))
QUICK = PrognosisSettings(rounds=(20, 40), leaves=6, rate=0.15, ridges=(100.0,), folds=3, cut_draws=1)
TRAINED, JUDGED = 14, 6


def runs(assets: range, name: str, *, cut: bool) -> Runs:
    """Return machines that failed, or were *cut* at 60 % of their lives."""
    asset, values, left = wear(TRAINED + JUDGED)
    age = np.concatenate([np.arange(1, count + 1) for count in np.bincount(asset)])
    keep = np.isin(asset, assets)
    if cut:
        keep &= left > 0.4 * np.bincount(asset)[asset]
    return Runs(
        asset_ids=tuple(f"{name}-{number}" for number in assets),
        asset=asset[keep] - assets.start,
        time_ns=CYCLE_ZERO_NS + age[keep] * NS_PER_HOUR,
        age=age[keep].astype(np.float64),
        values=values[keep],
        life=left[keep],
    )


def plant(**changes: object) -> RemainingLife:
    """Return fourteen machines to learn from and six to judge."""
    split = LifeSplit(
        train=runs(range(TRAINED), "train", cut=False), test=runs(range(TRAINED, TRAINED + JUDGED), "test", cut=True)
    )
    made = RemainingLife(
        name="plant", channels=CHANNELS, settings=("load",), life_unit="cycles", cap=40.0, splits=(split,)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return evaluate_remaining_life(plant(), seeds=[1], settings=QUICK)


def test_lives_are_judged_capped_and_raw_whole_and_cut(outcome: Outcome) -> None:
    """Every figure that a reference tells is there, and the models beat a guess."""
    test = plant().splits[0].test
    truth = np.minimum(test.life[ends(test)], 40.0)

    assert outcome.task == "remaining_life"
    assert outcome.metrics["rmse_capped"] < 1.1 * truth.std() + 3.0
    for name in ("rmse_capped", "score_capped", "rmse_raw", "score_raw", "coverage_p10_p90"):
        assert np.isfinite(outcome.metrics[name])
        assert np.isfinite(outcome.metrics[f"{name}_last_{LAST}"])
    assert outcome.metrics["answered_share"] == 1.0


def test_no_decision_differs_between_graphs_and_trainers(outcome: Outcome) -> None:
    """All windows of both sides of the split are asked twice, and all decide alike."""
    split = plant().splits[0]

    assert outcome.parity is not None
    assert outcome.parity.windows == len(split.train.asset) + len(split.test.asset)
    assert outcome.parity.decisions_changed == 0
    assert outcome.parity.largest_difference < 1e-5


def test_the_protocol_says_what_was_chosen_and_plots_have_their_figures(outcome: Outcome) -> None:
    """Whoever reads the report sees the settings; whoever looks sees truth against prediction."""
    chosen = outcome.protocol["chosen"]
    points, lives = outcome.figures["predicted-against-true"], outcome.figures["lives"]

    assert isinstance(chosen, dict)
    assert set(chosen) == {"whole", "cut"}
    assert isinstance(points, LifePoints)
    assert len(points.truth) == JUDGED
    assert isinstance(lives, LifeTraces)
    assert set(np.unique(lives.asset)) == set(range(len(lives.asset_ids)))
    assert isinstance(outcome.figures["calibration"], Calibration)


def test_what_is_told_does_not_depend_on_the_lives_to_be_told(outcome: Outcome) -> None:
    """The truth of test machines is looked at when they are judged, and nowhere before."""
    split = plant().splits[0]
    other = replace(split, test=replace(split.test, life=split.test.life + 11.0))

    again = evaluate_remaining_life(plant(splits=(other,)), seeds=[1], settings=QUICK)

    mine, theirs = outcome.figures["predicted-against-true"], again.figures["predicted-against-true"]
    assert isinstance(mine, LifePoints)
    assert isinstance(theirs, LifePoints)
    assert np.array_equal(mine.p50, theirs.p50)
    assert again.metrics["rmse_raw"] != outcome.metrics["rmse_raw"]
    assert again.protocol == outcome.protocol


def test_what_is_learnt_does_not_depend_on_the_machines_to_be_judged() -> None:
    """Regimes, what is ordinary and inputs are of training machines alone."""
    dataset = plant()
    spec, baseline, lesson = learnt_from(dataset, dataset.splits[0].train, 1)

    assert spec.regimes.count == 2
    assert set(lesson.asset_ids) == set(dataset.splits[0].train.asset_ids)
    assert not baseline.centre
    assert lesson.prepared.whole.all()


def test_machines_without_an_answer_are_in_no_figure_and_said() -> None:
    """Of one record nothing can be told; there is no error of an answer that was not given, not even none."""
    split = plant().splits[0]
    firsts = np.flatnonzero(np.diff(split.test.asset, prepend=-1))
    rows = {name: getattr(split.test, name)[firsts] for name in ("asset", "time_ns", "age", "values", "life")}
    short = replace(split, test=replace(split.test, **rows))

    outcome = evaluate_remaining_life(plant(splits=(short,)), seeds=[1], settings=QUICK)

    assert outcome.metrics["answered_share"] == 0.0
    assert np.isnan([outcome.metrics[name] for name in ("rmse_capped", "score_capped", "below_p10")]).all()
    assert any(f"Of {JUDGED} of {JUDGED} judged assets too little is recorded" in one for one in outcome.limits)


def test_a_record_that_does_not_begin_at_the_start_is_a_cut_history(outcome: Outcome) -> None:
    """A machine that had run before its first record is told by the models for cut histories."""
    split = plant().splits[0]
    late = replace(split, test=replace(split.test, age=split.test.age + 30.0))

    told = evaluate_remaining_life(plant(splits=(late,)), seeds=[1], settings=QUICK)

    assert told.metrics["rmse_capped"] != outcome.metrics["rmse_capped"]
    assert told.metrics["rmse_capped_last_40"] == outcome.metrics["rmse_capped_last_40"]


def test_without_a_cap_in_hours_and_over_folds() -> None:
    """A data set of hours has no score in cycles; without a cap the longest life is the cap; folds count together."""
    split = plant().splits[0]
    swapped = LifeSplit(train=split.train, test=replace(split.test, asset_ids=tuple(f"b{n}" for n in range(JUDGED))))

    outcome = evaluate_remaining_life(
        plant(cap=float("nan"), life_unit="hours", splits=(split, swapped)), seeds=[1, 2], settings=QUICK
    )

    assert "score_capped" not in outcome.metrics
    assert np.isfinite(outcome.spread["rmse_raw"])
    points = outcome.figures["predicted-against-true"]
    assert isinstance(points, LifePoints)
    assert len(points.truth) == 2 * JUDGED
    assert outcome.protocol["cap"] is None


def test_too_few_failures_are_said() -> None:
    """Two machines that failed are no sample; the evaluation stops and says so."""
    split = plant().splits[0]
    life = np.where(split.train.asset < 2, split.train.life, np.nan)
    few = replace(split, train=replace(split.train, life=life))

    with pytest.raises(EvaluationFailed, match="too few"):
        evaluate_remaining_life(plant(splits=(few,)), seeds=[1], settings=QUICK)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_engines_are_told_within_a_dozen_cycles() -> None:
    """FD001 with a third of the trees and no recurrent unit; the whole protocol is a command of its own."""
    if not (DATA / "cmapss").is_dir():
        pytest.skip(f"data set cmapss is not in {DATA} (set WEARSIGHT_DATA)")
    settings = PrognosisSettings(rounds=(80,), rate=0.12, cut_draws=1, folds=3, ridges=(10000.0,))

    dataset = read_named("cmapss-fd001", DATA)
    assert isinstance(dataset, RemainingLife)
    outcome = evaluate_remaining_life(dataset, seeds=[1], settings=settings)

    assert outcome.metrics["rmse_capped"] < 12.5
    assert outcome.metrics["rmse_capped_last_40"] < 15.0
    assert 0.68 < outcome.metrics["coverage_p10_p90"] < 0.92
    assert outcome.parity is not None
    assert outcome.parity.decisions_changed == 0


def ends(told: Runs) -> np.typing.NDArray[np.bool_]:
    return np.append(np.diff(told.asset) > 0, [True])
