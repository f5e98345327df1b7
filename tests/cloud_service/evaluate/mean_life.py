"""A baseline: every asset lives as long as those learnt from did on average.

It stands in for a real protocol where a test is about what surrounds one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_service.evaluate.outcome import LifePoints, Outcome, Parity, Progress, over_seeds
from models.datasets.tasks import RemainingLife
from models.evaluation.metrics import rmse


def evaluate_remaining_life(dataset: RemainingLife, *, seeds: Sequence[int], progress: Progress) -> Outcome:
    """Return how far off the mean is; a seed adds a little noise, so that seeds differ."""
    (split,) = dataset.splits
    last = np.flatnonzero(np.diff(split.test.asset, append=-1))
    truth = split.test.life[last]
    mean_age = np.mean(split.train.age[np.flatnonzero(np.diff(split.train.asset, append=-1))])
    figures: dict[int, dict[str, float]] = {}
    for number, seed in enumerate(seeds):
        progress(f"seed {seed}", number / len(seeds))
        p50 = np.maximum(mean_age - split.test.age[last] + np.random.default_rng(seed).normal(0.0, 0.1), 0.0)
        figures[seed] = {"rmse_raw": rmse(p50 - truth), "assets": float(len(truth))}
    metrics, spread = over_seeds(figures)
    points = LifePoints(
        asset_ids=split.test.asset_ids, unit=dataset.life_unit, truth=truth, p10=p50 - 1.0, p50=p50, p90=p50 + 1.0
    )
    return Outcome(
        dataset=dataset.name,
        task="remaining_life",
        protocol={"seeds": list(seeds), "model": "mean", "noise_from_seed": seeds[0], "split": {"test": len(truth)}},
        metrics=metrics,
        spread=spread,
        seeds=figures,
        parity=Parity(windows=len(truth) * len(seeds), decisions_changed=0, largest_difference=1e-7),
        figures={"predicted-against-true-life": points},
        limits=("It knows nothing of the asset but its age.",),
    )
