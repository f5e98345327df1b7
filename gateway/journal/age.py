"""How long a journal has been open in all: the age by which it gives up what is old.

The wall clock may be set by an hour or a year, and nothing may be purged for that. Time that nobody ran does not count.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable


class RunningTime:
    """Seconds of running, counted by a clock that nobody sets; what a kill loses of it makes nothing older."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float] = time.monotonic) -> None:
        """Go on from what the journal behind *connection* says."""
        self._connection = connection
        self._clock = clock
        (self._before_s,) = connection.execute("SELECT age_s FROM journal").fetchone()
        self._start_s = self._saved_s = clock()

    @property
    def now_s(self) -> float:
        """The age now."""
        return float(self._before_s) + self._clock() - self._start_s

    @property
    def unsaved_s(self) -> float:
        """How long ago it was written."""
        return self._clock() - self._saved_s

    def save(self) -> None:
        """Write the age; inside the caller's transaction."""
        self._saved_s = self._clock()
        self._connection.execute("UPDATE journal SET age_s = ?", (self.now_s,))
