"""A graph is known by its bytes before any runtime sees it; each kind that is refused stands beside one that is not."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, external_data_helper, helper, load_model_from_string, numpy_helper

from models.bundle import graph_form
from models.bundle.contents import CLASSIFIER, DETECTOR, LIFE
from models.bundle.graph_form import GraphRefused, check_form, read_form
from models.export.graph import OPSET, finish


def model(**changes: Any) -> ModelProto:
    """Return a small model that a bundle may hold, but for *changes*."""
    weights = numpy_helper.from_array(np.ones((4, 2), np.float32), "weights")
    wanted: dict[str, Any] = {
        "nodes": [helper.make_node("MatMul", ["features", "weights"], ["score"])],
        "inputs": [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 4])],
        "outputs": [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 2])],
        "constants": [weights],
        "ir_version": 8,
        "opsets": OPSET,
    } | changes
    graph = helper.make_graph(
        wanted["nodes"], "made", wanted["inputs"], wanted["outputs"], wanted["constants"], **wanted.get("more", {})
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in wanted["opsets"].items()]
    return helper.make_model(graph, ir_version=wanted["ir_version"], opset_imports=opsets)


def in_another_file() -> ModelProto:
    made = model()
    external_data_helper.set_external_data(made.graph.initializer[0], location="weights.bin")
    made.graph.initializer[0].ClearField("raw_data")
    return made


def with_a_function() -> ModelProto:
    made = model()
    made.functions.append(helper.make_function("own", "Twice", ["x"], ["y"], [], []))
    return made


def info(name: str, kind: int, *shape: int | str | None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def node(operator: str, **more: Any) -> list[Any]:
    return [helper.make_node(operator, ["features"], ["score"], **more)]


BRANCH = helper.make_graph(
    [helper.make_node("Identity", ["features"], ["score"])], "branch", [], [info("score", TensorProto.FLOAT, None, 2)]
)
SPARSE = helper.make_sparse_tensor(
    helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0]),
    helper.make_tensor("places", TensorProto.INT64, [1], [0]),
    [8],
)

REFUSED = {
    "newer than the runtime reads": (model(ir_version=14, opsets={"": 28}), "IR version 14"),
    "as old as nobody tried": (model(opsets={"": 9}), "opset 9"),
    "opset above the ceiling": (model(opsets={"": 19, "ai.onnx.ml": 3}), "opset 19"),
    "trees of ai.onnx.ml 5": (model(opsets={"": 15, "ai.onnx.ml": 5}), "opset 5 of ai.onnx.ml"),
    "a domain of its own": (model(opsets=OPSET | {"com.microsoft": 1}), "com.microsoft"),
    "an operator of a domain not named": (model(opsets={"": 15}, nodes=node("Scaler", domain="ai.onnx.ml")), "Scaler"),
    "code": (model(nodes=node("PyOp")), "PyOp"),
    "chance": (model(nodes=node("RandomNormalLike")), "RandomNormalLike"),
    "a scale of all rows together": (model(nodes=node("DynamicQuantizeLinear")), "DynamicQuantizeLinear"),
    "control flow": (model(nodes=node("If", then_branch=BRANCH, else_branch=BRANCH)), "If"),
    "a function": (with_a_function(), "functions"),
    "numbers in another file": (in_another_file(), "another file"),
    "sparse numbers": (model(more={"sparse_initializer": [SPARSE]}), "sparse"),
    "float64 in": (model(inputs=[info("features", TensorProto.DOUBLE, None, 4)]), "float32"),
    "float64 out": (model(outputs=[info("score", TensorProto.DOUBLE, None, 2)]), "float32"),
    "text out": (model(outputs=[info("score", TensorProto.STRING, None, 2)]), "float32"),
    "two inputs": (model(inputs=[info(name, TensorProto.FLOAT, None, 4) for name in ("features", "more")]), "2 inputs"),
    "two outputs": (model(outputs=[info(name, TensorProto.FLOAT, None, 2) for name in ("a", "b")]), "2 outputs"),
    "one row only": (model(inputs=[info("features", TensorProto.FLOAT, 1, 4)]), "shape"),
    "any number of columns": (model(outputs=[info("score", TensorProto.FLOAT, None, None)]), "shape"),
    "a wide input": (model(inputs=[info("features", TensorProto.FLOAT, None, 10**6)]), "shape"),
    "an output of three axes": (model(outputs=[info("score", TensorProto.FLOAT, None, 2, 2)]), "rows of columns"),
    "no graph": (ModelProto(ir_version=8), "0 graphs"),
}


def test_what_a_bundle_may_hold_is_taken() -> None:
    """Control to all refusals: the same small model without the one change."""
    form = check_form(model().SerializeToString())

    assert (form.ir_version, form.opsets) == (8, OPSET)
    assert form.operators == (("", "MatMul"),)
    assert (form.constants, form.numbers) == (1, 8)
    assert [port.shape for port in (*form.inputs, *form.outputs)] == [(None, 4), (None, 2)]


def test_constants_listed_among_the_inputs_are_none() -> None:
    """Some converters do that, for IR versions before 4."""
    more = info("weights", TensorProto.FLOAT, 4, 2)
    made = model(inputs=[info("features", TensorProto.FLOAT, "rows", 4), more])

    assert [port.name for port in check_form(made.SerializeToString()).inputs] == ["features"]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_bundle_may_not_hold_is_refused(kind: str) -> None:
    made, word = REFUSED[kind]

    with pytest.raises(GraphRefused, match=word):
        check_form(made.SerializeToString())


@pytest.mark.parametrize("limit", ["MAX_GRAPH_BYTES", "MAX_NODES", "MAX_CONSTANTS", "MAX_NUMBERS"])
def test_sizes_are_bounded(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_form, limit, 0)

    with pytest.raises(GraphRefused, match="more than"):
        check_form(model().SerializeToString())


def test_the_number_of_numbers_is_counted_without_reading_them() -> None:
    """A tensor that only claims to be large is refused; so is one whose sizes would overflow."""
    for sizes in ([2**40], [2**31, 2**31, 2**31]):
        made = model()
        del made.graph.initializer[0].dims[:]
        made.graph.initializer[0].dims.extend(sizes)
        with pytest.raises(GraphRefused, match="numbers are more"):
            check_form(made.SerializeToString())


def test_every_graph_the_export_makes_is_as_the_reader_says(release: Any) -> None:
    """What is read from the bytes is what the onnx package reads."""
    for name in (DETECTOR, CLASSIFIER, LIFE):
        form, theirs = check_form(release.parts[name]), load_model_from_string(release.parts[name])
        assert form.ir_version == theirs.ir_version
        assert form.opsets == {one.domain: one.version for one in theirs.opset_import}
        assert form.operators == tuple((one.domain, one.op_type) for one in theirs.graph.node)
        assert form.constants == len(theirs.graph.initializer)
        assert [port.name for port in form.outputs] == [one.name for one in theirs.graph.output]


def field(key: int, content: bytes) -> bytes:
    """Return a protobuf field with the tag *key* and *content* behind its length."""
    return key.to_bytes(5, "little") + bytes([len(content)]) + content


# Tags as varints of five bytes: of field 1 (a node), with a bit above the 32 that a tag has.
ABOVE_32_BITS = int.from_bytes(bytes([1 << 3 | 2 | 0x80, 0x80, 0x80, 0x80, 0x10]), "little")


def test_what_the_runtime_reads_otherwise_hides_no_operator() -> None:
    """Each of these graphs shows only operators that are allowed, and would draw numbers by chance."""
    chance = helper.make_node("RandomNormalLike", ["features"], ["score"]).SerializeToString()
    body = helper.make_graph(
        [], "made", [info("features", TensorProto.FLOAT, None, 4)], [info("score", TensorProto.FLOAT, None, 4)]
    ).SerializeToString()
    opset = b"\x42\x04\x0a\x00\x10\x0f"
    high = body + field(ABOVE_32_BITS, chance)
    # Field 4 is the operator's name; of fixed width it is none, and the runtime keeps the one before it.
    said_again = chance + bytes([4 << 3 | 5]) + b"Relu"
    fixed = body + bytes([1 << 3 | 2, len(said_again)]) + said_again

    with pytest.raises(GraphRefused, match="no ONNX model"):
        check_form(b"\x08\x08" + opset + bytes([7 << 3 | 2, len(high)]) + high)
    with pytest.raises(GraphRefused, match="RandomNormalLike"):
        check_form(b"\x08\x08" + opset + bytes([7 << 3 | 2, len(fixed)]) + fixed)


def test_many_empty_parts_are_refused_before_they_take_memory() -> None:
    """Two bytes a node: a file of the largest size would be millions of them."""
    nodes = bytes([1 << 3 | 2, 0]) * (graph_form.MAX_FIELDS + 1)

    with pytest.raises(GraphRefused, match="more than"):
        read_form(bytes([7 << 3 | 2]) + bytes([0xC2, 0xB8, 0x02]) + nodes)


@settings(max_examples=300)
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_changed_byte_is_read_or_refused_never_worse(place: int, flip: int) -> None:
    data = bytearray(model().SerializeToString())
    data[place % len(data)] ^= flip
    try:
        form = read_form(bytes(data))
    except GraphRefused:
        return
    assert form.numbers <= graph_form.MAX_NUMBERS + 1


@settings(max_examples=200)
@given(data=st.binary(max_size=200))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(GraphRefused):
        check_form(data)


def test_finishing_a_graph_checks_it() -> None:
    """Nothing leaves the export that a gateway would refuse."""
    made = finish("made", model().graph.node, model().graph.initializer, inputs=4, output="score", columns=2)

    assert check_form(made).outputs[0].shape == (None, 2)
