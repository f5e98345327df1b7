"""What a data set is once it is read: columns of numbers, labels and a split, one class for each kind of task.

The named public data sets and a folder with a description are read into the same classes, and the evaluation's
protocols see nothing else. Rows stand asset by asset (file by file), by time in each. A missing value is NaN. Times
are ns since 1970 UTC; a file's clock without a zone is taken as UTC. A data set that counts cycles has a row's cycle as
hours since `CYCLE_ZERO_NS`, so that a window of one hour is one cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from models.records import BoolArray, Channel, FloatArray, Int64Array, to_ns

NS_PER_HOUR: Final = 3_600_000_000_000
CYCLE_ZERO_NS: Final = to_ns(datetime(2000, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Records of assets, a row a cycle or a moment.

    Attributes:
        asset_ids: Each asset's name.
        asset: Index into ``asset_ids``, rising, shape ``(rows,)``.
        time_ns: Of each row, rising within an asset, shape ``(rows,)``.
        age: Cycles (or hours, see `RemainingLife.life_unit`) since the asset's first row plus what it had run before,
            shape ``(rows,)``; C-MAPSS's cycle column.
        values: Shape ``(rows, channels)``.
        life: Life left after each row in ``life_unit``, not capped, shape ``(rows,)``; NaN where it is not known.
    """

    asset_ids: tuple[str, ...]
    asset: Int64Array
    time_ns: Int64Array
    age: FloatArray
    values: FloatArray
    life: FloatArray


@dataclass(frozen=True, kw_only=True)
class LifeSplit:
    """Assets to learn from, which ran to failure, and others to be judged on, cut before it."""

    train: Runs
    test: Runs


@dataclass(frozen=True, kw_only=True)
class RemainingLife:
    """How long assets still run.

    Attributes:
        name: Of the data set.
        channels: Columns of `Runs.values`.
        settings: Names of the channels that say how the asset is operated; none: one regime.
        life_unit: ``"cycles"`` or ``"hours"``.
        cap: Life above it counts as equal to it, in ``life_unit``; NaN when lives are not capped.
        splits: One, or one a fold; a judged asset is in exactly one.
    """

    name: str
    channels: tuple[Channel, ...]
    settings: tuple[str, ...]
    life_unit: str
    cap: float
    splits: tuple[LifeSplit, ...]


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """Which rows of each file are anomalous, where each file's first rows are healthy.

    Attributes:
        name: Of the data set.
        channels: Columns of ``values``.
        settings: Names of the channels that say how the asset is operated.
        file_ids: Each file's name with its folder.
        file: Index into ``file_ids``, rising, shape ``(rows,)``.
        time_ns: Rising within a file, shape ``(rows,)``.
        values: Shape ``(rows, channels)``.
        anomaly: Truth of each row, shape ``(rows,)``.
        changepoint: Rows at which a fault begins or ends, shape ``(rows,)``; all False when there are no such labels.
        healthy_rows: How many of a file's first rows may be learnt from, as the operator's word, shape ``(files,)``.
        judged: Which files count in the figures, shape ``(files,)``; the others are healthy throughout.
        changepoint_window_s: A change point counts as found for so long after it (the NAB score's window).
    """

    name: str
    channels: tuple[Channel, ...]
    settings: tuple[str, ...]
    file_ids: tuple[str, ...]
    file: Int64Array
    time_ns: Int64Array
    values: FloatArray
    anomaly: BoolArray
    changepoint: BoolArray
    healthy_rows: Int64Array
    judged: BoolArray
    changepoint_window_s: float


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Independent rows of which some failed, and by which mode.

    Attributes:
        name: Of the data set.
        channels: Columns of ``values``. Channels of one unit may be compared with each other.
        levels: For each channel the texts that its whole numbers 0, 1, 2... stand for; empty for a measured channel.
        row_ids: Each row's name.
        group: Rows of one group lie in the same fold, shape ``(rows,)``; 0, 1, 2... where rows are independent.
        values: Shape ``(rows, channels)``.
        target: Whether the row failed, shape ``(rows,)``.
        modes: Failure modes, none when they are not told.
        mode: Whether the row failed by that mode, shape ``(rows, modes)``. Labels: never inputs.
        folds: Number of folds, drawn by group and balanced by target, from the seed.
    """

    name: str
    channels: tuple[Channel, ...]
    levels: tuple[tuple[str, ...], ...]
    row_ids: tuple[str, ...]
    group: Int64Array
    values: FloatArray
    target: BoolArray
    modes: tuple[str, ...]
    mode: BoolArray
    folds: int


@dataclass(frozen=True, kw_only=True)
class FailureEvents:
    """Telemetry and events of machines, and the failures among them that are to be foretold.

    Attributes:
        name: Of the data set.
        channels: Columns of ``values``.
        machine_ids: Each machine's name.
        machine: Index into ``machine_ids``, rising, shape ``(rows,)``.
        time_ns: Rising within a machine, shape ``(rows,)``.
        values: Telemetry, shape ``(rows, channels)``.
        statics: What does not change of a machine (its age), shape ``(machines, static_channels)``.
        static_channels: Columns of ``statics``.
        static_levels: As `Classification.levels`, for ``static_channels``.
        event_kinds: Names of the kinds of events that are known when they happen (an error's code).
        event_machine: Index into ``machine_ids``, shape ``(events,)``; events stand by machine, then time.
        event_time_ns: Shape ``(events,)``. Events may lie before the first row of telemetry.
        event_kind: Index into ``event_kinds``, shape ``(events,)``.
        replacement_kinds: Which ``event_kinds`` are replacements of a part; a failure is followed by one.
        modes: Failure modes.
        failure_machine: Index into ``machine_ids``, shape ``(failures,)``; by machine, then time.
        failure_time_ns: Shape ``(failures,)``; within the span of telemetry.
        failure_mode: Index into ``modes``, shape ``(failures,)``.
        horizon_h: A failure is to be foretold within so many hours before it.
        folds: Number of folds by machine.
    """

    name: str
    channels: tuple[Channel, ...]
    machine_ids: tuple[str, ...]
    machine: Int64Array
    time_ns: Int64Array
    values: FloatArray
    statics: FloatArray
    static_channels: tuple[Channel, ...]
    static_levels: tuple[tuple[str, ...], ...]
    event_kinds: tuple[str, ...]
    event_machine: Int64Array
    event_time_ns: Int64Array
    event_kind: Int64Array
    replacement_kinds: tuple[str, ...]
    modes: tuple[str, ...]
    failure_machine: Int64Array
    failure_time_ns: Int64Array
    failure_mode: Int64Array
    horizon_h: float
    folds: int


@dataclass(frozen=True, kw_only=True)
class Series:
    """Signals with windows in which something was wrong; too few events to be more than looked at.

    Attributes:
        name: Of the data set.
        channels: Columns of ``values``.
        file_ids: Each series' name.
        file: Index into ``file_ids``, rising, shape ``(rows,)``.
        time_ns: Strictly rising within a series, shape ``(rows,)``.
        values: Shape ``(rows, channels)``.
        healthy_rows: How many of a series' first rows may be learnt from, and are not judged, shape ``(files,)``.
        window_file: Index into ``file_ids``, shape ``(windows,)``.
        window_start_ns: First moment of each labelled window, shape ``(windows,)``.
        window_end_ns: Last moment of each labelled window, shape ``(windows,)``.
    """

    name: str
    channels: tuple[Channel, ...]
    file_ids: tuple[str, ...]
    file: Int64Array
    time_ns: Int64Array
    values: FloatArray
    healthy_rows: Int64Array
    window_file: Int64Array
    window_start_ns: Int64Array
    window_end_ns: Int64Array


Dataset = RemainingLife | Anomaly | Classification | FailureEvents | Series
