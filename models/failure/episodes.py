"""Alarms out of windows: raised after some flagged in a row, gone after some unflagged in a row, as gateways do it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.records import BoolArray, Int64Array


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """Alarms, by asset and time: the rows at which each was raised and went, shape ``(alarms,)`` both.

    Attributes:
        raised: The row whose window raised it.
        gone: The last row at which it still stood.
    """

    raised: Int64Array
    gone: Int64Array

    def __len__(self) -> int:
        return len(self.raised)


def episodes_of(flagged: BoolArray, asset: Int64Array, *, on_delay: int, off_delay: int) -> Episodes:
    """Return the alarms that *flagged* windows make.

    Args:
        flagged: By asset and time, shape ``(n,)``.
        asset: The asset of each window, shape ``(n,)``; an alarm ends with its asset's record.
        on_delay: Windows in a row that raise one, 1 or more.
        off_delay: Windows in a row without that end it, 1 or more.
    """
    raised: list[int] = []
    gone: list[int] = []
    changes = np.flatnonzero((np.diff(flagged) != 0) | (np.diff(asset) != 0)) + 1
    firsts = np.concatenate([[0], changes])[: len(flagged)]
    lasts = np.concatenate([changes, [len(flagged)]])
    standing, owner = False, -1
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=False):
        if asset[first] != owner:
            standing, owner = False, int(asset[first])
        long_enough = last - first >= (on_delay if flagged[first] else off_delay)
        if flagged[first]:
            if standing:
                gone[-1] = last - 1
            elif long_enough:
                standing = True
                raised.append(first + on_delay - 1)
                gone.append(last - 1)
        elif long_enough:
            standing = False
    return Episodes(raised=np.array(raised, np.int64), gone=np.array(gone, np.int64))
