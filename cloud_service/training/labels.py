"""What the maintenance records say of each window: healthy, on its way to a failure mode, or nothing certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from models.evaluation.metrics import NS_PER_HOUR
from models.records import FloatArray, Int64Array, to_ns

NORMAL = "normal"
# Labels of windows: 0 is normal, 1 and up the failure modes.
LEFT_OUT = -1
# A record that does not end in a failure never loses more of its end than this share.
_LARGEST_OPEN_END = 0.25


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One maintenance record: an asset failed by a mode; ``in_service_again`` is None while it stands still."""

    asset_id: str
    failed_at: datetime
    failure_mode: str
    in_service_again: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Horizons:
    """How long before a failure what is known.

    Attributes:
        fault_h: Windows that end in the last so many hours before a failure show its mode.
        clear_h: Windows that end more than so many hours before the next failure are healthy. Between the two
            nobody knows, and the windows are left out. So is the end of a record without a failure, as long.
        life_cap_h: Longest life that is told; healthy windows carry no sign of more.
    """

    fault_h: float
    clear_h: float
    life_cap_h: float


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is known of the windows of one asset, shape ``(n,)`` each.

    Attributes:
        mode: 0 normal, 1 and up the place in the table of modes, -1 left out.
        life_h: Hours to the failure that ended this life, capped; NaN where no failure did or it is no service time.
        event: Which of the failures is next, -1 none.
    """

    mode: Int64Array
    life_h: FloatArray
    event: Int64Array


def label(
    start_ns: Int64Array, end_ns: Int64Array, failures: Sequence[Failure], modes: Sequence[str], horizons: Horizons
) -> Labels:
    """Label the windows ``[start_ns, end_ns)`` of one asset, in time order, by its *failures*, in time order.

    Windows that touch a time out of service (from a failure until in service again) are left out of everything.
    """
    failed = np.array([to_ns(failure.failed_at) for failure in failures], np.int64)
    event = np.searchsorted(failed, end_ns, side="left").astype(np.int64)
    hours = np.full(len(end_ns), np.inf)
    coming = event < len(failed)
    hours[coming] = (failed[event[coming]] - end_ns[coming]) / NS_PER_HOUR
    numbers = np.array([modes.index(failure.failure_mode) for failure in failures], np.int64)
    mode = np.where(hours > horizons.clear_h, 0, LEFT_OUT).astype(np.int64)
    close = hours <= horizons.fault_h
    mode[close] = numbers[event[close]]
    mode[_open_end(start_ns, end_ns, coming, horizons.clear_h)] = LEFT_OUT
    life = np.where(coming, np.minimum(hours, horizons.life_cap_h), np.nan)
    still = _out_of_service(start_ns, end_ns, failures)
    mode[still] = LEFT_OUT
    life[still] = np.nan
    return Labels(mode=mode, life_h=life, event=np.where(coming & ~still, event, -1))


def _open_end(
    start_ns: Int64Array, end_ns: Int64Array, coming: np.typing.NDArray[np.bool_], clear_h: float
) -> np.typing.NDArray[np.bool_]:
    """Return the windows at the end of a life that has not ended: a failure may lie just beyond."""
    if not len(end_ns) or coming.all():
        return np.zeros(len(end_ns), np.bool_)
    first = int(start_ns[~coming][0])
    length = min(clear_h * NS_PER_HOUR, (int(end_ns[-1]) - first) * _LARGEST_OPEN_END)
    return np.asarray(~coming & (end_ns > end_ns[-1] - int(length)))


def _out_of_service(
    start_ns: Int64Array, end_ns: Int64Array, failures: Sequence[Failure]
) -> np.typing.NDArray[np.bool_]:
    still = np.zeros(len(end_ns), np.bool_)
    for failure in failures:
        begin = to_ns(failure.failed_at)
        until = np.iinfo(np.int64).max if failure.in_service_again is None else to_ns(failure.in_service_again)
        still |= (end_ns > begin) & (start_ns < until)
    return still
