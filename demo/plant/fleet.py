"""The demo's machines and what befalls them, and the fleet's earlier records.

This is the one place where the demo's faults are decided. Ten healthy days of commissioning come first; then
each fault of the live fleet has its slot, inside which the seed moves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np

from demo.plant.channels import FAILURE_MODES
from demo.plant.conditions import generator
from demo.plant.faults import Fault
from demo.plant.simulator import DAY_NS, SECOND_NS, Asset
from models.records import to_ns

PLANT_START_NS: Final = to_ns(datetime(2026, 3, 2, tzinfo=UTC))
COMMISSIONING_DAYS: Final = 10
LIVE_START_NS: Final = PLANT_START_NS + COMMISSIONING_DAYS * DAY_NS
ARCHIVE_START_NS: Final = to_ns(datetime(2026, 1, 5, tzinfo=UTC))
HOUR_NS: Final = 3600 * SECOND_NS

CELLS: Final[dict[str, tuple[str, ...]]] = {
    "cell-1": ("pump-01", "pump-02", "pump-03", "spindle-01", "spindle-02", "spindle-03"),
    "cell-2": ("pump-04", "pump-05", "pump-06", "spindle-04", "spindle-05", "spindle-06"),
}

SLOTS: Final[dict[str, tuple[str, float]]] = {
    # Asset: failure mode and the live day on which the machine fails, give or take a quarter.
    "spindle-01": ("tool_wear", 4.6),
    "pump-05": ("imbalance", 5.3),
    "pump-02": ("cavitation", 6.0),
    "spindle-04": ("bearing_outer_race", 6.7),
    "pump-04": ("seal_leak", 7.4),
    "spindle-02": ("cooling_loss", 8.0),
    "pump-01": ("bearing_outer_race", 8.6),
    "spindle-05": ("imbalance", 9.1),
}


@dataclass(frozen=True, kw_only=True)
class Life:
    """One asset's recorded life: ``start <= source_time < end``, ns; it ends by its fault or is simply cut."""

    asset: Asset
    start: int
    end: int


def class_of(asset_id: str) -> str:
    """Return the asset class that the name of one of the plant's machines says."""
    return "centrifugal_pump" if asset_id.startswith("pump-") else "spindle_drive"


def demo_fleet(seed: int, cell: str | None = None) -> tuple[Asset, ...]:
    """Return the twelve machines of the demo, or those of one *cell*, with their faults.

    Raises:
        ValueError: If there is no such cell.
    """
    if cell is not None and cell not in CELLS:
        raise ValueError(f"cell {cell!r}: the plant has {', '.join(CELLS)}; nothing is started")
    names = [name for key, members in CELLS.items() if cell in (None, key) for name in members]
    return tuple(
        Asset(asset_id=name, asset_class=class_of(name), seed=seed, faults=_live_faults(name, seed)) for name in names
    )


def _live_faults(asset_id: str, seed: int) -> tuple[Fault, ...]:
    if asset_id not in SLOTS:
        return ()
    mode, day = SLOTS[asset_id]
    draw = generator(seed, asset_id, "fault")
    failure = LIVE_START_NS + int((day + draw.uniform(-0.25, 0.25)) * 24) * HOUR_NS
    onset = failure - int(draw.uniform(3.4, 4.0) * 24) * HOUR_NS
    repaired = failure + int(draw.integers(8, 15)) * HOUR_NS
    return (Fault(asset_id=asset_id, mode=mode, onset=onset, failure=failure, repaired=repaired),)


def archive_assets(asset_class: str, n: int, seed: int) -> tuple[Life, ...]:
    """Return *n* earlier lives of *asset_class*, 12 to 16 days each, run to failure but for one in four.

    The failure modes take turns, each life fails at its own time after at least eight healthy days, and a record
    that ends in failure ends with it. Names are ``pump-a01``... and ``spindle-a01``...
    """
    prefix = "pump" if asset_class == "centrifugal_pump" else "spindle"
    modes = FAILURE_MODES[asset_class]
    lives: list[Life] = []
    failing = 0
    for number in range(1, n + 1):
        asset_id = f"{prefix}-a{number:02d}"
        draw = generator(seed, asset_id, "life")
        start = ARCHIVE_START_NS + int(draw.integers(0, 20 * 24)) * HOUR_NS
        end = start + int(draw.integers(12 * 24, 16 * 24 + 1)) * HOUR_NS
        faults: tuple[Fault, ...] = ()
        if number % 4:
            onset = end - int(np.clip(draw.uniform(3.0, 4.6), 0.0, (end - start) / DAY_NS - 8.0) * 24) * HOUR_NS
            mode = modes[failing % len(modes)]
            faults = (Fault(asset_id=asset_id, mode=mode, onset=onset, failure=end, repaired=end + 10 * HOUR_NS),)
            failing += 1
        asset = Asset(asset_id=asset_id, asset_class=asset_class, seed=seed, faults=faults)
        lives.append(Life(asset=asset, start=start, end=end))
    return tuple(lives)
