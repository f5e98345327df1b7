from __future__ import annotations

import numpy as np

from models.bundle.loaded import LoadedBundle
from models.detection.detection import combine
from models.records import FloatArray
from models.scoring import Prepared


def detect(bundle: LoadedBundle, prepared: Prepared) -> FloatArray:
    """Return how far each window is from ordinary, shape ``(n,)``.

    It grows with the deviation; ``bundle.manifest.thresholds.warning`` and ``alarm`` are in its units.
    """
    return combine(bundle.detection, member_outputs(bundle, prepared))


def member_outputs(bundle: LoadedBundle, prepared: Prepared) -> FloatArray:
    """Return what each member of the detector says, shape ``(n, members)``, in the order of ``bundle.detection``."""
    outputs = bundle.detector(prepared.inputs)
    if bundle.detection.has_sequence:
        outputs = np.column_stack([outputs, np.full(len(outputs), np.nan)])
    return outputs
