"""What the models of a class learn from: prepared windows, row by row, with what is known of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.features.baseline import Baseline
from models.features.specification import FeatureSpecification
from models.records import BoolArray, FloatArray, Int64Array
from models.scoring import Prepared, prepare_table

UNKNOWN = -1


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Windows of training assets, by asset and time, one life of an asset after the other.

    Attributes:
        spec: Of the features.
        baseline: What is ordinary.
        modes: ``normal``, then the failure modes that occur.
        asset_ids: Each asset's name.
        asset: Index into ``asset_ids``, shape ``(n,)``.
        end_ns: End of the window, shape ``(n,)``.
        good_share: Share of good observations, 0 to 1, shape ``(n,)``.
        life: Number of the life, from 0, rising, shape ``(n,)``: windows of one asset between commissioning or repair
            and the next repair.
        event: Number of the failure that ended the life, `UNKNOWN` where none did (or its time is not known),
            shape ``(n,)``.
        mode: Place in ``modes`` of what the window shows, `UNKNOWN` where nobody knows, shape ``(n,)``.
        life_h: Hours to that failure, capped, NaN where there is none, shape ``(n,)``.
        prepared: What models are given, rows as above.
    """

    spec: FeatureSpecification
    baseline: Baseline
    modes: tuple[str, ...]
    asset_ids: tuple[str, ...]
    asset: Int64Array
    end_ns: Int64Array
    good_share: FloatArray
    life: Int64Array
    event: Int64Array
    mode: Int64Array
    life_h: FloatArray
    prepared: Prepared

    def __len__(self) -> int:
        return len(self.end_ns)

    def take(self, rows: BoolArray | NDArray[np.intp]) -> Lesson:
        """Return the given *rows*; they look back as far as before, also to rows that are not among them."""
        return replace(
            self,
            asset=self.asset[rows],
            end_ns=self.end_ns[rows],
            good_share=self.good_share[rows],
            life=self.life[rows],
            event=self.event[rows],
            mode=self.mode[rows],
            life_h=self.life_h[rows],
            prepared=self.prepared.take(rows),
        )

    def with_modes_seen(self) -> Lesson:
        """Return the same with only those failure modes that its windows show."""
        seen = tuple(mode for number, mode in enumerate(self.modes) if number == 0 or (self.mode == number).any())
        places = np.array([seen.index(mode) if mode in seen else UNKNOWN for mode in (*self.modes, "")], np.int64)
        return replace(self, modes=seen, mode=places[self.mode])

    def cut(self, seed: int, *, shortest: int, longest: int, sequences: bool = True) -> Lesson:
        """Return the same windows, as a gateway sees them that was put in, or lost its memory, in the midst of a life.

        Each life falls into stretches, and the history of a window reaches back to the start of its stretch. Stretches
        have *shortest* to *longest* windows, evenly on a logarithmic scale (the first one of a life, begun anywhere,
        and the last may have fewer).

        Args:
            seed: Of the draws.
            shortest: Windows, 1 or more.
            longest: Windows, *shortest* or more.
            sequences: Whether to make sequences too.

        Raises:
            ValueError: If the lengths are not as they should be.
        """
        stretch = stretches(self.life, np.random.default_rng(seed), shortest=shortest, longest=longest)
        names = [self.asset_ids[place] for place in self.asset[_firsts(stretch)].tolist()]
        prepared = prepare_table(
            self.spec,
            self.baseline,
            names,
            stretch,
            self.end_ns,
            self.prepared.features,
            whole=False,
            sequences=sequences and bool(self.spec.history.sequence_windows),
        )
        return replace(self, prepared=prepared)


def stretches(life: Int64Array, rng: np.random.Generator, *, shortest: int, longest: int) -> Int64Array:
    """Return the number of the stretch, from 0, that each window falls into, shape ``(n,)``.

    Args:
        life: Number of each window's life, rising, shape ``(n,)``.
        rng: Draws the lengths.
        shortest: Of a stretch, in windows.
        longest: The same.
    """
    if not 1 <= shortest <= longest:
        raise ValueError(
            f"stretches of {shortest} to {longest} windows: the first must be 1 or more, the second not less"
        )
    begins = np.zeros(len(life), np.bool_)
    firsts = _firsts(life)
    begins[firsts] = True
    for first, last in zip(firsts.tolist(), [*firsts[1:].tolist(), len(life)], strict=True):
        most = (last - first) // shortest + 2
        lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest + 1), most)).astype(np.int64)
        lengths[0] = max(int(lengths[0] * rng.random()), 1)
        cuts = first + np.cumsum(lengths)
        begins[cuts[cuts < last]] = True
    return np.asarray(np.cumsum(begins) - 1, np.int64)


def _firsts(number: Int64Array) -> Int64Array:
    """Return the first row of each run of the same *number*."""
    return np.flatnonzero(np.diff(number, prepend=-1) != 0).astype(np.int64)
