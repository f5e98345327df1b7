"""Fitting a detector: it repeats, it is calibrated on what it has not seen, and its graph answers as it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cloud_service.training.detection import (
    DetectionSettings,
    FittedDetection,
    HealthyWindows,
    fit_detection,
)
from cloud_service.training.sequence import kernel_features, make_kernels
from models.bundle.model import Model
from models.detection.detection import SEQUENCE, change_decades, combine, decode_detection, encode_detection
from models.detection.residual import residual_size
from models.export.graph import without_missing
from models.records import Float32Array, FloatArray
from models.sequence.forecast import forecast_residuals, past_of, present_of

CHANNELS = 5
NAMES = tuple(f"c{number}.mean" for number in range(CHANNELS))
SETTINGS = DetectionSettings(trees=10, rows_per_tree=64, folds=3)


def windows(rows: Float32Array, assets: int = 1, **parts: Any) -> HealthyWindows:
    """Return healthy windows, one a second, of *assets* in turn."""
    asset = np.arange(len(rows)) * assets // len(rows)
    healthy = HealthyWindows(
        names=NAMES,
        inputs=rows,
        asset=asset,
        end_ns=np.arange(len(rows), dtype=np.int64) * 1_000_000_000,
        step_s=1.0,
        least_stray=np.zeros(rows.shape[1]),
    )
    return replace(healthy, **parts)


def correlated(size: int = 600, seed: int = 1) -> Float32Array:
    """Return rows of two causes seen by five channels, with a little of their own."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(size, 2)) @ np.random.default_rng(0).normal(size=(2, CHANNELS))
    return (mixed + 0.2 * rng.normal(size=(size, CHANNELS))).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> FittedDetection:
    return fit_detection(windows(correlated()), SETTINGS, 1)


def test_the_same_windows_and_seed_give_the_same_bytes(fitted: FittedDetection) -> None:
    again = fit_detection(windows(correlated()), SETTINGS, 1)

    assert (again.graph, again.detection, again.limits) == (fitted.graph, fitted.detection, fitted.limits)
    assert fit_detection(windows(correlated()), SETTINGS, 2).graph != fitted.graph


def test_the_graph_answers_and_decides_as_its_trainers(fitted: FittedDetection) -> None:
    """On windows of which it has seen none, with holes in them."""
    rows = 3.0 * correlated(2000, seed=9)
    rows[np.random.default_rng(2).random(rows.shape) < 0.05] = np.nan
    graph = Model("detector", fitted.graph, shape=(CHANNELS,), columns=fitted.detection.columns)
    ours, theirs = (combine(fitted.detection, answer(rows)) for answer in (graph, _trainers(fitted)))

    assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    assert ((ours >= fitted.limits.warning) == (theirs >= fitted.limits.warning)).all()
    assert fitted.parity.decisions == fitted.parity.rows > 600


def _trainers(fitted: FittedDetection) -> Callable[[Float32Array], FloatArray]:
    return lambda rows: fitted.model(without_missing(rows))


def test_healthy_windows_stay_within_the_budget_and_broken_correlations_do_not(fitted: FittedDetection) -> None:
    """Rows of the same causes are ordinary; the same channels shuffled against each other are not."""
    later = correlated(600, seed=5)
    rng = np.random.default_rng(3)
    shuffled = np.column_stack([rng.permutation(column) for column in later.T])
    scores, broken = (combine(fitted.detection, fitted.model(rows)) for rows in (later, shuffled))

    assert (scores >= fitted.limits.warning).mean() < 0.01
    assert np.quantile(broken, 0.9) > 3.0 * np.quantile(scores, 0.9)


def test_decades_say_how_rare_a_healthy_window_is() -> None:
    """One healthy window in ten lies beyond one decade, for each member."""
    fitted = fit_detection(windows(correlated(2000)), SETTINGS, 1)
    outputs = fitted.model(correlated(4000, seed=8))
    for place, member in enumerate(fitted.detection.members):
        beyond = (outputs[:, place] >= member.outputs[-1]).mean()

        assert member.decades[-1] == pytest.approx(1.0)
        assert beyond == pytest.approx(0.1, abs=0.04), member.name


def test_whole_assets_are_folds_where_there_are_enough() -> None:
    """An asset unlike the others is judged by fits that have not seen it, so its windows look unusual in training."""
    rows = correlated(600)
    rows[:150] += 4.0
    together, apart = (fit_detection(windows(rows, assets), SETTINGS, 1).scores[:150].mean() for assets in (1, 4))

    assert apart > 0.9
    assert together > 0.9


def test_an_input_that_drifts_is_allowed_to() -> None:
    """A ramp in health strays far by the time it matters; the same step is nothing there and much elsewhere."""
    rows = np.random.default_rng(4).normal(size=(600, CHANNELS)).astype(np.float32)
    rows[:, 0] += np.linspace(0.0, 6.0, 600)
    fits = [fit_detection(windows(rows), replace(SETTINGS, horizon_windows=horizon), 1) for horizon in (0, 2000)]
    short, long = (fit.model.members[0][0].stray for fit in fits)

    assert fits[0].detection.stray == tuple(short.tolist())
    assert short[0] > 2.0 * short[1:].max()
    assert long[0] > 2.0 * short[0]
    assert long[1:] == pytest.approx(short[1:], rel=0.35)


def test_no_input_strays_less_than_its_instrument_can_tell() -> None:
    """A constant input, or one within the accuracy of its instrument, is not divided by next to nothing."""
    rows = np.zeros((100, CHANNELS), np.float32)
    fitted = fit_detection(windows(rows, least_stray=np.array([0.0, 0.5, 0.0, 0.0, 0.0])), SETTINGS, 1)

    assert fitted.model.members[0][0].stray == pytest.approx([0.1, 0.5, 0.1, 0.1, 0.1])


def test_windows_that_take_few_values_make_a_detector_that_can_be_written() -> None:
    """Where a tenth of the healthy windows and more share the largest output there is no tail to take a slope of."""
    fitted = fit_detection(windows(np.sign(correlated())), replace(SETTINGS, members=("largest",)), 1)

    told = decode_detection(encode_detection(fitted.detection))
    assert told.members == fitted.detection.members


def test_a_step_is_told_as_a_change_and_a_level_is_not() -> None:
    """Members of change look at inputs of their own, and have a limit of their own."""
    names = (*NAMES, *(f"{name}:trend10" for name in NAMES))
    rows = np.random.default_rng(6).normal(size=(600, 2 * CHANNELS)).astype(np.float32)
    fitted = fit_detection(
        windows(rows, names=names), replace(SETTINGS, changes=(":trend10",), changes_per_asset_day=24.0), 1
    )
    asked = np.zeros((2, 2 * CHANNELS), np.float32)
    asked[0, 0], asked[1, CHANNELS] = 30.0, 30.0
    outputs = fitted.model(asked)

    assert [member.name for member in fitted.detection.members][-1] == "change"
    assert (change_decades(fitted.detection, outputs) >= fitted.detection.change_limit).tolist() == [False, True]
    assert (combine(fitted.detection, outputs) >= fitted.limits.warning).tolist() == [True, False]


def test_the_sequence_models_residual_is_a_member_where_there_are_kernels() -> None:
    """A rhythm that breaks is seen by what was not foreseen of it; levels stay as they were."""
    time = np.arange(500)
    wave = np.stack([np.sin(time / 3.0), np.cos(time / 3.0)]) + 0.05 * np.random.default_rng(1).normal(size=(2, 500))
    sequences = np.lib.stride_tricks.sliding_window_view(wave, 16, axis=1).transpose(1, 0, 2).astype(np.float32)
    rows = np.ascontiguousarray(sequences[:, :, -1])
    kernels = make_kernels(2, 16, 100, 1, sequences)
    healthy = windows(rows, names=NAMES[:2], least_stray=np.zeros(2), sequences=sequences, forecast=2)
    with_sequence = replace(SETTINGS, members=(*SETTINGS.members, SEQUENCE))
    fitted = fit_detection(healthy, with_sequence, 1, kernels=kernels)
    broken = sequences.copy()
    broken[:, :, -1] *= -1.0

    assert fitted.detection.members[-1].name == SEQUENCE
    assert fitted.head is not None
    usual, unforeseen = (
        residual_size(
            forecast_residuals(
                fitted.head,
                kernel_features(kernels, past_of(given)),
                present_of(given, 2),
                np.array(fitted.detection.forecast_scale),
            )
        )
        for given in (sequences, broken)
    )
    assert np.median(unforeseen) > 5.0 * np.median(usual)


@pytest.mark.parametrize(
    ("healthy", "settings", "why"),
    [
        (windows(correlated(5)), SETTINGS, "cannot be cut"),
        (windows(correlated(60)), replace(SETTINGS, inputs=(":nothing",)), "no input ends in"),
        (windows(correlated(60)), replace(SETTINGS, members=("largest", "sequence")), "needs features with sequences"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(healthy: HealthyWindows, settings: DetectionSettings, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fit_detection(healthy, settings, 1)
