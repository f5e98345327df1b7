from __future__ import annotations

import io
import math
from dataclasses import replace

import msgspec
import pytest
from rich.console import Console

from cloud_service.evaluate.card import model_card
from cloud_service.evaluate.outcome import Outcome, Parity, over_seeds
from cloud_service.evaluate.references import AIMS, REFERENCES
from cloud_service.evaluate.report import as_data, figures_grid, markdown, print_report, references_grid
from models.datasets.named import FOLDERS

SEEDS = {
    0: {"rmse_capped": 10.0, "score_capped": 160.0, "coverage_p10_p90": 0.8, "own_figure": 0.25},
    1: {"rmse_capped": 10.4, "score_capped": 190.0, "coverage_p10_p90": 0.9, "own_figure": 0.25},
}
METRICS, SPREAD = over_seeds(SEEDS)
OUTCOME = Outcome(
    dataset="cmapss-fd001",
    task="remaining_life",
    protocol={"split": "train and test files", "chosen": {"trees": 300, "rate": 0.05}, "seeds": [0, 1]},
    metrics=METRICS,
    spread=SPREAD,
    seeds=SEEDS,
    parity=Parity(windows=13096, decisions_changed=0, largest_difference=4e-7),
    limits=("Lives above the cap are told as the cap.",),
    seconds=61.2,
)


def test_figures_stand_beside_their_spread_and_aim() -> None:
    """An aim that is missed is told with by how much."""
    rows = {row[0]: row[1:] for row in figures_grid(OUTCOME).rows}
    assert rows["RMSE, capped"] == ("10.20", "0.28", "≤ 10.30", "met")
    assert rows["lives between P10 and P90"] == ("0.850", "0.071", "≥ 0.770, ≤ 0.830", "missed by 0.020")
    assert rows["own figure"] == ("0.250", "0.000", "", "")


def test_ours_stands_beside_what_was_published_under_the_same_figures() -> None:
    grid = references_grid(OUTCOME)
    assert grid is not None
    assert grid.headings == ("method", "RMSE, capped", "score, capped", "source")
    assert grid.rows[0][:3] == ("Wearsight", "10.20", "175")
    assert grid.rows[1][:3] == ("Stacked gradient boosting", "10.45", "147")


def test_a_data_set_without_references_has_no_such_table() -> None:
    assert references_grid(replace(OUTCOME, dataset="mine")) is None


def test_one_seed_has_no_spread() -> None:
    metrics, spread = over_seeds({3: {"f1": 0.5}})
    assert metrics == {"f1": 0.5}
    assert math.isnan(spread["f1"])
    told = replace(OUTCOME, dataset="mine", metrics=metrics, spread=spread, seeds={3: metrics})
    assert figures_grid(told).headings == ("figure", "value")
    assert figures_grid(told).rows == (("F1", "0.500"),)


def test_a_figure_of_one_mode_is_told_as_the_figure_of_all() -> None:
    told = replace(OUTCOME, dataset="mine", metrics={"median_lead_time_h_seal_leak": 7.0, "flow_of_words": 1.0})
    assert [row[:2] for row in figures_grid(told).rows] == [
        ("median lead time: seal leak", "7.0 h"),
        ("flow of words", "1.000"),
    ]


def test_a_figure_that_not_every_seed_has_is_none_of_the_means() -> None:
    assert over_seeds({0: {"a": 1.0, "b": 2.0}, 1: {"a": 3.0}})[0] == {"a": 2.0}


def test_for_programs_it_is_one_object_with_rates_as_fractions() -> None:
    told = msgspec.json.decode(msgspec.json.encode(as_data(OUTCOME), enc_hook=str))
    assert told["metrics"]["coverage_p10_p90"] == pytest.approx(0.85)
    assert told["seeds"]["1"]["rmse_capped"] == 10.4
    assert told["protocol"]["chosen"] == {"trees": 300, "rate": 0.05}
    assert told["aims"]["rmse_capped"] == {"least": None, "most": 10.3, "met": True}
    assert told["parity"]["decisions_changed"] == 0
    assert told["references"][0]["figures"]["rmse_capped"] == 10.45


def test_a_figure_that_is_none_is_null_for_programs() -> None:
    told = as_data(replace(OUTCOME, metrics={"median_lead_time_h": math.nan}))
    assert b'"median_lead_time_h":null' in msgspec.json.encode(told, enc_hook=str)


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_shows_every_figure_whatever_its_width(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    print_report(OUTCOME, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert all(text in shown for text in ("10.20", "175", "0.850", "13,096", "cap are told as the cap", "61 s"))
    assert max(map(len, shown.splitlines())) <= width


def test_the_report_begins_with_the_command_that_made_it() -> None:
    text = markdown(OUTCOME, "wearsight-cloud evaluate cmapss-fd001 --seeds 2", ["calibration.png"])
    assert text.index("wearsight-cloud evaluate cmapss-fd001") < text.index("| RMSE, capped | 10.20 | 0.28 |")
    assert "![calibration](calibration.png)" in text
    assert "- chosen:\n  - trees: 300\n  - rate: 0.05" in text


def test_the_card_tells_where_the_models_do_not_work() -> None:
    """What the protocol found, what the task is never good for, and each aim that was missed."""
    card = model_card(OUTCOME)
    where = card[card.index("## Where it does not work") :]
    assert "Lives above the cap are told as the cap." in where
    assert "Failure modes and operating settings that no learnt-from asset had" in where
    assert "The aim for coverage_p10_p90 is missed." in where
    assert "0 of 13,096 decisions differ" in card


def test_references_and_aims_are_of_data_sets_that_have_a_name() -> None:
    """And every one says where its figures stand."""
    assert {*REFERENCES, *AIMS} <= set(FOLDERS)
    assert all(one.source and one.figures for references in REFERENCES.values() for one in references)
