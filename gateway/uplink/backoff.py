"""How long to wait before the cloud is tried again."""

from __future__ import annotations

import random


class Backoff:
    """Waits that double from *least_s* to *most_s*, each drawn from zero to that: *full jitter*.

    Gateways that lost the same cloud at the same moment must not come back at the same moment.

    Source:
        M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._next_s = least_s

    def reset(self) -> None:
        """Begin anew: something was taken."""
        self._next_s = self._least_s

    def wait_s(self, asked_s: float = 0.0) -> float:
        """Return how many seconds to wait now; never less than the other side *asked* for."""
        drawn = random.uniform(0.0, self._next_s)  # noqa: S311 - no secret
        self._next_s = min(2 * self._next_s, self._most_s)
        return asked_s + drawn
