"""Fitting a release to one asset: what is moved, how far, and when it is refused."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from cloud_service.training.detection import DetectionSettings, HealthyWindows, fit_detection
from models.bundle.model import Model
from models.detection.adaptation import (
    Adaptation,
    AdaptationError,
    Adaptations,
    HealthyEvidence,
    Release,
    adapt,
    adapted_baseline,
    adapted_scores,
    decode_adaptations,
    encode_adaptations,
)
from models.detection.detection import Detection, Member, combine
from models.features.baseline import Baseline, deviations
from models.features.names import input_names
from models.features.specification import FeatureSpecification
from models.records import Channel, FloatArray

SPEC = FeatureSpecification(
    asset_class="pump",
    channels=(
        Channel(name="flow", unit="l/min", low=0.0, high=100.0),
        Channel(name="pressure", unit="bar", low=0.0, high=10.0),
    ),
    window_s=3600.0,
    step_s=3600.0,
    late_s=0.0,
    statistics=("mean",),
)
BASELINE = Baseline(
    centre={"p1": ((50.0, 5.0),), "p2": ((60.0, 6.0),)}, class_centre=((55.0, 5.5),), class_scale=((1.0, 0.1),)
)
BASELINE_OF_CLASS = replace(BASELINE, centre={})
RELEASE = Release(
    asset_class="pump",
    version=3,
    feature_hash="abc",
    specification=SPEC,
    baseline=BASELINE,
    detection=Detection(
        members=(Member(name="largest", outputs=(0.0, 2.0), decades=(0.0, 1.0), slope=0.5),), usual=1.0
    ),
    warning=4.0,
)
AT = datetime(2026, 11, 21, tzinfo=UTC)


def evidence(features: FloatArray, asset_id: str = "p1") -> HealthyEvidence:
    """Return windows, one an hour, confirmed by a person."""
    end_ns = (1 + np.arange(len(features))) * 3_600_000_000_000
    return HealthyEvidence(
        asset_id=asset_id, features=features, end_ns=end_ns, confirmed_by="a technician", confirmed_at=AT
    )


def healthy(flow: float, pressure: float, windows: int = 96, scatter: float = 1.0) -> FloatArray:
    """Return windows around one point, scattering by the class's scales times *scatter*."""
    noise = np.random.default_rng(7).normal(size=(windows, 2)) * [1.0, 0.1] * scatter
    return np.array([flow, pressure]) + noise


def largest(features: FloatArray, asset_id: str = "p1") -> Callable[[Baseline], FloatArray]:
    """Return what scores *features* under a baseline: the largest deviation, in decades of a made-up tail."""

    def scored(baseline: Baseline) -> FloatArray:
        away = np.abs(deviations(SPEC, features, [asset_id] * len(features), baseline)).max(axis=1)
        return np.asarray(away / 2.0, np.float64)

    return scored


def adapted(features: FloatArray, asset_id: str = "p1", release: Release = RELEASE) -> Adaptation:
    return adapt(release, evidence(features, asset_id), largest(features, asset_id))


def test_the_centre_moves_to_where_the_asset_is() -> None:
    """An asset that runs two scales beside its release's centre is ordinary afterwards."""
    features = healthy(52.0, 5.0)
    moved = adapted_baseline(adapted(features), BASELINE)

    assert np.median(deviations(SPEC, features, ["p1"] * 96, moved), axis=0) == pytest.approx([0.0, 0.0], abs=0.15)
    assert moved.centre["p2"] == BASELINE.centre["p2"]
    assert moved.class_scale == BASELINE.class_scale


def test_an_asset_that_no_training_met_gets_a_centre_of_its_own() -> None:
    """It starts from the class's centre, and is moved from there."""
    moved = adapted_baseline(adapted(healthy(56.5, 5.6), "new"), BASELINE)

    assert moved.centre["new"][0] == pytest.approx((56.5, 5.6), abs=0.3)


def test_what_may_be_chance_hardly_moves_a_centre() -> None:
    """Two days of windows that are much like their neighbours say little of where a machine's centre is."""
    told, median = [], []
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(48, 2))
        for row in range(1, 48):
            noise[row] = 0.8 * noise[row - 1] + 0.6 * noise[row]
        with contextlib.suppress(AdaptationError):
            told.append(np.abs(adapted(np.array([50.0, 5.0]) + noise * [1.0, 0.1]).shift).mean())
            median.append(np.abs(np.median(noise, axis=0)).mean())

    assert len(told) > 5
    assert np.mean(told) < 0.6 * np.mean(median)


def test_a_channel_that_was_silent_for_a_stretch_keeps_its_centre() -> None:
    """Of what was not seen all the time nobody can say where it lies."""
    features = healthy(52.0, 5.2)
    features[:30, 1] = np.nan

    shift = adapted(features).shift[0]
    assert shift[0] == pytest.approx(2.0, abs=0.3)
    assert shift[1] == 0.0


def test_nothing_moves_further_than_the_release_allows() -> None:
    """Ten scales away, the centre is moved by the bound and no further: the rest stays in the score."""
    release = replace(RELEASE, warning=20.0)
    told = adapted(healthy(60.0, 5.0), release=release)

    assert told.shift[0][0] == release.detection.adaptation.largest_shift
    assert told.factor <= release.detection.adaptation.largest_factor


def test_an_asset_that_scatters_more_is_divided_by_more_and_one_that_scatters_less_by_less() -> None:
    """The factor goes with the asset's own scatter, and never beyond its bound."""
    wide, narrow = (adapted(healthy(50.0, 5.0, scatter=scatter)).factor for scatter in (1.3, 0.4))
    most = RELEASE.detection.adaptation.largest_factor

    assert 1.0 < wide <= most
    assert 1.0 / most <= narrow < 1.0


def test_few_windows_change_little() -> None:
    """The fewer windows, the nearer the factor is to 1."""
    few, many = (adapted(healthy(50.0, 5.0, windows, scatter=1.3)).factor for windows in (48, 960))

    assert abs(math.log(few)) < abs(math.log(many))


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(AdaptationError, match="47 confirmed windows, 48 are needed"):
        adapted(healthy(50.0, 5.0, 47))


def test_windows_on_the_way_into_a_fault_are_refused() -> None:
    """A feature that goes one way through the windows is no centre to move to."""
    features = healthy(50.0, 5.0)
    features[:, 0] += np.linspace(0.0, 4.0, len(features))

    with pytest.raises(AdaptationError, match=r"flow\.mean moved by"):
        adapted(features)


@pytest.mark.parametrize(
    ("steps", "known"),
    [
        ((0.0, 4.0, 3.9), (True, True, True)),
        ((0.0, 2.0, 4.0), (True, False, True)),
        ((0.0, 0.0, 4.0), (False, True, True)),
    ],
)
def test_a_step_is_refused_however_it_goes_on(steps: tuple[float, ...], known: tuple[bool, ...]) -> None:
    """Neither a little way back nor an instrument that was silent for a third hides that the machine changed."""
    features = healthy(50.0, 5.0, windows=192)
    for part, step, there in zip(np.array_split(np.arange(192), 3), steps, known, strict=True):
        features[part, 0] = features[part, 0] + step if there else np.nan

    with pytest.raises(AdaptationError, match=r"flow\.mean moved by"):
        adapted(features)


def test_a_rising_score_is_refused_where_no_feature_gives_it_away() -> None:
    """Scatter that grows is a fault on its way too."""
    swing = np.linspace(0.2, 6.0, 300) * np.where(np.arange(300) % 2, 1.0, -1.0)

    with pytest.raises(AdaptationError, match="the score rose by"):
        adapted(np.array([50.0, 5.0]) + swing[:, None] * [1.0, 0.1])


def test_windows_out_of_normal_around_their_own_centre_are_refused() -> None:
    """What swings wildly is not healthy, whoever says so."""
    with pytest.raises(AdaptationError, match="out of normal even around their own centre"):
        adapted(healthy(50.0, 5.0, scatter=12.0))


@pytest.mark.parametrize("nobody", ["", " ", "x" * 201, "a\x1b[31m", "\udcff"])
def test_somebody_must_have_confirmed(nobody: str) -> None:
    """A name that the file could not give back is refused before anything is written."""
    features = healthy(50.0, 5.0)

    with pytest.raises(AdaptationError, match=r"pump/p1: .* printable characters each; nothing is adapted"):
        adapt(RELEASE, replace(evidence(features), confirmed_by=nobody), largest(features))


def test_without_its_adaptation_an_asset_is_judged_as_before() -> None:
    """Taking an adaptation back gives the release's own answers, to the last bit."""
    features, scores = healthy(52.0, 5.0), np.array([1.0, 2.0, 3.0])
    some = Adaptations().with_(adapted(features, "p1"))

    assert some.baseline(BASELINE) != BASELINE
    back = some.without("p1")
    assert back.baseline(BASELINE) is BASELINE
    assert adapted_scores(back, ["p1", "p1", "p1"], scores) is scores


def test_other_assets_keep_their_scores_to_the_last_bit() -> None:
    some = Adaptations().with_(replace(adapted(healthy(52.0, 5.0)), factor=1.25))
    scores = np.array([0.1 + 0.2, 0.1 + 0.2])

    assert adapted_scores(some, ["p1", "p2"], scores).tolist() == [(0.1 + 0.2) / 1.25, 0.1 + 0.2]


def test_an_adaptation_counts_for_its_own_release_only() -> None:
    """Another release, other features, or bounds that have become narrower: it waits, and nothing is moved."""
    some = Adaptations().with_(adapted(healthy(52.0, 5.0)))

    assert some.for_release(RELEASE) == some
    for other in (replace(RELEASE, version=4), replace(RELEASE, feature_hash="other")):
        assert not some.for_release(other).of
    narrow = replace(RELEASE.detection.adaptation, largest_shift=0.5)
    assert not some.for_release(replace(RELEASE, detection=replace(RELEASE.detection, adaptation=narrow))).of


def test_adaptations_travel_unchanged() -> None:
    """The file says all: of which windows, when, and who confirmed."""
    some = Adaptations().with_(adapted(healthy(52.0, 5.0))).with_(adapted(healthy(60.5, 6.0), "p2"))
    told = decode_adaptations(encode_adaptations(some))

    assert told == some
    assert (told.of["p1"].windows, told.of["p1"].confirmed_by, told.of["p1"].confirmed_at) == (96, "a technician", AT)


def test_an_asset_unlike_its_class_is_flagged_no_more_and_its_fault_still_is() -> None:
    """With a real detector of four pumps, a fifth runs beside them all: adapted, it is ordinary, and a fault is not."""
    rng = np.random.default_rng(4)
    rows = np.array([55.0, 5.5]) + rng.normal(size=(800, 2)) * [1.0, 0.1]
    asset = np.repeat(np.arange(4), 200)
    names = [f"p{number}" for number in asset]
    fitted = fit_detection(
        HealthyWindows(
            names=input_names(SPEC),
            inputs=deviations(SPEC, rows, names, BASELINE_OF_CLASS),
            asset=asset,
            end_ns=np.tile(np.arange(200), 4) * 3_600_000_000_000,
            step_s=3600.0,
            least_stray=np.zeros(2),
        ),
        DetectionSettings(trees=10, false_alarms_per_asset_day=0.05),
        1,
    )
    release = replace(RELEASE, baseline=BASELINE_OF_CLASS, detection=fitted.detection, warning=fitted.limits.warning)
    graph = Model("detector", fitted.graph, shape=(2,))

    def flagged(features: FloatArray, adaptations: Adaptations) -> float:
        baseline, fifth = adaptations.baseline(release.baseline), ["fifth"] * len(features)
        scores = combine(fitted.detection, graph(deviations(SPEC, features, fifth, baseline)))
        return float((adapted_scores(adaptations, fifth, scores) >= release.warning).mean())

    own, later, fault = (
        np.array([57.6, 5.3]) + away + rng.normal(size=(200, 2)) * [1.0, 0.1] for away in (0.0, 0.0, [7.0, 0.0])
    )
    told = adapt(
        release,
        evidence(own, "fifth"),
        lambda moved: combine(fitted.detection, graph(deviations(SPEC, own, ["fifth"] * 200, moved))),
    )
    some = Adaptations().with_(told)

    assert flagged(later, Adaptations()) > 0.1
    assert flagged(later, some) < 0.02
    assert flagged(fault, some) > 0.9


@pytest.mark.parametrize(
    "hostile",
    [
        {"factor": 0.0},
        {"windows": 0},
        {"asset_id": ""},
        {"confirmed_at": "2026-11-21T00:00:00"},
        {"shift": "much"},
        {"shift": []},
        {"last_end_ns": 10**30},
        {"confirmed_by": "\x1b[2J"},
    ],
)
def test_a_hostile_file_is_refused(hostile: dict[str, object]) -> None:
    """A number out of range, a name that is none, an asset twice."""
    told = msgspec.json.decode(encode_adaptations(Adaptations().with_(adapted(healthy(52.0, 5.0)))))

    with pytest.raises(AdaptationError):
        decode_adaptations(msgspec.json.encode([told[0] | hostile]))
    with pytest.raises(AdaptationError):
        decode_adaptations(msgspec.json.encode([told[0], told[0]]))


@pytest.mark.parametrize("data", [b"\x00", b'["\xff"]', b'[{"bundle_version":1,"x":' + b"[" * 100_000], ids=len)
def test_what_is_no_file_of_adaptations_is_refused(data: bytes) -> None:
    """Neither bytes that are no text nor brackets without end go further than one error."""
    with pytest.raises(AdaptationError, match="does not decode"):
        decode_adaptations(data)
