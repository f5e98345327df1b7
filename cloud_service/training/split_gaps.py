"""Splits in the middle of the gap that they part.

LightGBM splits at the edge of a bin, and a bin ends between two values of all rows. The rows of a node may leave a much
wider gap there, and any split inside it parts them alike; LightGBM takes one at an end. The middle errs less on rows it
has not seen: that is where a maximum margin lies, and where CART splits.

Source:
    L. Breiman, J. Friedman, R. Olshen, C. Stone, *Classification and Regression Trees*, Wadsworth, 1984.
"""

from __future__ import annotations

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from models.records import Float32Array


def in_the_middle(booster: lgb.Booster, rows: Float32Array) -> lgb.Booster:
    """Return *booster* with each split in the middle between the nearest rows to either side that come to its node.

    It answers *rows* as before.

    Args:
        booster: Of numerical splits.
        rows: What it was trained on, shape ``(n, f)``, without NaN.
    """
    lines = booster.model_to_string().split("\n")
    tree: dict[str, int] = {}
    for place, line in enumerate(lines):
        name, _, _ = line.partition("=")
        if name == "Tree":
            tree = {}
        elif name == "end of trees":
            break
        tree[name] = place
        if name == "right_child":  # the last line that is needed of a tree
            lines[tree["threshold"]] = "threshold=" + _moved(lines, tree, rows)
    # tree_sizes are byte offsets: stale after the edit, LightGBM aborts the process on them.
    return lgb.Booster(model_str="\n".join(line for line in lines if not line.startswith("tree_sizes=")))


def _moved(lines: list[str], tree: dict[str, int], rows: Float32Array) -> str:
    """Return the thresholds of one tree, each moved to the middle of its gap."""
    feature, left, right = (
        [int(text) for text in lines[tree[name]].partition("=")[2].split()]
        for name in ("split_feature", "left_child", "right_child")
    )
    threshold = [float(text) for text in lines[tree["threshold"]].partition("=")[2].split()]
    coming: dict[int, NDArray[np.intp]] = {0: np.arange(len(rows))}
    for node in range(len(threshold)):  # a parent has a lower number than its children
        own = coming.pop(node)
        values = rows[own, feature[node]].astype(np.float64)
        below = values <= threshold[node]
        if below.any() and not below.all():
            threshold[node] = float((values[below].max() + values[~below].min()) / 2.0)
        coming[left[node]], coming[right[node]] = own[below], own[~below]
    return " ".join(repr(limit) for limit in threshold)
