"""One line of a benchmark: ours beside a reference, in one run on one machine; and how lines are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of a benchmark: ours beside the reference, in one run. ``ratio`` is ours over the reference."""

    measure: str
    unit: str
    ours: float
    reference: float
    reference_name: str
    ratio: float


def compared(measure: str, ours: float, reference: float, reference_name: str, unit: str) -> Measurement:
    """Return the line for *ours* beside *reference*, in four digits."""
    rounded = [float(f"{value:.4g}") for value in (ours, reference, ours / reference)]
    return Measurement(
        measure=measure,
        unit=unit,
        ours=rounded[0],
        reference=rounded[1],
        reference_name=reference_name,
        ratio=rounded[2],
    )


def tell(found: Sequence[Measurement], *, as_json: bool) -> None:
    """Print *found* as a table, or as a JSON list."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    width = max((len(line.measure) for line in found), default=0)
    for line in found:
        ours, reference = (f"{value:,.0f}" if value >= 1000 else f"{value:g}" for value in (line.ours, line.reference))
        print(f"{line.measure:<{width}}  {ours:>11} {line.unit}  ({line.ratio:g} x {reference}, {line.reference_name})")
