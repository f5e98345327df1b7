"""Machines that wear out, each at its own pace and from its own start: what life models learn from in tests."""

from __future__ import annotations

import numpy as np

from cloud_service.training.lesson import Lesson
from cloud_service.training.prognosis import history_for
from models.datasets.tasks import CYCLE_ZERO_NS, NS_PER_HOUR
from models.features.baseline import fit_baseline
from models.features.extraction import extract
from models.features.regimes import fit_regimes
from models.features.specification import FeatureSpecification, Regimes
from models.features.windows import windows_of_table
from models.records import Channel, FloatArray, Int64Array
from models.scoring import prepare_table

CHANNELS = (
    Channel(name="load", unit="kW", low=0.0, high=100.0),
    Channel(name="temperature", unit="°C", low=0.0, high=200.0),
    Channel(name="vibration", unit="mm/s", low=0.0, high=50.0),
)


def wear(
    assets: int, seed: int = 3, shortest: int = 40, longest: int = 90
) -> tuple[Int64Array, FloatArray, FloatArray]:
    """Return asset, values ``(n, 3)`` and cycles left of machines run at two loads until they fail."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, assets)
    asset = np.repeat(np.arange(assets), lengths)
    left = np.concatenate([np.arange(length)[::-1] for length in lengths]).astype(np.float64)
    worn = np.exp(-left / 15.0)
    load = rng.choice([20.0, 80.0], len(asset)) + rng.normal(size=len(asset)) * 0.5
    own = rng.normal(size=assets)[asset]
    temperature = 40.0 + 0.5 * load + own + 8.0 * worn + rng.normal(size=len(asset)) * 0.7
    vibration = 2.0 + 0.01 * load + 2.5 * worn + rng.normal(size=len(asset)) * 0.15
    return asset, np.column_stack([load, temperature, vibration]), left


def worn_lesson(assets: int = 16, *, cap_h: float = 40.0, failed: int | None = None, sequences: bool = True) -> Lesson:
    """Return what is learnt from of such machines; only the first *failed* of them have failed, all if left out."""
    asset, values, left = wear(assets)
    end_ns = CYCLE_ZERO_NS + np.arange(len(asset)) * NS_PER_HOUR
    spec = FeatureSpecification(
        asset_class="wearing",
        channels=CHANNELS,
        window_s=3600.0,
        step_s=3600.0,
        late_s=3600.0,
        statistics=("mean",),
        history=history_for(65.0, sequences=sequences),
        regimes=Regimes(channels=("load",)),
    )
    ids = tuple(f"machine-{number:02d}" for number in range(assets))
    features = extract(spec, windows_of_table(spec, ids, asset, end_ns, values))
    spec = fit_regimes(spec, features, 1)
    by_asset = {asset_id: features[asset == place] for place, asset_id in enumerate(ids)}
    baseline = fit_baseline(spec, by_asset, spec.history.first_windows, scope="class")
    known = asset < (assets if failed is None else failed)
    return Lesson(
        spec=spec,
        baseline=baseline,
        modes=("normal",),
        asset_ids=ids,
        asset=asset,
        end_ns=end_ns,
        good_share=np.ones(len(asset)),
        life=asset,
        event=np.where(known, asset, -1),
        mode=np.full(len(asset), -1, np.int64),
        life_h=np.where(known, np.minimum(left, cap_h), np.nan),
        prepared=prepare_table(spec, baseline, ids, asset, end_ns, features, sequences=sequences),
    )
