"""Fitting a class's detector to healthy windows, calibrated by windows that each fit has not seen.

Nothing here knows of a fault: what a member's output means, how members count together, and from where on an alarm is
raised all come from healthy windows. Folds are whole assets where there are enough of them, otherwise
stretches of time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from sklearn import config_context
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_limits

from cloud_service.training.budget import AlarmLimits, fit_alarm_limits
from cloud_service.training.sequence import kernel_features
from models.detection.detection import (
    SEQUENCE,
    AdaptationBounds,
    Combination,
    Detection,
    Member,
    change_decades,
    combine,
)
from models.detection.residual import residual_size
from models.export.components import (
    AUTOENCODER_REACH,
    Autoencoder,
    DetectorModel,
    Forest,
    Largest,
    MemberModel,
    PrincipalComponents,
    Screen,
    export_detector,
)
from models.export.graph import without_missing
from models.export.parity import Parity, check_parity, gate_rows
from models.features.inputs import STOP_WINDOWS
from models.records import BoolArray, Float32Array, FloatArray, Int64Array
from models.sequence.forecast import past_of, present_of
from models.sequence.heads import Head, HeadStatistics

MemberName = Literal["largest", "pca", "forest", "autoencoder", "sequence"]

CHANGE: Final = "change"
_S_PER_HOUR = 3600.0
_LEAST_STRAY = 0.1
_SHRINKAGE = 0.1
_USUAL = 0.95
_AUTOENCODER_ROWS = 4096
_CLIPPED_LAG = 0.4


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """How a detector is learnt.

    Attributes:
        inputs: Endings of the names of the inputs that say how far a window is from ordinary; empty: the window's own
            features, nothing of its past.
        changes: Endings of the names of the inputs that say that a window just became other; empty: not asked.
        members: What is learnt of the inputs; and with ``sequence``, what the sequence model did not foresee of the
            newest window, for features that have sequences.
        combination: How members count together. The median takes most of them to be of one mind.
        trees: Of the isolation forest.
        rows_per_tree: Rows each tree sees.
        explained: Share of the variance that principal components hold before the rest counts as beside them.
        hidden_share: Width of the autoencoder's hidden layer, as a share of the inputs.
        folds: Into which healthy windows are cut for calibration.
        horizon_windows: For how many windows after those learnt from the ordinary must hold; what has strayed with
            time by then is told from how it strays within the healthy windows. 0: the healthy windows span as much.
        false_alarms_per_asset_day: Budget of the warning limit.
        tail_confidence: With which the warning limit keeps to the budget where healthy windows are too few to count
            false alarms, between 0 and 1; None: the limit is the likeliest, and passed as often as not.
        changes_per_asset_day: Budget of changes told in good health.
        on_delay_windows: Windows in a row beyond the limit that make an alarm.
        ridge: Of the forecast of member ``sequence``.
        adaptation: How far a gateway may fit the models to one asset.
    """

    inputs: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    members: tuple[MemberName, ...] = ("largest", "pca", "forest", "autoencoder")
    combination: Combination = "median"
    trees: int = 50
    rows_per_tree: int = 256
    explained: float = 0.85
    hidden_share: float = 0.35
    folds: int = 4
    horizon_windows: int = 0
    false_alarms_per_asset_day: float = 0.003
    tail_confidence: float | None = 0.9
    changes_per_asset_day: float = 1.0
    on_delay_windows: int = 1
    ridge: float = 10.0
    adaptation: AdaptationBounds = field(default_factory=AdaptationBounds)

    @property
    def of_inputs(self) -> tuple[MemberName, ...]:
        """The members that are columns of ``detector.onnx``."""
        return tuple(name for name in self.members if name != SEQUENCE)


@dataclass(frozen=True, kw_only=True)
class HealthyWindows:
    """What a detector learns from: windows known to be healthy, by asset and time.

    Attributes:
        names: Of the models' inputs.
        inputs: Shape ``(n, i)``; NaN where not known.
        asset: Number of the asset, shape ``(n,)``.
        end_ns: End of each window, shape ``(n,)``.
        step_s: Seconds from one window to the next.
        least_stray: What an input strays at least, in its own units, shape ``(i,)``: the accuracy of an instrument,
            below which a difference is no evidence.
        sequences: For member ``sequence``, shape ``(n, C, L)``; None: there are none.
        forecast: How many of the first channels of ``sequences`` are deviations, to be forecast.
        whole: Where the sequence reaches back over known windows alone, shape ``(n,)``; None: everywhere.
    """

    names: tuple[str, ...]
    inputs: Float32Array
    asset: Int64Array
    end_ns: Int64Array
    step_s: float
    least_stray: FloatArray
    sequences: Float32Array | None = None
    forecast: int = 0
    whole: BoolArray | None = None

    @property
    def breaks(self) -> BoolArray:
        """Where a new run of windows starts, shape ``(n,)``: after a stop, and with each asset."""
        gap = np.diff(self.end_ns, prepend=self.end_ns[:1]) > round((STOP_WINDOWS + 0.5) * 1e9 * self.step_s)
        return np.asarray(gap | (np.diff(self.asset, prepend=self.asset[:1] - 1) != 0), np.bool_)


@dataclass(frozen=True, kw_only=True)
class FittedDetection:
    """A detector, ready for a bundle.

    Attributes:
        graph: ``detector.onnx``.
        detection: How its outputs are read.
        limits: On what `combine` says.
        head: Forecasts the newest window's deviations of the kernels of those before; None without member ``sequence``.
        statistics: What the head was solved from.
        scores: What `combine` says of each healthy window by fits that have not seen it, shape ``(n,)``.
        parity: That the graph answers as the trainers.
        model: The trainers' own arithmetic, for evaluations.
    """

    graph: bytes
    detection: Detection
    limits: AlarmLimits
    head: Head | None
    statistics: HeadStatistics | None
    scores: FloatArray
    parity: Parity
    model: DetectorModel


def fit_detection(
    healthy: HealthyWindows, settings: DetectionSettings, seed: int, *, kernels: bytes | None = None
) -> FittedDetection:
    """Fit, calibrate, export and prove a detector; the same windows and seed give the same bytes.

    Args:
        healthy: What is learnt from; at least 8 windows.
        settings: How.
        seed: Of every draw.
        kernels: ``kernels.onnx`` for member ``sequence``.

    Raises:
        ValueError: If no input has a wanted name, there are too few windows to cut into folds, or member ``sequence``
            has no sequences or kernels.
        ParityError: If the graph does not answer or decide as its trainers.
        ExportError: If a member has no ONNX form.
    """
    rows = without_missing(healthy.inputs)
    fold = _folds(healthy, settings.folds)
    # Half the time of so many small fits is checking; and a second thread only waits.
    with config_context(assume_finite=True, skip_parameter_validation=True), threadpool_limits(1):
        model = _model(healthy, rows, fold, settings, seed)
        unseen = _unseen(model, rows, fold, settings, seed)
    names = (*settings.of_inputs, *([CHANGE] if settings.changes else []))
    forecast = _forecast(healthy, fold, settings, kernels) if SEQUENCE in settings.members else None
    if forecast is not None:
        names, unseen = (*names, SEQUENCE), np.column_stack([unseen, forecast.residuals])
    detection = Detection(
        members=tuple(_calibrated(name, unseen[:, place]) for place, name in enumerate(names)),
        combination=settings.combination,
        forecast_scale=() if forecast is None else tuple(forecast.scale.tolist()),
        stray=_strays(healthy.names, model),
        adaptation=settings.adaptation,
    )
    scores = combine(detection, unseen)
    breaks, step_h = healthy.breaks, healthy.step_s / _S_PER_HOUR
    limits = fit_alarm_limits(
        scores,
        breaks,
        step_h=step_h,
        on_delay_windows=settings.on_delay_windows,
        false_alarms_per_asset_day=settings.false_alarms_per_asset_day,
        tail_confidence=settings.tail_confidence,
    )
    detection = replace(
        detection,
        change_limit=_change_limit(detection, unseen, breaks, step_h, settings),
        usual=max(float(np.quantile(scores, _USUAL)), 1e-3),
    )
    graph = export_detector(model, inputs=rows.shape[1])
    asked = gate_rows(healthy.inputs, model.splits, seed=seed)
    parity = check_parity("detector", graph, model, asked, decide=decisions(detection, limits))
    return FittedDetection(
        graph=graph,
        detection=detection,
        limits=limits,
        head=None if forecast is None else forecast.statistics.solve(settings.ridge),
        statistics=None if forecast is None else forecast.statistics,
        scores=scores,
        parity=parity,
        model=model,
    )


def decisions(detection: Detection, limits: AlarmLimits) -> Callable[[FloatArray], Int64Array]:
    """Return what decides by the members' outputs ``(n, columns)``: zone, and whether it is a change, ``(n, 2)``."""

    def decide(outputs: FloatArray) -> Int64Array:
        missing = np.full((len(outputs), len(detection.members) - outputs.shape[1]), np.nan)
        whole = np.column_stack([outputs, missing])
        score = combine(detection, whole)
        change = change_decades(detection, whole) >= detection.change_limit
        zone = (score >= limits.warning).astype(np.int64) + (score >= limits.alarm)
        return np.column_stack([zone, change.astype(np.int64)])

    return decide


def _folds(healthy: HealthyWindows, folds: int) -> Int64Array:
    """Return each window's fold: whole assets where there are as many, otherwise stretches of each asset's windows."""
    assets, number = np.unique(healthy.asset, return_inverse=True)
    if len(number) < 2 * folds:
        raise ValueError(f"{len(number)} healthy windows cannot be cut into {folds} folds; nothing is trained")
    if len(assets) >= folds:
        return np.asarray(number % folds, np.int64)
    counts = np.bincount(number)
    place = np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(place * folds // np.repeat(counts, counts), np.int64)


def _model(
    healthy: HealthyWindows, rows: Float32Array, fold: Int64Array, settings: DetectionSettings, seed: int
) -> DetectorModel:
    state = _screen(healthy, rows, fold, _columns(healthy.names, settings.inputs), settings.horizon_windows)
    screened = state(rows)
    members: list[tuple[Screen, MemberModel]] = [
        (state, _FITS[name](screened, settings, seed)) for name in settings.of_inputs
    ]
    if settings.changes:
        change = _screen(healthy, rows, fold, _columns(healthy.names, settings.changes), 0)
        members.append((change, Largest()))
    return DetectorModel(members=tuple(members))


def _columns(names: tuple[str, ...], endings: tuple[str, ...]) -> Int64Array:
    chosen = [
        place
        for place, name in enumerate(names)
        if (name.endswith(endings) if endings else ":" not in name and name != "cycles")
    ]
    if not chosen:
        raise ValueError(f"no input ends in {' or '.join(endings)}; nothing is trained")
    return np.array(chosen, np.int64)


def _strays(names: tuple[str, ...], model: DetectorModel) -> tuple[float, ...]:
    """Return what each of the window's own features strays, as the members take it; 1 where they do not look at it."""
    screen = model.members[0][0]
    told = dict(zip(screen.columns.tolist(), screen.stray.tolist(), strict=True))
    return tuple(told.get(column, 1.0) for column in _columns(names, ()).tolist())


def _screen(healthy: HealthyWindows, rows: Float32Array, fold: Int64Array, columns: Int64Array, horizon: int) -> Screen:
    """Return centre and stray of the inputs in *columns*.

    The stray is the root mean square of how far each fold lies from the mean of the others, so that an input that
    drifts is allowed to; and, where the ordinary must hold longer than the healthy windows last, what the drift will
    have come to by then.
    """
    chosen = rows[:, columns].astype(np.float64)
    centre = np.median(chosen, axis=0)
    squares = np.zeros(len(columns))
    for own in np.unique(fold):
        inside = fold == own
        squares += ((chosen[inside] - chosen[~inside].mean(axis=0)) ** 2).sum(axis=0)
    stray = np.sqrt(squares / len(chosen))
    if horizon:
        stray = np.maximum(stray, _drift(chosen, healthy.breaks, horizon))
    floor = np.maximum(healthy.least_stray[columns], _LEAST_STRAY)
    return Screen(columns=columns, centre=centre, stray=np.maximum(stray, floor))


def _drift(chosen: FloatArray, breaks: BoolArray, horizon: int) -> FloatArray:
    """Return how far each column will have strayed over *horizon* windows, by its variogram within the runs.

    The mean square of the difference over a lag grows as a power of the lag between 0 (stationary) and 2 (a straight
    line); the power is taken between the longest lag that runs of this length can tell, and half of it.

    Source:
        N. Cressie, *Statistics for Spatial Data*, Wiley, 1993, section 2.4.
    """
    edges = np.flatnonzero(breaks)
    runs = np.split(chosen, edges[edges > 0])
    lag = int(_CLIPPED_LAG * max(len(run) for run in runs))
    if lag < 2 or horizon <= lag:
        return np.zeros(chosen.shape[1])
    near, far = (
        np.mean(np.concatenate([(run[step:] - run[:-step]) ** 2 for run in runs if len(run) > step]), axis=0)
        for step in (lag // 2, lag)
    )
    tiny = np.finfo(np.float64).tiny
    power = np.clip(np.log2(np.maximum(far, tiny) / np.maximum(near, tiny)), 0.0, 2.0)
    return np.asarray(np.sqrt(np.maximum(near, far) * (horizon / lag) ** power / 2.0), np.float64)


def _unseen(
    model: DetectorModel, rows: Float32Array, fold: Int64Array, settings: DetectionSettings, seed: int
) -> FloatArray:
    """Return each member's output for each row by a fit that has not seen its fold, shape ``(n, members)``."""
    outputs = np.empty((len(rows), len(model.members)))
    for place, (screen, member) in enumerate(model.members):
        screened = screen(rows)
        if isinstance(member, Largest):
            outputs[:, place] = member(screened)
            continue
        for own in np.unique(fold):
            inside = fold == own
            fit = _FITS[settings.of_inputs[place]]
            outputs[inside, place] = fit(screened[~inside], settings, seed)(screened[inside])
    return outputs


def _fit_largest(_screened: Float32Array, _settings: DetectionSettings, _seed: int) -> Largest:
    return Largest()


def _fit_components(screened: Float32Array, settings: DetectionSettings, _seed: int) -> PrincipalComponents:
    """Fit directions to the correlations, shrunk towards none, and their limits to the usual row."""
    centred = screened - screened.mean(axis=0, dtype=np.float64)
    spread = np.maximum(centred.std(axis=0), 1e-9)
    correlation = (centred / spread).T @ (centred / spread) / len(centred)
    width = correlation.shape[0]
    values, vectors = np.linalg.eigh((1.0 - _SHRINKAGE) * correlation + _SHRINKAGE * np.eye(width))
    values, vectors = values[::-1], vectors[:, ::-1]
    # The sign of a direction is nobody's; fixed, the same data give the same bytes.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(width)])
    held = int(np.searchsorted(np.cumsum(values) / values.sum(), settings.explained)) + 1
    units = np.sqrt(np.where(np.arange(width) < held, values, 1.0))
    scores = (screened @ vectors / units) ** 2
    limits = [float(np.quantile(part.sum(axis=1), _USUAL)) for part in (scores[:, :held], scores[:, held:])]
    limit = np.where(np.arange(width) < held, max(limits[0], 1e-9), max(limits[1], 1e-9))
    return PrincipalComponents(loadings=vectors / (units * np.sqrt(limit)))


def _fit_forest(screened: Float32Array, settings: DetectionSettings, seed: int) -> Forest:
    forest = IsolationForest(
        n_estimators=settings.trees,
        max_samples=min(settings.rows_per_tree, len(screened)),
        n_jobs=1,
        random_state=seed,
    )
    return Forest(forest=forest.fit(screened))


def _fit_autoencoder(screened: Float32Array, settings: DetectionSettings, seed: int) -> Autoencoder:
    rng = np.random.default_rng(seed)
    if len(screened) > _AUTOENCODER_ROWS:
        screened = screened[np.sort(rng.choice(len(screened), _AUTOENCODER_ROWS, replace=False))]
    given = np.clip(screened, -AUTOENCODER_REACH, AUTOENCODER_REACH).astype(np.float64)
    width = given.shape[1]
    network = MLPRegressor(
        hidden_layer_sizes=(int(np.clip(round(settings.hidden_share * width), 1, 32)),),
        activation="tanh",
        solver="lbfgs",
        alpha=1e-2,
        max_iter=60,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Sixty steps are what it gets: a network that is fitted to the end knows its rows by heart.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(given, given if width > 1 else given[:, 0])
    first, second = network.coefs_
    return Autoencoder(
        first=first, first_bias=network.intercepts_[0], second=second, second_bias=network.intercepts_[1]
    )


_FITS: dict[MemberName, Callable[[Float32Array, DetectionSettings, int], MemberModel]] = {
    "largest": _fit_largest,
    "pca": _fit_components,
    "forest": _fit_forest,
    "autoencoder": _fit_autoencoder,
}


@dataclass(frozen=True, kw_only=True)
class _Forecast:
    """What a head is solved from, usual errors ``(d,)``, and residuals by heads of other folds ``(n,)``; NaN: none."""

    statistics: HeadStatistics
    scale: FloatArray
    residuals: FloatArray


def _forecast(
    healthy: HealthyWindows, fold: Int64Array, settings: DetectionSettings, kernels: bytes | None
) -> _Forecast:
    """Return the forecast of each window's deviations; a window is judged by a head that has not seen its fold."""
    if kernels is None or healthy.sequences is None or not healthy.forecast:
        raise ValueError(f"member {SEQUENCE!r} needs features with sequences, and kernels; nothing is trained")
    whole = np.ones(len(fold), np.bool_) if healthy.whole is None else healthy.whole
    fold, sequences = fold[whole], healthy.sequences[whole]
    if len(np.unique(fold)) < settings.folds:
        raise ValueError(f"too few healthy windows follow on {sequences.shape[2]} others; nothing is trained")
    features = kernel_features(kernels, past_of(sequences))
    present = present_of(sequences, healthy.forecast)
    parts = {own: HeadStatistics.of(features[fold == own], present[fold == own]) for own in np.unique(fold).tolist()}
    statistics = sum(list(parts.values())[1:], start=next(iter(parts.values())))
    missed = np.empty_like(present)
    for own, part in parts.items():
        inside = fold == own
        missed[inside] = present[inside] - (statistics - part).solve(settings.ridge).predict(features[inside])
    scale = np.maximum(np.sqrt(np.mean(missed**2, axis=0)), 1e-6)
    residuals = np.full(len(whole), np.nan)
    residuals[whole] = residual_size(missed / scale)
    return _Forecast(statistics=statistics, scale=scale, residuals=residuals)


def _calibrated(name: str, unseen: FloatArray) -> Member:
    """Return how rare *unseen*, a member's outputs for healthy windows, are: ranks, and beyond 0.9 an exponential."""
    unseen = unseen[np.isfinite(unseen)]
    quantiles = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 0.9])
    places = np.quantile(unseen, quantiles)
    excesses = unseen[unseen > places[-1]] - places[-1]
    mean = float(excesses.mean()) if len(excesses) else 0.0
    slope = 1.0 / (math.log(10.0) * max(mean, 1e-6 * max(abs(float(places[-1])), 1.0)))
    kept = np.append(np.diff(places) > 0.0, True)
    return Member(
        name=name,
        role="change" if name == CHANGE else "state",
        outputs=tuple(places[kept].tolist()),
        decades=tuple((-np.log10(1.0 - quantiles[kept])).tolist()),
        slope=slope,
    )


def _change_limit(
    detection: Detection, unseen: FloatArray, breaks: BoolArray, step_h: float, settings: DetectionSettings
) -> float:
    if not settings.changes:
        return math.nan
    return fit_alarm_limits(
        change_decades(detection, unseen),
        breaks,
        step_h=step_h,
        on_delay_windows=1,
        false_alarms_per_asset_day=settings.changes_per_asset_day,
        tail_confidence=settings.tail_confidence,
    ).warning
