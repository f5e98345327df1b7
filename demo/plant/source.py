"""Where a cell's observations come from: the simulator here, recorded data in ``replay``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

import numpy as np

from demo.plant.faults import Fault
from demo.plant.fleet import LIVE_START_NS, PLANT_START_NS
from demo.plant.simulator import DAY_NS, SECOND_NS, Asset, simulate
from models.records import Channel, Observations, Stream, from_ns


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine as its name plate and its channels describe it, and when its life began, where that is known."""

    asset_id: str
    asset_class: str
    channels: tuple[Channel, ...]
    manufacturer: str
    model: str
    serial_number: str
    in_service_since: datetime | None = None


class Source(Protocol):
    """Observations of a cell's machines over source time, in ns since 1970 UTC.

    ``first`` up to ``live_start`` is history when the server starts; from there on values come live, up to
    ``end``, or for ever where that is None.
    """

    machines: tuple[Machine, ...]
    first: int
    live_start: int
    end: int | None

    def observations(self, start_ns: int, end_ns: int) -> Observations:
        """Return the rows with ``start_ns <= source_time < end_ns``, by time; streams as ``streams_of`` has them."""
        ...

    def truth(self, until_ns: int) -> dict[str, Any]:
        """Return what is true of the machines, ready for JSON: ``faults`` and ``severity``, up to *until_ns*."""
        ...


def streams_of(machines: Sequence[Machine]) -> tuple[Stream, ...]:
    """Return all streams of *machines* in their fixed order."""
    return tuple(Stream(machine.asset_id, channel.name) for machine in machines for channel in machine.channels)


MODELS: Final = {"centrifugal_pump": ("Aquaflux", "AX 80-200"), "spindle_drive": ("Rotara", "HS-7200")}


class SimulatorSource:
    """The simulated plant."""

    def __init__(
        self, assets: Sequence[Asset], *, first: int = PLANT_START_NS, live_start: int = LIVE_START_NS, end: int | None
    ) -> None:
        self.machines = tuple(_machine(asset) for asset in assets)
        self.first, self.live_start, self.end = first, live_start, end
        self._assets = tuple(assets)

    def observations(self, start_ns: int, end_ns: int) -> Observations:
        """Return the rows of a span; see ``Source``."""
        whole = Observations.concatenate([simulate(asset, start_ns, end_ns) for asset in self._assets])
        ordered = whole.take(np.lexsort((whole.stream, whole.source_time)))
        # An empty span names no streams; the table stays the same all the same.
        return ordered if len(ordered) else replace(ordered, streams=streams_of(self.machines))

    def truth(self, until_ns: int) -> dict[str, Any]:
        """Return faults and hourly severities; see ``Source``."""
        hours = np.arange(self.first, until_ns, 3600 * SECOND_NS, dtype=np.int64)
        return {
            "source": "simulator",
            "live_start": from_ns(self.live_start).isoformat(),
            "faults": [fault_record(fault) for asset in self._assets for fault in asset.faults],
            "severity": {
                asset.asset_id: {
                    "time_ns": hours.tolist(),
                    "severity": np.round(
                        sum((f.severity(hours) for f in asset.faults), np.zeros(len(hours))), 6
                    ).tolist(),
                }
                for asset in self._assets
            },
        }


def live_end(days: float | None) -> int | None:
    """Return when the simulated plant ends that lives for *days* after commissioning."""
    return None if days is None else LIVE_START_NS + int(days * DAY_NS)


def fault_record(fault: Fault) -> dict[str, str]:
    """Return *fault* as JSON tells it, times in ISO 8601."""
    return {
        "asset": fault.asset_id,
        "mode": fault.mode,
        "onset": from_ns(fault.onset).isoformat(),
        "failure": from_ns(fault.failure).isoformat(),
        "repaired": from_ns(fault.repaired).isoformat(),
    }


def _machine(asset: Asset) -> Machine:
    manufacturer, model = MODELS[asset.asset_class]
    return Machine(
        asset_id=asset.asset_id,
        asset_class=asset.asset_class,
        channels=asset.channels,
        manufacturer=manufacturer,
        model=model,
        serial_number=f"{asset.seed:04d}-{asset.asset_id}",
    )
