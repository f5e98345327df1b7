"""Block five: how long the asset will go on."""

from __future__ import annotations

import numpy as np

from models.records import Basis, Float32Array, FloatArray, Prognosis, State, Zone

LONGEST_S = 10 * 365.25 * 86400.0  # a life model says nothing beyond what it has seen; ten years is "no end in sight"


def predict(
    state: State, quantiles_s: FloatArray | Float32Array | None, model_version: int, basis: Basis | None = None
) -> Prognosis | None:
    """Return the prognosis of one window, or None where the bundle or the window gives none.

    Args:
        state: The window's state. A life is told in normal too, where it says "at least as long as the model has
            seen"; what nobody can judge has no prognosis either.
        quantiles_s: P10, P50, P90 in seconds, shape ``(3,)``; they are put in order and bounded here.
        model_version: The bundle's version.
        basis: What they rest on. With not enough data the prognosis says so and has no quantiles.
    """
    if quantiles_s is None or state.zone is Zone.UNKNOWN:
        return None
    p10_s = p50_s = p90_s = None
    if basis is not Basis.NOT_ENOUGH_DATA:
        if not np.isfinite(quantiles_s).all():
            return None
        p10_s, p50_s, p90_s = np.maximum.accumulate(
            np.clip(np.asarray(quantiles_s, np.float64), 0.0, LONGEST_S)
        ).tolist()
    return Prognosis(
        asset_id=state.asset_id,
        window_end=state.window_end,
        p10_s=p10_s,
        p50_s=p50_s,
        p90_s=p90_s,
        model_version=model_version,
        basis=basis,
    )
