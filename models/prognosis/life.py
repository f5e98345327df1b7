from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle.loaded import LoadedBundle
from models.records import Basis, FloatArray
from models.scoring import Prepared

_S_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Life:
    """Remaining life, row by window.

    Attributes:
        life_s: P10, P50, P90 in seconds, ascending, 0 or more, shape ``(n, 3)``; NaN where there is not enough data.
        basis: What each rests on, of ``models.records.Basis``, shape ``(n,)``.
    """

    life_s: FloatArray
    basis: NDArray[np.object_]


def predict_life(bundle: LoadedBundle, prepared: Prepared) -> Life | None:
    """Return the remaining life of each window's asset; None without a life model."""
    if bundle.life is None:
        return None
    life_s = np.sort(np.maximum(bundle.life(prepared.inputs), 0.0), axis=1) * _S_PER_HOUR
    return Life(life_s=life_s, basis=np.full(len(life_s), Basis.WHOLE_HISTORY, np.object_))
