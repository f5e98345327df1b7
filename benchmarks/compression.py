"""What smaller models cost in truth: ``python -m benchmarks.compression [--json]``.

The models of ``benchmarks.scoring`` (C-MAPSS FD001's training engines, or made-up lives) are quantised, pruned and
distilled; each variant is measured on machines that no model has learnt from, and the smallest within the limits is
chosen. Prints the tables as they stand in a model card, or one JSON list.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import msgspec
import numpy as np

from benchmarks.lives import LIFE_CAP_H, Lives, read_lives
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
from cloud_service.training.judges import UNKNOWN, Unseen, classifier_judge, detector_judge, life_judge
from cloud_service.training.sequence import kernel_features
from models.bundle.contents import CLASSIFIER, DETECTOR, KERNELS, LIFE
from models.bundle.loaded import LoadedBundle
from models.records import Basis, FloatArray
from models.sequence.heads import HeadStatistics

CLOSE_H = 24.0
LIMITS = CompressionLimits()


def reports(trained: Trained) -> list[Compression]:
    """Return what became of each model."""
    lives, bundle = trained.lives, LoadedBundle.of_parts(trained.parts, trained.manifest)
    rows = lives.held_out
    life_h = lives.life_h[rows]
    mode = np.where(life_h < CLOSE_H, 1, np.where(life_h >= LIFE_CAP_H, 0, UNKNOWN))
    unseen = Unseen(prepared=lives.prepared.take(rows), mode=mode, life_h=life_h)
    detector = variants_of(trained.parts[DETECTOR], averaged=True)
    return [
        compress("detector", detector, detector_judge(bundle, unseen), LIMITS)[1],
        compress("classifier", variants_of(trained.parts[CLASSIFIER]), classifier_judge(bundle, unseen), LIMITS)[1],
        _trees(trained, bundle, unseen),
        _kernels(trained, bundle, unseen),
    ]


def _trees(trained: Trained, bundle: LoadedBundle, unseen: Unseen) -> Compression:
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
    judge = life_judge(bundle, unseen, Basis.WHOLE_HISTORY)
    assert judge is not None
    return compress("tree prognoser", [*variants_of(trained.parts[LIFE]), student], judge, LIMITS)[1]


def _kernels(trained: Trained, bundle: LoadedBundle, unseen: Unseen) -> Compression:
    """Return what became of kernels and head; their lives are judged as if the bundle told them by trees alone."""
    lives = trained.lives
    learnt, learnt_h = lesson_of_kernels(lives.prepared.take(~lives.held_out), lives.life_h[~lives.held_out])
    variants = kernel_variants(
        trained.parts[KERNELS],
        lambda graph: HeadStatistics.of(kernel_features(graph, learnt), learnt_h).solve(RIDGE),
    )
    judge = life_judge(bundle, unseen, Basis.WHOLE_HISTORY)
    assert judge is not None
    assert unseen.prepared.sequences is not None
    own = replace(judge, rows=np.ascontiguousarray(unseen.prepared.sequences))
    return compress("sequence model", variants, own, LIMITS)[1]


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
