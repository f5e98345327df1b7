"""What a technician should do, by failure mode. The texts travel in the bundle."""

from __future__ import annotations

from collections.abc import Sequence

GENERIC = (
    "Inspect the asset at the channels named here, compare with the last inspection, and record what is found; "
    "the failure mode is not known yet."
)

_ACTIONS = {
    "bearing_outer_race": (
        "Listen to and measure the bearing (envelope spectrum at the outer-race frequency), check grease and "
        "temperature; order the bearing and plan its replacement before the earliest end of life."
    ),
    "imbalance": (
        "Measure vibration at running speed in two directions; clean the rotor or impeller, check for lost or loose "
        "parts, and balance it in place."
    ),
    "cavitation": (
        "Check suction pressure, strainer and suction valve; lower the speed or raise the suction head until the noise "
        "ceases, then inspect the impeller for pitting."
    ),
    "seal_leak": (
        "Look for leakage at the shaft seal, check flush flow and seal temperature; replace the mechanical seal at "
        "the next stop and contain the medium until then."
    ),
    "cooling_loss": (
        "Check coolant level, filter and pump, and the hoses to the spindle; clean or replace what is blocked before "
        "running under load again."
    ),
    "tool_wear": "Change the tool at the next part change, check its holder, and reset the tool's life counter.",
    "hpc_degradation": "Plan a borescope inspection of the high-pressure compressor and wash or overhaul it.",
}


def actions_for(modes: Sequence[str]) -> dict[str, str]:
    """Return the recommended action of each failure mode in *modes*, and of ``unclassified``."""
    return {mode: _ACTIONS.get(mode, GENERIC) for mode in (*modes, "unclassified") if mode != "normal"}
