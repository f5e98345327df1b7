"""Failures of machines, foretold within a horizon and by mode: k folds by machine, never by row or by time.

Telemetry is cut into windows, as long as its rows lie apart and at least a 24th of the horizon, each the mean of its
rows. Models are given the newest window, mean and scatter over an eighth of the horizon and over all of it, how many
events of each kind there were in that time, hours since each part was replaced, and what does not change of a machine.
A window knows what happened before its end. A failure's own replacement comes after it.

A mode's alarm is raised after some windows in a row at or above its threshold and goes after six below, as on a
gateway. A failure is found when an alarm of its mode was raised within the horizon before it; the lead time runs from
the first. Precision is the share of alarms that a failure of their mode follows within the horizon; an alarm that is
raised earlier is false. By row: told against whether a failure of the mode follows within the horizon, mean over the
modes and none.

Windows are judged, and learnt from, once the whole horizon behind them is known (the guide by Microsoft drops the first
day likewise) and as long as the record shows what follows within the horizon. A failure is judged when its whole
horizon lies in that time. Thresholds and the number of windows in a row have the best F1 of failures and alarms by a
cross-validation over the machines that are learnt from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud_service.errors import EvaluationFailed
from cloud_service.evaluate.alarms import Alarms, Delays, choose_alarms, judge_alarms
from cloud_service.evaluate.foretelling import agreement, asked_as_a_gateway, calibration_of, precision_recall
from cloud_service.evaluate.machine_windows import MachineWindows, slow_inputs
from cloud_service.evaluate.outcome import Figure, LeadTimes, Outcome, Parity, Progress, over_seeds
from cloud_service.training.failure import FailureLesson, FailureSettings, fit_modes
from cloud_service.training.foretelling import folds_of
from cloud_service.training.tree_forms import BROAD, MOVING
from models.datasets.tasks import FailureEvents
from models.evaluation.failure import average_precision, brier, calibration_error
from models.failure.modes import foretold
from models.features.baseline import fit_baseline
from models.records import BoolArray, Float32Array, FloatArray
from models.scoring import prepare_table

HOURS_PER_MONTH: Final = 30.0 * 24.0


@dataclass(frozen=True, kw_only=True)
class EventSettings:
    """What is not learnt, but chosen beforehand.

    Attributes:
        failure: How modes are learnt; its horizon is the data set's.
        on_delays: Windows in a row that raise an alarm: those that are tried.
        off_delay: Windows in a row that end it.
    """

    failure: FailureSettings = field(
        default_factory=lambda: FailureSettings(forms=(MOVING, BROAD), rows_at_most=12_000)
    )
    on_delays: tuple[int, ...] = (1, 2, 3)
    off_delay: int = 6


@dataclass(frozen=True, kw_only=True)
class JudgedMachines:
    """What the models say of machines they have not learnt from, over the windows of all machines.

    Attributes:
        windows: The windows.
        probabilities: Of none and of each mode, shape ``(n, 1 + modes)``.
        told: Whether each mode is at or above its threshold, shape ``(n, modes)``.
        alarms: Their alarms, held against the failures.
        forms: The form of trees that was chosen in each fold for each mode.
        delays: How many windows raise an alarm, in each fold.
        thresholds: Of each mode in each fold.
        moved: How many decisions of the exported graph differ from the trainer's.
        difference: The largest difference between their probabilities.
        agreed: For each decision, whether gateway and trees name the same channel first.
    """

    windows: MachineWindows
    probabilities: FloatArray
    told: BoolArray
    alarms: Alarms
    forms: tuple[Mapping[str, str], ...]
    delays: tuple[int, ...]
    thresholds: tuple[tuple[float, ...], ...]
    moved: int
    difference: float
    agreed: BoolArray


def evaluate_failure_events(
    dataset: FailureEvents, *, seeds: Sequence[int], progress: Progress, settings: EventSettings | None = None
) -> Outcome:
    """Return how well failures are foretold.

    Args:
        dataset: Telemetry, events and failures.
        seeds: Each is a whole evaluation, with folds of its own.
        progress: Told how far it is.
        settings: None: as the protocol says.

    Raises:
        EvaluationFailed: If no failure can be judged.
    """
    settings = settings or EventSettings()
    settings = replace(settings, failure=replace(settings.failure, horizon_h=dataset.horizon_h))
    windows = MachineWindows.of(dataset)
    if not windows.failure_judged.any():
        raise EvaluationFailed(
            f"{dataset.name}: none of {len(dataset.failure_mode)} failures can be judged: its machine's record must "
            f"begin about {2 * dataset.horizon_h:g} h before; give longer records, or a shorter failures.horizon_h"
        )
    judged: dict[int, JudgedMachines] = {}
    figures: dict[int, dict[str, float]] = {}
    for number, seed in enumerate(seeds):
        progress("folds", number / len(seeds))
        judged[seed] = _judge(dataset, windows, settings, seed)
        figures[seed] = _figures(dataset, judged[seed])
    mean, spread = over_seeds(figures)
    first = judged[seeds[0]]
    return Outcome(
        dataset=dataset.name,
        task="failure_events",
        protocol=_protocol(dataset, windows, settings, judged),
        metrics=mean,
        spread=spread,
        seeds=figures,
        parity=Parity(
            windows=sum(int(one.windows.judged.sum()) for one in judged.values()),
            decisions_changed=sum(one.moved for one in judged.values()),
            largest_difference=max(one.difference for one in judged.values()),
        ),
        figures=_plots(dataset, first),
        limits=_limits(dataset, windows, first),
    )


def _judge(dataset: FailureEvents, windows: MachineWindows, settings: EventSettings, seed: int) -> JudgedMachines:
    """Return what is said of each machine by models that have not seen it."""
    machines = np.arange(len(dataset.machine_ids), dtype=np.int64)
    fails = np.zeros((len(machines), len(dataset.modes)), np.bool_)
    fails[dataset.failure_machine, dataset.failure_mode] = True
    fold = folds_of(machines, fails, dataset.folds, seed)
    probabilities = np.full((len(windows), 1 + len(dataset.modes)), np.nan)
    told = np.zeros(windows.hits.shape, np.bool_)
    parts: list[_Fold] = []
    for own in np.unique(fold).tolist():
        mine = np.asarray(fold[windows.machine] == own)
        part = _Fold.of(dataset, windows, settings, mine, seed)
        judged = mine & windows.judged
        probabilities[judged], told[judged] = part.probabilities, part.told
        parts.append(part)
    return JudgedMachines(
        windows=windows,
        probabilities=probabilities,
        told=told,
        alarms=Alarms.joined([part.alarms for part in parts]),
        forms=tuple(part.forms for part in parts),
        delays=tuple(part.delays.on for part in parts),
        thresholds=tuple(part.thresholds for part in parts),
        moved=sum(part.moved for part in parts),
        difference=max(part.difference for part in parts),
        agreed=np.concatenate([part.agreed for part in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """What one fold's models say of its machines' judged windows; see `JudgedMachines`."""

    probabilities: FloatArray
    told: BoolArray
    alarms: Alarms
    forms: Mapping[str, str]
    delays: Delays
    thresholds: tuple[float, ...]
    moved: int
    difference: float
    agreed: BoolArray

    @classmethod
    def of(
        cls, dataset: FailureEvents, windows: MachineWindows, settings: EventSettings, mine: BoolArray, seed: int
    ) -> _Fold:
        """Learn from the machines that are not *mine*, and judge those that are."""
        learnt, judged = np.flatnonzero(~mine & windows.judged & windows.known), np.flatnonzero(mine & windows.judged)
        inputs = _inputs(windows, learnt, len(dataset.machine_ids))
        seen = np.flatnonzero(windows.hits[learnt].any(axis=0))
        probabilities = np.zeros((len(judged), 1 + len(dataset.modes)))
        told = np.zeros((len(judged), len(dataset.modes)), np.bool_)
        if not len(seen):  # no machine that is learnt from has failed: nothing is foretold
            return cls.silent(windows.take(judged), dataset, settings)
        lesson = FailureLesson(
            names=tuple(dataset.modes[place] for place in seen.tolist()),
            inputs=inputs[learnt],
            hits=windows.hits[learnt][:, seen],
            group=windows.machine[learnt],
            slow=slow_inputs(dataset, windows.spec),
        )
        fitted = fit_modes(lesson, settings.failure, seed)
        unseen = np.zeros((len(learnt), len(dataset.modes)))
        unseen[:, seen] = fitted.unseen_probabilities()[:, 1:]
        limits, delays = choose_alarms(
            windows.take(learnt), unseen, dataset, on_delays=settings.on_delays, off_delay=settings.off_delay
        )
        fitted = fitted.with_thresholds([limits[place] for place in seen.tolist()])
        answer = asked_as_a_gateway(windows.spec, fitted, inputs[judged])
        wanted = fitted.probabilities(inputs[judged])
        probabilities[:, [0, *(1 + seen)]] = answer
        told[:, seen] = decided = foretold(fitted.modes, answer)
        return cls(
            probabilities=probabilities,
            told=told,
            alarms=judge_alarms(windows.take(judged), told, dataset, delays),
            forms=dict(zip(lesson.names, fitted.forms, strict=True)),
            delays=delays,
            thresholds=limits,
            moved=int((decided != foretold(fitted.modes, wanted)).any(axis=1).sum()),
            difference=float(np.abs(answer - wanted).max()),
            agreed=agreement(windows.spec, fitted, inputs[judged], answer, decided),
        )

    @classmethod
    def silent(cls, judged: MachineWindows, dataset: FailureEvents, settings: EventSettings) -> _Fold:
        """Return what a classifier says that knows of no failure."""
        told = np.zeros(judged.hits.shape, np.bool_)
        delays = Delays(on=min(settings.on_delays), off=settings.off_delay)
        return cls(
            probabilities=np.column_stack([np.ones(len(told)), told]),
            told=told,
            alarms=judge_alarms(judged, told, dataset, delays),
            forms={},
            delays=delays,
            thresholds=(float("inf"),) * len(dataset.modes),
            moved=0,
            difference=0.0,
            agreed=np.zeros(0, np.bool_),
        )


def _inputs(windows: MachineWindows, learnt: NDArray[np.intp], machines: int) -> Float32Array:
    """Return the inputs of all windows, against what is ordinary in the healthy ones of those *learnt* from."""
    healthy = learnt[~windows.hits[learnt].any(axis=1)]
    baseline = fit_baseline(windows.spec, {"": windows.features[healthy]}, len(healthy), scope="class")
    return prepare_table(
        windows.spec,
        baseline,
        [""] * machines,
        windows.machine,
        windows.end_ns,
        windows.features,
        sequences=False,
    ).inputs


def _figures(dataset: FailureEvents, judged: JudgedMachines) -> dict[str, float]:
    alarms, windows = judged.alarms, judged.windows
    rows = windows.judged & windows.known
    probability = 1.0 - judged.probabilities[rows, 0]
    failing = np.asarray(windows.hits[rows].any(axis=1))
    row_precision, row_recall = _by_row(judged.told[rows], windows.hits[rows])
    months = float(rows.sum()) * windows.spec.step_s / 3600.0 / HOURS_PER_MONTH
    figures = {
        "event_recall": alarms.recall,
        "precision": alarms.precision,
        "median_lead_time_h": alarms.median_lead_h,
        "failures": float(len(alarms.lead_h)),
        "alarms": float(len(alarms.right)),
        "false_alarms_per_machine_month": float((~alarms.right).sum()) / months,
        "row_precision": row_precision,
        "row_recall": row_recall,
        "pr_auc": average_precision(probability, failing),
        "brier": brier(probability, failing),
        "calibration_error": calibration_error(probability, failing),
        "explanation_agreement": float(judged.agreed.mean()) if len(judged.agreed) else float("nan"),
    }
    for place, name in enumerate(dataset.modes):
        lead = alarms.lead_h[alarms.failure_mode == place]
        if len(lead):
            figures[f"event_recall_{name}"] = float(np.isfinite(lead).mean())
        if np.isfinite(lead).any():
            figures[f"median_lead_time_h_{name}"] = float(np.nanmedian(lead))
    return figures


def _by_row(told: BoolArray, hits: BoolArray) -> tuple[float, float]:
    """Return precision and recall of rows, each the mean over the modes and none."""
    said = np.column_stack([~told.any(axis=1), told])
    true = np.column_stack([~hits.any(axis=1), hits])
    right = (said & true).sum(axis=0)
    return float(np.mean(right / np.maximum(said.sum(axis=0), 1))), float(
        np.mean(right[true.any(axis=0)] / true.sum(axis=0)[true.any(axis=0)])
    )


def _protocol(
    dataset: FailureEvents, windows: MachineWindows, settings: EventSettings, judged: Mapping[int, JudgedMachines]
) -> dict[str, object]:
    limits = np.array([limits for one in judged.values() for limits in one.thresholds])
    return {
        "split": f"{dataset.folds} folds by machine, balanced by failure mode, from the seed",
        "seeds": list(judged),
        "horizon_h": dataset.horizon_h,
        "window_h": windows.spec.window_s / 3600.0,
        "rolling_windows": list(windows.spec.history.rolling),
        "failures_in_the_record": len(dataset.failure_mode),
        "failures_judged": int(windows.failure_judged.sum()),
        "selection": "form of trees, calibration, thresholds, windows in a row: cross-validation on learnt machines",
        "forms_tried": [form.name for form in settings.failure.forms],
        "forms_chosen": {
            name: dict(Counter(forms.get(name, "") for one in judged.values() for forms in one.forms))
            for name in dataset.modes
        },
        "windows_in_a_row": dict(Counter(str(on) for one in judged.values() for on in one.delays)),
        "windows_that_end_an_alarm": settings.off_delay,
        "median_threshold": {name: float(np.median(limits[:, place])) for place, name in enumerate(dataset.modes)},
    }


def _plots(dataset: FailureEvents, judged: JudgedMachines) -> dict[str, Figure]:
    rows = judged.windows.judged & judged.windows.known
    probability = 1.0 - judged.probabilities[rows, 0]
    failing = np.asarray(judged.windows.hits[rows].any(axis=1))
    return {
        "precision-recall": precision_recall(probability, failing, np.asarray(judged.told[rows].any(axis=1))),
        "calibration": calibration_of(probability, failing),
        "lead-times": LeadTimes(
            lead_h=judged.alarms.lead_h,
            mode=tuple(dataset.modes[place] for place in judged.alarms.failure_mode.tolist()),
            horizon_h=dataset.horizon_h,
        ),
    }


def _limits(dataset: FailureEvents, windows: MachineWindows, judged: JudgedMachines) -> tuple[str, ...]:
    told: list[str] = []
    left_out = int((~windows.failure_judged).sum())
    if left_out:
        told.append(
            f"{left_out} of {len(windows.failure_judged)} failures are not judged: their machine's record begins less "
            f"than {2 * dataset.horizon_h:g} h before them or ends at once, so that nobody could foretell them from it."
        )
    missed = Counter(
        dataset.modes[mode]
        for mode, lead in zip(judged.alarms.failure_mode.tolist(), judged.alarms.lead_h.tolist(), strict=True)
        if np.isnan(lead)
    )
    if missed:
        told.append(f"Missed: {', '.join(f'{count} of {name}' for name, count in sorted(missed.items()))}.")
    return tuple(told)
