"""Files that begin healthy and have faults later: every file by itself, learnt from its first rows alone.

Each file gets a detector of its own, fitted to its healthy rows: what is ordinary, how rare each score is, and the
limits under a stated budget of false alarms. No label takes part in any of it, and no row of another file. The rows
after the healthy ones are judged: every row of every judged file counts once, all together. Inputs are averaged over
half the time within which a change is to be told, or over a tenth of the healthy rows where that is less. Where the
data set names settings, each file's healthy rows are parted into regimes by them, and what is ordinary is so by regime.

Change points are judged as by the leaderboard of SKAB: a change is found when the first alarm of change within a window
after it was raised, a window that the data set tells (60 s there), to the right of the change point because nobody
knows of a change before it comes.

Files that are healthy throughout are cut into pieces as long as the judged files, and each piece is treated as one of
them: how often a healthy machine is flagged long after its healthy rows. This is what settings were compared on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.evaluate.outcome import (
    Figure,
    Outcome,
    Parity,
    PrecisionRecall,
    Progress,
    ScoredSeries,
    named_plots,
    over_seeds,
)
from cloud_service.training.accuracy import least_strays, with_accuracy
from cloud_service.training.detection import (
    DetectionSettings,
    FittedDetection,
    HealthyWindows,
    decisions,
    fit_detection,
)
from models.bundle.model import Model
from models.datasets.tasks import Anomaly
from models.detection.detection import change_decades, combine
from models.evaluation.nab import Alarmed, NabScore, alarm_starts, changepoint_score, changepoint_windows
from models.export.graph import without_missing
from models.features.baseline import fit_baseline
from models.features.extraction import extract
from models.features.names import feature_channels, history_columns, input_names
from models.features.regimes import fit_regimes
from models.features.specification import FeatureSpecification, History, Regimes
from models.features.windows import windows_of_table
from models.records import BoolArray, Channel, FloatArray, Int64Array
from models.scoring import prepare_table

_NS: Final = 1_000_000_000
_DAY_S: Final = 86_400.0
_USUAL_WINDOW_S: Final = 60.0
_WINDOWS_A_CHANGE: Final = 60
_CURVE_POINTS: Final = 400
_EXAMPLES: Final = 3
# A mean that scatters over fewer stretches than these tells nothing of how it scatters.
_LEAST_MEANS: Final = 10
# What is to be said of the data set that the settings were made with.
_SELECTION: Final = {
    "skab": "no label takes part in a fit or a limit; the settings below were compared on files that are healthy "
    "throughout, with steps added to them; figures of variants on the labelled files were seen while this protocol was "
    "made, and lay close together"
}


@dataclass(frozen=True, kw_only=True)
class AnomalySettings:
    """What is not learnt, but chosen beforehand.

    Attributes:
        window_s: Seconds over which inputs are averaged; half the time within which a change is to be told.
        accuracy: Share of a reading to which instruments are right.
        horizon: For how long after the healthy rows the ordinary must hold, in lengths of these.
        false_alarms_per_day: Budget of each file's warning limit.
        changes_per_day: Budget of each file's changes told in good health.
        detection: Members and how they count together.
    """

    window_s: float = 30.0
    accuracy: float = 0.005
    horizon: float = 1.75
    false_alarms_per_day: float = 1.0
    changes_per_day: float = 24.0
    detection: DetectionSettings = field(default_factory=lambda: DetectionSettings(tail_confidence=None))


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One file, row by row: shape ``(n,)`` each.

    Attributes:
        score: What the detector says, 1 at the warning limit.
        alarm: Whether the row is flagged.
        change: Whether the row is told as a change.
        margin: Which channel strays furthest, an index.
        moved: How many decisions differ between the exported graph and its trainers.
        difference: The largest difference between their scores.
    """

    score: FloatArray
    alarm: BoolArray
    change: BoolArray
    channel: Int64Array
    moved: int
    difference: float


def evaluate_anomaly(
    dataset: Anomaly, *, seeds: Sequence[int], progress: Progress, settings: AnomalySettings | None = None
) -> Outcome:
    """Return how well faults are told on the judged files of *dataset*.

    Args:
        dataset: Files with rows that are healthy at first.
        seeds: Each is a whole evaluation.
        progress: Told how far it is.
        settings: None: as the protocol says.
    """
    settings = settings or protocol_settings(dataset)
    pieces = healthy_pieces(dataset)
    jobs = [*np.flatnonzero(dataset.judged).tolist(), *range(len(pieces))]
    figures: dict[int, dict[str, float]] = {}
    plots: dict[str, Figure] = {}
    told: dict[int, Scored] = {}
    windows = moved = 0
    largest = 0.0
    for number, seed in enumerate(seeds):
        told = {}
        spare: list[Scored] = []
        for place, job in enumerate(jobs):
            progress("files", (number + place / len(jobs)) / len(seeds))
            if place < len(jobs) - len(pieces):
                told[job] = score_file(_rows_of(dataset, job), settings, seed)
            else:
                spare.append(score_file(pieces[job], settings, seed))
        figures[seed] = _figures(dataset, told, spare, pieces)
        everything = [*told.values(), *spare]
        windows += sum(len(one.score) for one in everything)
        moved += sum(one.moved for one in everything)
        largest = max([largest, *(one.difference for one in everything)])
        plots = plots or _plots(dataset, told)
    mean, spread = over_seeds(figures)
    return Outcome(
        dataset=dataset.name,
        task="anomaly",
        protocol=_protocol(dataset, settings, seeds),
        metrics=mean,
        spread=spread,
        seeds=figures,
        parity=Parity(windows=windows, decisions_changed=moved, largest_difference=largest),
        figures=plots,
        limits=_limits(dataset, told, mean),
    )


@dataclass(frozen=True, kw_only=True)
class File:
    """One file: rows by time, of which the first ``healthy`` may be learnt from; ``settings`` are channels."""

    name: str
    channels: tuple[Channel, ...]
    time_ns: Int64Array
    values: FloatArray
    healthy: int
    settings: tuple[str, ...] = ()


def protocol_settings(dataset: Anomaly) -> AnomalySettings:
    """Return what the protocol chooses by the words of *dataset*, never by its labels.

    Half the window within which a change is to be told is left to find it in. In good health a change may be told once
    in so many windows, or pairs of rows where these lie further apart.
    """
    asked_s = dataset.changepoint_window_s if np.isfinite(dataset.changepoint_window_s) else _USUAL_WINDOW_S
    told_s = max(asked_s, 2.0 * rows_apart_s(dataset))
    return AnomalySettings(window_s=asked_s / 2.0, changes_per_day=_DAY_S / (_WINDOWS_A_CHANGE * told_s))


def rows_apart_s(dataset: Anomaly) -> float:
    """Return how far rows of a file usually lie apart; 0 where no file has two."""
    apart = np.diff(dataset.time_ns)[np.diff(dataset.file) == 0]
    return float(np.median(apart)) / _NS if len(apart) else 0.0


def healthy_pieces(dataset: Anomaly) -> tuple[File, ...]:
    """Return the files that are healthy throughout, cut into pieces as long as the judged files usually are."""
    judged = np.flatnonzero(dataset.judged)
    if not judged.size or dataset.judged.all():
        return ()
    counts = np.bincount(dataset.file, minlength=len(dataset.file_ids))
    length, healthy = int(np.median(counts[judged])), int(np.median(dataset.healthy_rows[judged]))
    pieces = []
    for number in np.flatnonzero(~dataset.judged).tolist():
        whole = _rows_of(dataset, number)
        if len(whole.time_ns) <= healthy:
            continue
        for piece, start in enumerate(range(0, max(len(whole.time_ns) - length, 0) + 1, length)):
            rows = slice(start, start + length)
            pieces.append(
                replace(
                    whole,
                    name=f"{whole.name}.{piece}",
                    time_ns=whole.time_ns[rows],
                    values=whole.values[rows],
                    healthy=healthy,
                )
            )
    return tuple(pieces)


def score_file(file: File, settings: AnomalySettings, seed: int) -> Scored:
    """Return what a gateway says of each row of *file*, by a detector that learnt from its healthy rows alone."""
    step_s = float(np.median(np.diff(file.time_ns[: file.healthy]))) / _NS
    spec, detection = _specification(file, step_s, settings)
    ids, asset = (file.name,), np.zeros(len(file.time_ns), np.int64)
    end_ns = file.time_ns + spec.step_ns
    features = extract(spec, windows_of_table(spec, ids, asset, end_ns, file.values))
    first = features[: file.healthy]
    spec = fit_regimes(spec, first, seed)
    baseline = with_accuracy(spec, fit_baseline(spec, {file.name: first}, file.healthy), first, settings.accuracy)
    prepared = prepare_table(spec, baseline, ids, asset, end_ns, features)
    # A rolling mean over fewer rows than it asks for scatters more, and says nothing of those to come.
    ready = slice(spec.history.rolling[0], file.healthy)
    fitted = fit_detection(
        HealthyWindows(
            names=input_names(spec),
            inputs=prepared.inputs[ready],
            asset=asset[ready],
            end_ns=end_ns[ready],
            step_s=step_s,
            least_stray=least_strays(spec, baseline, settings.accuracy),
        ),
        detection,
        seed,
    )
    return _scored(spec, fitted, prepared.inputs)


def _specification(
    file: File, step_s: float, settings: AnomalySettings
) -> tuple[FeatureSpecification, DetectionSettings]:
    longest = max(2, file.healthy // _LEAST_MEANS)
    rolling = max(2, round(min(settings.window_s / step_s, longest)))
    # How a machine is operated is no sign of a fault; regimes take care of what it does to the signs.
    watched = [channel.name for channel in file.channels if channel.name not in file.settings]
    spec = FeatureSpecification(
        asset_class="file",
        channels=file.channels,
        window_s=step_s,
        step_s=step_s,
        late_s=0.0,
        statistics=("mean",),
        history=History(
            rolling=(rolling, 2 * rolling),
            statistics=("mean", "std", "trend"),
            of=tuple(f"{name}.mean" for name in watched) if file.settings else (),
        ),
        regimes=Regimes(channels=file.settings),
    )
    detection = replace(
        settings.detection,
        inputs=(f":mean{rolling}", f":std{rolling}"),
        changes=(f":trend{rolling}", f":trend{2 * rolling}"),
        horizon_windows=round(settings.horizon * file.healthy),
        false_alarms_per_asset_day=settings.false_alarms_per_day,
        changes_per_asset_day=settings.changes_per_day,
    )
    return spec, detection


def _scored(spec: FeatureSpecification, fitted: FittedDetection, inputs: NDArray[np.float32]) -> Scored:
    graph = Model("detector", fitted.graph, shape=(inputs.shape[1],), columns=fitted.detection.columns)
    outputs, wanted = graph(inputs), fitted.model(without_missing(inputs))
    decide = decisions(fitted.detection, fitted.limits)
    score, trainers = combine(fitted.detection, outputs), combine(fitted.detection, wanted)
    decided = decide(outputs)
    scale = np.maximum(np.abs(wanted), 1.0)
    screen = fitted.model.members[0][0]
    strays = np.abs(screen(without_missing(inputs)))
    past = np.array(feature_channels(spec))[list(history_columns(spec))]
    channel = past[(screen.columns - len(feature_channels(spec))) % len(past)]
    return Scored(
        score=score / fitted.limits.warning,
        alarm=decided[:, 0] > 0,
        change=change_decades(fitted.detection, outputs) >= fitted.detection.change_limit,
        channel=channel[strays.argmax(axis=1)],
        moved=int((decided != decide(wanted)).any(axis=1).sum()),
        difference=float(max((np.abs(outputs - wanted) / scale).max(), np.abs(score - trainers).max() / 10.0)),
    )


def _rows_of(dataset: Anomaly, number: int) -> File:
    rows = dataset.file == number
    return File(
        name=dataset.file_ids[number],
        channels=dataset.channels,
        time_ns=dataset.time_ns[rows],
        values=dataset.values[rows],
        healthy=int(dataset.healthy_rows[number]),
        settings=dataset.settings,
    )


def _figures(
    dataset: Anomaly, told: dict[int, Scored], spare: Sequence[Scored], pieces: Sequence[File]
) -> dict[str, float]:
    flagged, truth, after = _joined(dataset, told)
    figures = _rates(flagged[after], truth[after])
    figures |= {f"{name}_all_rows": value for name, value in _rates(flagged, truth).items()}
    if _judged_rows(dataset)[dataset.changepoint].any():
        found = nab_of_changes(dataset, {number: one.change for number, one in told.items()})
        figures |= {
            "nab_standard": found.standard,
            "nab_low_fp": found.low_fp,
            "nab_low_fn": found.low_fn,
            "changes_missed": float(found.missed),
            "changes_false": float(found.false_alarms),
        }
    if pieces:
        late = np.concatenate([one.alarm[piece.healthy :] for one, piece in zip(spare, pieces, strict=True)])
        figures["false_alarm_rate_healthy_files"] = float(late.mean())
    return figures


def nab_of_changes(dataset: Anomaly, changes: dict[int, BoolArray], dead_time_s: float | None = None) -> NabScore:
    """Return the NAB score of *changes*, row by row of each file, over the rows that are judged.

    Args:
        dataset: With change points.
        changes: By file, shape ``(n,)`` each.
        dead_time_s: After a change so long none is told; None: as long as a change point's window.
    """
    quiet = dataset.changepoint_window_s if dead_time_s is None else dead_time_s
    files = []
    for number, change in changes.items():
        rows = dataset.file == number
        healthy = int(dataset.healthy_rows[number])
        time_ns = dataset.time_ns[rows][healthy:]
        start, end = changepoint_windows(time_ns[dataset.changepoint[rows][healthy:]], dataset.changepoint_window_s)
        alarms = alarm_starts(change[healthy:], time_ns, quiet)
        files.append(Alarmed(alarm_ns=alarms, start_ns=start, end_ns=end))
    return changepoint_score(files)


def _joined(dataset: Anomaly, told: dict[int, Scored]) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Return flags, truth and whether a row is judged, over all rows of the judged files."""
    flagged, truth, after = [], [], []
    for number, one in told.items():
        rows = dataset.file == number
        flagged.append(one.alarm)
        truth.append(dataset.anomaly[rows])
        after.append(np.arange(len(one.alarm)) >= dataset.healthy_rows[number])
    return np.concatenate(flagged), np.concatenate(truth), np.concatenate(after)


def _rates(flagged: BoolArray, truth: BoolArray) -> dict[str, float]:
    """Return the figures of rows; NaN for one that has nothing to be counted over."""
    hits, false = int((flagged & truth).sum()), int((flagged & ~truth).sum())
    missed, rest = int((~flagged & truth).sum()), int((~flagged & ~truth).sum())

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return {
        "f1": share(2 * hits, 2 * hits + false + missed) if hits + missed else float("nan"),
        "false_alarm_rate": share(false, false + rest),
        "missed_alarm_rate": share(missed, missed + hits),
        "precision": share(hits, hits + false),
        "recall": share(hits, hits + missed),
    }


def _plots(dataset: Anomaly, told: dict[int, Scored]) -> dict[str, Figure]:
    _, truth, after = _joined(dataset, told)
    score = np.concatenate([one.score for one in told.values()])[after]
    plots: dict[str, Figure] = {"precision-recall": precision_recall(score, truth[after])}
    # Those with most to see: the files in which the first rows were told apart best are the same for any seed.
    shown = list(told)[:: max(1, len(told) // _EXAMPLES)][:_EXAMPLES]
    return plots | named_plots(
        "score", ((dataset.file_ids[number], _series(dataset, number, told[number])) for number in shown)
    )


def precision_recall(score: FloatArray, truth: BoolArray) -> PrecisionRecall:
    """Return precision and recall over all multiples of each file's own limit; 1 is the one that was chosen."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0.0, True))
    places = last[np.unique(np.linspace(0, len(last) - 1, min(len(last), _CURVE_POINTS)).astype(np.int64))]
    flagged = score >= 1.0
    chosen = float((flagged & truth).sum())
    return PrecisionRecall(
        precision=hits[places] / (places + 1.0),
        recall=hits[places] / max(float(truth.sum()), 1.0),
        chosen_precision=chosen / max(float(flagged.sum()), 1.0),
        chosen_recall=chosen / max(float(truth.sum()), 1.0),
    )


def _series(dataset: Anomaly, number: int, one: Scored) -> ScoredSeries:
    """Return a file by the channel that most often strays furthest where it is flagged."""
    rows = dataset.file == number
    time_ns, truth = dataset.time_ns[rows], dataset.anomaly[rows]
    chosen = one.channel[one.alarm] if one.alarm.any() else one.channel
    channel = int(np.bincount(chosen, minlength=len(dataset.channels)).argmax())
    edges = np.diff(np.concatenate([[0], truth.astype(np.int64), [0]]))
    healthy = int(dataset.healthy_rows[number])
    return ScoredSeries(
        name=f"{dataset.file_ids[number]}: {dataset.channels[channel].name}",
        unit=dataset.channels[channel].unit,
        time_ns=time_ns,
        value=dataset.values[rows][:, channel],
        score=one.score,
        alarm=one.alarm,
        window_start_ns=time_ns[edges[:-1] == 1],
        window_end_ns=time_ns[edges[1:] == -1],
        healthy_until_ns=int(time_ns[min(healthy, len(time_ns) - 1)]),
    )


def _protocol(dataset: Anomaly, settings: AnomalySettings, seeds: Sequence[int]) -> dict[str, object]:
    detection = settings.detection
    return {
        "split": "by file: each file's first healthy rows are learnt from, all its later rows are judged",
        "judged_files": int(dataset.judged.sum()),
        "healthy_rows": sorted(set(dataset.healthy_rows[dataset.judged].tolist())),
        "counted": "rows of all judged files together; change points in windows of "
        f"{dataset.changepoint_window_s:g} s after each",
        "thresholds": "of each file, from its healthy rows alone, by scores of fits that have not seen them; "
        f"budget {settings.false_alarms_per_day:g} false alarm and {settings.changes_per_day:g} changes a day",
        "selection": _SELECTION.get(
            dataset.name, "no label takes part in a fit or a limit; settings are fixed, or follow from the description"
        ),
        "seeds": list(seeds),
        "window_s": settings.window_s,
        "accuracy_of_reading": settings.accuracy,
        "horizon": settings.horizon,
        **({"settings": list(dataset.settings)} if dataset.settings else {}),
        "members": list(detection.members),
        "combination": detection.combination,
        "tail_confidence": detection.tail_confidence or "none: the likeliest tail",
        "trees": detection.trees,
        "folds": detection.folds,
    }


def _judged_rows(dataset: Anomaly) -> BoolArray:
    """Return which rows are judged: those of judged files after the healthy ones."""
    place = np.arange(len(dataset.file)) - np.searchsorted(dataset.file, dataset.file)
    return np.asarray(dataset.judged[dataset.file] & (place >= dataset.healthy_rows[dataset.file]), np.bool_)


def _limits(dataset: Anomaly, told: dict[int, Scored], mean: Mapping[str, float]) -> tuple[str, ...]:
    """Return what the files show; *told* is of the last seed."""
    sentences = [
        "Healthy rows of a short time do not tell how far slow quantities stray in a longer one.",
        "Where the healthy rows hold a fault themselves, its return is not told.",
    ]
    judged = _judged_rows(dataset)
    spoilt = np.unique(dataset.file[~judged & dataset.judged[dataset.file] & dataset.anomaly]).size
    if spoilt:
        sentences[1] += f" So it is here in {spoilt} of {int(dataset.judged.sum())} files, by their labels."
    flagged, truth, after = _joined(dataset, told)
    false = flagged & ~truth & after
    if false.any():
        strays = np.concatenate([one.channel for one in told.values()])[false]
        often = int(np.bincount(strays).argmax())
        sentences.append(
            "Of the rows that are flagged and not labelled, the largest part strays furthest in "
            f"{dataset.channels[often].name}."
        )
    if "nab_standard" in mean:
        always = nab_of_changes(dataset, {number: np.ones(len(one.change), np.bool_) for number, one in told.items()})
        sentences.append(
            "NAB's score is easily pleased where change points are dense: an alarm every "
            f"{dataset.changepoint_window_s:g} s, whatever the signal, scores {always.standard:.0f} here. The changes "
            "missed and the false ones beside it say more."
        )
        if (apart_s := rows_apart_s(dataset)) > dataset.changepoint_window_s:
            sentences.append(
                f"Rows lie {apart_s:g} s apart, and a change point is to be found within "
                f"{dataset.changepoint_window_s:g} s: say a longer changepoint_window_s."
            )
    return tuple(sentences)
