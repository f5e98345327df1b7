"""LightGBM boosters as ONNX graphs, with thresholds floored to float32 and the silently wrong kinds refused."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm as lgb
import numpy as np
from onnx import NodeProto, TensorProto, helper, load_model_from_string, numpy_helper
from onnxmltools.convert import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from models.export.graph import INPUT, OPSET, ExportError, finish, floor32, missing_as_zero
from models.export.refusals import check_exportable

LIFE = "life"

# These convert without any error and then predict wrong, some by 2.5 on nearly every row.
_REFUSED_BOOSTINGS = frozenset({"rf", "random_forest"})
_REFUSED_SWITCHES = ("linear_tree", "zero_as_missing", "reg_sqrt")
_REFUSED_OBJECTIVES = ("multiclassova", "multiclass_ova", "ova", "ovr")
# The rest either has no converter (mape, fair, cross_entropy, ranking, a function of one's own) or was never tried.
_OBJECTIVES = frozenset(
    {"binary", "gamma", "huber", "multiclass", "poisson", "quantile", "regression", "regression_l1", "tweedie"}
)
_TRUE = frozenset({"1", "true", "+"})
_UNREAD = frozenset({"nodes_hitrates", "nodes_missing_value_tracks_true"})
_CATEGORICAL = 1  # the bit of decision_type
_MISSING_BITS, _ZERO_IS_MISSING = 12, 4  # two more bits, and what they are where zero_as_missing was on


def export_life(booster: lgb.Booster) -> bytes:
    """Return a regression *booster* as a model ``features (n, f)`` to ``life (n, 1)``; NaN counts as 0.

    Raises:
        ExportError: If the booster is of a kind that has no faithful ONNX form.
    """
    nodes, constants = booster_nodes(booster, "life", LIFE)
    return finish("life", nodes, constants, inputs=booster.num_feature(), output=LIFE, columns=1)


def floored(booster: lgb.Booster) -> lgb.Booster:
    """Return *booster* with each threshold as the largest float32 below it: equal on float32 rows, safe to convert."""
    lines = []
    for line in booster.model_to_string().split("\n"):
        if line.startswith("tree_sizes="):  # byte offsets: stale after the edit, LightGBM aborts the process on them
            continue
        if line.startswith("threshold="):
            values = floor32(np.array([float(text) for text in line[10:].split()]))
            lines.append("threshold=" + " ".join(repr(float(value)) for value in values))
        else:
            lines.append(line)
    return lgb.Booster(model_str="\n".join(lines))


def thresholds_of(booster: lgb.Booster) -> list[tuple[int, float]]:
    """Return each split of *booster* as ``(feature, threshold)``; of a categorical one, each category and one more."""
    splits: list[tuple[int, float]] = []
    for tree in _trees(booster):
        thresholds = [float(text) for text in tree.get("threshold", "").split()]
        bounds = [int(text) for text in tree.get("cat_boundaries", "").split()]
        words = [int(text) for text in tree.get("cat_threshold", "").split()]
        for feature, threshold, kind in zip(_features(tree), thresholds, _decision_types(tree), strict=True):
            if kind & _CATEGORICAL:
                first, last = bounds[int(threshold)], bounds[int(threshold) + 1]
                categories = [
                    32 * place + bit
                    for place, word in enumerate(words[first:last])
                    for bit in range(32)
                    if word >> bit & 1
                ]
                splits += [(feature, float(category)) for category in (*categories, max(categories, default=0) + 1)]
            else:
                splits.append((feature, threshold))
    return splits


def categorical_features(booster: lgb.Booster) -> tuple[int, ...]:
    """Return the inputs that *booster* splits by category."""
    return tuple(
        sorted(
            {
                feature
                for tree in _trees(booster)
                for feature, kind in zip(_features(tree), _decision_types(tree), strict=True)
                if kind & _CATEGORICAL
            }
        )
    )


def refuse_unfaithful(booster: lgb.Booster) -> None:
    """Raise ``ExportError`` when *booster* is of a kind that has no converter, or converts and then predicts wrong."""
    said = _parameters(booster)
    if said.get("boosting", said.get("boosting_type", "gbdt")) in _REFUSED_BOOSTINGS or said.get("average_output"):
        raise ExportError("LightGBM boosting rf converts silently wrong; use gbdt; nothing was exported")
    objective, *settings = said.get("as_written", "none").split(" ")
    if "sqrt" in settings:
        said["reg_sqrt"] = "1"
    for switch in _REFUSED_SWITCHES:
        if said.get(switch, "0").lower() in _TRUE:
            raise ExportError(f"LightGBM {switch} converts silently wrong; switch it off; nothing was exported")
    # What was saved without its parameters tells of this one by its trees alone.
    if any(kind & _MISSING_BITS == _ZERO_IS_MISSING for tree in _trees(booster) for kind in _decision_types(tree)):
        raise ExportError("LightGBM zero_as_missing converts silently wrong; switch it off; nothing was exported")
    if objective in _REFUSED_OBJECTIVES:
        raise ExportError("LightGBM multiclassova converts silently wrong; use multiclass; nothing was exported")
    if objective not in _OBJECTIVES:
        raise ExportError(f"LightGBM objective {objective} has no faithful ONNX form; nothing was exported")
    if objective == "binary" and any(text.startswith("sigmoid:") and float(text[8:]) != 1.0 for text in settings):
        raise ExportError("LightGBM sigmoid other than 1 converts silently wrong; leave it at 1; nothing was exported")


def _parameters(booster: lgb.Booster) -> dict[str, str]:
    """Return what *booster* and its text form say of how it was trained, the text form winning."""
    said = {name: str(value) for name, value in booster.params.items()}
    for line in booster.model_to_string().split("\n"):
        if line.startswith("[") and line.endswith("]") and ": " in line:
            name, value = line[1:-1].split(": ", 1)
            said[name] = value
        elif line == "average_output":
            said["average_output"] = "1"
        elif line == "is_linear=1":
            said["linear_tree"] = "1"
        elif line.startswith("objective="):
            said["as_written"] = line[10:]
    return said


def _trees(booster: lgb.Booster) -> list[dict[str, str]]:
    """Return the lines of each tree of *booster* by their names."""
    trees: list[dict[str, str]] = []
    for line in booster.model_to_string().split("\n"):
        name, _, value = line.partition("=")
        if name == "Tree":
            trees.append({})
        elif line.startswith("end of trees"):
            break
        elif trees:
            trees[-1][name] = value
    return trees


def _features(tree: dict[str, str]) -> list[int]:
    return [int(text) for text in tree.get("split_feature", "").split()]


def _decision_types(tree: dict[str, str]) -> list[int]:
    return [int(text) for text in tree.get("decision_type", "").split()]


def booster_nodes(
    booster: lgb.Booster, prefix: str, output: str, *, source: str = INPUT
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants of *booster*, for a graph of several models.

    Args:
        booster: Trained on rows without NaN (``models.export.graph.without_missing``); NaN counts as 0.
        prefix: Of all names but *source* and *output*; another one for each booster of a graph.
        output: What the answer is called: ``(n, 1)``; of ``binary`` and ``multiclass`` probabilities ``(n, classes)``.
        source: What the rows are called.

    Raises:
        ExportError: If the booster is of a kind that has no faithful ONNX form.
    """
    check_exportable(booster)
    refuse_unfaithful(booster)
    shape = [("raw", FloatTensorType([None, booster.num_feature()]))]
    converted = convert_lightgbm(floored(booster), initial_types=shape, target_opset=OPSET[""], zipmap=False)
    model = load_model_from_string(converted.SerializeToString())
    wanted = model.graph.output[-1].name  # the label comes before the probabilities
    present = f"{prefix}_present"
    nodes, constants = missing_as_zero(source, present)
    if categories := categorical_features(booster):
        more_nodes, more_constants = _whole(present, f"{prefix}_whole", categories, booster.num_feature())
        nodes, constants, present = [*nodes, *more_nodes], [*constants, *more_constants], f"{prefix}_whole"
    names = {"raw": present, wanted: output}
    for node in model.graph.node:
        node.input[:] = [names.get(name, f"{prefix}_{name}") for name in node.input]
        node.output[:] = [names.get(name, f"{prefix}_{name}") for name in node.output]
        node.name = ""
        _drop_unread(node)
        nodes.append(node)
    for constant in model.graph.initializer:
        constant.name = f"{prefix}_{constant.name}"
        constants.append(constant)
    needed = _needed(nodes, output)
    used = {text for node in needed for text in node.input}
    return needed, [constant for constant in constants if constant.name in used]


def _drop_unread(node: NodeProto) -> None:
    """Take off *node* what is never read: hit rates, and where missing values go, for none comes this far."""
    for attribute in [one for one in node.attribute if one.name in _UNREAD]:
        node.attribute.remove(attribute)


def _whole(
    source: str, target: str, categories: Sequence[int], inputs: int
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes that cut what follows the point off categorical inputs, as LightGBM does and graphs do not."""
    named = np.zeros(inputs, np.bool_)
    named[list(categories)] = True
    nodes = [
        helper.make_node("Abs", [source], [f"{target}_size"]),
        helper.make_node("Floor", [f"{target}_size"], [f"{target}_floor"]),
        helper.make_node("Sign", [source], [f"{target}_sign"]),
        helper.make_node("Mul", [f"{target}_floor", f"{target}_sign"], [f"{target}_cut"]),
        helper.make_node("Where", [f"{target}_named", f"{target}_cut", source], [target]),
    ]
    return nodes, [numpy_helper.from_array(named, f"{target}_named")]


def _needed(nodes: list[NodeProto], output: str) -> list[NodeProto]:
    """Return those of *nodes* that *output* depends on, in their order: the label's own nodes are left out."""
    wanted = {output}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]
