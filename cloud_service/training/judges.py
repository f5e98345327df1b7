"""What smaller forms of a bundle's graphs are worth on assets that nothing was learnt from, all else as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cloud_service.training.compression import Compression, CompressionLimits, Judge, compress, variants_of
from models.bundle.contents import CLASSIFIER, DETECTOR, LIFE, LIFE_CUT
from models.bundle.decisions import horizons, named_modes, zones
from models.bundle.loaded import LoadedBundle
from models.bundle.manifest import Manifest
from models.bundle.model import Model
from models.detection.detector import detect
from models.evaluation.metrics import ranking_auc, rmse
from models.failure.modes import foretold
from models.prognosis.life import predict_life
from models.records import Basis, Float32Array, FloatArray, Int64Array
from models.scoring import Prepared

_S_PER_HOUR = 3600.0
UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """Windows of assets that nothing was learnt from, and what is known of them.

    Attributes:
        prepared: What models are given.
        mode: Place in the manifest's failure modes of what a window shows, 0 normal, -1 not known, shape ``(n,)``.
        life_h: Hours to failure, capped as in training, NaN not known, shape ``(n,)``.
    """

    prepared: Prepared
    mode: Int64Array
    life_h: FloatArray


@dataclass(frozen=True, kw_only=True)
class PartJudge:
    """Judges the answers of one part of a bundle; see ``compression.Judge``."""

    rows: Float32Array
    metric_name: str
    larger_is_better: bool
    worth: Callable[[FloatArray], float]
    decides: Callable[[FloatArray], Int64Array]

    def metric(self, answers: FloatArray) -> float:
        """Return the figure of merit of *answers* ``(n, k)``."""
        return self.worth(answers)

    def decide(self, answers: FloatArray) -> Int64Array:
        """Return what is decided by *answers*, shape ``(n,)`` or ``(n, d)``."""
        return self.decides(answers)


def compress_parts(
    parts: Mapping[str, bytes], manifest: Manifest, unseen: Unseen, limits: CompressionLimits
) -> tuple[dict[str, bytes], tuple[Compression, ...]]:
    """Return *parts* with each tabular graph in its smallest form within *limits*, and a report on each.

    Graphs of which nothing can be said on *unseen* (one kind of window alone, no known life) stay as they are.

    Args:
        parts: Of a bundle, by file name.
        manifest: Of the same.
        unseen: What the forms are judged on.
        limits: What they may cost.
    """
    if not len(unseen.prepared):
        return dict(parts), ()
    bundle = LoadedBundle.of_parts(parts, manifest)
    judges: dict[str, Judge | None] = {
        DETECTOR: detector_judge(bundle, unseen),
        CLASSIFIER: classifier_judge(bundle, unseen) if CLASSIFIER in parts else None,
        LIFE: life_judge(bundle, unseen, Basis.WHOLE_HISTORY) if LIFE in parts else None,
        LIFE_CUT: life_judge(bundle, unseen, Basis.CUT_HISTORY) if LIFE_CUT in parts else None,
    }
    chosen, reports = dict(parts), []
    for name, judge in judges.items():
        if judge is not None and np.isfinite(judge.metric(_graph_answers(parts[name], judge))):
            variant, report = compress(name, variants_of(parts[name], averaged=name == DETECTOR), judge, limits)
            chosen[name] = variant.graph
            reports.append(report)
    return chosen, tuple(reports)


def detector_judge(bundle: LoadedBundle, unseen: Unseen) -> PartJudge:
    """Return the judge of ``detector.onnx``: how well windows with and without a fault are parted; zones."""
    known = unseen.mode != UNKNOWN

    def output(answers: FloatArray) -> FloatArray:
        return detect(replace(bundle, detector=_Said(answers)), unseen.prepared)

    return PartJudge(
        rows=unseen.prepared.inputs,
        metric_name="AUC",
        larger_is_better=True,
        worth=lambda answers: ranking_auc(output(answers)[known], unseen.mode[known] > 0),
        decides=lambda answers: zones(output(answers), bundle.manifest.thresholds),
    )


def classifier_judge(bundle: LoadedBundle, unseen: Unseen) -> PartJudge:
    """Return the judge of ``classifier.onnx``: the same for its probability of any fault; modes named and foretold."""
    known = unseen.mode != UNKNOWN
    modes, failure = bundle.manifest.failure_modes, bundle.failure

    def decide(answers: FloatArray) -> Int64Array:
        named = named_modes(answers, modes, bundle.manifest.thresholds)[:, None]
        return named if failure is None else np.column_stack([named, foretold(failure, answers)]).astype(np.int64)

    return PartJudge(
        rows=unseen.prepared.inputs,
        metric_name="AUC",
        larger_is_better=True,
        worth=lambda answers: ranking_auc(1.0 - answers[known, 0], unseen.mode[known] > 0),
        decides=decide,
    )


def life_judge(bundle: LoadedBundle, unseen: Unseen, basis: Basis) -> PartJudge | None:
    """Return the judge of ``life.onnx`` or ``life_cut.onnx``, None where no window's life is told on that *basis*.

    It looks at lives as the bundle tells them, the answers of all other members among them: the error of the P50, and
    the horizons that P10, P50 and P90 fall into.
    """
    life = predict_life(bundle, unseen.prepared)
    own = np.zeros(len(unseen.life_h), np.bool_) if life is None else np.asarray(life.basis == basis, np.bool_)
    if not own.any():
        return None
    prepared, life_h = unseen.prepared.take(own), unseen.life_h[own]
    known = np.isfinite(life_h)

    def told(answers: FloatArray) -> FloatArray:
        said = _Said(answers)
        whole = basis is Basis.WHOLE_HISTORY
        changed = replace(bundle, life=said) if whole else replace(bundle, life_cut=said)
        again = predict_life(changed, prepared)
        assert again is not None
        return again.life_s

    return PartJudge(
        rows=prepared.inputs,
        metric_name="RMSE, hours",
        larger_is_better=False,
        worth=lambda answers: rmse(told(answers)[known, 1] / _S_PER_HOUR - life_h[known]),
        decides=lambda answers: horizons(told(answers)),
    )


class _Said(Model):
    """A model that has answered already."""

    def __init__(self, answers: FloatArray) -> None:
        self._answers = answers
        self.columns = answers.shape[1]

    def __call__(self, rows: Float32Array) -> FloatArray:
        """Return the answers, which are those to *rows*."""
        assert len(rows) == len(self._answers)
        return self._answers


def _graph_answers(graph: bytes, judge: Judge) -> FloatArray:
    return Model("graph", graph, shape=judge.rows.shape[1:])(judge.rows)
