"""Graphs of one model alone, for tests."""

from __future__ import annotations

import lightgbm as lgb
from onnx import helper, load_model_from_string
from sklearn.ensemble import IsolationForest

from models.export.graph import INPUT, finish, missing_as_zero
from models.export.isolation_forest import forest_nodes
from models.export.lightgbm import booster_nodes


def of_booster(booster: lgb.Booster) -> bytes:
    """Return a graph of nothing but *booster*; of two classes it gives both probabilities."""
    two = booster.model_to_string().find("objective=binary") >= 0
    nodes, constants = booster_nodes(booster, "alone", "answer")
    columns = 2 if two else booster.num_model_per_iteration()
    return finish("alone", nodes, constants, inputs=booster.num_feature(), output="answer", columns=columns)


def of_forest(forest: IsolationForest, *, inputs: int) -> bytes:
    """Return a graph of nothing but *forest*, which looks at the first of the *inputs*."""
    prepare, constants = missing_as_zero(INPUT, "present")
    nodes, own = forest_nodes(forest, "present", "score")
    return finish("forest", [*prepare, *nodes], [*constants, *own], inputs=inputs, output="score", columns=1)


def trees_of(graph: bytes) -> int:
    """Return how many trees *graph* has, 0 when it is none of trees."""
    return sum(
        len(set(helper.get_attribute_value(attribute)))
        for node in load_model_from_string(graph).graph.node
        for attribute in node.attribute
        if attribute.name == "nodes_treeids"
    )
