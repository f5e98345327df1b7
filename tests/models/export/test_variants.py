"""A smaller form of a graph takes and gives the same, and answers as the same change to its trainer would."""

from typing import Any

import lightgbm as lgb
import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from sklearn.ensemble import IsolationForest

from models.export.graph import ExportError, finish
from models.export.lightgbm import export_life
from models.export.parity import check_answers
from models.export.variants import byte_weights, coarse_trees, fewer_trees, half_weights
from models.records import Float32Array, FloatArray
from tests.models.export.graphs import of_booster, of_forest, trees_of

ROWS = np.random.default_rng(4).normal(size=(1500, 8)).astype(np.float32)
TARGET = np.asarray(ROWS[:, 0] + ROWS[:, 1] ** 2, np.float64)


def answers(graph: bytes, rows: Float32Array = ROWS) -> FloatArray:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: rows})[0], np.float64)


def booster(target: FloatArray = TARGET, **parameters: Any) -> lgb.Booster:
    settings = {"verbosity": -1, "num_leaves": 15, "num_threads": 1, "seed": 1, "objective": "regression"} | parameters
    return lgb.train(settings, lgb.Dataset(ROWS, np.ascontiguousarray(target), params=settings), 20)


def network() -> bytes:
    """Return a graph of a convolution, a matrix and a few small constants."""
    random = np.random.default_rng(6)
    kernels, weights = random.normal(size=(64, 4, 3)), random.normal(size=(64, 5)) * [0.01, 0.1, 1.0, 10.0, 0.0]
    nodes = [
        helper.make_node("Conv", ["sequence", "kernels"], ["curves"]),
        helper.make_node("ReduceMax", ["curves"], ["most"], axes=[2], keepdims=0),
        helper.make_node("Gemm", ["most", "weights", "bias"], ["answer"]),
    ]
    constants = [
        numpy_helper.from_array(kernels.astype(np.float32), "kernels"),
        numpy_helper.from_array(weights.astype(np.float32), "weights"),
        numpy_helper.from_array(np.ones(5, np.float32), "bias"),
    ]
    return finish("network", nodes, constants, inputs=(4, 12), output="answer", columns=5, source="sequence")


SEQUENCES = np.random.default_rng(5).normal(size=(40, 4, 12)).astype(np.float32)


@pytest.mark.parametrize(("form", "within", "share"), [(half_weights, 1e-3, 0.6), (byte_weights, 4e-2, 0.45)])
def test_weights_in_fewer_bits_answer_nearly_alike(form: Any, within: float, share: float) -> None:
    """Each column by its own measure, so that small weights are no coarser than large ones."""
    graph = network()
    smaller = form(graph)
    before, after = answers(graph, SEQUENCES), answers(smaller, SEQUENCES)

    assert len(smaller) < share * len(graph)
    spread = np.maximum(np.abs(before - 1.0).max(axis=0), 1e-9)
    assert (np.abs(after - before).max(axis=0) <= within * spread).all()
    assert not np.array_equal(after, before)


@pytest.mark.parametrize("keep", [0.5, 0.01])
def test_fewer_boosted_trees_are_the_trainers_first_ones(keep: float) -> None:
    """At least one stays."""
    trained = booster()
    graph = export_life(trained)
    trees = max(1, round(20 * keep))
    wanted = np.asarray(trained.predict(ROWS, num_iteration=trees))

    check_answers("pruned", answers(fewer_trees(graph, keep)), wanted)
    assert (trees_of(graph), trees_of(fewer_trees(graph, keep))) == (20, trees)


def test_fewer_trees_of_a_classifier_keep_as_many_of_each_class() -> None:
    trained = booster(np.digitize(TARGET, [0.0, 1.5]).astype(np.float64), objective="multiclass", num_class=3)
    graph = of_booster(trained)

    wanted = np.asarray(trained.predict(ROWS, num_iteration=7))
    check_answers("pruned", answers(fewer_trees(graph, 0.35)), wanted)
    assert trees_of(fewer_trees(graph, 0.35)) == 21


def test_fewer_trees_keep_as_many_of_each_target() -> None:
    """Several boosters in one operator: none loses all of its trees because it came last."""
    columns: dict[str, Any] = {
        "nodes_treeids": [0, 1, 2, 3],
        "nodes_nodeids": [0] * 4,
        "nodes_featureids": [0] * 4,
        "nodes_modes": ["LEAF"] * 4,
        "nodes_values": [0.0] * 4,
        "nodes_truenodeids": [0] * 4,
        "nodes_falsenodeids": [0] * 4,
        "target_treeids": [0, 1, 2, 3],
        "target_nodeids": [0] * 4,
        "target_ids": [0, 0, 1, 1],
        "target_weights": [1.0, 10.0, 100.0, 1000.0],
    }
    node = helper.make_node(
        "TreeEnsembleRegressor", ["features"], ["answer"], domain="ai.onnx.ml", n_targets=2, **columns
    )
    graph = finish("both", [node], [], inputs=8, output="answer", columns=2)

    assert answers(graph)[0].tolist() == [11.0, 1100.0]
    assert answers(fewer_trees(graph, 0.5))[0].tolist() == [1.0, 100.0]
    assert answers(fewer_trees(graph, 0.5, averaged=True))[0].tolist() == [2.0, 200.0]


def test_fewer_trees_of_a_forest_are_read_as_the_same_mean() -> None:
    """Control: without that, half the depth reads as twice the deviation."""
    graph = of_forest(IsolationForest(n_estimators=60, random_state=1).fit(ROWS), inputs=8)
    before = answers(graph)

    assert np.abs(answers(fewer_trees(graph, 0.5, averaged=True)) - before).max() < 0.1
    assert np.abs(answers(fewer_trees(graph, 0.5)) - before).min() > 0.1


def test_coarse_trees_answer_nearly_alike_and_repeat_themselves() -> None:
    graph = export_life(booster(TARGET + 10.0))
    before, after = answers(graph), answers(coarse_trees(graph))

    assert np.abs(after - before).mean() < 0.02
    assert not np.array_equal(after, before)


def test_what_has_no_trees_or_no_weights_has_no_such_form() -> None:
    trees = export_life(booster())
    for form, graph in ((half_weights, trees), (byte_weights, trees), (coarse_trees, network())):
        with pytest.raises(ExportError, match="nothing was exported"):
            form(graph)
    with pytest.raises(ExportError, match="no trees"):
        fewer_trees(network(), 0.5)
    assert trees_of(network()) == 0


def test_weights_beyond_float16_stay_as_they_are() -> None:
    """Control: the others of the same graph are stored as float16."""
    large = numpy_helper.from_array(np.full((8, 64), 1e5, np.float32), "weights")
    small = numpy_helper.from_array(np.full((64, 64), 0.1, np.float32), "more")
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["between"]),
        helper.make_node("MatMul", ["between", "more"], ["answer"]),
    ]
    both = finish("large", nodes, [large, small], inputs=8, output="answer", columns=64)
    alone = finish(
        "large", [helper.make_node("MatMul", ["features", "weights"], ["answer"])], [large], inputs=8,
        output="answer", columns=64,
    )  # fmt: skip

    assert 0.5 * len(both) < len(half_weights(both)) < 0.6 * len(both)
    np.testing.assert_allclose(answers(half_weights(both)), answers(both), rtol=1e-3, atol=1e3)
    with pytest.raises(ExportError, match="no weights"):
        half_weights(alone)
    np.testing.assert_allclose(answers(byte_weights(alone)), answers(alone), rtol=1e-4, atol=1.0)
