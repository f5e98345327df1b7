"""Alarms held against failures, and the thresholds and delays that foretell best on machines not learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cloud_service.evaluate.machine_windows import MachineWindows
from models.datasets.tasks import NS_PER_HOUR, FailureEvents
from models.failure.episodes import episodes_of
from models.records import BoolArray, FloatArray, Int64Array

# Thresholds that are tried: evenly in log odds, one half among them.
THRESHOLDS: Final = tuple(float(1.0 / (1.0 + np.exp(-odds))) for odds in np.linspace(-3.0, 3.0, 25))


@dataclass(frozen=True, kw_only=True)
class Delays:
    """Windows in a row that raise an alarm, and that end it."""

    on: int
    off: int


@dataclass(frozen=True, kw_only=True)
class Alarms:
    """Alarms and failures held against each other.

    Attributes:
        right: Whether a failure of its mode follows each alarm within the horizon, shape ``(alarms,)``; alarms of
            which the record does not show what follows are left out, but for those that are right.
        mode: Of each alarm, shape ``(alarms,)``.
        lead_h: Hours from the first right alarm to each judged failure, NaN for one not found, shape ``(failures,)``.
        failure_mode: Of each judged failure, shape ``(failures,)``.
    """

    right: BoolArray
    mode: Int64Array
    lead_h: FloatArray
    failure_mode: Int64Array

    @property
    def recall(self) -> float:
        """Share of judged failures that were found; NaN without any."""
        return float(np.isfinite(self.lead_h).mean()) if len(self.lead_h) else float("nan")

    @property
    def precision(self) -> float:
        """Share of alarms that were right; NaN without any."""
        return float(self.right.mean()) if len(self.right) else float("nan")

    @property
    def median_lead_h(self) -> float:
        """Median lead of the failures that were found; NaN without any."""
        found = self.lead_h[np.isfinite(self.lead_h)]
        return float(np.median(found)) if len(found) else float("nan")

    @classmethod
    def joined(cls, parts: Sequence[Alarms]) -> Alarms:
        """Return all alarms and failures of *parts*."""
        return cls(
            right=np.concatenate([part.right for part in parts]),
            mode=np.concatenate([part.mode for part in parts]),
            lead_h=np.concatenate([part.lead_h for part in parts]),
            failure_mode=np.concatenate([part.failure_mode for part in parts]),
        )


def judge_alarms(windows: MachineWindows, told: BoolArray, dataset: FailureEvents, delays: Delays) -> Alarms:
    """Return the alarms that *told* windows raise, held against the failures of these windows' machines.

    Args:
        windows: Judged windows of some machines.
        told: Whether each mode is at or above its threshold, shape ``(n, modes)``.
        dataset: Its failures and horizon.
        delays: Of the alarms.
    """
    return Alarms.joined([_of_mode(windows, told[:, mode], dataset, mode, delays) for mode in range(told.shape[1])])


def choose_alarms(
    windows: MachineWindows,
    probabilities: FloatArray,
    dataset: FailureEvents,
    *,
    on_delays: Sequence[int],
    off_delay: int,
) -> tuple[tuple[float, ...], Delays]:
    """Return the modes' thresholds and the delays of the best F1 of failures found and alarms right.

    Of thresholds that are as good but for half a failure, the nearest to one half; of delays, the shortest.

    Args:
        windows: Windows of the machines that are learnt from.
        probabilities: Of each mode, by models that had not seen the machine, shape ``(n, modes)``.
        dataset: Its failures and horizon.
        on_delays: Those that are tried.
        off_delay: Windows in a row that end an alarm.
    """
    best: tuple[float, tuple[float, ...], Delays] | None = None
    for on in sorted(on_delays):
        delays = Delays(on=on, off=off_delay)
        chosen = [
            _threshold(windows, probabilities[:, mode], dataset, mode, delays) for mode in range(len(dataset.modes))
        ]
        total = sum(f1 for _, f1, _ in chosen)
        room = sum(half for _, _, half in chosen) / max(len(chosen), 1)
        if best is None or total > best[0] + room:
            best = total, tuple(limit for limit, _, _ in chosen), delays
    assert best is not None
    return best[1], best[2]


def _threshold(
    windows: MachineWindows, probability: FloatArray, dataset: FailureEvents, mode: int, delays: Delays
) -> tuple[float, float, float]:
    """Return a mode's threshold, its F1, and what half a failure is in F1."""
    f1 = np.zeros(len(THRESHOLDS))
    failures = 0
    for place, limit in enumerate(THRESHOLDS):
        alarms = _of_mode(windows, probability >= limit, dataset, mode, delays)
        failures = len(alarms.lead_h)
        if len(alarms.right) and failures and alarms.recall + alarms.precision > 0.0:
            f1[place] = 2.0 * alarms.recall * alarms.precision / (alarms.recall + alarms.precision)
    half = 0.5 / max(failures, 1)
    if not f1.any():
        return 0.5, 0.0, half
    good = np.flatnonzero(f1 >= f1.max() - half)
    return THRESHOLDS[int(good[np.abs(good - len(THRESHOLDS) // 2).argmin()])], float(f1.max()), half


def _of_mode(windows: MachineWindows, told: BoolArray, dataset: FailureEvents, mode: int, delays: Delays) -> Alarms:
    episodes = episodes_of(told, windows.machine, on_delay=delays.on, off_delay=delays.off)
    machine, raised_ns = windows.machine[episodes.raised], windows.end_ns[episodes.raised]
    failures = np.flatnonzero((dataset.failure_mode == mode) & np.isin(dataset.failure_machine, windows.machine))
    left_h = (dataset.failure_time_ns[failures][None, :] - raised_ns[:, None]) / NS_PER_HOUR
    follows = (machine[:, None] == dataset.failure_machine[failures][None, :]) & (left_h >= 0.0)
    follows &= left_h <= dataset.horizon_h
    lead = np.where(follows, left_h, -np.inf).max(axis=0, initial=-np.inf)
    right = np.asarray(follows.any(axis=1))
    counted = right | windows.known[episodes.raised]
    judged = windows.failure_judged[failures]
    return Alarms(
        right=right[counted],
        mode=np.full(int(counted.sum()), mode, np.int64),
        lead_h=np.where(np.isfinite(lead), lead, np.nan)[judged],
        failure_mode=np.full(int(judged.sum()), mode, np.int64),
    )
