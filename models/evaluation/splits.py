"""Which assets are held out. An asset is held out whole or not at all: its windows are no independent rows."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping

HELD_OUT_SHARE = 0.3
# Fewer assets than this of one failure mode, and all of them are needed to learn it.
_LEAST_TO_HOLD_OUT = 3


def held_out_assets(modes: Mapping[str, str | None], *, share: float = HELD_OUT_SHARE) -> frozenset[str]:
    """Return the assets to hold out.

    The hash of its name decides an asset's side, so it stays there in the next training whatever else joins the
    fleet. Then each failure mode that at least three assets have gets one held-out asset if it has none, and keeps
    one to learn from if it would lose all.

    Args:
        modes: The failure mode of each asset, None for one that has not failed.
        share: Of the assets, 0 to 1, to hold out.
    """
    by_mode: defaultdict[str, list[str]] = defaultdict(list)
    for asset_id, mode in modes.items():
        by_mode[mode or ""].append(asset_id)
    held_out: set[str] = set()
    for members in by_mode.values():
        ranked = sorted(members, key=_position)
        chosen = [asset_id for asset_id in ranked if _position(asset_id) < share]
        if len(ranked) >= _LEAST_TO_HOLD_OUT:
            chosen = (chosen or ranked[:1])[: len(ranked) - 1]
        elif len(chosen) == len(ranked):
            chosen = []
        held_out.update(chosen)
    return frozenset(held_out)


def _position(asset_id: str) -> float:
    """Return where *asset_id* lies between 0 and 1, for ever."""
    return int.from_bytes(hashlib.sha256(asset_id.encode()).digest()[:8], "big") / 2**64
