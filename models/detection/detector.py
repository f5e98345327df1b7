from __future__ import annotations

import numpy as np

from models.bundle.contents import FORECAST_HEAD
from models.bundle.loaded import LoadedBundle
from models.detection.detection import combine
from models.detection.residual import residual_size
from models.records import FloatArray
from models.scoring import Prepared
from models.sequence.forecast import forecast_residuals, past_of, present_of


def detect(bundle: LoadedBundle, prepared: Prepared) -> FloatArray:
    """Return how far each window is from ordinary, shape ``(n,)``.

    It grows with the deviation; ``bundle.manifest.thresholds.warning`` and ``alarm`` are in its units.
    """
    return combine(bundle.detection, member_outputs(bundle, prepared))


def member_outputs(bundle: LoadedBundle, prepared: Prepared) -> FloatArray:
    """Return what each member of the detector says, shape ``(n, members)``, in the order of ``bundle.detection``."""
    outputs = bundle.detector(prepared.inputs)
    if not bundle.detection.has_sequence:
        return outputs
    if bundle.kernels is None or prepared.sequences is None:
        return np.column_stack([outputs, np.full(len(outputs), np.nan)])
    scale = np.array(bundle.detection.forecast_scale)
    residuals = forecast_residuals(
        bundle.heads[FORECAST_HEAD],
        bundle.kernels(past_of(prepared.sequences)).astype(np.float32),
        present_of(prepared.sequences, len(scale)),
        scale,
    )
    # Of a sequence that begins before the life is known, the newest window cannot be foreseen.
    whole = prepared.windows_known >= bundle.specification.history.sequence_windows
    return np.column_stack([outputs, np.where(whole, residual_size(residuals), np.nan)])
