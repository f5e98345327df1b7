"""One booster a failure mode as one graph, a tree-ensemble operator each, calibrated.

Modes do not exclude each other: a window may be on its way to two failures at once. So each has a probability of its
own, and that of none is the product of each not coming.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np
from onnx import NodeProto, helper, numpy_helper

from models.export.graph import INPUT, ExportError, finish, floor32, missing_as_zero
from models.export.lightgbm import refuse_unfaithful
from models.export.refusals import check_exportable
from models.records import FloatArray

PROBABILITIES = "probabilities"
_MISSING_AS_NAN = "NaN"


def probabilities_of(log_odds: FloatArray) -> FloatArray:
    """Return the probabilities of none and of each mode, shape ``(n, 1 + modes)``, from log odds ``(n, modes)``."""
    none = np.exp(-np.logaddexp(0.0, log_odds).sum(axis=1, keepdims=True))
    return np.concatenate([none, 1.0 / (1.0 + np.exp(-np.clip(log_odds, -700.0, 700.0)))], axis=1)


def export_failure(boosters: Sequence[lgb.Booster], slope: Sequence[float], offset: Sequence[float]) -> bytes:
    """Return binary *boosters* as one model ``features (n, f)`` to ``probabilities (n, 1 + modes)``; NaN counts as 0.

    Args:
        boosters: One a failure mode, trained on rows without NaN (``models.export.graph.without_missing``).
        slope: By which each mode's raw score is multiplied.
        offset: What is then added: the calibrated log odds.

    Raises:
        ExportError: If a booster is of a kind that has no faithful ONNX form.
    """
    widths = {booster.num_feature() for booster in boosters}
    if len(widths) != 1:
        raise ExportError(f"boosters of {len(widths)} widths do not make one graph; nothing was exported")
    prepare, constants = missing_as_zero(INPUT, "present")
    raw = [f"raw_{mode}" for mode in range(len(boosters))]
    nodes = [
        *prepare,
        *(
            helper.make_node("TreeEnsembleRegressor", ["present"], [name], domain="ai.onnx.ml", **_ensemble(booster))
            for name, booster in zip(raw, boosters, strict=True)
        ),
        helper.make_node("Concat", raw, ["raw"], axis=1),
        *_reading(),
    ]
    constants += [
        numpy_helper.from_array(np.array(slope, np.float32), "slope"),
        numpy_helper.from_array(np.array(offset, np.float32), "offset"),
        numpy_helper.from_array(np.array([1], np.int64), "modes"),
    ]
    return finish("failure", nodes, constants, inputs=widths.pop(), output=PROBABILITIES, columns=1 + len(boosters))


def _reading() -> list[NodeProto]:
    """Return the nodes from raw scores to probabilities; see `probabilities_of`."""
    return [
        helper.make_node("Mul", ["raw", "slope"], ["sloped"]),
        helper.make_node("Add", ["sloped", "offset"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["each"]),
        helper.make_node("Softplus", ["log_odds"], ["against"]),
        helper.make_node("ReduceSum", ["against", "modes"], ["against_all"], keepdims=1),
        helper.make_node("Neg", ["against_all"], ["for_none"]),
        helper.make_node("Exp", ["for_none"], ["none"]),
        helper.make_node("Concat", ["none", "each"], [PROBABILITIES], axis=1),
    ]


def _ensemble(booster: lgb.Booster) -> dict[str, Any]:
    """Return the attributes of the ensemble that gives the raw score of *booster*."""
    check_exportable(booster)
    refuse_unfaithful(booster)
    columns: defaultdict[str, list[Any]] = defaultdict(list)
    for number, tree in enumerate(booster.dump_model()["tree_info"]):
        for place, (node, yes, no) in enumerate(_nodes(tree["tree_structure"])):
            _add_node(columns, number, place, node, yes, no)
    return {**columns, "n_targets": 1, "aggregate_function": "SUM", "post_transform": "NONE"}


def _nodes(root: dict[str, Any]) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield each node of a tree with the numbers of its children, parents before children."""
    waiting, given = [root], 1
    while waiting:
        following: list[dict[str, Any]] = []
        for node in waiting:
            if "leaf_value" in node:
                yield node, 0, 0
                continue
            yield node, given, given + 1
            given += 2
            following += [node["left_child"], node["right_child"]]
        waiting = following


def _add_node(
    columns: defaultdict[str, list[Any]], tree: int, number: int, node: dict[str, Any], yes: int, no: int
) -> None:
    leaf = "leaf_value" in node
    if not leaf and (node["decision_type"] != "<=" or node["missing_type"] == _MISSING_AS_NAN):
        raise ExportError("boosters of categories, or trained with missing values, do not make one graph")
    columns["nodes_treeids"].append(tree)
    columns["nodes_nodeids"].append(number)
    columns["nodes_featureids"].append(0 if leaf else int(node["split_feature"]))
    columns["nodes_modes"].append("LEAF" if leaf else "BRANCH_LEQ")
    columns["nodes_values"].append(0.0 if leaf else float(floor32(np.array(node["threshold"], np.float64))))
    columns["nodes_truenodeids"].append(yes)
    columns["nodes_falsenodeids"].append(no)
    if leaf:
        columns["target_treeids"].append(tree)
        columns["target_nodeids"].append(number)
        columns["target_ids"].append(0)
        columns["target_weights"].append(float(node["leaf_value"]))
