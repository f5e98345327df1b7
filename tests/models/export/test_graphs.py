import re
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, load_model_from_string
from onnxmltools.convert import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.export.graph import OPSET, ExportError, finish, floor32, sealed, without_missing
from models.export.isolation_forest import forest_nodes, reference_scores
from models.export.isolation_forest import thresholds_of as forest_splits
from models.export.lightgbm import (
    booster_nodes,
    categorical_features,
    refuse_unfaithful,
    thresholds_of,
)
from models.export.parity import ParityError, check_parity, gate_rows
from models.export.refusals import check_exportable
from models.records import Float32Array, FloatArray
from tests.models.export.graphs import of_booster, of_forest

QUIET = {"verbosity": -1, "num_leaves": 15, "num_threads": 1, "seed": 1}
CLASSES: dict[str, Any] = {"objective": "multiclass", "num_class": 3}


@pytest.fixture(scope="module")
def rows() -> Float32Array:
    """Inputs far from zero on few steps, where a threshold often falls on a value."""
    rng = np.random.default_rng(5)
    return (1e5 + np.round(1e3 * rng.normal(size=(3000, 6)), 1)).astype(np.float32)


@pytest.fixture(scope="module")
def target(rows: Float32Array) -> FloatArray:
    return np.asarray((rows[:, 0] > 1e5).astype(np.float64) + (rows[:, 1] > 1e5 + 300.0))


def train(rows: Float32Array, target: FloatArray, rounds: int = 20, **parameters: Any) -> lgb.Booster:
    return lgb.train(
        QUIET | parameters, lgb.Dataset(rows, np.ascontiguousarray(target), params=QUIET | parameters), rounds
    )


def predicts(booster: lgb.Booster) -> Callable[[Float32Array], FloatArray]:
    return lambda rows: np.asarray(booster.predict(rows), np.float64)


@pytest.mark.parametrize("max_features", [1.0, 0.5])
def test_a_forest_of_the_first_inputs_answers_alike(rows: Float32Array, max_features: float) -> None:
    forest = IsolationForest(n_estimators=30, max_features=max_features, random_state=1).fit(rows[:, :4])

    parity = check_parity(
        "detector",
        of_forest(forest, inputs=6),
        lambda asked: reference_scores(forest, asked[:, :4]),
        gate_rows(rows, forest_splits(forest), seed=1),
    )

    assert parity.largest_difference < 1e-6


def test_a_forest_that_isolates_nothing_is_not_exported(rows: Float32Array, target: FloatArray) -> None:
    """Control to it: trees of two rows are. What is no isolation forest is refused by name."""
    with pytest.raises(ExportError, match="trees of one row"):
        of_forest(IsolationForest(n_estimators=2, max_samples=1, random_state=1).fit(rows), inputs=6)
    of_forest(IsolationForest(n_estimators=2, max_samples=2, random_state=1).fit(rows), inputs=6)
    with pytest.raises(ExportError, match="ExtraTreesRegressor has no faithful"):
        forest_nodes(ExtraTreesRegressor(n_estimators=2, max_depth=2).fit(rows, target), "in", "out")


def test_a_forests_score_grows_with_the_deviation() -> None:
    normal = np.random.default_rng(2).normal(size=(2000, 4)).astype(np.float32)
    forest = IsolationForest(random_state=1).fit(normal)

    scores = reference_scores(forest, np.array([[0.0] * 4, [2.0] * 4, [6.0] * 4], np.float32))

    assert scores[0] < scores[1] < scores[2]


def test_a_classifier_answers_in_onnx_as_in_the_trainer(rows: Float32Array, target: FloatArray) -> None:
    booster = train(rows, target, **CLASSES)

    parity = check_parity(
        "classifier",
        of_booster(booster),
        predicts(booster),
        gate_rows(rows, thresholds_of(booster), seed=1),
        decide=lambda answers: answers.argmax(axis=1),
    )

    assert parity.decisions == parity.rows > 3 * 1000


def test_the_gate_stops_thresholds_that_were_not_floored(
    rows: Float32Array, target: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the flooring some rows on a bin edge go the other way, and the gate sees them."""
    booster = train(rows, target, **CLASSES)
    monkeypatch.setattr("models.export.lightgbm.floored", lambda given: given)

    with pytest.raises(ParityError, match=r"classifier: row \d+, output \d"):
        check_parity(
            "classifier", of_booster(booster), predicts(booster), gate_rows(rows, thresholds_of(booster), seed=1)
        )


def test_the_gate_stops_the_graph_of_another_model(rows: Float32Array, target: FloatArray) -> None:
    """Control: a graph that answers in the right shape, but wrongly, is no release."""
    booster, other = train(rows, target, **CLASSES), train(rows, 2.0 - target, **CLASSES)

    with pytest.raises(ParityError, match="the release is stopped"):
        check_parity("classifier", of_booster(other), predicts(booster), rows)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ({"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}, "rf"),
        ({"linear_tree": True}, "linear_tree"),
        ({"zero_as_missing": True}, "zero_as_missing"),
        ({"objective": "multiclassova"}, "multiclassova"),
        ({"objective": "regression", "num_class": 1, "reg_sqrt": True}, "reg_sqrt"),
        ({"objective": "binary", "num_class": 1, "sigmoid": 0.5}, "sigmoid"),
        ({"objective": "mape", "num_class": 1}, "objective mape"),
        ({"objective": "cross_entropy", "num_class": 1}, "objective cross_entropy"),
        ({"objective": "fair", "num_class": 1}, "objective fair"),
    ],
)
def test_kinds_that_convert_silently_wrong_or_not_at_all_are_refused(
    rows: Float32Array, target: FloatArray, kind: dict[str, Any], word: str
) -> None:
    """Also when the booster comes from its text form, which is all that remains after saving."""
    two = kind.get("objective") in {"binary", "cross_entropy"}
    booster = train(rows, np.minimum(target, 1.0) if two else target, 3, **(CLASSES | kind))

    with pytest.raises(ExportError, match=word):
        of_booster(booster)
    with pytest.raises(ExportError, match=word):
        refuse_unfaithful(lgb.Booster(model_str=booster.model_to_string()))


@pytest.mark.parametrize(
    "kind",
    [
        {"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1},
        {"linear_tree": True, "objective": "regression", "num_class": 1},
        {"objective": "regression", "num_class": 1, "reg_sqrt": True},
        {"objective": "binary", "num_class": 1, "sigmoid": 0.5},
        {"zero_as_missing": True, "objective": "regression", "num_class": 1},
        {"objective": "multiclassova"},
    ],
    ids=["rf", "linear_tree", "reg_sqrt", "sigmoid", "zero_as_missing", "multiclassova"],
)
def test_the_gate_would_stop_a_silently_wrong_kind(
    rows: Float32Array, target: FloatArray, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any]
) -> None:
    """Control: without the deny-list these are exported without an error, and only the gate stands."""
    two = kind.get("objective") == "binary"
    asked = rows - np.float32(1e5)
    asked[np.abs(asked) < 500.0] = 0.0
    target = np.minimum(target + (asked[:, 2] == 0.0), 2.0)
    booster = train(asked, np.minimum(target, 1.0) if two else target, 5, **(CLASSES | kind))
    monkeypatch.setattr("models.export.lightgbm.refuse_unfaithful", lambda _: None)

    with pytest.raises(ParityError):
        check_parity("booster", of_booster(booster), like_graph(booster), asked)


def like_graph(booster: lgb.Booster) -> Callable[[Float32Array], FloatArray]:
    """Return the trainer's answers, for two classes with the first one's beside."""
    two = booster.model_to_string().find("objective=binary") >= 0
    said = predicts(booster)
    return lambda rows: np.column_stack([1.0 - said(rows), said(rows)]) if two else said(rows)


@pytest.mark.parametrize(
    "objective", ["binary", "regression", "huber", "poisson", "quantile", "regression_l1", "gamma", "tweedie"]
)
def test_kinds_that_are_let_through_answer_alike(rows: Float32Array, target: FloatArray, objective: str) -> None:
    """Control to the deny-list: it refuses nothing of these, and the gate finds nothing."""
    booster = train(rows, np.minimum(target, 1.0) if objective == "binary" else target + 1.0, objective=objective)

    check_parity("booster", of_booster(booster), like_graph(booster), gate_rows(rows, thresholds_of(booster), seed=1))


def test_zero_as_missing_is_seen_without_the_parameters(rows: Float32Array, target: FloatArray) -> None:
    """A booster that was saved without them tells of it by its trees."""
    zeros = np.maximum(rows - np.float32(1e5), np.float32(0.0))
    for zero_as_missing in (True, False):
        text = train(zeros, target, 3, objective="regression", zero_as_missing=zero_as_missing).model_to_string()
        bare = lgb.Booster(model_str=re.sub(r"\nparameters:.*?end of parameters\n", "\n", text, flags=re.DOTALL))
        if zero_as_missing:
            with pytest.raises(ExportError, match="zero_as_missing"):
                refuse_unfaithful(bare)
        else:
            refuse_unfaithful(bare)


@pytest.fixture(scope="module")
def categorical(rows: Float32Array) -> tuple[Float32Array, lgb.Booster]:
    """Rows whose first input is one of 40 kinds, far from ordered, and a booster that splits by them."""
    kinds = rows.copy()
    kinds[:, 0] = np.random.default_rng(7).integers(0, 40, len(rows))
    target = np.asarray(np.isin(kinds[:, 0] % 7, (1, 4)) + 1e-3 * kinds[:, 1], np.float64)
    parameters = QUIET | {"objective": "regression", "min_data_per_group": 10}
    data = lgb.Dataset(kinds, target, categorical_feature=[0], params=parameters)
    return kinds, lgb.train(parameters, data, 20)


def test_categories_answer_alike(categorical: tuple[Float32Array, lgb.Booster]) -> None:
    """Known ones, one that never came, and what lies between two."""
    kinds, booster = categorical
    asked = gate_rows(kinds, thresholds_of(booster), seed=1)
    assert categorical_features(booster) == (0,)
    assert len({edge for feature, edge in thresholds_of(booster) if feature == 0}) > 10
    asked[:4, 0] = (-1.0, 1.99, 1e9, -0.5)

    check_parity("booster", of_booster(booster), predicts(booster), asked)


def test_the_gate_sees_categories_that_are_not_whole(
    categorical: tuple[Float32Array, lgb.Booster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: LightGBM cuts 1.99 to category 1, the converter's graph takes it for none."""
    kinds, booster = categorical
    asked = gate_rows(kinds, thresholds_of(booster), seed=1)
    monkeypatch.setattr("models.export.lightgbm.categorical_features", lambda _: ())

    with pytest.raises(ParityError, match="rows beyond"):
        check_parity("booster", of_booster(booster), predicts(booster), asked)


def test_two_boosters_share_a_graph(rows: Float32Array, target: FloatArray) -> None:
    """Their names do not meet."""
    one, other = train(rows, target, objective="regression"), train(rows, 2.0 - target, objective="regression")
    first, second = booster_nodes(one, "one", "a"), booster_nodes(other, "other", "b")
    nodes = [*first[0], *second[0], helper.make_node("Concat", ["a", "b"], ["both"], axis=1)]

    check_parity(
        "both",
        finish("both", nodes, [*first[1], *second[1]], inputs=6, output="both", columns=2),
        lambda asked: np.column_stack([predicts(one)(asked), predicts(other)(asked)]),
        rows,
    )


@pytest.mark.parametrize(
    ("estimator", "word"),
    [
        (HistGradientBoostingClassifier(), "LightGBM"),
        (HistGradientBoostingRegressor(), "LightGBM"),
        (EllipticEnvelope(), "PCA"),
        (lgb.LGBMRegressor(), "booster_"),
        (PCA(), "PrincipalComponents"),
        (MLPRegressor(), "Autoencoder"),
        (make_pipeline(StandardScaler(), PCA()), "float64"),
        (RandomForestClassifier(), "only Booster"),
    ],
)
def test_estimators_without_a_faithful_form_are_refused_by_name(estimator: object, word: str) -> None:
    with pytest.raises(ExportError, match=rf"{type(estimator).__name__} has no faithful .*{word}"):
        check_exportable(estimator)


def test_estimators_with_an_export_are_let_through(rows: Float32Array, target: FloatArray) -> None:
    """Control to the refusals by name."""
    for estimator in (IsolationForest(), train(rows, target, 1, objective="regression")):
        check_exportable(estimator)


def test_the_converters_own_choice_of_versions_is_refused() -> None:
    """What onnx writes when it is not told otherwise is newer than gateways read."""
    weights = helper.make_tensor("weights", TensorProto.FLOAT, [6, 1], [1.0] * 6)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "weights"], ["score"])],
        "made",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, 6])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [weights],
    )

    with pytest.raises(ExportError, match="made: IR version"):
        sealed(helper.make_model(graph))
    with pytest.raises(Exception, match="model IR version"):
        ort.InferenceSession(helper.make_model(graph).SerializeToString(), providers=["CPUExecutionProvider"])


def test_probabilities_as_a_list_of_dictionaries_are_refused(rows: Float32Array, target: FloatArray) -> None:
    """What the converter gives when zipmap is not switched off."""
    booster = train(rows, target, 3, **CLASSES)
    converted = convert_lightgbm(booster, initial_types=[("features", FloatTensorType([None, 6]))], target_opset=15)
    model = load_model_from_string(converted.SerializeToString())
    model.ir_version = 8
    for one in model.opset_import:
        one.version = OPSET[one.domain]
    del model.graph.output[0]

    with pytest.raises(ExportError, match=r"ZipMap|float32"):
        sealed(model)


def test_an_autoencoders_outputs_in_one_column_are_refused(rows: Float32Array) -> None:
    """The converter of MLPRegressor ends with such a Reshape: rows times outputs, in one column."""
    column = helper.make_tensor("column", TensorProto.INT64, [2], [-1, 1])
    nodes = [helper.make_node("Reshape", ["features", "column"], ["score"])]
    graph = finish("autoencoder", nodes, [column], inputs=6, output="score", columns=6)

    with pytest.raises(ParityError, match=r"shape \(18000, 1\), the trainer with \(3000, 6\)"):
        check_parity("autoencoder", graph, lambda asked: asked.astype(np.float64), rows)


def test_flooring_keeps_every_decision_on_float32() -> None:
    thresholds = np.random.default_rng(3).normal(scale=1e5, size=5000)
    near = thresholds.astype(np.float32)
    for values in (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))):
        np.testing.assert_array_equal(values <= thresholds, values <= floor32(thresholds))


def test_an_answer_that_depends_on_the_rows_beside_it_is_stopped() -> None:
    """A gateway asks row by row what training asks all at once."""
    rows = np.random.default_rng(8).normal(size=(200, 6)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["features"], ["middle"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["features", "middle"], ["score"]),
    ]
    graph = finish("beside", nodes, [], inputs=6, output="score", columns=6)

    with pytest.raises(ParityError, match="one by one"):
        check_parity("beside", graph, lambda asked: asked - asked.mean(axis=0, dtype=np.float64), rows)


def test_missing_inputs_count_as_no_deviation() -> None:
    np.testing.assert_array_equal(without_missing(np.array([[np.nan, 2.0]], np.float32)), [[0.0, 2.0]])
