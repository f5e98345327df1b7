"""What an evaluation gives: figures with their spread, the protocol they were reached by, and what plots need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np

from models.records import BoolArray, FloatArray, Int64Array

MOST_PLOTS: Final = 60
Progress = Callable[[str, float], None]
"""Told what is being done, in two or three words, and the share of the whole evaluation that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class LifePoints:
    """Predicted against true life, one point a judged asset: each shape ``(n,)``, in ``unit``."""

    asset_ids: tuple[str, ...]
    unit: str
    truth: FloatArray
    p10: FloatArray
    p50: FloatArray
    p90: FloatArray


@dataclass(frozen=True, kw_only=True)
class LifeTraces:
    """Predicted and true life along some assets' lives, a row a window; ``asset`` indexes ``asset_ids``."""

    asset_ids: tuple[str, ...]
    unit: str
    asset: Int64Array
    age: FloatArray
    truth: FloatArray
    p10: FloatArray
    p50: FloatArray
    p90: FloatArray


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was promised against what came true, shape ``(bins,)``, both 0 to 1.

    For life: a quantile and the share of assets whose life lies below it. For failures: a bin's mean probability and
    the share of its rows that failed; ``count`` is the rows behind each point.
    """

    promised: FloatArray
    observed: FloatArray
    count: Int64Array


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Precision and recall over all thresholds, shape ``(n,)``, and the point that the protocol chose."""

    precision: FloatArray
    recall: FloatArray
    chosen_precision: float
    chosen_recall: float


@dataclass(frozen=True, kw_only=True)
class LeadTimes:
    """Hours from the first warning to each failure, shape ``(failures,)``, NaN for one not foretold; modes by name."""

    lead_h: FloatArray
    mode: tuple[str, ...]
    horizon_h: float


@dataclass(frozen=True, kw_only=True)
class ScoredSeries:
    """A signal, its score and what is labelled.

    ``time_ns``, ``value`` and ``score`` have shape ``(n,)``; ``score`` is 1 at the warning threshold, and ``alarm``
    says which rows are flagged. Labelled windows, shape ``(windows,)``, last from ``window_start_ns`` to
    ``window_end_ns``. Rows before ``healthy_until_ns`` were learnt from.
    """

    name: str
    unit: str
    time_ns: Int64Array
    value: FloatArray
    score: FloatArray
    alarm: BoolArray
    window_start_ns: Int64Array
    window_end_ns: Int64Array
    healthy_until_ns: int


Figure = LifePoints | LifeTraces | Calibration | PrecisionRecall | LeadTimes | ScoredSeries


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the exported models' answers lie from the trainers', over every window that was judged."""

    windows: int
    decisions_changed: int
    largest_difference: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One evaluation.

    Attributes:
        dataset: Its name.
        task: ``remaining_life``, ``anomaly``, ``classification``, ``failure_events`` or ``series``.
        protocol: What was split how, what was chosen from what, and the settings that were chosen; numbers, texts,
            truth values, and lists and tables of them.
        metrics: Mean over the seeds; rates are fractions.
        spread: Standard deviation over the seeds, of the same names; NaN where there is one seed.
        seeds: The figures of each seed.
        parity: None where no exported model was compared.
        figures: What plots are drawn from, by the plot's name (lower case, hyphens), of the first seed.
        limits: Sentences: where the models do not work, as the evaluation found.
        seconds: Of the clock on the wall.
    """

    dataset: str
    task: str
    protocol: Mapping[str, object]
    metrics: Mapping[str, float]
    spread: Mapping[str, float]
    seeds: Mapping[int, Mapping[str, float]]
    parity: Parity | None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    seconds: float = float("nan")


def named_plots(kind: str, figures: Iterable[tuple[str, Figure]]) -> dict[str, Figure]:
    """Return *figures* of the files or series of the given names under names of plots: the first 60 of them.

    A name of a plot is one of a file: letters, digits and hyphens, and a number where two would be the same.
    """
    named: dict[str, Figure] = {}
    for name, figure in islice(figures, MOST_PLOTS):
        plot = f"{kind}-{re.sub(r'[^0-9a-z]+', '-', name.lower()).strip('-')[:80]}"
        named[plot if plot not in named else f"{plot}-{len(named)}"] = figure
    return named


def over_seeds(seeds: Mapping[int, Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean and standard deviation (of a sample: n - 1) over *seeds*, of the figures that every seed has."""
    if not seeds:
        return {}, {}
    common = [name for name in next(iter(seeds.values())) if all(name in figures for figures in seeds.values())]
    table = {name: np.array([figures[name] for figures in seeds.values()]) for name in common}
    mean = {name: float(values.mean()) for name, values in table.items()}
    spread = {name: float(values.std(ddof=1)) if len(values) > 1 else float("nan") for name, values in table.items()}
    return mean, spread
