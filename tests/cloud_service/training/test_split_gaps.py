"""Splits lie in the middle of the gap, and rows that were learnt from do not notice."""

from __future__ import annotations

import lightgbm as lgb
import numpy as np

from cloud_service.training.split_gaps import in_the_middle
from cloud_service.training.tree_forms import BROAD, tree_parameters
from models.export.lightgbm import thresholds_of


def test_rows_that_were_learnt_from_get_the_same_answers() -> None:
    """Only rows between those of a node can be told otherwise."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(500, 3)).astype(np.float32)
    hit = rows[:, 0] * rows[:, 1] > 0.5
    booster = lgb.train(tree_parameters(BROAD, 1), lgb.Dataset(rows, hit, params=tree_parameters(BROAD, 1)), 10)
    moved = in_the_middle(booster, rows)
    np.testing.assert_allclose(moved.predict(rows, raw_score=True), booster.predict(rows, raw_score=True), atol=1e-12)
    assert thresholds_of(moved) != thresholds_of(booster)


def test_a_limit_is_found_in_the_middle_of_what_a_node_sees() -> None:
    """Rows that another split has taken away leave a gap; control: without the move the limit lies at one end of it."""
    places = np.arange(1.0, 10.0)
    elsewhere = np.column_stack([np.ones(9), places]).repeat(20, axis=0)
    here = np.column_stack([np.zeros(4), [1.0, 2.0, 8.0, 9.0]]).repeat(20, axis=0)
    rows = np.concatenate([elsewhere, here]).astype(np.float32)
    hit = (rows[:, 0] == 0) & (rows[:, 1] > 5)
    parameters = tree_parameters(BROAD, 1) | {"min_data_in_bin": 1}
    booster = lgb.train(parameters, lgb.Dataset(rows, hit, params=parameters), 1)

    def inner_limits(one: lgb.Booster) -> list[float]:
        return [limit for feature, limit in thresholds_of(one)[1:] if feature == 1]

    assert thresholds_of(booster)[0][0] == 0
    assert inner_limits(in_the_middle(booster, rows))[0] == 5.0
    assert inner_limits(booster)[0] != 5.0
