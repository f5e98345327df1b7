"""What a sequence leads one to expect of its newest window; how far the window is from that is a sign of state.

A head on the kernels of the windows *before* the newest one forecasts the newest one's deviations. A slow drift is
forecast and gives small residuals, which is why a detector uses this beside measures of the deviation itself: it sees
steps, broken correlations in time, and changes of rhythm.
"""

from __future__ import annotations

import numpy as np

from models.records import Float32Array, FloatArray
from models.sequence.heads import Head, HeadError


def past_of(sequences: Float32Array) -> Float32Array:
    """Return *sequences* ``(n, C, L)``, oldest window first, as they were one window earlier, in the same shape.

    The newest window is gone; before the oldest stands 0, as before the start of a life.
    """
    past = np.zeros_like(sequences)
    past[:, :, 1:] = sequences[:, :, :-1]
    return past


def present_of(sequences: Float32Array, deviations: int) -> FloatArray:
    """Return the newest window's first *deviations* channels, shape ``(n, deviations)``: what is forecast."""
    return sequences[:, :deviations, -1].astype(np.float64)


def forecast_residuals(head: Head, kernels_of_past: Float32Array, present: FloatArray, scale: FloatArray) -> FloatArray:
    """Return by how many of its usual errors the forecast misses each deviation, shape ``(n, d)``; NaN stays NaN.

    Args:
        head: With *d* outputs.
        kernels_of_past: Kernels of `past_of`, shape ``(n, K)``.
        present: The deviations that came, shape ``(n, d)``.
        scale: Usual size of the error, above 0, shape ``(d,)``.

    Raises:
        HeadError: If the shapes do not fit.
    """
    if present.shape != (len(kernels_of_past), len(head.bias)) or scale.shape != head.bias.shape:
        raise HeadError(f"a forecast of {len(head.bias)} deviations does not go with {present.shape[-1]}")
    return np.asarray((present - head.predict(kernels_of_past)) / scale)
