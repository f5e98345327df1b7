"""Smaller forms of a bundle's graphs are judged by what the whole bundle then says of windows unseen by any model."""

from dataclasses import replace
from datetime import UTC, datetime

import lightgbm as lgb
import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from cloud_service.training.compression import CompressionLimits
from cloud_service.training.judges import Unseen, classifier_judge, compress_parts, detector_judge, life_judge
from models.bundle.contents import (
    BASELINES,
    CLASSIFIER,
    DETECTION,
    DETECTOR,
    FAILURE,
    FEATURES,
    LIFE,
    PROGNOSIS,
    encode_specification,
)
from models.bundle.decisions import horizons, zones
from models.bundle.loaded import LoadedBundle
from models.bundle.manifest import SCHEMA_VERSION, Lineage, Manifest, Thresholds
from models.bundle.scored import score_prepared
from models.detection.detection import Detection, Member, encode_detection
from models.export.graph import OPSET
from models.export.lightgbm import export_life
from models.failure.modes import FailureModes, encode_failure_modes
from models.features.baseline import Baseline, encode_baseline
from models.features.hashing import feature_hash
from models.features.names import feature_names, input_names
from models.features.specification import FeatureSpecification
from models.prognosis.prognoses import Offsets, Prognoses, Variant, encode_prognoses
from models.records import Basis, Channel, Float32Array, FloatArray, Int64Array
from models.scoring import Prepared
from tests.models.export.graphs import of_booster, of_forest

SPEC = FeatureSpecification(
    asset_class="fan",
    channels=tuple(Channel(name=name, unit="1", low=-9.0, high=9.0) for name in ("a", "b", "c")),
    window_s=3600.0,
    step_s=3600.0,
    late_s=3600.0,
    statistics=("mean", "std"),
)
INPUTS = len(input_names(SPEC))
OFFSETS = Offsets(life_h=(0.0,), p10_h=(-10.0,), p50_h=(0.0,), p90_h=(10.0,))
GENEROUS = CompressionLimits(metric_loss=10.0, decisions_changed=1.0, slower=1e9)


def windows(seed: int) -> Unseen:
    """Return windows whose first input says how near the failure is."""
    random = np.random.default_rng(seed)
    life_h = random.uniform(0.0, 100.0, 600)
    inputs = random.normal(size=(600, INPUTS)).astype(np.float32)
    inputs[:, 0] += 4.0 * np.exp(-life_h / 20.0)
    mode = np.where(life_h < 15.0, 1, np.where(life_h > 40.0, 0, -1))
    prepared = Prepared(
        features=np.zeros((600, len(feature_names(SPEC)))),
        deviations=inputs[:, : len(feature_names(SPEC))],
        inputs=inputs,
        sequences=None,
        windows_known=np.arange(600),
        whole=np.ones(600, np.bool_),
    )
    return Unseen(prepared=prepared, mode=mode, life_h=life_h)


def booster(rows: Float32Array, target: FloatArray | Int64Array, **parameters: object) -> lgb.Booster:
    settings = {"verbosity": -1, "num_leaves": 7, "num_threads": 1, "seed": 1} | parameters
    return lgb.train(settings, lgb.Dataset(rows, np.ascontiguousarray(target), params=settings), 40)


@pytest.fixture(scope="module")
def parts() -> dict[str, bytes]:
    learnt = windows(1)
    rows, known = learnt.prepared.inputs, learnt.mode >= 0
    forest = IsolationForest(n_estimators=40, random_state=1).fit(rows[learnt.mode == 0])
    classifier = booster(rows[known], learnt.mode[known], objective="multiclass", num_class=2)
    life = booster(rows, learnt.life_h, objective="regression")
    width = len(feature_names(SPEC))
    member = Member(name="forest", outputs=(0.3, 0.7), decades=(0.0, 4.0), slope=10.0)
    modes = FailureModes(
        names=("wear",),
        horizon_h=15.0,
        thresholds=(0.5,),
        importance=((1.0 / INPUTS,) * INPUTS,),
        band_low=(-2.0,) * INPUTS,
        band_high=(2.0,) * INPUTS,
    )
    told = Prognoses(cap_h=100.0, whole=Variant(weights={"trees": 1.0}, offsets=OFFSETS, least_windows=10))
    return {
        FEATURES: encode_specification(SPEC),
        BASELINES: encode_baseline(Baseline(centre={}, class_centre=((0.0,) * width,), class_scale=((1.0,) * width,))),
        DETECTOR: of_forest(forest, inputs=INPUTS),
        DETECTION: encode_detection(Detection(members=(member,))),
        CLASSIFIER: of_booster(classifier),
        FAILURE: encode_failure_modes(modes),
        LIFE: export_life(life),
        PROGNOSIS: encode_prognoses(told),
    }


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        asset_class="fan",
        version=1,
        channels=SPEC.channels,
        feature_hash=feature_hash(SPEC),
        thresholds=Thresholds(
            warning=2.0,
            alarm=3.0,
            minimum_good_share=0.5,
            on_delay_windows=1,
            off_delay_windows=1,
            minimum_confidence=0.5,
        ),
        failure_modes=("normal", "wear"),
        actions={},
        files={},
        opset=OPSET,
        minimum_gateway_version="0.1.0",
        not_after=datetime(2100, 1, 1, tzinfo=UTC),
        metrics={},
        lineage=Lineage(
            trained_at=datetime(2026, 3, 1, tzinfo=UTC),
            trained_on_assets=(),
            held_out_assets=(),
            observations=0,
            lake_digest="",
            replaces_version=None,
            software_version="0.1.0",
        ),
    )


def test_judges_see_what_the_bundle_says(parts: dict[str, bytes], manifest: Manifest) -> None:
    """Given the graphs' own answers, they decide as the bundle does."""
    bundle, unseen = LoadedBundle.of_parts(parts, manifest), windows(2)
    scored = score_prepared(bundle, unseen.prepared)
    inputs = unseen.prepared.inputs
    life = life_judge(bundle, unseen, Basis.WHOLE_HISTORY)

    np.testing.assert_array_equal(
        detector_judge(bundle, unseen).decide(bundle.detector(inputs)),
        zones(scored.detector_output, manifest.thresholds),
    )
    assert bundle.classifier is not None
    named = classifier_judge(bundle, unseen).decide(bundle.classifier(inputs))
    assert scored.probabilities is not None
    np.testing.assert_array_equal(named[:, 1], scored.probabilities[:, 1] >= 0.5)
    assert bundle.life is not None
    assert life is not None
    assert scored.life is not None
    np.testing.assert_array_equal(life.decide(bundle.life(inputs[10:])), horizons(scored.life.life_s[10:]))
    assert life.metric(bundle.life(inputs[10:])) < 25.0


def test_each_part_is_compressed_and_the_bundle_still_loads(parts: dict[str, bytes], manifest: Manifest) -> None:
    chosen, reports = compress_parts(parts, manifest, windows(2), GENEROUS)

    assert [report.model for report in reports] == [DETECTOR, CLASSIFIER, LIFE]
    for name in (DETECTOR, CLASSIFIER, LIFE):
        assert len(chosen[name]) < 0.5 * len(parts[name])
    assert {name for name in parts if chosen[name] != parts[name]} == {DETECTOR, CLASSIFIER, LIFE}
    assert LoadedBundle.of_parts(chosen, manifest).manifest == manifest


def test_without_room_everything_stays_as_it_was(parts: dict[str, bytes], manifest: Manifest) -> None:
    chosen, reports = compress_parts(
        parts, manifest, windows(2), CompressionLimits(metric_loss=-1.0, decisions_changed=0.0)
    )

    assert chosen == parts
    assert {report.chosen for report in reports} == {"original"}


def test_what_cannot_be_judged_stays_as_it_was(parts: dict[str, bytes], manifest: Manifest) -> None:
    """Nothing but healthy windows, no known life, and no life that is told at all."""
    unseen = windows(2)
    healthy = replace(unseen, mode=np.zeros(600, np.int64), life_h=np.full(600, np.nan))
    unknown = replace(unseen, prepared=replace(unseen.prepared, whole=np.zeros(600, np.bool_)))

    assert compress_parts(parts, manifest, healthy, GENEROUS) == (parts, ())
    assert life_judge(LoadedBundle.of_parts(parts, manifest), unknown, Basis.WHOLE_HISTORY) is None
