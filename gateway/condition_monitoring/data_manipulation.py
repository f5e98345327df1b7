"""Block two: from observations to what the models look at, by the live bundle's specification."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from models.bundle.loaded import LoadedBundle
from models.features.history import Histories
from models.features.specification import FeatureError
from models.features.windower import Windower
from models.features.windows import Windows
from models.records import UNDECODABLE, Observations
from models.scoring import Prepared, prepare


@dataclass(kw_only=True)
class SavedManipulation:
    """What the next windows and inputs depend on; no baseline has touched it.

    ``feature_hash`` says by which code and specification the features in it were computed.
    """

    feature_hash: str
    windower: bytes
    histories: bytes


class Manipulator:
    """Windows, features and histories of one asset class.

    Args:
        bundle: Its specification says how windows are cut, its baseline what is ordinary.
        asset_ids: The assets of the class on this gateway.
    """

    def __init__(self, bundle: LoadedBundle, asset_ids: Collection[str]) -> None:
        self._bundle = bundle
        self._windower = Windower(bundle.specification, asset_ids)
        self._histories = Histories(bundle.specification)

    def manipulate(self, observations: Observations) -> tuple[Windows, Prepared]:
        """Return the windows that *observations* close, by end, then by asset, and what the models take of them."""
        windows = self._windower.push(observations)
        return windows, prepare(self._bundle.specification, self._bundle.baseline, self._histories, windows)

    def begin_life(self, asset_id: str, start_ns: int) -> None:
        """Begin a life of *asset_id*, commissioned or repaired at *start_ns*; see ``Histories.begin_life``."""
        self._histories.begin_life(asset_id, start_ns)

    @property
    def past_ns(self) -> int:
        """How much of the past `prime` can use, in ns: the open windows, and those that are remembered one by one."""
        spec = self._bundle.specification
        return spec.window_ns + spec.late_ns + (spec.history.kept_windows + 1) * spec.step_ns

    def prime(self, observations: Observations) -> None:
        """Take *observations* of the past: nothing is told of the windows they close, but later ones know them."""
        self.manipulate(observations)

    def state(self) -> bytes:
        """Return what `restore` needs to go on from here."""
        return msgspec.msgpack.encode(
            SavedManipulation(
                feature_hash=self._bundle.manifest.feature_hash,
                windower=self._windower.state(),
                histories=self._histories.state(),
            )
        )

    def restore(self, state: bytes) -> None:
        """Go on where the manipulator that gave *state* was, under this bundle's baseline.

        Raises:
            FeatureError: If the state is of other windows or features, or does not decode.
        """
        try:
            saved = msgspec.msgpack.decode(state, type=SavedManipulation)
        except UNDECODABLE as error:
            raise FeatureError(f"saved windows and histories do not decode ({error}); start anew") from error
        if saved.feature_hash != self._bundle.manifest.feature_hash:
            raise FeatureError("saved windows and histories are of other features; start anew")
        self._windower.restore(saved.windower)
        self._histories.restore(saved.histories)
