"""The rows that golden vectors ask models with as they are, beside raw windows: where answers differ when they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import helper, load_model_from_string

from models.export.parity import FAR, beside_splits
from models.features.names import feature_names
from models.features.specification import FeatureSpecification
from models.records import Float32Array
from models.scoring import Prepared

ROWS_OF_TRAINING = 64
SPLITS_OF_A_GRAPH = 24
_ENSEMBLES = frozenset({"TreeEnsembleRegressor", "TreeEnsembleClassifier"})
_LEAF = b"LEAF"


def golden_rows(
    spec: FeatureSpecification,
    parts: Mapping[str, bytes],
    training: Prepared,
    *,
    seed: int,
    splits: Sequence[tuple[int, float]] = (),
) -> Prepared:
    """Return rows for ``models.bundle.golden.make_golden``.

    They are training rows, training rows on splits of the shipped graphs' trees and beside them, rows with every fifth
    input missing, rows far out, and one with nothing known; with lives known from their start, and not.

    Args:
        spec: Of the features.
        parts: The bundle's, by file name.
        training: What models were trained on; rows are drawn from it.
        seed: Of the draws.
        splits: Of models that scale their inputs first, as ``(input, threshold)``: their graphs' own are of what comes
            after the scaling.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(training), min(len(training), ROWS_OF_TRAINING), replace=False))
    kinds = [training.inputs[rows]]
    width = training.inputs.shape[1]
    of_graphs = [graph_splits(parts[name]) for name in sorted(parts) if name.endswith(".onnx")]
    for known in (list(splits), *of_graphs):
        if asked := [split for split in known if split[0] < width]:
            chosen = [asked[number] for number in rng.choice(len(asked), SPLITS_OF_A_GRAPH)]
            kinds.append(beside_splits(training.inputs, chosen, rng))
    holes = training.inputs[rows].copy()
    holes[rng.random(holes.shape) < 0.2] = np.nan
    far = np.where(rng.random(holes.shape) < 0.1, np.resize(np.array(FAR, np.float32), (len(holes), 1)), kinds[0])
    kinds += [holes, far, np.full((1, width), np.nan, np.float32)]
    return _prepared(spec, training, np.concatenate(kinds), rng)


def graph_splits(graph: bytes) -> list[tuple[int, float]]:
    """Return each split of the tree ensembles of *graph* as ``(feature, threshold)``; none where it has no trees."""
    splits: list[tuple[int, float]] = []
    for node in load_model_from_string(graph).graph.node:
        if node.op_type in _ENSEMBLES:
            told = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            columns = (told["nodes_featureids"], told["nodes_values"], told["nodes_modes"])
            splits += [
                (int(feature), float(value)) for feature, value, mode in zip(*columns, strict=True) if mode != _LEAF
            ]
    return splits


def _prepared(
    spec: FeatureSpecification, training: Prepared, inputs: Float32Array, rng: np.random.Generator
) -> Prepared:
    """Return *inputs* with sequences of training rows beside them, and one of nothing."""
    own = len(feature_names(spec))
    other = rng.integers(len(training), size=len(inputs))
    sequences = None
    if training.sequences is not None:
        sequences = np.array(training.sequences[other], np.float32)
        sequences[-1] = 0.0
    known = training.windows_known[other].copy()
    known[-1] = 1
    return Prepared(
        features=np.full((len(inputs), own), np.nan),
        deviations=inputs[:, :own],
        inputs=inputs,
        sequences=sequences,
        windows_known=known,
        whole=np.arange(len(inputs)) % 2 == 0,
    )
