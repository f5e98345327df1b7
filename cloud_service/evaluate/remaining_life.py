"""Remaining life: models learn from training assets that ran to failure, and tell the life left of cut test assets.

Everything is chosen inside the training assets, by cross-validation over assets: regimes, what is ordinary, number of
trees, ridge, weights of the blend, quantiles. Test assets are told through the exported graphs and the very functions
that a gateway runs, and judged at the last record of each, as the references are. Then the same is done as if a gateway
had been put in 40 records before, with the models for cut histories.

Errors are told with lives held to the data set's cap, on both sides, and raw: a prediction never exceeds the cap. The
share between P10 and P90 counts a life at the cap as inside when P90 is the cap.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import numpy as np

from cloud_service.errors import EvaluationFailed
from cloud_service.evaluate.outcome import (
    Calibration,
    Figure,
    LifePoints,
    LifeTraces,
    Outcome,
    Parity,
    Progress,
    over_seeds,
)
from cloud_service.training.gru import GruSettings
from cloud_service.training.lesson import Lesson
from cloud_service.training.life_parts import FittedPrognosis
from cloud_service.training.prognosis import PrognosisSettings, fit_prognosis, history_for
from cloud_service.training.sequence import MIXES, make_kernels
from models.bundle.contents import GRU, GRU_CUT, KERNELS, LIFE, LIFE_CUT, PROGNOSIS
from models.bundle.decisions import horizons
from models.bundle.model import Model
from models.datasets.tasks import LifeSplit, RemainingLife, Runs
from models.evaluation.metrics import coverage, mean_or_nan, nasa_score, rmse
from models.features.baseline import Baseline, fit_baseline
from models.features.extraction import extract
from models.features.names import input_names, sequence_names
from models.features.regimes import fit_regimes
from models.features.specification import FeatureSpecification, Regimes
from models.features.windows import windows_of_table
from models.prognosis.life import Graph, Life, LifeModels, predict_life
from models.prognosis.prognoses import Prognoses, decode_prognoses
from models.records import BoolArray, FloatArray, Int64Array
from models.scoring import Prepared, prepare_table
from models.sequence.heads import Head

LAST = 40
"""Records before the end at which a gateway is taken to have been put in."""
MOST_KERNELS = 2000
"""Random kernels where there are windows enough for their heads: ten for each."""
_TRACES = 4
_BATCH = 512
_ASSET_CLASS = "judged"
_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Graphs:
    """The exported life models, as a gateway loads them."""

    prognosis: Prognoses
    life: Graph | None
    life_cut: Graph | None
    kernels: Graph | None
    heads: Mapping[str, Head] = field(default_factory=dict)
    gru: Graph | None = None
    gru_cut: Graph | None = None

    @classmethod
    def of(cls, fitted: FittedPrognosis, spec: FeatureSpecification) -> Graphs:
        """Return the graphs of *fitted*."""
        trees = {
            part: Model(part, fitted.parts[part], shape=(len(input_names(spec)),), columns=1)
            for part in (LIFE, LIFE_CUT)
            if part in fitted.parts
        }
        sequence = (len(sequence_names(spec)), spec.history.sequence_windows)
        return cls(
            prognosis=decode_prognoses(fitted.parts[PROGNOSIS]),
            life=trees.get(LIFE),
            life_cut=trees.get(LIFE_CUT),
            kernels=None if fitted.kernels is None else Model(KERNELS, fitted.kernels, shape=sequence),
            heads=fitted.heads,
            gru=Model(GRU, fitted.parts[GRU], shape=sequence, columns=1) if GRU in fitted.parts else None,
            gru_cut=Model(GRU_CUT, fitted.parts[GRU_CUT], shape=sequence, columns=1)
            if GRU_CUT in fitted.parts
            else None,
        )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was told of the test assets of one split at their last record, shape ``(assets,)`` and ``(assets, 3)``.

    Lives are in the data set's unit; ``last`` is what was told from the last records alone, ``all_told`` what was
    told at every record of ``runs``.
    """

    asset_ids: tuple[str, ...]
    truth: FloatArray
    told: FloatArray
    last: FloatArray
    runs: Runs
    all_told: FloatArray
    parity: Parity
    fitted: FittedPrognosis
    spec: FeatureSpecification


def evaluate_remaining_life(
    dataset: RemainingLife,
    *,
    seeds: Sequence[int],
    progress: Progress = lambda _stage, _share: None,
    settings: PrognosisSettings | None = None,
) -> Outcome:
    """Return how well remaining life is told.

    Args:
        dataset: Whose splits.
        seeds: Of kernels, folds, cuts and trees; at least one.
        progress: Told how far it is.
        settings: Of the fit, with the data set's cap; None: the default, with a recurrent unit where JAX is installed.
    """
    settings = settings or PrognosisSettings(gru=GruSettings() if find_spec("jax") else None)
    began = time.perf_counter()
    by_seed: dict[int, list[Judged]] = {seed: [] for seed in seeds}
    runs = [(seed, split) for seed in seeds for split in dataset.splits]
    for place, (seed, split) in enumerate(runs):
        tell = _within(progress, place / len(runs), 1.0 / len(runs))
        by_seed[seed].append(judge(dataset, split, seed, settings, tell))
    figures = {seed: _metrics(dataset, judged) for seed, judged in by_seed.items()}
    mean, spread = over_seeds(figures)
    first = by_seed[seeds[0]]
    return Outcome(
        dataset=dataset.name,
        task="remaining_life",
        protocol=_protocol(dataset, first, seeds, settings),
        metrics=mean,
        spread=spread,
        seeds=figures,
        parity=_parity([one.parity for judged in by_seed.values() for one in judged]),
        figures=_figures(dataset, first),
        limits=_limits(dataset, first, settings),
        seconds=time.perf_counter() - began,
    )


def judge(dataset: RemainingLife, split: LifeSplit, seed: int, settings: PrognosisSettings, tell: Progress) -> Judged:
    """Learn from the training assets of *split* and tell the lives of its test assets."""
    tell("features", 0.0)
    spec, baseline, lesson = learnt_from(dataset, split.train, seed)
    tell("kernels", 0.1)
    kernels = None
    if lesson.prepared.sequences is not None:
        count = int(np.clip(len(lesson) // 10 // MIXES, 1, MOST_KERNELS // MIXES)) * MIXES
        kernels = make_kernels(
            len(sequence_names(spec)), spec.history.sequence_windows, count, seed, lesson.prepared.sequences
        )
    capped = settings if np.isnan(dataset.cap) else replace(settings, cap_h=dataset.cap)
    fitted = fit_prognosis(
        lesson, capped, seed, kernels=kernels, tell=lambda share: tell("models", 0.15 + 0.65 * share)
    )
    if fitted is None:
        failed = lesson.event[lesson.event >= 0]
        raise EvaluationFailed(
            f"{dataset.name}: {np.unique(failed).size} assets that are learnt from ran to failure, with {failed.size} "
            f"records in all: too few to learn a life from (at least {settings.least_lives} assets are needed); give "
            "more assets or longer records, or judge fewer"
        )
    tell("test assets", 0.8)
    graphs = Graphs.of(fitted, spec)
    prepared = prepared_runs(spec, baseline, split.test)
    told = told_lives(graphs, prepared)
    recent = _last_rows(split.test, LAST)
    of_last = told_lives(graphs, prepared_runs(spec, baseline, _rows_of(split.test, recent), whole=False))
    tell("parity", 0.9)
    parity = _parity([_compared(fitted, graphs, lesson.prepared), _compared(fitted, graphs, prepared)])
    ends = _ends(split.test.asset)
    return Judged(
        asset_ids=split.test.asset_ids,
        truth=split.test.life[ends],
        told=told.life_s[ends] / _HOUR_S,
        last=of_last.life_s[_ends(split.test.asset[recent])] / _HOUR_S,
        runs=split.test,
        all_told=told.life_s / _HOUR_S,
        parity=parity,
        fitted=fitted,
        spec=spec,
    )


def learnt_from(dataset: RemainingLife, runs: Runs, seed: int) -> tuple[FeatureSpecification, Baseline, Lesson]:
    """Return what is looked at, what is ordinary, and what models learn from: all of it of the training *runs*."""
    lengths = np.bincount(runs.asset)
    step_s = _step_s(runs)
    spec = FeatureSpecification(
        asset_class=_ASSET_CLASS,
        channels=dataset.channels,
        window_s=step_s,
        step_s=step_s,
        late_s=step_s,
        statistics=("mean",),
        history=history_for(
            float(np.median(lengths[lengths > 0])),
            # How a machine is operated is no sign of wear; regimes take care of what it does to the signs.
            of=tuple(f"{channel.name}.mean" for channel in dataset.channels if channel.name not in dataset.settings),
        ),
        regimes=Regimes(channels=dataset.settings),
    )
    features = _features(spec, runs)
    spec = fit_regimes(spec, features, seed)
    first = spec.history.first_windows
    by_asset = {asset_id: features[runs.asset == place] for place, asset_id in enumerate(runs.asset_ids)}
    baseline = fit_baseline(spec, by_asset, first, scope="class")
    prepared = prepared_runs(spec, baseline, runs, features=features)
    known = np.isfinite(runs.life)
    lesson = Lesson(
        spec=spec,
        baseline=baseline,
        modes=("normal",),
        asset_ids=runs.asset_ids,
        asset=runs.asset,
        end_ns=runs.time_ns,
        good_share=np.ones(len(runs.asset)),
        life=runs.asset,
        event=np.where(known, runs.asset, -1),
        mode=np.full(len(runs.asset), -1, np.int64),
        life_h=runs.life,
        prepared=prepared,
    )
    return spec, baseline, lesson


def prepared_runs(
    spec: FeatureSpecification,
    baseline: Baseline,
    runs: Runs,
    *,
    features: FloatArray | None = None,
    whole: bool | None = None,
) -> Prepared:
    """Return what models are given for *runs*; whole where the first record is of the asset's first step of life."""
    raw = _features(spec, runs) if features is None else features
    if whole is None:
        starts = np.zeros(len(runs.asset_ids))
        firsts = np.flatnonzero(np.diff(runs.asset, prepend=-1))
        starts[runs.asset[firsts]] = runs.age[firsts]
        known = (starts <= 1.5 * max(spec.step_s / _HOUR_S, 1.0))[runs.asset]
    else:
        known = np.full(len(runs.asset), whole)
    return prepare_table(spec, baseline, runs.asset_ids, runs.asset, runs.time_ns, raw, whole=known)


def told_lives(models: LifeModels, prepared: Prepared) -> Life:
    """Return what *models* tell of *prepared*, in parts, as sequences' kernels are large."""
    parts = [
        predict_life(models, prepared.take(slice(start, start + _BATCH))) for start in range(0, len(prepared), _BATCH)
    ]
    told = [part for part in parts if part is not None]
    return Life(
        life_s=np.concatenate([part.life_s for part in told]), basis=np.concatenate([part.basis for part in told])
    )


def _within(progress: Progress, done: float, share: float) -> Progress:
    """Return what tells *progress* of a part that follows *done* of the whole and is *share* of it."""
    return lambda stage, part: progress(stage, done + share * part)


def _compared(fitted: FittedPrognosis, graphs: Graphs, prepared: Prepared) -> Parity:
    """Return how graphs and trainers agree; a decision is which horizon of maintenance P10, P50 and P90 outlive."""
    answer = told_lives(graphs, prepared).life_s
    wanted = told_lives(fitted.trainers, prepared).life_s
    # In shares of the longest life that is told.
    difference = np.abs(answer - wanted) / (fitted.prognosis.cap_h * _HOUR_S)
    return Parity(
        windows=len(prepared),
        decisions_changed=int((horizons(answer) != horizons(wanted)).any(axis=1).sum()),
        largest_difference=float(np.nanmax(difference, initial=0.0)),
    )


def _features(spec: FeatureSpecification, runs: Runs) -> FloatArray:
    return extract(spec, windows_of_table(spec, runs.asset_ids, runs.asset, runs.time_ns, runs.values))


def _step_s(runs: Runs) -> float:
    """Return the usual time from a record to the next."""
    inside = np.diff(runs.asset) == 0
    steps = np.diff(runs.time_ns)[inside]
    return float(np.median(steps)) / 1e9 if len(steps) else _HOUR_S


def _ends(asset: Int64Array) -> Int64Array:
    """Return the last row of each asset."""
    return np.flatnonzero(np.diff(asset, append=-1)).astype(np.int64)


def _last_rows(runs: Runs, count: int) -> Int64Array:
    """Return the last *count* rows of each asset."""
    ends = _ends(runs.asset)
    last = np.zeros(len(runs.asset_ids), np.int64)
    last[runs.asset[ends]] = ends
    return np.flatnonzero(last[runs.asset] - np.arange(len(runs.asset)) < count).astype(np.int64)


def _rows_of(runs: Runs, rows: Int64Array) -> Runs:
    return replace(
        runs,
        asset=runs.asset[rows],
        time_ns=runs.time_ns[rows],
        age=runs.age[rows],
        values=runs.values[rows],
        life=runs.life[rows],
    )


def _parity(parts: Sequence[Parity]) -> Parity:
    return Parity(
        windows=sum(part.windows for part in parts),
        decisions_changed=sum(part.decisions_changed for part in parts),
        largest_difference=max(part.largest_difference for part in parts),
    )


def _metrics(dataset: RemainingLife, judged: Sequence[Judged]) -> dict[str, float]:
    """Return the figures over all test assets of all splits."""
    truth = np.concatenate([one.truth for one in judged])
    told = np.concatenate([one.told for one in judged])
    last = np.concatenate([one.last for one in judged])
    cap = dataset.cap if np.isfinite(dataset.cap) else max(one.fitted.prognosis.cap_h for one in judged)
    capped = np.minimum(truth, cap)
    cycles = dataset.life_unit == "cycles"
    found: dict[str, float] = {}
    for ending, answer in (("", told), (f"_last_{LAST}", last)):
        known = np.isfinite(answer[:, 1])
        low, middle, high = answer[known].T
        found[f"rmse_capped{ending}"] = rmse(middle - capped[known])
        if cycles:
            found[f"score_capped{ending}"] = nasa_score(middle - capped[known]) if known.any() else float("nan")
        found[f"rmse_raw{ending}"] = rmse(middle - truth[known])
        if cycles:
            found[f"score_raw{ending}"] = nasa_score(middle - truth[known]) if known.any() else float("nan")
        found[f"coverage_p10_p90{ending}"] = coverage(capped[known], low, high)
        found[f"below_p10{ending}"] = mean_or_nan((capped[known] < low).tolist())
        found[f"width_p10_p90{ending}"] = mean_or_nan((high - low).tolist())
        found[f"answered_share{ending}"] = float(known.mean())
    reports = [one.fitted.reports for one in judged]
    for name, ending in (("whole", ""), ("cut", "_cut")):
        own = [report[name] for report in reports if name in report]
        if own:
            found[f"cv_rmse{ending}"] = float(np.mean([report.rmse_h["blend"] for report in own]))
            found[f"cv_coverage{ending}"] = float(np.mean([report.coverage for report in own]))
    return found


def _protocol(
    dataset: RemainingLife, judged: Sequence[Judged], seeds: Sequence[int], settings: PrognosisSettings
) -> dict[str, object]:
    first = judged[0]
    return {
        "split": f"{len(dataset.splits)} by asset",
        "train_assets": sum(len(split.train.asset_ids) for split in dataset.splits),
        "test_assets": sum(len(split.test.asset_ids) for split in dataset.splits),
        "judged_at": "the last record of each test asset",
        "cap": dataset.cap if np.isfinite(dataset.cap) else None,
        "selection": f"{settings.folds}-fold cross-validation over training assets; test labels are never seen",
        "seeds": list(seeds),
        "regimes": first.spec.regimes.count,
        "history": {
            "rolling": list(first.spec.history.rolling),
            "first_windows": first.spec.history.first_windows,
            "sequence_windows": first.spec.history.sequence_windows,
        },
        "kernels": next((statistics.columns for statistics in first.fitted.statistics.values()), 0),
        "chosen": {
            name: {
                "trees": report.trees,
                "ridge": report.ridge,
                "weights": {member: round(weight, 3) for member, weight in report.weights.items()},
                "cv_rmse": {member: round(error, 2) for member, error in report.rmse_h.items()},
                "levels": list(report.levels),
                "cv_coverage": round(report.coverage, 3),
                "least_windows": report.least_windows,
                "rows": report.rows,
            }
            for name, report in first.fitted.reports.items()
        },
    }


def _figures(dataset: RemainingLife, judged: Sequence[Judged]) -> dict[str, Figure]:
    ids = tuple(asset_id for one in judged for asset_id in one.asset_ids)
    truth = np.concatenate([one.truth for one in judged])
    told = np.concatenate([one.told for one in judged])
    last = np.concatenate([one.last for one in judged])
    cap = max(one.fitted.prognosis.cap_h for one in judged)
    capped = np.minimum(truth, cap)

    def points(answer: FloatArray) -> LifePoints:
        known = np.flatnonzero(np.isfinite(answer[:, 1]))
        low, middle, high = answer[known].T
        return LifePoints(
            asset_ids=tuple(ids[place] for place in known.tolist()),
            unit=dataset.life_unit,
            truth=capped[known],
            p10=low,
            p50=middle,
            p90=high,
        )

    known = np.isfinite(told[:, 1])
    return {
        "predicted-against-true": points(told),
        f"predicted-against-true-last-{LAST}": points(last),
        "lives": _traces(dataset, judged[0], cap),
        "calibration": Calibration(
            promised=np.array([0.1, 0.5, 0.9]),
            observed=np.array([mean_or_nan((capped[known] < column).tolist()) for column in told[known].T]),
            count=np.full(3, int(known.sum()), np.int64),
        ),
    }


def _traces(dataset: RemainingLife, judged: Judged, cap: float) -> LifeTraces:
    """Return the lives of the test assets with the most records among those nearest to failure."""
    runs = judged.runs
    nearest = np.argsort(judged.truth, kind="stable")[: 4 * _TRACES]
    lengths = np.bincount(runs.asset, minlength=len(runs.asset_ids))[runs.asset[_ends(runs.asset)]]
    places = nearest[np.argsort(-lengths[nearest], kind="stable")[:_TRACES]]
    chosen = runs.asset[_ends(runs.asset)][np.sort(places)]
    rows: BoolArray = np.isin(runs.asset, chosen)
    low, middle, high = judged.all_told[rows].T
    return LifeTraces(
        asset_ids=tuple(runs.asset_ids[place] for place in chosen.tolist()),
        unit=dataset.life_unit,
        asset=np.searchsorted(chosen, runs.asset[rows]).astype(np.int64),
        age=runs.age[rows],
        truth=np.minimum(runs.life[rows], cap),
        p10=low,
        p50=middle,
        p90=high,
    )


def _limits(dataset: RemainingLife, judged: Sequence[Judged], settings: PrognosisSettings) -> tuple[str, ...]:
    cap = max(one.fitted.prognosis.cap_h for one in judged)
    least = {
        name: max(one.fitted.reports[name].least_windows for one in judged if name in one.fitted.reports)
        for name in ("whole", "cut")
        if any(name in one.fitted.reports for one in judged)
    }
    said = [
        (
            f"No life above {cap:g} {dataset.life_unit} is told: there a P90 means this long or longer, and more than "
            "eight in ten lives lie between P10 and P90."
        )
    ]
    answered = np.concatenate([np.isfinite(one.told[:, 1]) for one in judged])
    if not answered.all():
        said.append(
            f"Of {int((~answered).sum())} of {len(answered)} judged assets too little is recorded for an answer; they "
            "count in no figure but the share of assets with an answer."
        )
    if "cut" in least:
        said.append(
            f"Where an asset's life is not known from its start, {least['cut']} records at least are needed; with "
            "fewer the answer is that there is not enough data."
        )
    if settings.gru is None:
        said.append("JAX is not installed (extra sequence), so no recurrent unit is part of the blend.")
    return tuple(said)
