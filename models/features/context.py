"""The models' inputs: a window's deviations, and where they came from.

One window says little of a life. Beside each deviation stand its mean over the asset's last windows and its trend, the
mean of the newer half of them less that of the older half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from models.features.names import feature_names
from models.features.specification import FeatureError, FeatureSpecification
from models.records import BoolArray, Float32Array, FloatArray, Int64Array

STOP_WINDOWS = 3


class Context:
    """Remembers the last windows of every asset.

    Windows of one asset must come by end, as a windower gives them; in how many calls makes no difference. Windows
    that ended longer ago than the longest rolling length count no more, nor do those before a stop: a machine that told
    nothing good for some windows in a row may have been repaired meanwhile.
    """

    def __init__(self, spec: FeatureSpecification) -> None:
        self._spec = spec
        self._width = len(feature_names(spec))
        self._history: dict[str, tuple[Int64Array, Float32Array]] = {}

    def inputs(self, asset_ids: Sequence[str], end_ns: Int64Array, deviations: Float32Array) -> Float32Array:
        """Return the models' inputs, shape ``(n, 3 f)``, columns as `input_names`; NaN where nothing is known.

        Args:
            asset_ids: The asset of each window.
            end_ns: The end of each window, shape ``(n,)``.
            deviations: Shape ``(n, f)``.
        """
        inputs = np.empty((len(asset_ids), 3 * self._width), np.float32)
        rows_of: dict[str, list[int]] = {}
        for row, asset_id in enumerate(asset_ids):
            rows_of.setdefault(asset_id, []).append(row)
        for asset_id, rows in rows_of.items():
            inputs[rows] = self._of_asset(asset_id, end_ns[rows], deviations[rows])
        return inputs

    def forget(self, asset_id: str) -> None:
        """Start a new history of *asset_id*, as after its repair."""
        self._history.pop(asset_id, None)

    def state(self) -> bytes:
        """Return all that the next inputs depend on, for `restore`."""
        return msgspec.msgpack.encode(
            _Saved(
                width=self._width,
                history={
                    asset_id: (ends.tobytes(), rows.tobytes()) for asset_id, (ends, rows) in self._history.items()
                },
            )
        )

    def restore(self, state: bytes) -> None:
        """Go on where the context that gave *state* was.

        Raises:
            FeatureError: If the state is of other features or does not decode; nothing has changed then.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
            history = {
                asset_id: (np.frombuffer(ends, np.int64), np.frombuffer(rows, np.float32).reshape(-1, self._width))
                for asset_id, (ends, rows) in saved.history.items()
            }
        except (msgspec.DecodeError, ValueError) as error:
            raise FeatureError(
                f"{self._spec.asset_class}: saved context does not decode ({error}); start anew"
            ) from error
        if saved.width != self._width or any(len(ends) != len(rows) for ends, rows in history.values()):
            raise FeatureError(f"{self._spec.asset_class}: saved context is of other features; start anew")
        self._history = history

    def _of_asset(self, asset_id: str, end_ns: Int64Array, deviations: Float32Array) -> Float32Array:
        count = self._spec.history.rolling[-1]
        past = self._history.get(asset_id)
        ends = end_ns if past is None else np.concatenate([past[0], end_ns])
        rows = deviations if past is None else np.concatenate([past[1], deviations])
        self._history[asset_id] = (ends[-(count - 1) :].copy(), rows[-(count - 1) :].copy())
        half = (count + 1) // 2
        longest_ns = count * self._spec.step_ns
        stops = _stops(rows)
        newer = _sums(rows, ends, stops, len(end_ns), range(half), longest_ns)
        older = _sums(rows, ends, stops, len(end_ns), range(half, count), longest_ns)
        mean = _divide(newer[0] + older[0], newer[1] + older[1])
        trend = _divide(*newer) - _divide(*older)
        return np.concatenate([deviations, mean, trend], axis=1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class _Saved:
    width: int
    history: dict[str, tuple[bytes, bytes]]


def _stops(rows: Float32Array) -> Int64Array:
    """Return how many stops there were up to each row."""
    silent = np.asarray(~np.isfinite(rows).any(axis=1), np.bool_)
    stop = silent.copy()
    for lag in range(1, STOP_WINDOWS):
        stop[lag:] &= silent[:-lag]
        stop[:lag] = False
    return np.cumsum(stop)


def _sums(
    rows: Float32Array, ends: Int64Array, stops: Int64Array, newest: int, back: range, longest_ns: int
) -> tuple[FloatArray, FloatArray]:
    """Return, for each of the *newest* rows, sum and number of the finite values of the rows *back* before it.

    The order of the additions is fixed, so that the same history gives the same bits in any number of calls.
    """
    total, number = np.zeros((newest, rows.shape[1])), np.zeros((newest, rows.shape[1]))
    present = np.isfinite(rows)
    filled = np.where(present, rows, 0.0)
    first = len(rows) - newest
    for lag in back:
        start = max(first, lag)
        if start >= len(rows):
            break
        past = slice(start - lag, len(rows) - lag)
        near: BoolArray = (ends[start:] - ends[past] < longest_ns) & (stops[start:] == stops[past])
        total[start - first :] += filled[past] * near[:, None]
        number[start - first :] += present[past] & near[:, None]
    return total, number


def _divide(total: FloatArray, number: FloatArray) -> FloatArray:
    return np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
