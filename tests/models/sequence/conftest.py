from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from models.records import FloatArray


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Kernels, two targets that depend on them, and weights, of some windows."""

    features: FloatArray
    targets: FloatArray
    weights: FloatArray


@pytest.fixture
def learned() -> Learned:
    return make_learned(400, seed=1)


def make_learned(rows: int, *, seed: int, columns: int = 30) -> Learned:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, columns)) @ np.random.default_rng(0).normal(size=(columns, columns))
    targets = features[:, :2] + 0.1 * rng.normal(size=(rows, 2)) + 50.0
    return Learned(features=features, targets=targets, weights=rng.uniform(0.1, 2.0, rows))
