"""Features of the C-MAPSS engines: their regimes, and what models are given of their lives."""

import os
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from models.datasets import cmapss
from models.features.baseline import fit_baseline
from models.features.extraction import extract
from models.features.fitting import fit_specification
from models.features.names import input_names
from models.features.regimes import regimes_of
from models.features.specification import FeatureSpecification, History, Regimes
from models.features.windows import windows_of_table
from models.records import FloatArray, Int64Array
from models.scoring import prepare_table

DATA = Path(os.environ.get("WEARSIGHT_DATA", Path(__file__).parents[4] / "shared" / "data"))
HOUR_NS = 3_600_000_000_000
SETTINGS = ("setting_1", "setting_2", "setting_3")
# Sensors that vary more than the finest scale in every regime, and those whose readings hardly leave it.
FINE = {"P15", "epr", "Nf", "NRf", "farB", "NRc", "htBleed", *SETTINGS}

pytestmark = [pytest.mark.data, pytest.mark.slow]


@lru_cache
def engines(name: str) -> tuple[tuple[str, ...], Int64Array, Int64Array, FloatArray]:
    """Return names, and for each cycle of a training engine its engine, its end and its row."""
    if not (DATA / "cmapss").is_dir():
        pytest.skip(f"data set cmapss is not in {DATA} (set WEARSIGHT_DATA)")
    train = cmapss.read_subset(DATA / "cmapss", name).train
    asset = np.repeat(np.arange(len(train)), [len(engine.values) for engine in train])
    end_ns = np.concatenate([np.arange(1, len(engine.values) + 1, dtype=np.int64) for engine in train]) * HOUR_NS
    return tuple(f"engine-{n}" for n in range(len(train))), asset, end_ns, np.concatenate([e.values for e in train])


def asked(**history: object) -> FeatureSpecification:
    return FeatureSpecification(
        asset_class="turbofan",
        channels=cmapss.CHANNELS,
        window_s=3600.0,
        step_s=3600.0,
        late_s=3600.0,
        statistics=("mean",),
        regimes=Regimes(channels=SETTINGS),
        history=History(**history),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("name", "regimes"), [("FD001", 1), ("FD002", 6)])
def test_flight_conditions_are_the_regimes(name: str, regimes: int) -> None:
    """FD002 was simulated at six points of altitude, Mach number and throttle, FD001 at one; whatever the draws."""
    ids, asset, end_ns, values = engines(name)
    features = extract(asked(), windows_of_table(asked(), ids, asset, end_ns, values))

    fitted = [fit_specification(asked(), features, seed) for seed in range(3)]

    assert [one.regimes.count for one in fitted] == [regimes] * 3
    if regimes == 6:
        points = np.array(
            [(0, 0, 100), (10, 0.25, 100), (20, 0.7, 100), (25, 0.62, 60), (35, 0.84, 100), (42, 0.84, 100)]
        )
        np.testing.assert_allclose(np.array(fitted[0].regimes.centres), points, atol=0.01)
        away = values[:, :3] - points[regimes_of(fitted[0], features)]
        assert np.abs(away).max(axis=0) == pytest.approx([0.0, 0.0, 0.0], abs=0.01)


def test_what_models_are_given_is_a_z_score_by_regime_and_its_mean_since_the_start() -> None:
    """Computed in another way here: the score of each regime's own rows, and the mean of each engine's own scores."""
    ids, asset, end_ns, values = engines("FD002")
    plain = asked(rolling=(5, 20), statistics=("mean", "trend"), since_start=True, first_windows=15, cycles=True)
    features = extract(plain, windows_of_table(plain, ids, asset, end_ns, values))
    spec = fit_specification(plain, features, 1)
    baseline = fit_baseline(spec, {"": features}, len(features), "class")
    began = time.process_time()
    prepared = prepare_table(spec, baseline, ids, asset, end_ns, features, sequences=False)
    print(f"prepare_table of {len(asset)} cycles: {time.process_time() - began:.1f} s")  # noqa: T201 - the figure
    names = input_names(spec)
    regime = regimes_of(spec, features)
    scores = np.empty_like(features)
    for number in range(6):
        own = features[regime == number]
        scores[regime == number] = (own - own.mean(axis=0)) / np.maximum(own.std(axis=0), 1e-9)
    cycle = end_ns // HOUR_NS
    since = np.cumsum(scores, axis=0)
    first = np.flatnonzero(cycle == 1)
    since = (since - (since[first] - scores[first])[asset]) / cycle[:, None]

    for place, channel in enumerate(cmapss.CHANNELS):
        if channel.name in FINE or np.ptp(prepared.deviations[:, place]) < 1e-3:
            continue
        life_mean = prepared.inputs[:, names.index(f"{channel.name}.mean:life_mean")]
        assert np.corrcoef(prepared.deviations[:, place], scores[:, place])[0, 1] > 0.998, channel.name
        assert np.corrcoef(life_mean, since[:, place])[0, 1] > 0.998, channel.name
    np.testing.assert_array_equal(prepared.inputs[:, names.index("cycles")], cycle)
    assert prepared.windows_known.max() == cycle.max() == 378
