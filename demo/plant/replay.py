"""Recorded data in the simulator's place: the same server serves C-MAPSS engines and SKAB rigs.

Recordings were made at other times than each other; here each is moved as a whole, gaps kept, so that all of a
data set's live parts begin together. Values are those of the files, each with status Good.

C-MAPSS FD001, class ``turbofan``: a cycle counts as one hour. Training engines (``engine-tr-001``...) are finished
history, test engines (``engine-te-001``...) come live. SKAB, class ``pump_rig``: the first 400 rows of an
experiment (``rig-valve1-0``...) are history, the others come live; ``rig-anomaly-free`` is history altogether.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from demo.plant.fleet import CELLS, HOUR_NS, LIVE_START_NS, PLANT_START_NS
from demo.plant.simulator import DAY_NS, SECOND_NS
from demo.plant.source import Machine, streams_of
from models.datasets import cmapss, skab
from models.records import Channel, FloatArray, Int64Array, Observations, from_ns

T = TypeVar("T")

TURBOFAN: Final = "turbofan"
PUMP_RIG: Final = "pump_rig"
CMAPSS_LIVE_NS: Final = PLANT_START_NS + 16 * DAY_NS  # the longest training engine ran 362 cycles
SKAB_HISTORY_ROWS: Final = 400


class RecordedSource:
    """Tables of recorded values, one a machine, as a cell's source."""

    def __init__(
        self, machines: Sequence[Machine], tables: Sequence[tuple[Int64Array, FloatArray]], *, live_start: int,
        truth: dict[str, Any],
    ) -> None:  # fmt: skip
        self.machines = tuple(machines)
        self.live_start = live_start
        self._truth = {"live_start": from_ns(live_start).isoformat(), **truth}
        self._rows = self._by_time(tables)
        self.first = int(self._rows.source_time[0])
        self.end: int | None = int(self._rows.source_time[-1]) + 1

    def _by_time(self, tables: Sequence[tuple[Int64Array, FloatArray]]) -> Observations:
        streams = streams_of(self.machines)
        first = np.cumsum([0, *(len(machine.channels) for machine in self.machines)])
        stream = [
            np.tile(np.arange(values.shape[1]) + start, len(times))
            for (times, values), start in zip(tables, first[:-1], strict=True)
        ]
        whole = Observations.of_values(
            streams,
            np.concatenate(stream).astype(np.uint32),
            np.concatenate([np.repeat(times, values.shape[1]) for times, values in tables]),
            np.concatenate([values.reshape(-1) for _, values in tables]),
            np.zeros(sum(values.size for _, values in tables), np.uint32),
        )
        return whole.take(np.lexsort((whole.stream, whole.source_time)))

    def observations(self, start_ns: int, end_ns: int) -> Observations:
        """Return the rows of a span; see ``Source``."""
        low, high = np.searchsorted(self._rows.source_time, [start_ns, end_ns])
        return self._rows.take(np.arange(low, high))

    def truth(self, until_ns: int) -> dict[str, Any]:
        """Return what the data set says of its machines, all of it; see ``Source``."""
        del until_ns
        return self._truth


def cmapss_source(data: Path, cell: str) -> RecordedSource:
    """Return one half of FD001's engines, by number: fifty training and fifty test engines a cell.

    Raises:
        DatasetError: If the files are missing or malformed.
    """
    subset = cmapss.read_subset(data / "cmapss", "FD001")
    machines: list[Machine] = []
    tables: list[tuple[Int64Array, FloatArray]] = []
    faults: list[dict[str, Any]] = []
    for kind, engines, start in (("tr", subset.train, PLANT_START_NS), ("te", subset.test, CMAPSS_LIVE_NS)):
        for engine in _share(engines, cell):
            asset_id = f"engine-{kind}-{engine.unit:03d}"
            times = start + np.arange(len(engine.values), dtype=np.int64) * HOUR_NS
            left_s = 0 if kind == "tr" else int(subset.rul[engine.unit - 1]) * HOUR_NS // SECOND_NS
            failure = int(times[-1]) + left_s * SECOND_NS
            machines.append(
                replace(
                    _recorded(asset_id, TURBOFAN, cmapss.CHANNELS, "C-MAPSS FD001"), in_service_since=from_ns(start)
                )
            )
            tables.append((times, engine.values))
            faults.append(
                {
                    "asset": asset_id,
                    "mode": "hpc_degradation",
                    "last": from_ns(int(times[-1])).isoformat(),
                    "rul_s": left_s,
                    "failure": from_ns(failure).isoformat(),
                }
            )
    truth = {"source": "cmapss-fd001", "cycle_s": HOUR_NS // SECOND_NS, "faults": faults}
    return RecordedSource(machines, tables, live_start=CMAPSS_LIVE_NS, truth=truth)


def skab_source(data: Path, cell: str) -> RecordedSource:
    """Return one half of SKAB's experiments; the anomaly-free one is the first of ``cell-1``.

    Raises:
        DatasetError: If the files are missing or malformed.
    """
    machines: list[Machine] = []
    tables: list[tuple[Int64Array, FloatArray]] = []
    labels: dict[str, Any] = {}
    for experiment in _share(skab.read_experiments(data / "skab"), cell):
        free = experiment.group == "anomaly-free"
        asset_id = "rig-anomaly-free" if free else f"rig-{experiment.group}-{experiment.name}"
        history = min(len(experiment.time_ns), SKAB_HISTORY_ROWS)
        # The first live row falls on the live start; a recording without one ends a second before it.
        moved = experiment.time_ns[-1] + SECOND_NS if free else experiment.time_ns[history]
        times = experiment.time_ns - moved + LIVE_START_NS
        machines.append(_recorded(asset_id, PUMP_RIG, skab.CHANNELS, "SKAB"))
        tables.append((times, experiment.values))
        labels[asset_id] = {
            "recorded": from_ns(int(experiment.time_ns[0])).isoformat(),
            "moved_by_s": int(LIVE_START_NS - moved) // SECOND_NS,
            "time_ns": times.tolist(),
            "anomaly": experiment.anomaly.astype(int).tolist(),
            "changepoint": experiment.changepoint.astype(int).tolist(),
        }
    truth = {"source": "skab", "history_rows": SKAB_HISTORY_ROWS, "faults": [], "labels": labels}
    return RecordedSource(machines, tables, live_start=LIVE_START_NS, truth=truth)


def _share(items: Sequence[T], cell: str) -> Sequence[T]:
    cells = list(CELLS)
    number = cells.index(cell)
    return items[number * len(items) // len(cells) : (number + 1) * len(items) // len(cells)]


def _recorded(asset_id: str, asset_class: str, channels: tuple[Channel, ...], data_set: str) -> Machine:
    return Machine(
        asset_id=asset_id,
        asset_class=asset_class,
        channels=channels,
        manufacturer=data_set,
        model=asset_class,
        serial_number=asset_id,
    )
