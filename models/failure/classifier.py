"""Asking a bundle which failures are coming."""

from __future__ import annotations

from models.bundle.loaded import LoadedBundle
from models.records import FloatArray
from models.scoring import Prepared


def classify(bundle: LoadedBundle, prepared: Prepared) -> FloatArray | None:
    """Return the probabilities of ``bundle.manifest.failure_modes``, shape ``(n, modes)``; None without a classifier.

    Each failure mode has a probability of its own, that it comes within ``bundle.failure.horizon_h``, calibrated on
    assets that were not learnt from; ``normal`` is that none of them does. As modes do not exclude each other, a row
    may add up to more than 1. Faults that no training has met have no probability.
    """
    return None if bundle.classifier is None else bundle.classifier(prepared.inputs)
