from __future__ import annotations

import numpy as np

from models.bundle.loaded import LoadedBundle
from models.records import Float32Array, FloatArray

_S_PER_HOUR = 3600.0


def predict_life(bundle: LoadedBundle, inputs: Float32Array) -> FloatArray | None:
    """Return the remaining life in seconds as P10, P50, P90, shape ``(n, 3)``; None without a life model.

    The quantiles are trained apart and may cross; they are put in order here, and no life is below 0.
    """
    if bundle.life is None:
        return None
    return np.sort(np.maximum(bundle.life(inputs), 0.0), axis=1) * _S_PER_HOUR
