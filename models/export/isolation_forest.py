"""An isolation forest as one ``TreeEnsembleRegressor``: 100 times as fast as what the general converter makes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper
from sklearn.ensemble import IsolationForest

from models.export.graph import ExportError, floor32
from models.export.refusals import check_exportable
from models.records import Float32Array, FloatArray


def reference_scores(forest: IsolationForest, rows: Float32Array) -> FloatArray:
    """Return what the exported graph must answer for *rows* without NaN: 0 to 1, growing with the deviation.

    Source:
        F. T. Liu, K. M. Ting, Z.-H. Zhou, *Isolation Forest*, ICDM 2008 (score ``s``; about 0.5 is ordinary).
    """
    return np.asarray(-forest.score_samples(rows), np.float64)


def average_path_length(samples: int) -> float:
    """Return ``c(n)``, the mean path length of an unsuccessful search in a binary tree of *samples* leaves."""
    if samples <= 1:
        return 0.0
    if samples == 2:
        return 1.0
    return 2.0 * (math.log(samples - 1.0) + np.euler_gamma) - 2.0 * (samples - 1.0) / samples


def forest_nodes(forest: IsolationForest, source: str, target: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants that answer for *source* ``(n, f)`` without NaN in *target* ``(n, 1)``.

    Raises:
        ExportError: If it is no isolation forest, or its trees were given one row each.
    """
    check_exportable(forest)
    if forest.max_samples_ < 2:
        raise ExportError("isolation forest: trees of one row isolate nothing; nothing was exported")
    scale = -math.log(2.0) / (len(forest.estimators_) * average_path_length(int(forest.max_samples_)))
    depth, exponent, factor = (f"{target}_{what}" for what in ("depth", "exponent", "factor"))
    nodes = [
        helper.make_node("TreeEnsembleRegressor", [source], [depth], domain="ai.onnx.ml", **_ensemble(forest)),
        helper.make_node("Mul", [depth, factor], [exponent]),
        helper.make_node("Exp", [exponent], [target]),
    ]
    return nodes, [helper.make_tensor(factor, TensorProto.FLOAT, [1], [scale])]


def thresholds_of(forest: IsolationForest) -> list[tuple[int, float]]:
    """Return each split of *forest* as ``(feature, threshold)``."""
    return [
        (int(columns[feature]), float(threshold))
        for tree, columns in zip(forest.estimators_, forest.estimators_features_, strict=True)
        for feature, threshold in zip(tree.tree_.feature, tree.tree_.threshold, strict=True)
        if feature >= 0
    ]


def _ensemble(forest: IsolationForest) -> dict[str, Any]:
    """Return the attributes of the ensemble whose sum over trees is the path length of a row."""
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes", "nodes_values",
            "nodes_truenodeids", "nodes_falsenodeids", "nodes_missing_value_tracks_true",
            "target_treeids", "target_nodeids", "target_ids", "target_weights",
        )
    }  # fmt: skip
    for number, (estimator, used) in enumerate(zip(forest.estimators_, forest.estimators_features_, strict=True)):
        tree = estimator.tree_
        leaf = tree.children_left < 0
        nodes = np.arange(tree.node_count)
        columns["nodes_treeids"] += [number] * tree.node_count
        columns["nodes_nodeids"] += nodes.tolist()
        columns["nodes_featureids"] += np.where(leaf, 0, np.asarray(used)[np.where(leaf, 0, tree.feature)]).tolist()
        columns["nodes_modes"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
        columns["nodes_values"] += np.where(leaf, 0.0, floor32(tree.threshold)).tolist()
        columns["nodes_truenodeids"] += np.where(leaf, 0, tree.children_left).tolist()
        columns["nodes_falsenodeids"] += np.where(leaf, 0, tree.children_right).tolist()
        columns["nodes_missing_value_tracks_true"] += [0] * tree.node_count
        depth = _depths(tree.children_left, tree.children_right)
        leaves = nodes[leaf]
        columns["target_treeids"] += [number] * len(leaves)
        columns["target_nodeids"] += leaves.tolist()
        columns["target_ids"] += [0] * len(leaves)
        columns["target_weights"] += [
            float(depth[node] + average_path_length(int(tree.n_node_samples[node]))) for node in leaves
        ]
    return {**columns, "n_targets": 1, "aggregate_function": "SUM", "post_transform": "NONE"}


def _depths(left: np.typing.NDArray[np.int64], right: np.typing.NDArray[np.int64]) -> FloatArray:
    """Return each node's distance from the root; children come after their parents in scikit-learn's order."""
    depth = np.zeros(len(left), np.float64)
    for node in range(len(left)):
        if left[node] >= 0:
            depth[left[node]] = depth[right[node]] = depth[node] + 1.0
    return depth
