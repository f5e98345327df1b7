from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from models.export.graph import ExportError, floor32, without_missing
from models.export.isolation_forest import export_isolation_forest, reference_scores
from models.export.isolation_forest import thresholds_of as forest_splits
from models.export.lightgbm import export_classifier, export_quantiles, refuse_unfaithful, thresholds_of
from models.export.parity import ParityError, check_parity, gate_rows
from models.records import Float32Array, FloatArray

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
        export_isolation_forest(forest, inputs=6),
        lambda asked: reference_scores(forest, asked[:, :4]),
        gate_rows(rows, forest_splits(forest), seed=1),
    )

    assert parity.largest_difference < 1e-6


def test_a_forests_score_grows_with_the_deviation() -> None:
    normal = np.random.default_rng(2).normal(size=(2000, 4)).astype(np.float32)
    forest = IsolationForest(random_state=1).fit(normal)

    scores = reference_scores(forest, np.array([[0.0] * 4, [2.0] * 4, [6.0] * 4], np.float32))

    assert scores[0] < scores[1] < scores[2]


def test_a_classifier_answers_in_onnx_as_in_the_trainer(rows: Float32Array, target: FloatArray) -> None:
    booster = train(rows, target, **CLASSES)

    parity = check_parity(
        "classifier",
        export_classifier(booster),
        predicts(booster),
        gate_rows(rows, thresholds_of(booster), seed=1),
        labels=True,
    )

    assert parity.rows > 3 * 1000


def test_quantiles_share_one_graph_with_their_widening(rows: Float32Array) -> None:
    hours = np.asarray(np.abs(rows[:, 2] - 1e5), np.float64)
    boosters = [train(rows, hours, objective="quantile", alpha=alpha) for alpha in (0.1, 0.5, 0.9)]
    splits = [split for booster in boosters for split in thresholds_of(booster)]

    def widened(asked: Float32Array) -> FloatArray:
        low, middle, high = (np.asarray(booster.predict(asked), np.float64) for booster in boosters)
        wide = np.column_stack([low - 0.2 * (middle + 3.0), middle, high + 0.2 * (middle + 3.0)])
        return np.clip(wide, 0.0, 1500.0)

    check_parity(
        "life",
        export_quantiles(boosters, reach=(-0.2, 0.0, 0.2), margin=3.0, highest=1500.0),
        widened,
        gate_rows(rows, splits, seed=1),
    )


def test_the_gate_stops_thresholds_that_were_not_floored(
    rows: Float32Array, target: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the flooring some rows on a bin edge go the other way, and the gate sees them."""
    booster = train(rows, target, **CLASSES)
    monkeypatch.setattr("models.export.lightgbm.floored", lambda given: given)

    with pytest.raises(ParityError, match=r"classifier: row \d+, output \d"):
        check_parity(
            "classifier", export_classifier(booster), predicts(booster), gate_rows(rows, thresholds_of(booster), seed=1)
        )


def test_the_gate_stops_the_graph_of_another_model(rows: Float32Array, target: FloatArray) -> None:
    """Control: a graph that answers in the right shape, but wrongly, is no release."""
    booster, other = train(rows, target, **CLASSES), train(rows, 2.0 - target, **CLASSES)

    with pytest.raises(ParityError, match="the release is stopped"):
        check_parity("classifier", export_classifier(other), predicts(booster), rows)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ({"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}, "rf"),
        ({"linear_tree": True}, "linear_tree"),
        ({"zero_as_missing": True}, "zero_as_missing"),
        ({"objective": "multiclassova"}, "multiclassova"),
    ],
)
def test_kinds_that_convert_silently_wrong_are_refused(
    rows: Float32Array, target: FloatArray, kind: dict[str, Any], word: str
) -> None:
    """Also when the booster comes from its text form, which is all that remains after saving."""
    booster = train(rows, target, 3, **(CLASSES | kind))

    with pytest.raises(ExportError, match=word):
        export_classifier(booster)
    with pytest.raises(ExportError, match=word):
        refuse_unfaithful(lgb.Booster(model_str=booster.model_to_string()))


def test_the_gate_would_stop_a_silently_wrong_kind(
    rows: Float32Array, target: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without the deny-list a random forest is exported without an error, and only the gate stands."""
    forest = train(rows, target, 5, **CLASSES, boosting="rf", bagging_fraction=0.5, bagging_freq=1)
    monkeypatch.setattr("models.export.lightgbm.refuse_unfaithful", lambda _: None)

    with pytest.raises(ParityError):
        check_parity("classifier", export_classifier(forest), predicts(forest), rows)


def test_flooring_keeps_every_decision_on_float32() -> None:
    thresholds = np.random.default_rng(3).normal(scale=1e5, size=5000)
    near = thresholds.astype(np.float32)
    for values in (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))):
        np.testing.assert_array_equal(values <= thresholds, values <= floor32(thresholds))


def test_missing_inputs_count_as_no_deviation() -> None:
    np.testing.assert_array_equal(without_missing(np.array([[np.nan, 2.0]], np.float32)), [[0.0, 2.0]])
