"""Smaller forms of an exported graph: weights in fewer bits, fewer trees, coarser leaves.

Each takes a finished graph and gives another with the same input and output, itself checked as every exported graph.
What they cost in truth is measured elsewhere: see ``cloud_service.training.compression``.

Weights are stored in fewer bits and turned back into float32 by nodes that the runtime folds away when it loads the
graph: the file is smaller, a window costs what it did. Arithmetic in int8 is not offered: the scale of what comes in
would be taken from all rows that happen to be asked together, and a window's answer would depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, load_model_from_string, numpy_helper

from models.export.graph import ExportError, floor32, sealed
from models.records import FloatArray, Int64Array

# Below this many numbers a constant is left alone: there is nothing to gain.
LEAST_NUMBERS = 256
_ENSEMBLES = frozenset({"TreeEnsembleRegressor", "TreeEnsembleClassifier"})


def half_weights(graph: bytes) -> bytes:
    """Return *graph* with its large float32 constants stored as float16; those that do not fit stay as they are.

    Raises:
        ExportError: If it has none that fits.
    """
    model = load_model_from_string(graph)
    stored: dict[str, tuple[list[TensorProto], list[NodeProto]]] = {}
    for constant in _large(model):
        values = numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.isfinite(half).all():
            stored[constant.name] = (
                [numpy_helper.from_array(half, f"{constant.name}_half")],
                [helper.make_node("Cast", [f"{constant.name}_half"], [constant.name], to=TensorProto.FLOAT)],
            )
    return _restored(model, stored)


def byte_weights(graph: bytes) -> bytes:
    """Return *graph* with its large float32 constants of two axes and more stored as int8, a scale a slice.

    A slice is what one output takes: a column of a matrix, a kernel of a convolution (three axes and more).

    Raises:
        ExportError: If it has none.
    """
    model = load_model_from_string(graph)
    stored: dict[str, tuple[list[TensorProto], list[NodeProto]]] = {}
    for constant in _large(model):
        values = numpy_helper.to_array(constant)
        if values.ndim < 2:
            continue
        axes = (0,) if values.ndim == 2 else tuple(range(1, values.ndim))
        largest = np.abs(values).max(axis=axes, keepdims=True)
        scale = np.where(largest > 0.0, largest / 127.0, 1.0).astype(np.float32)
        whole = np.clip(np.round(values / scale), -127, 127).astype(np.int8)
        name = constant.name
        stored[name] = (
            [numpy_helper.from_array(whole, f"{name}_byte"), numpy_helper.from_array(scale, f"{name}_scale")],
            [
                helper.make_node("Cast", [f"{name}_byte"], [f"{name}_float"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [name]),
            ],
        )
    return _restored(model, stored)


def fewer_trees(graph: bytes, share: float, *, averaged: bool = False) -> bytes:
    """Return *graph* with the first *share*, 0 to 1, of the trees of each of its targets, at least one.

    Args:
        graph: With at least one tree ensemble.
        share: Of boosted trees the first say most; of a forest's none says more than another.
        averaged: Whether the trees are a forest whose sum is read as a mean: then the rest weigh accordingly more.

    Raises:
        ExportError: If it has no ensemble.
    """

    def kept(attributes: dict[str, Any], prefix: str) -> dict[str, Any]:
        leaves = np.array(attributes[f"{prefix}_treeids"])
        trees, first = np.unique(leaves, return_index=True)
        target = np.array(attributes[f"{prefix}_ids"])[first]
        keep, weight = np.zeros(len(trees), np.bool_), np.ones(len(trees))
        for own in np.unique(target):
            mine = np.flatnonzero(target == own)
            count = max(1, round(share * len(mine)))
            keep[mine[:count]] = True
            weight[mine] = len(mine) / count
        inside = np.isin(attributes["nodes_treeids"], trees[keep])
        left = np.isin(leaves, trees[keep])
        changed = {name: _where(values, inside) for name, values in attributes.items() if name.startswith("nodes_")}
        changed |= {
            name: _where(attributes[name], left)
            for name in (f"{prefix}_treeids", f"{prefix}_nodeids", f"{prefix}_ids", f"{prefix}_weights")
        }
        if averaged:
            more = weight[np.searchsorted(trees, changed[f"{prefix}_treeids"])]
            changed[f"{prefix}_weights"] = (np.array(changed[f"{prefix}_weights"]) * more).tolist()
        return changed

    return _with_ensembles(graph, kept)


def coarse_trees(graph: bytes) -> bytes:
    """Return *graph* with the thresholds of its trees floored and its leaves rounded to 11 bits of precision.

    The file is as long, but packs smaller: the numbers repeat.

    Raises:
        ExportError: If it has no ensemble.
    """

    def coarsened(attributes: dict[str, Any], prefix: str) -> dict[str, Any]:
        return {
            "nodes_values": _coarse(attributes["nodes_values"], np.floor).tolist(),
            f"{prefix}_weights": _coarse(attributes[f"{prefix}_weights"], np.round).tolist(),
        }

    return _with_ensembles(graph, coarsened)


def fewer_kernels(graph: bytes, weight: FloatArray, share: float) -> tuple[bytes, Int64Array]:
    """Return *graph* with the weightiest *share*, 0 to 1, of the mixes of each dilation, and which kernels are left.

    Kernels share the mix of channels they look at, so a mix goes with all of its kernels: with it goes the work.

    Args:
        graph: Of kernels: ``cloud_service.training.sequence.make_kernels``.
        weight: How much each kernel counts, shape ``(K,)``: the size of its weights in the heads.
        share: Of the mixes; at least one of each dilation stays.

    Raises:
        ExportError: If it is no such graph.
    """
    model = load_model_from_string(graph)
    held = {constant.name: numpy_helper.to_array(constant) for constant in model.graph.initializer}
    blocks = [name.removesuffix("_mixes") for name in held if name.endswith("_mixes")]
    if not blocks or "centre" not in held or held["centre"].size != len(weight):
        raise ExportError(f"{model.graph.name}: no graph of {len(weight)} kernels; nothing was exported")
    left: list[Int64Array] = []
    start = 0
    for block in blocks:
        mixes = len(held[f"{block}_mixes"])
        each = len(held[f"{block}_filters"]) // mixes
        own = np.arange(start, start + mixes * each).reshape(mixes, each)
        start += own.size
        keep = np.sort(np.argsort(-weight[own].sum(axis=1), kind="stable")[: max(1, round(share * mixes))])
        inside = (keep[:, None] * each + np.arange(each)).ravel()
        held[f"{block}_mixes"] = held[f"{block}_mixes"][keep]
        held[f"{block}_filters"] = held[f"{block}_filters"][inside]
        held[f"{block}_biases"] = held[f"{block}_biases"][inside]
        left.append(own[keep].ravel())
        for node in model.graph.node:
            if f"{block}_filters" in node.input:
                for attribute in node.attribute:
                    if attribute.name == "group":
                        attribute.i = len(keep)
    kept = np.concatenate([*left, np.arange(start, len(weight))])  # levels of channels, after the kernels, cost nothing
    held |= {name: values[:, kept] for name, values in held.items() if values.shape == (1, len(weight))}
    for constant in model.graph.initializer:
        if held[constant.name].shape != tuple(constant.dims):
            constant.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(held[constant.name]), constant.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(kept)
    return sealed(model), kept


def _large(model: ModelProto) -> list[TensorProto]:
    found = [
        constant
        for constant in model.graph.initializer
        if constant.data_type == TensorProto.FLOAT and np.prod(constant.dims) >= LEAST_NUMBERS
    ]
    if not found:
        raise ExportError(f"{model.graph.name}: no weights to store in fewer bits; nothing was exported")
    return found


def _restored(model: ModelProto, stored: Mapping[str, tuple[list[TensorProto], list[NodeProto]]]) -> bytes:
    """Return *model* with the constants named in *stored* made by its nodes from its constants."""
    if not stored:
        raise ExportError(f"{model.graph.name}: no weights to store in fewer bits; nothing was exported")
    constants = [constant for constant in model.graph.initializer if constant.name not in stored]
    nodes = list(model.graph.node)
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.initializer.extend([*constants, *(one for more, _ in stored.values() for one in more)])
    model.graph.node.extend([*(one for _, more in stored.values() for one in more), *nodes])
    return sealed(model)


def _with_ensembles(graph: bytes, change: Callable[[dict[str, Any], str], dict[str, Any]]) -> bytes:
    """Return *graph* with the attributes of each ensemble as *change* gives them, of them and their leaves' prefix."""
    model = load_model_from_string(graph)
    found = [node for node in model.graph.node if node.op_type in _ENSEMBLES]
    if not found:
        raise ExportError(f"{model.graph.name}: it has no trees; nothing was exported")
    for node in found:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        prefix = "target" if node.op_type == "TreeEnsembleRegressor" else "class"
        attributes |= change(attributes, prefix)
        made = helper.make_node(node.op_type, list(node.input), list(node.output), domain=node.domain, **attributes)
        node.CopyFrom(made)
    return sealed(model)


def _where(values: Sequence[Any], inside: NDArray[np.bool_]) -> list[Any]:
    return [value for value, keep in zip(values, inside, strict=True) if keep]


def _coarse(values: Sequence[float], towards: Callable[[FloatArray], FloatArray]) -> FloatArray:
    numbers = np.array(values, np.float64)
    _, exponent = np.frexp(numbers)
    step = np.ldexp(1.0, exponent - 11)
    return floor32(towards(numbers / step) * step)
