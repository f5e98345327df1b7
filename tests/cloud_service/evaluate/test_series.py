"""The protocol of single signals: an alarm once, and a score for a look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cloud_service.evaluate.anomaly import AnomalySettings
from cloud_service.evaluate.outcome import ScoredSeries
from cloud_service.evaluate.series import SeriesSettings, evaluate_series
from cloud_service.training.detection import DetectionSettings
from models.datasets.tasks import Series
from models.records import Channel

MINUTE = 60_000_000_000
QUICK = SeriesSettings(
    rows_averaged=6,
    dead_time_s=3600.0,
    file=AnomalySettings(horizon=3.0, detection=DetectionSettings(trees=8, rows_per_tree=64, folds=3)),
)


def machine() -> Series:
    """Return a temperature, a value a minute, that falls once; around the fall there is a labelled window."""
    rng = np.random.default_rng(8)
    values = 80.0 + rng.normal(size=(800, 1))
    values[500:520] -= 30.0
    return Series(
        name="machine",
        channels=(Channel(name="temperature", unit="°C", low=0.0, high=200.0),),
        file_ids=("line/one",),
        file=np.zeros(800, np.int64),
        time_ns=np.arange(800, dtype=np.int64) * MINUTE,
        values=values,
        healthy_rows=np.array([200]),
        window_file=np.array([0]),
        window_start_ns=np.array([495 * MINUTE]),
        window_end_ns=np.array([525 * MINUTE]),
    )


def test_a_fall_is_told_once_and_scored() -> None:
    """The alarm lies in the window; the plot holds the signal, its score, and the window."""
    outcome = evaluate_series(machine(), seeds=[1], progress=lambda _stage, _share: None, settings=QUICK)
    figure = outcome.figures["series-line-one"]
    assert isinstance(figure, ScoredSeries)

    assert (outcome.metrics["windows_missed"], outcome.metrics["alarms_outside"]) == (0.0, 0.0)
    assert outcome.metrics["nab_standard"] > 80.0
    assert figure.alarm[500:520].any()
    assert figure.healthy_until_ns == 200 * MINUTE
    assert outcome.parity is not None
    assert (outcome.parity.windows, outcome.parity.decisions_changed) == (800, 0)


def test_a_window_among_the_healthy_rows_is_said_and_not_judged() -> None:
    """Nobody is asked there, so that nothing can be missed."""
    dataset = replace(
        machine(),
        window_file=np.array([0, 0]),
        window_start_ns=np.array([10 * MINUTE, 495 * MINUTE]),
        window_end_ns=np.array([20 * MINUTE, 525 * MINUTE]),
    )
    outcome = evaluate_series(dataset, seeds=[1], progress=lambda _stage, _share: None, settings=QUICK)

    assert outcome.metrics["windows_missed"] == 0.0
    assert outcome.limits[0].startswith("1 labelled window is too few")
    assert any("1 of 2 labelled windows lie in the rows that are learnt from" in one for one in outcome.limits)


def test_without_labels_there_is_no_score() -> None:
    """How often it alarms is all that can be said."""
    nothing = np.array([], np.int64)
    dataset = replace(machine(), window_file=nothing, window_start_ns=nothing, window_end_ns=nothing)
    outcome = evaluate_series(dataset, seeds=[1], progress=lambda _stage, _share: None, settings=QUICK)

    assert outcome.metrics == {"alarms_per_day": pytest.approx(24 * 60 / 599)}
