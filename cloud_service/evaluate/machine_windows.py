"""Telemetry, events and what does not change of machines as windows, with what the record says of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.datasets.tasks import NS_PER_HOUR, FailureEvents
from models.features.extraction import extract
from models.features.names import input_names
from models.features.specification import FeatureSpecification, History
from models.features.windows import windows_of_table
from models.records import BoolArray, Channel, FloatArray, Int64Array

_WINDOWS_IN_HORIZON: Final = 24
_SHORT_SHARE: Final = 8
_MOST_HISTORIES: Final = 64
# So many events in a window count as one scale from none.
_EVENTS_RANGE: Final = 1e4


@dataclass(frozen=True, kw_only=True)
class MachineWindows:
    """Windows by machine and time, those of events before a machine's telemetry among them.

    Attributes:
        spec: Of the features.
        machine: Index of the machine, shape ``(n,)``.
        end_ns: End of the window, shape ``(n,)``.
        features: Raw, shape ``(n, f)``.
        hits: Whether each mode's failure follows within the horizon, shape ``(n, modes)``.
        judged: Whether there is telemetry, and the whole horizon behind the window is known, shape ``(n,)``.
        known: Whether the record shows what follows within the horizon, shape ``(n,)``.
        failure_judged: Whether each failure's whole horizon lies among judged windows, shape ``(failures,)``.
    """

    spec: FeatureSpecification
    machine: Int64Array
    end_ns: Int64Array
    features: FloatArray
    hits: BoolArray
    judged: BoolArray
    known: BoolArray
    failure_judged: BoolArray

    def __len__(self) -> int:
        return len(self.machine)

    def take(self, rows: NDArray[np.intp]) -> MachineWindows:
        """Return the given *rows*; failures stay as they are."""
        return replace(
            self,
            machine=self.machine[rows],
            end_ns=self.end_ns[rows],
            features=self.features[rows],
            hits=self.hits[rows],
            judged=self.judged[rows],
            known=self.known[rows],
        )

    @classmethod
    def of(cls, dataset: FailureEvents) -> MachineWindows:
        """Return the windows of *dataset*."""
        spec = specification_of(dataset)
        machine, end_ns, values = _table(dataset, spec)
        windows = windows_of_table(spec, dataset.machine_ids, machine, end_ns, values)
        told = np.asarray(np.isfinite(values[:, : len(dataset.channels)]).any(axis=1))
        first, last = _span(machine, end_ns, told, len(dataset.machine_ids))
        behind = (spec.history.rolling[-1] - 1) * spec.step_ns
        horizon_ns = int(dataset.horizon_h * NS_PER_HOUR)
        of_failure = dataset.failure_machine
        return cls(
            spec=spec,
            machine=machine,
            end_ns=end_ns,
            features=extract(spec, windows),
            hits=_hits(dataset, machine, end_ns, horizon_ns),
            judged=np.asarray(told & (end_ns - first[machine] >= behind)),
            known=np.asarray(end_ns + horizon_ns <= last[machine] - spec.step_ns),
            failure_judged=np.asarray(
                (dataset.failure_time_ns - first[of_failure] - behind >= horizon_ns)
                & (dataset.failure_time_ns <= last[of_failure])
            ),
        )


def specification_of(dataset: FailureEvents) -> FeatureSpecification:
    """Return the windows and inputs of *dataset*."""
    window_h = max(_rows_apart_h(dataset), dataset.horizon_h / _WINDOWS_IN_HORIZON)
    long = max(3, round(dataset.horizon_h / window_h))
    short = min(max(2, round(long / _SHORT_SHARE)), long - 1)
    telemetry = [channel.name for channel in dataset.channels]
    events = [_event_channel(dataset, kind) for kind in dataset.event_kinds]
    repeated = [
        name for name, kind in zip(events, dataset.event_kinds, strict=True) if kind not in dataset.replacement_kinds
    ]
    replaced = [name for name in events if name not in repeated]
    past = tuple(f"{name}.mean" for name in (*telemetry, *repeated))
    return FeatureSpecification(
        asset_class="machines",
        channels=(
            *dataset.channels,
            *(Channel(name=name, unit="events", low=0.0, high=_EVENTS_RANGE) for name in events),
            *dataset.static_channels,
        ),
        window_s=window_h * 3600.0,
        step_s=window_h * 3600.0,
        late_s=window_h * 3600.0,
        statistics=("mean",),
        history=History(
            rolling=(short, long),
            statistics=("mean", "std"),
            of=past if len(past) <= _MOST_HISTORIES else (".mean",),
            events=tuple(replaced),
        ),
    )


def slow_inputs(dataset: FailureEvents, spec: FeatureSpecification) -> BoolArray:
    """Return which inputs hardly change of a machine: what never does, and hours since a part was replaced."""
    static = {f"{channel.name}.mean" for channel in dataset.static_channels}
    return np.array([name.startswith("hours_since:") or name in static for name in input_names(spec)])


def _rows_apart_h(dataset: FailureEvents) -> float:
    apart = np.diff(dataset.time_ns)[np.diff(dataset.machine) == 0]
    return float(np.median(apart)) / NS_PER_HOUR if len(apart) else dataset.horizon_h / _WINDOWS_IN_HORIZON


def _event_channel(dataset: FailureEvents, kind: str) -> str:
    taken = {channel.name for channel in (*dataset.channels, *dataset.static_channels)}
    return f"event {kind}" if kind in taken else kind


def _table(dataset: FailureEvents, spec: FeatureSpecification) -> tuple[Int64Array, Int64Array, FloatArray]:
    """Return machine, end and values ``(n, channels)`` of each window with telemetry or an event."""
    step = spec.step_ns
    row_end, event_end = ((times // step + 1) * step for times in (dataset.time_ns, dataset.event_time_ns))
    keys = np.concatenate(
        [np.column_stack([dataset.machine, row_end]), np.column_stack([dataset.event_machine, event_end])]
    )
    told, place = np.unique(keys, axis=0, return_inverse=True)
    of_row, of_event = np.split(place.ravel(), [len(row_end)])
    width, events = len(dataset.channels), len(dataset.event_kinds)
    values = np.zeros((len(told), len(spec.channels)))
    for column in range(width):
        good = np.isfinite(dataset.values[:, column])
        count = np.bincount(of_row[good], minlength=len(told))
        total = np.bincount(of_row[good], weights=dataset.values[good, column], minlength=len(told))
        values[:, column] = np.divide(total, count, out=np.full(len(told), np.nan), where=count > 0)
    np.add.at(values, (of_event, width + dataset.event_kind), 1.0)
    values[:, width + events :] = dataset.statics[told[:, 0]]
    return told[:, 0], told[:, 1], values


def _span(machine: Int64Array, end_ns: Int64Array, told: BoolArray, machines: int) -> tuple[Int64Array, Int64Array]:
    """Return the end of each machine's first and last window with telemetry, shape ``(machines,)``."""
    first = np.full(machines, np.iinfo(np.int64).max // 2)
    last = np.zeros(machines, np.int64)
    np.minimum.at(first, machine[told], end_ns[told])
    np.maximum.at(last, machine[told], end_ns[told])
    return first, last


def _hits(dataset: FailureEvents, machine: Int64Array, end_ns: Int64Array, horizon_ns: int) -> BoolArray:
    """Return which modes' failures follow less than the horizon after each window's end, shape ``(n, modes)``."""
    hits = np.zeros((len(machine), len(dataset.modes)), np.bool_)
    for own, failed_ns, mode in zip(
        dataset.failure_machine.tolist(), dataset.failure_time_ns.tolist(), dataset.failure_mode.tolist(), strict=True
    ):
        left = failed_ns - end_ns
        hits[(machine == own) & (left >= 0) & (left < horizon_ns), mode] = True
    return hits
