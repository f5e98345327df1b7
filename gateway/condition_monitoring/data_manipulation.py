"""Block two: from observations to what the models look at, by the live bundle's specification."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec
import numpy as np

from models.bundle.loaded import LoadedBundle
from models.features.baseline import deviations
from models.features.context import Context
from models.features.windows import Window, Windower
from models.records import FloatArray, Int64Array, Observations
from models.scoring import Prepared, prepare


@dataclass(kw_only=True)
class SavedManipulation:
    """What the next windows depend on. Of past windows it keeps the features, which no baseline has touched."""

    windower: bytes
    history: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)


class Manipulator:
    """Windows, features and context of one asset class.

    Args:
        bundle: Its specification says how windows are cut, its baseline what is ordinary.
        asset_ids: The assets of the class on this gateway.
    """

    def __init__(self, bundle: LoadedBundle, asset_ids: Collection[str]) -> None:
        self._bundle = bundle
        self._spec = bundle.specification
        self._windower = Windower(self._spec, asset_ids)
        self._context = Context(self._spec)
        self._history: dict[str, tuple[Int64Array, FloatArray]] = {}

    def manipulate(self, observations: Observations) -> tuple[list[Window], Prepared]:
        """Return the windows that *observations* close, by end, then by asset, and what the models take of them."""
        windows = self._windower.push(observations)
        prepared = prepare(self._spec, self._bundle.baseline, self._context, windows)
        self._remember(windows, prepared.features)
        return windows, prepared

    @property
    def past_ns(self) -> int:
        """How much of the past `prime` can use, in ns: the open windows, and those the context looks back on."""
        spec = self._spec
        return spec.window_ns + spec.late_ns + spec.history.rolling[-1] * spec.step_ns

    def prime(self, observations: Observations) -> None:
        """Take *observations* of the past: nothing is told of the windows they close, but later ones know them."""
        self.manipulate(observations)

    def state(self) -> bytes:
        """Return what `restore` needs to go on from here."""
        history = {asset_id: (ends.tobytes(), rows.tobytes()) for asset_id, (ends, rows) in self._history.items()}
        return msgspec.msgpack.encode(SavedManipulation(windower=self._windower.state(), history=history))

    def restore(self, state: bytes) -> None:
        """Go on where the manipulator that gave *state* was, under this bundle's baseline.

        Raises:
            FeatureError: If the state is of other windows.
        """
        saved = msgspec.msgpack.decode(state, type=SavedManipulation)
        self._windower.restore(saved.windower)
        for asset_id, (ends, rows) in saved.history.items():
            end_ns = np.frombuffer(ends, np.int64)
            features = np.frombuffer(rows, np.float64).reshape(len(end_ns), -1)
            self._history[asset_id] = (end_ns, features)
            asset_ids = [asset_id] * len(end_ns)
            self._context.inputs(asset_ids, end_ns, deviations(features, asset_ids, self._bundle.baseline))

    def _remember(self, windows: list[Window], features: FloatArray) -> None:
        """Keep as many windows of each asset as the context looks back."""
        rows_of: dict[str, list[int]] = {}
        for row, window in enumerate(windows):
            rows_of.setdefault(window.asset_id, []).append(row)
        kept = self._spec.history.rolling[-1] - 1
        for asset_id, rows in rows_of.items():
            ends = np.array([windows[row].end_ns for row in rows], np.int64)
            past = self._history.get(asset_id, (np.empty(0, np.int64), np.empty((0, features.shape[1]))))
            self._history[asset_id] = (
                np.concatenate([past[0], ends])[-kept:],
                np.concatenate([past[1], features[rows]])[-kept:],
            )
