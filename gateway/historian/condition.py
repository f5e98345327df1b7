"""How the historian is: what ``/health`` and ``/metrics`` tell of it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

_NOT_YET = "not connected yet"
_LATELY_S = 3600.0
_SLOW_S = 5.0  # so long without an answer is told, whether or not it still comes


@dataclass
class HistorianCondition:
    """What the historian's writer last knew. ``written + sum(refused)`` are all points it is done with.

    Attributes:
        connected: Whether the server took what it was sent last.
        written: Points the server has stored since the start; an observation is one point.
        refused: Points it will not have, by reason: ``beyond retention``, ``field type conflict``, ``too large``,
            ``not understood``. They stay in the journal.
        pending_pages: Pages of the journal that are not in the historian.
        outages: Times the server stopped taking points.
        went_back: Times it had lost what it had stored, so that it was written again.
        oldest_pending_ns: When the oldest of them that is being written was committed, or None.
    """

    connected: bool = False
    written: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    pending_pages: int = 0
    outages: int = 0
    went_back: int = 0
    oldest_pending_ns: int | None = None
    _trouble: str = _NOT_YET
    _refused_s: dict[str, float] = field(default_factory=dict)
    _asked_s: float | None = None

    @property
    def trouble(self) -> str:
        """What keeps the server from taking points, empty when nothing does."""
        waited_s = 0.0 if self._asked_s is None else time.monotonic() - self._asked_s
        return f"no answer for {waited_s:.0f} s" if waited_s > _SLOW_S and not self._trouble else self._trouble

    @property
    def lag_s(self) -> float:
        """How long ago the oldest page was committed that is not in the historian; 0 when none is left out."""
        return 0.0 if self.oldest_pending_ns is None else max(time.time_ns() - self.oldest_pending_ns, 0) / 1e9

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should look at, one sentence each."""
        found = []
        if self.trouble and (self.pending_pages or self._trouble != _NOT_YET):
            found.append(f"historian down: {self.trouble}; {self.pending_pages} pages wait in the journal")
        lately_s = time.monotonic() - _LATELY_S
        found += [
            f"historian refused {self.refused[reason]} points ({reason}); they are in the journal alone"
            for reason, last_s in sorted(self._refused_s.items())
            if last_s > lately_s
        ]
        return tuple(found)

    def refuse(self, reason: str, count: int) -> None:
        """Note that the server will not have *count* points, for *reason*; it is a warning for an hour."""
        self.refused[reason] += count
        self._refused_s[reason] = time.monotonic()

    def asked(self) -> None:
        """Note that a request went out."""
        self._asked_s = time.monotonic()

    def answered(self, trouble: str = "") -> None:
        """Note that the server answered, or that it did not, with *trouble*."""
        self._asked_s = None
        self.outages += bool(trouble) and self.connected
        self.connected, self._trouble = not trouble, trouble
