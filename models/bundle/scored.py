"""What a bundle says of windows: the lines that gateway, golden vectors and training share."""

from __future__ import annotations

from dataclasses import dataclass, fields

from models.bundle.loaded import LoadedBundle
from models.detection.detector import detect
from models.failure.classifier import classify
from models.features.history import Histories
from models.features.windows import Windows
from models.prognosis.life import Life, predict_life
from models.records import FloatArray
from models.scoring import Prepared, prepare


@dataclass(frozen=True, kw_only=True)
class Scored(Prepared):
    """What the models were given, and what they say, row by window.

    Attributes:
        detector_output: Shape ``(n,)``; grows with the deviation, thresholds are in its units.
        probabilities: Of the manifest's failure modes, shape ``(n, modes)``, or None without a classifier.
        life: Remaining life and what it rests on, or None without a life model.
    """

    detector_output: FloatArray
    probabilities: FloatArray | None
    life: Life | None


def score(bundle: LoadedBundle, histories: Histories, windows: Windows) -> Scored:
    """Return what *bundle* says of *windows*, which must come by end for each asset; *histories* remembers them."""
    return score_prepared(bundle, prepare(bundle.specification, bundle.baseline, histories, windows))


def score_prepared(bundle: LoadedBundle, prepared: Prepared) -> Scored:
    """Return what *bundle* says of the windows that *prepared* was made of."""
    return Scored(
        **{field.name: getattr(prepared, field.name) for field in fields(Prepared)},
        detector_output=detect(bundle, prepared),
        probabilities=classify(bundle, prepared),
        life=predict_life(bundle, prepared),
    )
