"""Golden vectors ask where answers differ when they differ at all."""

import lightgbm as lgb
import numpy as np

from models.export.golden_rows import golden_rows, graph_splits
from models.export.lightgbm import export_life, thresholds_of
from models.export.parity import FAR
from models.features.names import feature_names, input_names, sequence_names
from models.features.specification import FeatureSpecification, History
from models.records import Channel
from models.scoring import Prepared

SPEC = FeatureSpecification(
    asset_class="fan",
    channels=(Channel(name="a", unit="1", low=-9.0, high=9.0), Channel(name="b", unit="1", low=-9.0, high=9.0)),
    window_s=3600.0,
    step_s=3600.0,
    late_s=3600.0,
    statistics=("mean", "std"),
    history=History(sequence_windows=5),
)
RANDOM = np.random.default_rng(1)
ROWS = RANDOM.normal(size=(300, len(input_names(SPEC)))).astype(np.float32)
TRAINING = Prepared(
    features=ROWS.astype(np.float64),
    deviations=ROWS[:, : len(feature_names(SPEC))],
    inputs=ROWS,
    sequences=RANDOM.normal(size=(300, len(sequence_names(SPEC)), 5)).astype(np.float32),
    windows_known=np.arange(300),
    whole=np.ones(300, np.bool_),
)


def graph() -> tuple[bytes, lgb.Booster]:
    settings = {"verbosity": -1, "num_leaves": 5, "num_threads": 1, "objective": "regression"}
    target = np.asarray(ROWS[:, 0] + ROWS[:, 1], np.float64)
    booster = lgb.train(settings, lgb.Dataset(ROWS, target, params=settings), 5)
    return export_life(booster), booster


def test_the_splits_of_a_graph_are_those_of_its_trees() -> None:
    made, booster = graph()
    floored = {(feature, np.float32(edge)) for feature, edge in graph_splits(made)}

    assert len(graph_splits(made)) == len(thresholds_of(booster)) == 20
    assert all(
        (feature, np.float32(edge)) in floored or (feature, np.nextafter(np.float32(edge), np.float32(-9))) in floored
        for feature, edge in thresholds_of(booster)
    )


def test_every_kind_of_row_is_asked() -> None:
    made, _ = graph()
    rows = golden_rows(SPEC, {"life.onnx": made, "card.md": b""}, TRAINING, seed=1, splits=[(3, 0.125)])
    told = rows.inputs

    assert 200 < len(rows) < 1024
    assert (told[:64][:, None] == ROWS[None]).all(axis=2).any(axis=1).all()  # training rows
    edges = {np.float32(edge) for _, edge in graph_splits(made)}
    beside = {np.nextafter(edge, np.float32(np.inf)) for edge in edges}
    assert len(edges & set(told.ravel())) > 5
    assert len(beside & set(told.ravel())) > 5
    assert np.float32(0.125) in told[:, 3]
    assert np.isnan(told).any(axis=1).sum() > 30
    assert np.isnan(told[-1]).all()
    assert set(FAR) <= set(told[np.isfinite(told)].tolist())
    assert rows.sequences is not None
    assert not rows.sequences[-1].any()
    assert 0 < rows.whole.sum() < len(rows)
