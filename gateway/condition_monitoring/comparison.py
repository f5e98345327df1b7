"""A bundle beside the one it replaced: what both say of the same observations, from the switch on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from models.records import State

COMPARED_WINDOWS = 1000  # then the replaced bundle is let go; a rollout is judged by far fewer


@dataclass(kw_only=True)
class Comparison:
    """How the live bundle and the one it replaced judge what came since; saved with the journal position.

    Windows counted before the switch would not do: they lie in another time of the plant, and there are none after a
    rollback.

    Attributes:
        replaced_version: The bundle that was live before.
        manipulator: Its open windows, and the features of its last ones.
        live: Windows by zone as the live bundle finds them.
        replaced: As the replaced one does. Where both cut windows alike, they are the same windows.
    """

    replaced_version: int
    manipulator: bytes = b""
    live: dict[str, int] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)

    def add(self, live: Sequence[State], replaced: Sequence[State]) -> None:
        """Count what each of the two says."""
        count(self.live, live)
        count(self.replaced, replaced)

    @property
    def enough(self) -> bool:
        """Whether nothing more need be counted."""
        return min(sum(self.live.values()), sum(self.replaced.values())) >= COMPARED_WINDOWS


def count(counts: dict[str, int], states: Sequence[State]) -> None:
    """Add *states* to *counts* by zone."""
    for state in states:
        counts[state.zone] = counts.get(state.zone, 0) + 1
