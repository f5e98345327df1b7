"""Told lives that do not jump up: a machine grows no younger by running, only the estimate of its life scatters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from models.prognosis.life import Life
from models.prognosis.prognoses import PrognosisError
from models.records import UNDECODABLE, FloatArray, Int64Array

_NS_PER_S = 1e9
_MOST_ASSETS = 100_000


class Smoother:
    """Holds each told life to at most the one told before and a given rise since.

    It costs accuracy where an estimate was once too low, as it stays low until the true life has sunk to it; it is
    offered for those to whom a life that jumps is worse. Windows of one asset must come by end.

    Args:
        largest_rise: Seconds by which a told life may rise in a second, 0 or more.

    Example:
        >>> smoother = Smoother(0.0)
        >>> told = Life(life_s=np.array([[5.0, 8.0, 9.0], [6.0, 7.0, 9.0]]), basis=np.array(["a", "a"], object))
        >>> smoother.smooth(["pump", "pump"], np.array([0, 10]), told).life_s.tolist()
        [[5.0, 8.0, 9.0], [5.0, 7.0, 9.0]]
    """

    def __init__(self, largest_rise: float) -> None:
        if not 0.0 <= largest_rise < float("inf"):
            raise PrognosisError(f"a rise of {largest_rise} seconds a second is not one")
        self._rise = largest_rise
        self._last: dict[str, _Told] = {}

    def smooth(self, asset_ids: Sequence[str], end_ns: Int64Array, life: Life) -> Life:
        """Return *life* smoothed, and remember it.

        A window without a prognosis stays without one, and what was told before it is still remembered.

        Args:
            asset_ids: The asset of each window.
            end_ns: The end of each window, shape ``(n,)``.
            life: Of each window.

        Raises:
            PrognosisError: If there would be more than 100,000 assets.
        """
        smoothed: FloatArray = life.life_s.copy()
        for row, (asset_id, end) in enumerate(zip(asset_ids, end_ns.tolist(), strict=True)):
            if not np.isfinite(smoothed[row]).all():
                continue
            last = self._last.get(asset_id)
            if last is not None:
                most = np.array(last.life_s) + self._rise * max(end - last.end_ns, 0) / _NS_PER_S
                smoothed[row] = np.minimum(smoothed[row], most)
            elif len(self._last) >= _MOST_ASSETS:
                raise PrognosisError(f"more than {_MOST_ASSETS} assets; {asset_id} is left out")
            low, middle, high = smoothed[row].tolist()
            self._last[asset_id] = _Told(end_ns=end, life_s=(low, middle, high))
        return Life(life_s=smoothed, basis=life.basis)

    def begin_life(self, asset_id: str) -> None:
        """Forget what was told of *asset_id*: it was repaired."""
        self._last.pop(asset_id, None)

    def state(self) -> bytes:
        """Return what the next told lives depend on, for `restore`."""
        return msgspec.msgpack.encode(self._last)

    def restore(self, state: bytes) -> None:
        """Go on where the smoother that gave *state* was.

        Raises:
            PrognosisError: If it does not decode; nothing has changed then.
        """
        try:
            self._last = msgspec.msgpack.decode(state, type=dict[str, _Told])
        except UNDECODABLE as error:
            raise PrognosisError(f"told lives do not decode ({error}); start anew") from error


@dataclass(frozen=True, kw_only=True)
class _Told:
    end_ns: int
    life_s: tuple[float, float, float]
