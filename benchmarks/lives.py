"""Lives of machines that benchmarks of models learn from: C-MAPSS FD001 where it is, else made up in its likeness.

Only its training engines are looked at: four of five are learnt from, the fifth is held out. These are benchmarks of
time and size; how good models are is told by ``wearsight-cloud evaluate``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.datasets import cmapss
from models.features.baseline import Baseline, fit_baseline
from models.features.extraction import extract
from models.features.specification import FeatureSpecification, History
from models.features.windows import windows_of_table
from models.records import BoolArray, FloatArray, Int64Array
from models.scoring import Prepared, prepare_table

DATA = Path(os.environ.get("WEARSIGHT_DATA", Path(__file__).parents[1].parent / "shared" / "data"))
LIFE_CAP_H = 125.0
MADE_UP_LIVES = 60
_HOUR_NS = 3_600_000_000_000
_COMMISSIONING = 15


@dataclass(frozen=True, kw_only=True)
class Lives:
    """Windows of machines that ran to failure, one an hour, by machine and time.

    Attributes:
        source: Where they are from.
        spec: Of their features.
        baseline: What is ordinary, of the class.
        asset: Number of the machine, shape ``(n,)``.
        end_ns: Ends, shape ``(n,)``.
        life_h: Hours to failure, capped, shape ``(n,)``.
        prepared: What models are given.
        held_out: Which windows are of machines that nothing is learnt from, shape ``(n,)``.
    """

    source: str
    spec: FeatureSpecification
    baseline: Baseline
    asset: Int64Array
    end_ns: Int64Array
    life_h: FloatArray
    prepared: Prepared
    held_out: BoolArray

    @property
    def healthy(self) -> BoolArray:
        """Which windows are far from failure, shape ``(n,)``."""
        return self.life_h >= LIFE_CAP_H


def read_lives() -> Lives:
    """Return the lives of the data set, or made-up ones where it is not here."""
    if (DATA / "cmapss").is_dir():
        engines = cmapss.read_engines(DATA / "cmapss" / "train_FD001.txt.gz")
        return _prepared("C-MAPSS FD001, training engines", [engine.values for engine in engines])
    return _prepared("made up", made_up_lives(MADE_UP_LIVES, seed=1))


def made_up_lives(count: int, *, seed: int) -> list[FloatArray]:
    """Return *count* lives, each a row of all channels an hour, a few of which drift ever faster towards the end."""
    random = np.random.default_rng(seed)
    middle = np.array([(channel.low + channel.high) / 2.0 for channel in cmapss.CHANNELS])
    width = np.array([channel.high - channel.low for channel in cmapss.CHANNELS])
    drifts = random.normal(size=len(middle)) * (random.random(len(middle)) < 0.5)
    lives = []
    for _ in range(count):
        left = np.arange(int(random.integers(128, 360)))[::-1, None]
        noise = random.normal(size=(len(left), len(middle)))
        lives.append(middle + width * (0.02 * noise + 0.1 * drifts * np.exp(-left / 40.0)))
    return lives


def _prepared(source: str, lives: list[FloatArray]) -> Lives:
    asset = np.repeat(np.arange(len(lives)), [len(life) for life in lives])
    cycle = np.concatenate([np.arange(len(life)) for life in lives])
    left = np.concatenate([np.arange(len(life))[::-1] for life in lives]).astype(np.float64)
    spec = FeatureSpecification(
        asset_class="turbofan",
        channels=cmapss.CHANNELS,
        window_s=3600.0,
        step_s=3600.0,
        late_s=3600.0,
        statistics=("mean",),
        history=History(rolling=(5, 20), since_start=True, first_windows=15, cycles=True, sequence_windows=30),
    )
    names = tuple(f"engine-{number:03d}" for number in range(len(lives)))
    end_ns = (cycle + 1) * _HOUR_NS
    features = extract(spec, windows_of_table(spec, names, asset, end_ns, np.concatenate(lives)))
    held_out = asset % 5 == 4
    first = {name: features[(asset == number) & ~held_out] for number, name in enumerate(names)}
    baseline = fit_baseline(spec, first, _COMMISSIONING, "class")
    return Lives(
        source=source,
        spec=spec,
        baseline=baseline,
        asset=asset,
        end_ns=end_ns,
        life_h=np.minimum(left, LIFE_CAP_H),
        prepared=prepare_table(spec, baseline, names, asset, end_ns, features),
        held_out=held_out,
    )
