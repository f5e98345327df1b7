"""What every exported graph has in common: one float32 matrix in, missing inputs as no deviation, old operators.

The operator sets stay at 15 (the newest that onnxmltools writes) and ``ai.onnx.ml`` 3, the IR version at 8:
every ONNX Runtime that a gateway may have reads them. What is finished here has passed ``models.bundle.graph_form``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper

from models.bundle.graph_form import GraphRefused, check_form
from models.records import Float32Array, FloatArray

INPUT = "features"
SEQUENCE = "sequence"
OPSET = {"": 15, "ai.onnx.ml": 3}
IR_VERSION = 8


class ExportError(ValueError):
    """A trained model has no faithful ONNX form; nothing is exported."""


def without_missing(rows: Float32Array) -> Float32Array:
    """Return *rows* with NaN as 0, "no deviation": what every exported graph does first, for the trainer's side."""
    return np.where(np.isnan(rows), np.float32(0.0), rows).astype(np.float32)


def floor32(values: FloatArray) -> FloatArray:
    """Return the largest float32 not above each of *values*, as float64.

    For any float32 ``x``, ``x <= floor32(t)`` exactly when ``x <= t``: a tree with thresholds treated so answers
    float32 rows as before, and nothing is left for a converter to round the other way.
    """
    exact = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        near = exact.astype(np.float32)
    floored = np.where(near.astype(np.float64) > exact, np.nextafter(near, np.float32(-np.inf)), near)
    return floored.astype(np.float64)


def missing_as_zero(source: str, target: str) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants that turn NaN in *source* into 0 in *target*."""
    prefix = f"{target}_"
    nodes = [
        helper.make_node("IsNaN", [source], [f"{prefix}missing"]),
        helper.make_node("Where", [f"{prefix}missing", f"{prefix}zero", source], [target]),
    ]
    return nodes, [helper.make_tensor(f"{prefix}zero", TensorProto.FLOAT, [1], [0.0])]


def finish(
    name: str,
    nodes: Sequence[NodeProto],
    constants: Sequence[TensorProto],
    *,
    inputs: int | tuple[int, int],
    output: str,
    columns: int,
    source: str = INPUT,
) -> bytes:
    """Return the serialised model that maps *source* ``(n, inputs)`` to *output* ``(n, columns)``, both float32.

    Args:
        name: Of the graph.
        nodes: In an order in which they can run.
        constants: What they use beside the input.
        inputs: Columns of a matrix, or channels and windows of sequences ``(n, C, L)``.
        output: Name of the tensor that is the answer.
        columns: Its columns.
        source: Name of the input.

    Raises:
        ExportError: If the model is not what a bundle may hold.
    """
    shape = inputs if isinstance(inputs, tuple) else (inputs,)
    graph = helper.make_graph(
        list(nodes),
        name,
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [None, *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, columns])],
        list(constants),
    )
    return sealed(
        helper.make_model(
            graph,
            producer_name="wearsight",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in OPSET.items()],
        )
    )


def sealed(model: ModelProto) -> bytes:
    """Return the bytes of *model*, the same for the same model.

    Raises:
        ExportError: If it is no valid model, or not what a bundle may hold; see ``models.bundle.graph_form``.
    """
    name = model.graph.name
    try:
        checker.check_model(model)
        data = bytes(model.SerializeToString(deterministic=True))
        check_form(data)
    except (checker.ValidationError, GraphRefused) as error:
        raise ExportError(f"{name}: {error}; nothing was exported") from error
    return data
