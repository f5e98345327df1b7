from __future__ import annotations

from models.bundle.loaded import LoadedBundle
from models.records import Float32Array, FloatArray


def detect(bundle: LoadedBundle, inputs: Float32Array) -> FloatArray:
    """Return the detector's output for each row of *inputs*, shape ``(n, 3 f)``, as shape ``(n,)``.

    It grows with the deviation; ``bundle.manifest.thresholds.warning`` and ``alarm`` are in its units.
    """
    return bundle.detector(inputs)[:, 0]
