"""What smaller models cost in truth: ``python -m benchmarks.compression [--json]``.

The models of ``benchmarks.scoring`` (C-MAPSS FD001's training engines, or made-up lives) are quantised, pruned and
distilled; each variant is measured on machines that no model has learnt from, and the smallest within the limits is
chosen. Prints the tables as they stand in a model card, or one JSON list.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.lives import Lives, read_lives
from benchmarks.scoring import RIDGE, SEQUENCE_HEAD, Trained, lesson_of_kernels, train
from cloud_service.training.compression import (
    Compression,
    CompressionLimits,
    StudentSettings,
    compress,
    distilled,
    kernel_variants,
    variants_of,
)
from cloud_service.training.sequence import kernel_features
from models.bundle.contents import CLASSIFIER, DETECTOR, KERNELS, LIFE
from models.bundle.decisions import horizons, zones
from models.bundle.loaded import LoadedBundle
from models.detection.detection import combine
from models.evaluation.metrics import ranking_auc, rmse
from models.failure.modes import foretold
from models.prognosis.prognoses import blend, quantiles
from models.records import Float32Array, FloatArray, Int64Array
from models.sequence.heads import HeadStatistics

S_PER_HOUR = 3600.0
CLOSE_H = 24.0
LIMITS = CompressionLimits()


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Judges answers on windows of machines that no model has learnt from; see ``compression.Judge``."""

    rows: Float32Array
    metric_name: str
    larger_is_better: bool
    worth: Callable[[FloatArray], float]
    decides: Callable[[FloatArray], Int64Array]

    def metric(self, answers: FloatArray) -> float:
        """Return the figure of merit."""
        return self.worth(answers)

    def decide(self, answers: FloatArray) -> Int64Array:
        """Return what is decided."""
        return self.decides(answers)


def reports(trained: Trained) -> list[Compression]:
    """Return what became of each model."""
    lives, bundle = trained.lives, LoadedBundle.of_parts(trained.parts, trained.manifest)
    rows = lives.held_out
    inputs, life_h = lives.prepared.inputs[rows], lives.life_h[rows]
    assert bundle.failure is not None
    failure, detection, limits = bundle.failure, bundle.detection, bundle.manifest.thresholds
    detector = HeldOut(
        rows=inputs,
        metric_name="AUC",
        larger_is_better=True,
        worth=lambda answers: ranking_auc(combine(detection, answers), life_h < CLOSE_H),
        decides=lambda answers: zones(combine(detection, answers), limits),
    )
    classifier = HeldOut(
        rows=inputs,
        metric_name="AUC",
        larger_is_better=True,
        worth=lambda answers: ranking_auc(1.0 - answers[:, 0], life_h < CLOSE_H),
        decides=lambda answers: foretold(failure, answers).astype(np.int64),
    )
    return [
        compress("detector", variants_of(trained.parts[DETECTOR], averaged=True), detector, LIMITS)[1],
        compress("classifier", variants_of(trained.parts[CLASSIFIER]), classifier, LIMITS)[1],
        _trees(trained, bundle, life_judge(bundle, inputs, life_h)),
        _kernels(trained, bundle, life_h),
    ]


def life_judge(bundle: LoadedBundle, rows: Float32Array, life_h: FloatArray) -> HeldOut:
    """Return the judge of one member's lives, told as the bundle tells a blend of that member alone."""
    told = bundle.prognosis
    assert told is not None
    assert told.whole is not None
    variant = told.whole
    return HeldOut(
        rows=rows,
        metric_name="RMSE, hours",
        larger_is_better=False,
        worth=lambda answers: rmse(blend(told, variant, {"trees": answers[:, 0]}) - life_h),
        decides=lambda answers: horizons(
            quantiles(told, variant, blend(told, variant, {"trees": answers[:, 0]})) * S_PER_HOUR
        ),
    )


def _trees(trained: Trained, bundle: LoadedBundle, judge: HeldOut) -> Compression:
    """Return what became of the tree prognoser; its student learns what trees and kernels say together."""
    lives = trained.lives
    rows = ~lives.held_out
    teacher = (_tree_answers(bundle, lives)[rows] + _kernel_answers(bundle, lives)[rows]) / 2.0
    student = distilled(
        lives.prepared.inputs[rows],
        teacher[:, None],
        link="plain",
        output="life",
        settings=StudentSettings(rounds=60, leaves=8),
        seed=1,
    )
    return compress("tree prognoser", [*variants_of(trained.parts[LIFE]), student], judge, LIMITS)[1]


def _kernels(trained: Trained, bundle: LoadedBundle, life_h: FloatArray) -> Compression:
    lives = trained.lives
    assert lives.prepared.sequences is not None
    learnt, learnt_h = lesson_of_kernels(lives.prepared.take(~lives.held_out), lives.life_h[~lives.held_out])
    variants = kernel_variants(
        trained.parts[KERNELS],
        lambda graph: HeadStatistics.of(kernel_features(graph, learnt), learnt_h).solve(RIDGE),
    )
    judge = life_judge(bundle, np.ascontiguousarray(lives.prepared.sequences[lives.held_out]), life_h)
    return compress("sequence model", variants, judge, LIMITS)[1]


def _tree_answers(bundle: LoadedBundle, lives: Lives) -> FloatArray:
    assert bundle.life is not None
    return bundle.life(lives.prepared.inputs)[:, 0]


def _kernel_answers(bundle: LoadedBundle, lives: Lives) -> FloatArray:
    assert bundle.kernels is not None
    assert lives.prepared.sequences is not None
    return bundle.heads[SEQUENCE_HEAD].predict(bundle.kernels(lives.prepared.sequences))[:, 0]


def main() -> None:
    """Print the reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    arguments = parser.parse_args()
    trained = train(read_lives())
    found = reports(trained)
    if arguments.json:
        print(msgspec.json.encode(found).decode())
        return
    print(f"{trained.lives.source}, one machine in five held out\n")
    print("\n".join(one.markdown() for one in found))


if __name__ == "__main__":
    main()
