"""When raw data may be sent: spans of the day by the gateway's local time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from gateway.config import time_of_day_span

_DAY_MINUTES = 24 * 60


class Schedule:
    """The spans of the day in which raw data may be sent; none named, always.

    Raises:
        ValueError: If a span is not written like ``22:00-06:00``.
    """

    def __init__(self, spans: Sequence[str]) -> None:
        self._spans = tuple(time_of_day_span(text) for text in spans)

    def is_open(self, now: datetime) -> bool:
        """Return whether raw data may be sent at *now*, a local time."""
        minute = 60 * now.hour + now.minute
        return not self._spans or any(_within(minute, *span) for span in self._spans)

    def next_opening(self, now: datetime) -> datetime | None:
        """Return when raw data may be sent next, or None when it may be now."""
        if self.is_open(now):
            return None
        minute = 60 * now.hour + now.minute
        wait = min((start - minute) % _DAY_MINUTES for start, _ in self._spans)
        return now.replace(second=0, microsecond=0) + timedelta(minutes=wait)


def _within(minute: int, start: int, end: int) -> bool:
    return start <= minute < end if start < end else minute >= start or minute < end
