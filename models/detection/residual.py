"""The sequence model as a member of the detector: how badly the newest window was foreseen."""

from __future__ import annotations

import numpy as np

from models.records import FloatArray


def residual_size(residuals: FloatArray) -> FloatArray:
    """Return the root mean square of each row of *residuals* ``(n, d)``, in usual errors; NaN where none is known."""
    known = np.isfinite(residuals)
    squares = np.where(known, residuals, 0.0) ** 2
    count = known.sum(axis=1)
    return np.asarray(np.sqrt(np.where(count > 0, squares.sum(axis=1) / np.maximum(count, 1), np.nan)), np.float64)
