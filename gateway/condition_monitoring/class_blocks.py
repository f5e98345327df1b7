"""The blocks of one asset class: a bundle at work, or none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import structlog

from gateway.adaptation.store import release_of
from gateway.advisory_generation.advisor import Advisor
from gateway.advisory_generation.context import AssetContext
from gateway.condition_monitoring.data_manipulation import Manipulator
from gateway.condition_monitoring.health_assessment import Assessor
from gateway.condition_monitoring.prognostic_assessment import predict
from gateway.condition_monitoring.state_detection import Detector, Span, unknown
from gateway.errors import InferenceFailed
from models.bundle.loaded import LoadedBundle
from models.detection.adaptation import Adaptations, adapted_scores
from models.detection.contribution import top_channels
from models.detection.detector import detect
from models.failure.classifier import classify
from models.failure.contribution import reference_contributions, top_channels_of
from models.features.windows import Windows
from models.prognosis.life import predict_life
from models.records import (
    Advisory,
    Channel,
    FloatArray,
    Health,
    Observations,
    Prognosis,
    Results,
    State,
    Stream,
    WindowFeatures,
    Zone,
    from_ns,
)
from models.scoring import Prepared

Answer = TypeVar("Answer")

log = structlog.get_logger()

STEP_WITHOUT_BUNDLE_NS = 3600 * 10**9
NO_BUNDLE = "no bundle"


class ClassBlocks:
    """Blocks two to six of one asset class, driven by one bundle.

    Args:
        gateway_id: Goes into the identity of advisories.
        bundle: The live one.
        asset_ids: The assets of the class on this gateway.
        contexts: What the class's advisor remembers, by asset.
        described: Channels of each asset as its server told them last; kept up to date by the caller.
        tells_features: Whether each window's features are among the results: raw values of its channels stay here.
        adaptations: How the models are fitted to single assets; those of another release count for nothing.
    """

    def __init__(
        self,
        *,
        gateway_id: str,
        bundle: LoadedBundle,
        asset_ids: Collection[str],
        contexts: dict[str, AssetContext],
        described: Mapping[str, Sequence[Channel]],
        tells_features: bool = False,
        adaptations: Adaptations | None = None,
    ) -> None:
        manifest = bundle.manifest
        self._adaptations = (adaptations or Adaptations()).for_release(release_of(bundle))
        bundle = replace(bundle, baseline=self._adaptations.baseline(bundle.baseline))
        self._tells_features = tells_features
        self._described = described
        self._bundle = bundle
        self._asset_ids = tuple(asset_ids)
        self.manipulator = Manipulator(bundle, asset_ids)
        self._detector = Detector(
            asset_class=manifest.asset_class, thresholds=manifest.thresholds, model_version=manifest.version
        )
        self._assessor = Assessor(
            thresholds=manifest.thresholds, failure_modes=manifest.failure_modes, model_version=manifest.version
        )
        self._advisor = Advisor(
            gateway_id=gateway_id,
            asset_class=manifest.asset_class,
            thresholds=manifest.thresholds,
            actions=manifest.actions,
            model_version=manifest.version,
            contexts=contexts,
        )

    @property
    def streams_of_assets(self) -> dict[str, tuple[Stream, ...]]:
        """The streams that the models look at, by asset."""
        return {
            asset_id: tuple(Stream(asset_id, channel.name) for channel in self._bundle.specification.channels)
            for asset_id in self._asset_ids
        }

    @property
    def on_delay_windows(self) -> int:
        """Windows in a row out of normal before anybody is told."""
        return self._bundle.manifest.thresholds.on_delay_windows

    def withdraw(self) -> tuple[Advisory, ...]:
        """Return the advisories, now closed, that a version raised which this bundle replaces though it is older."""
        return self._advisor.withdraw()

    def results(self, observations: Observations) -> Results:
        """Return what the windows that *observations* close tell."""
        windows, prepared = self.manipulator.manipulate(observations)  # data manipulation
        if not len(windows):
            return Results()
        states = self._states(windows, prepared)  # state detection
        health = self._health(states, prepared)  # health assessment
        prognoses = self._prognoses(states, prepared)  # prognostic assessment
        advisories = self._advisor.advise(states, health, prognoses)  # advisory generation
        features = self._features(states, prepared) if self._tells_features else ()
        return Results(states=states, health=health, prognoses=prognoses, advisories=advisories, features=features)

    def states(self, observations: Observations) -> tuple[State, ...]:
        """Return the states alone, for a bundle that only runs beside the live one; no advisory comes of them."""
        windows, prepared = self.manipulator.manipulate(observations)
        return self._states(windows, prepared) if len(windows) else ()

    def _states(self, windows: Windows, prepared: Prepared) -> tuple[State, ...]:
        """Return the state of each window; the model sees only those with enough good observations."""
        spans = _spans(windows)
        needed = self._bundle.manifest.channels
        unlike = [unlikeness(needed, self._described.get(span.asset_id, ())) for span in spans]
        trusted = [row for row in self._detector.trusted(spans) if not unlike[row]]
        outputs: list[float | None] = [None] * len(spans)
        failure = ""
        try:
            scores = _infer(detect, self._bundle, prepared, trusted)
            told = adapted_scores(self._adaptations, [spans[row].asset_id for row in trusted], scores)
            for row, output in zip(trusted, told.tolist(), strict=True):
                outputs[row] = output
        except InferenceFailed as error:
            failure = str(error)
            log.warning("windows stored without a state", asset_class=self._bundle.manifest.asset_class, error=failure)
        return tuple(
            self._state(span, outputs[row], prepared, row, unlike[row] or failure) for row, span in enumerate(spans)
        )

    def _features(self, states: Sequence[State], prepared: Prepared) -> tuple[WindowFeatures, ...]:
        """Return the features of each window as the models were given them."""
        manifest = self._bundle.manifest
        return tuple(
            WindowFeatures(
                asset_id=state.asset_id,
                asset_class=manifest.asset_class,
                window_start=state.window_start,
                window_end=state.window_end,
                feature_hash=manifest.feature_hash,
                model_version=manifest.version,
                good_share=state.good_share,
                values=tuple(values),
            )
            for state, values in zip(states, prepared.features.tolist(), strict=True)
        )

    def _state(self, span: Span, output: float | None, prepared: Prepared, row: int, failure: str) -> State:
        plain = self._detector.detect(span, output, failure=failure)
        if plain.zone in {Zone.NORMAL, Zone.UNKNOWN}:
            return plain
        channels = top_channels(self._bundle, span.asset_id, prepared.features[row], prepared.deviations[row])
        return self._detector.detect(span, output, channels)

    def _health(self, states: Sequence[State], prepared: Prepared) -> tuple[Health, ...]:
        known, answers = self._answers(classify, states, prepared)
        rows: list[FloatArray | None] = [None] * len(states)
        for row, answer in zip(known, answers if answers is not None else (), strict=answers is not None):
            rows[row] = answer
        told = [self._assessor.assess(state, row) for state, row in zip(states, rows, strict=True)]
        return tuple(self._explained(health, prepared, row) for row, health in enumerate(told))

    def _explained(self, health: Health, prepared: Prepared, row: int) -> Health:
        """Return *health* with the channels that speak for its failure mode, where it names one."""
        modes = self._bundle.failure
        if modes is None or health.failure_mode not in modes.names:
            return health
        mode = np.array([modes.names.index(health.failure_mode)])
        contributions = reference_contributions(modes, prepared.inputs[row : row + 1], mode)[0]
        spec = self._bundle.specification
        return replace(health, top_channels=top_channels_of(modes, spec, prepared.inputs[row], contributions))

    def _prognoses(self, states: Sequence[State], prepared: Prepared) -> tuple[Prognosis, ...]:
        known, life = self._answers(predict_life, states, prepared)
        if life is None:
            return ()
        version = self._bundle.manifest.version
        told = [predict(states[row], life.life_s[i], version, life.basis[i]) for i, row in enumerate(known)]
        return tuple(prognosis for prognosis in told if prognosis is not None)

    def _answers(
        self, model: Callable[[LoadedBundle, Prepared], Answer | None], states: Sequence[State], of: Prepared
    ) -> tuple[list[int], Answer | None]:
        """Return the windows whose state is known, and the model's answer for them; None where there is none."""
        known = [row for row, state in enumerate(states) if state.zone is not Zone.UNKNOWN]
        try:
            return known, _infer(model, self._bundle, of, known)
        except InferenceFailed as error:
            log.warning("windows stored without an answer", model=model.__name__, error=str(error))
            return known, None


def unlikeness(needed: Sequence[Channel], described: Sequence[Channel]) -> str:
    """Return why channels as *described* are not what models that *needed* them may judge; nothing when they are.

    A number in another unit is another number. A channel that is missing, or whose server tells no unit, is not looked
    at here: the one lowers the share of good values, of the other nothing is known.
    """
    known = {channel.name: channel for channel in described}
    for channel in needed:
        here = known.get(channel.name, channel)
        if here.unit and channel.unit and here.unit != channel.unit:
            return f"{channel.name} comes in {here.unit}, the models need {channel.unit}"
        if here.sample_rate_hz and channel.sample_rate_hz and here.sample_rate_hz != channel.sample_rate_hz:
            return f"{channel.name} comes at {here.sample_rate_hz:g} Hz, the models need {channel.sample_rate_hz:g} Hz"
    return ""


def _infer(
    model: Callable[[LoadedBundle, Prepared], Answer], bundle: LoadedBundle, prepared: Prepared, rows: Sequence[int]
) -> Answer:
    """Return the answer of *model* for *rows*; whatever the runtime raises is `InferenceFailed`."""
    try:
        return model(bundle, prepared.take(np.array(rows, np.intp)))
    except Exception as error:
        name = f"{bundle.manifest.asset_class} version {bundle.manifest.version}"
        raise InferenceFailed(
            f"{name}: {model.__name__} failed ({error}); {len(rows)} windows have no answer"
        ) from error


class Unmonitored:
    """What stands in for the blocks while a class has no bundle: states that say so, once a step of source time.

    Args:
        asset_class: The class without a bundle.
        assets: Its assets.
        newest_step: The last step each asset was reported for; kept up to date here, and saved by the caller.
    """

    def __init__(self, asset_class: str, assets: Collection[str], newest_step: dict[str, int]) -> None:
        self._asset_class = asset_class
        self._assets = frozenset(assets)
        self._newest_step = newest_step

    def results(self, observations: Observations) -> Results:
        """Return one unknown state for each step that an asset's newest source time enters."""
        spans: list[Span] = []
        steps = observations.source_time // STEP_WITHOUT_BUNDLE_NS
        asset_of = np.array([s.asset_id if s.asset_id in self._assets else "" for s in observations.streams], np.str_)
        row_assets = asset_of[observations.stream] if len(observations) else np.empty(0, np.str_)
        for asset_id in (str(a) for a in np.unique(row_assets) if a):
            mine = steps[row_assets == asset_id]
            before = self._newest_step.get(asset_id)
            entered = sorted({int(s) for s in np.unique(np.maximum.accumulate(mine)) if before is None or s > before})
            spans += [_step_span(asset_id, step) for step in entered]
            if entered:
                self._newest_step[asset_id] = entered[-1]
        spans.sort(key=lambda span: (span.end, span.asset_id))
        return Results(states=tuple(unknown(span, self._asset_class, NO_BUNDLE, None) for span in spans))


def _spans(windows: Windows) -> list[Span]:
    columns = (windows.start_ns, windows.end_ns, windows.good_share)
    return [
        Span(asset_id=asset_id, start=from_ns(start), end=from_ns(end), good_share=share)
        for asset_id, start, end, share in zip(
            windows.asset_id_of_rows, *(column.tolist() for column in columns), strict=True
        )
    ]


def _step_span(asset_id: str, step: int) -> Span:
    start_ns = step * STEP_WITHOUT_BUNDLE_NS
    end = from_ns(start_ns + STEP_WITHOUT_BUNDLE_NS)
    return Span(asset_id=asset_id, start=from_ns(start_ns), end=end, good_share=0.0)
