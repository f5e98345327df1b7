from __future__ import annotations

from models.bundle.loaded import LoadedBundle
from models.records import FloatArray
from models.scoring import Prepared


def classify(bundle: LoadedBundle, prepared: Prepared) -> FloatArray | None:
    """Return the probabilities of ``bundle.manifest.failure_modes``, shape ``(n, modes)``; None without a classifier.

    They say which mode a window looks like among those that were trained, never whether it is a fault at all.
    """
    return None if bundle.classifier is None else bundle.classifier(prepared.inputs)
