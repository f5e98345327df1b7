"""LightGBM boosters as ONNX graphs, with thresholds floored to float32 and the silently wrong kinds refused."""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm as lgb
import numpy as np
from onnx import NodeProto, TensorProto, helper, load_model_from_string, numpy_helper
from onnxmltools.convert import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from models.export.graph import INPUT, OPSET, ExportError, finish, floor32, missing_as_zero

PROBABILITIES = "probabilities"
LIFE = "life"

# These convert without any error and then predict wrong, some by 2.5 on nearly every row.
_REFUSED_BOOSTINGS = frozenset({"rf", "random_forest"})
_REFUSED_SWITCHES = ("linear_tree", "zero_as_missing")
_REFUSED_OBJECTIVES = ("multiclassova", "multiclass_ova", "ova", "ovr")
_TRUE = frozenset({"1", "true", "+"})


def export_classifier(booster: lgb.Booster) -> bytes:
    """Return a multiclass *booster* as a model ``features (n, f)`` to ``probabilities (n, classes)``; NaN counts as 0.

    Raises:
        ExportError: If the booster is of a kind that has no faithful ONNX form.
    """
    nodes, constants = _converted(booster, "classifier", PROBABILITIES)
    return _finished(
        "classifier", booster, nodes, constants, output=PROBABILITIES, columns=booster.num_model_per_iteration()
    )


def export_quantiles(
    boosters: Sequence[lgb.Booster], *, reach: Sequence[float], margin: float, highest: float
) -> bytes:
    """Return regression *boosters*, one a quantile, as one model ``features (n, f)`` to ``life (n, quantiles)``.

    NaN counts as 0. Quantile ``i`` comes as ``booster_i + reach[i] * (middle booster + margin)``, held
    to 0 and *highest*; they may cross.

    Raises:
        ExportError: If a booster is of a kind that has no faithful ONNX form.
    """
    nodes: list[NodeProto] = []
    constants: list[TensorProto] = []
    outputs = [f"quantile_{number}" for number in range(len(boosters))]
    for booster, output in zip(boosters, outputs, strict=True):
        more_nodes, more_constants = _converted(booster, output, output)
        nodes += more_nodes
        constants += more_constants
    spread = np.eye(len(boosters))
    spread[len(boosters) // 2] += reach
    constants += [
        numpy_helper.from_array(spread.astype(np.float32), "spread"),
        numpy_helper.from_array((margin * np.asarray(reach)).astype(np.float32), "shift"),
        numpy_helper.from_array(np.array(0.0, np.float32), "lowest"),
        numpy_helper.from_array(np.array(highest, np.float32), "highest"),
    ]
    nodes.append(helper.make_node("Concat", outputs, ["quantiles"], axis=1))
    nodes.append(helper.make_node("Gemm", ["quantiles", "spread", "shift"], ["widened"]))
    nodes.append(helper.make_node("Clip", ["widened", "lowest", "highest"], [LIFE]))
    return _finished("life", boosters[0], nodes, constants, output=LIFE, columns=len(boosters))


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
    """Return each split of *booster* as ``(feature, threshold)``."""
    splits: list[tuple[int, float]] = []
    features: list[int] = []
    for line in booster.model_to_string().split("\n"):
        if line.startswith("split_feature="):
            features = [int(text) for text in line[14:].split()]
        elif line.startswith("threshold="):
            splits += zip(features, (float(text) for text in line[10:].split()), strict=True)
    return splits


def refuse_unfaithful(booster: lgb.Booster) -> None:
    """Raise ``ExportError`` when *booster* is of a kind that converts without an error and then predicts wrong."""
    said = _parameters(booster)
    if said.get("boosting", said.get("boosting_type", "gbdt")) in _REFUSED_BOOSTINGS or said.get("average_output"):
        raise ExportError("LightGBM boosting rf converts silently wrong; use gbdt; nothing was exported")
    for switch in _REFUSED_SWITCHES:
        if said.get(switch, "0").lower() in _TRUE:
            raise ExportError(f"LightGBM {switch} converts silently wrong; switch it off; nothing was exported")
    if said.get("objective", "").split(" ")[0] in _REFUSED_OBJECTIVES:
        raise ExportError("LightGBM multiclassova converts silently wrong; use multiclass; nothing was exported")


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
            said["objective"] = line[10:]
    return said


def _converted(booster: lgb.Booster, prefix: str, output: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants of *booster*, names starting with *prefix*, from ``features`` to *output*."""
    refuse_unfaithful(booster)
    shape = [("raw", FloatTensorType([None, booster.num_feature()]))]
    converted = convert_lightgbm(floored(booster), initial_types=shape, target_opset=OPSET[""], zipmap=False)
    model = load_model_from_string(converted.SerializeToString())
    wanted = model.graph.output[-1].name  # the label comes before the probabilities
    present = f"{prefix}_present"
    names = {"raw": present, wanted: output}
    nodes, constants = missing_as_zero(INPUT, present)
    for node in model.graph.node:
        node.input[:] = [names.get(name, f"{prefix}_{name}") for name in node.input]
        node.output[:] = [names.get(name, f"{prefix}_{name}") for name in node.output]
        node.name = ""
        nodes.append(node)
    for constant in model.graph.initializer:
        constant.name = f"{prefix}_{constant.name}"
        constants.append(constant)
    return _needed(nodes, output), constants


def _needed(nodes: list[NodeProto], output: str) -> list[NodeProto]:
    """Return those of *nodes* that *output* depends on, in their order: the label's own nodes are left out."""
    wanted = {output}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _finished(
    name: str,
    booster: lgb.Booster,
    nodes: list[NodeProto],
    constants: list[TensorProto],
    *,
    output: str,
    columns: int,
) -> bytes:
    used = {text for node in nodes for text in node.input}
    return finish(
        name,
        nodes,
        [constant for constant in constants if constant.name in used],
        inputs=booster.num_feature(),
        output=output,
        columns=columns,
    )
