"""When raw data may be sent."""

from __future__ import annotations

from datetime import datetime

import pytest

from gateway.uplink.schedule import Schedule


def at(text: str) -> datetime:
    """Return the local time *text* of some day."""
    return datetime.fromisoformat(f"2026-03-04T{text}").astimezone()


@pytest.mark.parametrize(
    ("spans", "moment", "is_open"),
    [
        ([], "12:00", True),
        (["22:00-06:00"], "23:59", True),
        (["22:00-06:00"], "05:59:59", True),
        (["22:00-06:00"], "06:00", False),
        (["22:00-06:00"], "21:59:59", False),
        (["12:00-13:00", "20:00-24:00"], "23:59", True),
        (["12:00-13:00", "20:00-24:00"], "00:00", False),
        (["12:00-13:00", "20:00-24:00"], "12:30", True),
    ],
)
def test_spans_of_the_day(spans: list[str], moment: str, *, is_open: bool) -> None:
    """A span holds its first minute and not its last; it may go past midnight; none named is always."""
    assert Schedule(spans).is_open(at(moment)) is is_open


@pytest.mark.parametrize(
    ("moment", "opening"), [("06:00:30", "12:00"), ("13:00", "22:00"), ("21:59", "22:00"), ("12:15", None)]
)
def test_the_next_opening_is_told(moment: str, opening: str | None) -> None:
    """The nearest of the spans that begins after now; none while one is open."""
    expected = None if opening is None else at(opening)
    assert Schedule(["22:00-06:00", "12:00-13:00"]).next_opening(at(moment)) == expected
