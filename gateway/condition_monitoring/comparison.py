"""A bundle beside the one it replaced: what both say of the same observations, from the switch on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.records import State, Zone

COMPARED_WINDOWS = 1000  # then the replaced bundle is let go; a rollout is judged by far fewer


@dataclass(kw_only=True)
class Comparison:
    """How the live bundle and the one it replaced judge what came since; saved with the journal position.

    Windows counted before the switch would not do: they lie in another time of the plant, and there are none after a
    rollback. What counts is what people would be told: a window out of normal is one only from the on-delay on, and
    a shorter excursion, which raises no advisory, counts as normal.

    Attributes:
        replaced_version: The bundle that was live before.
        manipulator: Its open windows, and the features of its last ones.
        live: Windows by zone as the live bundle finds them.
        replaced: As the replaced one does. Where both cut windows alike, they are the same windows.
        live_runs: By asset, how many windows in a row the live bundle has found out of normal by now.
        replaced_runs: As the replaced one does.
    """

    replaced_version: int
    manipulator: bytes = b""
    live: dict[str, int] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)
    live_runs: dict[str, int] = field(default_factory=dict)
    replaced_runs: dict[str, int] = field(default_factory=dict)

    def add_live(self, states: Sequence[State], on_delay_windows: int) -> None:
        """Count what the live bundle, of this on-delay, says."""
        _count_lasting(self.live, self.live_runs, states, on_delay_windows)

    def add_replaced(self, states: Sequence[State], on_delay_windows: int) -> None:
        """Count what the replaced one says."""
        _count_lasting(self.replaced, self.replaced_runs, states, on_delay_windows)

    @property
    def enough(self) -> bool:
        """Whether nothing more need be counted."""
        return min(sum(self.live.values()), sum(self.replaced.values())) >= COMPARED_WINDOWS


def _count_lasting(
    counts: dict[str, int], runs: dict[str, int], states: Sequence[State], on_delay_windows: int
) -> None:
    """Add *states*, in order of time for each asset, to *counts*; *runs* are carried on."""
    for state in states:
        out = state.zone in {Zone.WARNING, Zone.ALARM}
        # A window that nobody can judge neither ends an excursion nor makes it longer.
        if state.zone is not Zone.UNKNOWN:
            runs[state.asset_id] = runs.get(state.asset_id, 0) + 1 if out else 0
        zone = Zone.NORMAL if out and runs[state.asset_id] < on_delay_windows else state.zone
        counts[zone] = counts.get(zone, 0) + 1


def count(counts: dict[str, int], states: Sequence[State]) -> None:
    """Add *states* to *counts* by zone."""
    for state in states:
        counts[state.zone] = counts.get(state.zone, 0) + 1
