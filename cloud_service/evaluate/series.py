"""One signal with windows in which something was wrong: too few events for more than a look, and a score to go with it.

Each series gets a detector of its own, learnt from its first rows alone, as in the protocol for files. An alarm is told
when the score crosses its limit, and not again within a day. The score of the Numenta Anomaly Benchmark counts the
first alarm in each labelled window, the earlier the more, and takes off for alarms outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from cloud_service.evaluate.anomaly import AnomalySettings, File, Scored, score_file
from cloud_service.evaluate.outcome import Figure, Outcome, Parity, Progress, ScoredSeries, named_plots, over_seeds
from models.datasets.tasks import Series
from models.evaluation.nab import Alarmed, alarm_starts, window_score
from models.records import BoolArray, Int64Array

_DEAD_TIME_S: Final = 86_400.0
_ROWS_AVERAGED: Final = 12
_FEW_WINDOWS: Final = 30


@dataclass(frozen=True, kw_only=True)
class SeriesSettings:
    """What is not learnt, but chosen beforehand.

    Attributes:
        rows_averaged: Rows over which inputs are averaged.
        dead_time_s: After an alarm so long none is told.
        file: How each series is learnt; its window is *rows_averaged* long.
    """

    rows_averaged: int = _ROWS_AVERAGED
    dead_time_s: float = _DEAD_TIME_S
    file: AnomalySettings = field(
        default_factory=lambda: AnomalySettings(horizon=4.0, false_alarms_per_day=1.0 / 7.0, changes_per_day=1.0 / 7.0)
    )


def evaluate_series(
    dataset: Series, *, seeds: Sequence[int], progress: Progress, settings: SeriesSettings | None = None
) -> Outcome:
    """Return how the labelled windows of *dataset* are told, with each series as a figure.

    Args:
        dataset: Series with labelled windows.
        seeds: Each is a whole evaluation.
        progress: Told how far it is.
        settings: None: as the protocol says.
    """
    settings = settings or SeriesSettings()
    figures: dict[int, dict[str, float]] = {}
    plots: dict[str, Figure] = {}
    windows = moved = 0
    largest = 0.0
    for number, seed in enumerate(seeds):
        told: list[Scored] = []
        for place in range(len(dataset.file_ids)):
            progress("series", (number + place / len(dataset.file_ids)) / len(seeds))
            told.append(_score(dataset, place, settings, seed))
        figures[seed] = _figures(dataset, told, settings)
        windows += sum(len(one.score) for one in told)
        moved += sum(one.moved for one in told)
        largest = max([largest, *(one.difference for one in told)])
        plots = plots or named_plots(
            "series", ((name, _figure(dataset, place, told[place])) for place, name in enumerate(dataset.file_ids))
        )
    mean, spread = over_seeds(figures)
    return Outcome(
        dataset=dataset.name,
        task="series",
        protocol=_protocol(dataset, settings, seeds),
        metrics=mean,
        spread=spread,
        seeds=figures,
        parity=Parity(windows=windows, decisions_changed=moved, largest_difference=largest),
        figures=plots,
        limits=_limits(dataset),
    )


def _score(dataset: Series, place: int, settings: SeriesSettings, seed: int) -> Scored:
    rows = dataset.file == place
    time_ns = dataset.time_ns[rows]
    healthy = int(dataset.healthy_rows[place])
    step_s = float(np.median(np.diff(time_ns[:healthy]))) / 1e9
    file = File(
        name=dataset.file_ids[place],
        channels=dataset.channels,
        time_ns=time_ns,
        values=dataset.values[rows],
        healthy=healthy,
    )
    return score_file(file, replace(settings.file, window_s=settings.rows_averaged * step_s), seed)


def _figures(dataset: Series, told: Sequence[Scored], settings: SeriesSettings) -> dict[str, float]:
    files, days = [], 0.0
    for place, one in enumerate(told):
        time_ns, start, end, judged = _judged(dataset, place)
        later = end >= time_ns[judged][0]
        files.append(
            Alarmed(
                alarm_ns=alarm_starts(_onsets(one.alarm)[judged], time_ns[judged], settings.dead_time_s),
                start_ns=start[later],
                end_ns=end[later],
            )
        )
        days += float(time_ns[-1] - time_ns[judged][0]) / 8.64e13
    if not sum(len(file.start_ns) for file in files):
        return {"alarms_per_day": sum(len(file.alarm_ns) for file in files) / max(days, 1e-9)}
    score = window_score(files)
    return {
        "nab_standard": score.standard,
        "nab_low_fp": score.low_fp,
        "nab_low_fn": score.low_fn,
        "windows_missed": float(score.missed),
        "alarms_outside": float(score.false_alarms),
        "alarms_outside_per_day": score.false_alarms / max(days, 1e-9),
    }


def _limits(dataset: Series) -> tuple[str, ...]:
    sentences = [
        "What is ordinary is learnt once, from the first rows; a process that moves on for good stays flagged."
    ]
    begins = [_judged(dataset, place)[0][_judged(dataset, place)[3]][0] for place in range(len(dataset.file_ids))]
    early = int((dataset.window_end_ns < np.array(begins, np.int64)[dataset.window_file]).sum())
    judged = len(dataset.window_file) - early
    if judged <= _FEW_WINDOWS:
        few = f"{judged} labelled window{' is' if judged == 1 else 's are'} too few to tell one detector from another."
        sentences.insert(0, few)
    if early:
        sentences.append(
            f"{early} of {len(dataset.window_file)} labelled windows lie in the rows that are learnt from as healthy: "
            "they are not judged, and what is like them is not told."
        )
    return tuple(sentences)


def _onsets(alarm: BoolArray) -> BoolArray:
    """Return where *alarm* begins to hold."""
    return np.asarray(alarm & ~np.concatenate([[False], alarm[:-1]]), np.bool_)


def _judged(dataset: Series, place: int) -> tuple[Int64Array, Int64Array, Int64Array, BoolArray]:
    """Return times, starts and ends of labelled windows, and which rows are judged, of one series."""
    time_ns = dataset.time_ns[dataset.file == place]
    own = dataset.window_file == place
    judged = np.arange(len(time_ns)) >= dataset.healthy_rows[place]
    return time_ns, dataset.window_start_ns[own], dataset.window_end_ns[own], judged


def _figure(dataset: Series, place: int, one: Scored) -> ScoredSeries:
    time_ns, start, end, judged = _judged(dataset, place)
    values = dataset.values[dataset.file == place]
    channel = int(np.bincount(one.channel[one.alarm], minlength=values.shape[1]).argmax()) if one.alarm.any() else 0
    return ScoredSeries(
        name=dataset.file_ids[place],
        unit=dataset.channels[channel].unit,
        time_ns=time_ns,
        value=values[:, channel],
        score=one.score,
        alarm=one.alarm,
        window_start_ns=start,
        window_end_ns=end,
        healthy_until_ns=int(time_ns[judged][0]) if judged.any() else int(time_ns[-1]),
    )


def _protocol(dataset: Series, settings: SeriesSettings, seeds: Sequence[int]) -> dict[str, object]:
    return {
        "split": "by series: its first healthy rows are learnt from, all later rows are judged",
        "healthy_rows": sorted(set(dataset.healthy_rows.tolist())),
        "counted": "the first alarm in each labelled window, and every alarm outside",
        "thresholds": "of each series, from its healthy rows alone; "
        f"budget {settings.file.false_alarms_per_day:.3g} false alarms a day",
        "selection": "settings were reasoned, not compared",
        "seeds": list(seeds),
        "rows_averaged": settings.rows_averaged,
        "dead_time_s": settings.dead_time_s,
        "accuracy_of_reading": settings.file.accuracy,
        "horizon": settings.file.horizon,
        "members": list(settings.file.detection.members),
        "combination": settings.file.detection.combination,
        "tail_confidence": settings.file.detection.tail_confidence or "none: the likeliest tail",
    }
