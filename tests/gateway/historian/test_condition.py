"""What the historian's condition tells people."""

from __future__ import annotations

import time

import pytest

from gateway.historian import HistorianCondition


def test_an_outage_is_told_and_counted_once() -> None:
    """However often it is tried in between; before the first answer it is none."""
    condition = HistorianCondition()
    for trouble in ("refused", "", "gone", "gone", ""):
        condition.answered(trouble)
    assert (condition.outages, condition.connected, condition.warnings) == (1, True, ())
    condition.pending_pages = 3
    condition.answered("HTTP 503: busy")
    assert condition.warnings == ("historian down: HTTP 503: busy; 3 pages wait in the journal",)


def test_the_lag_is_that_of_the_oldest_page() -> None:
    """Also when the clock was set back meanwhile."""
    condition = HistorianCondition()
    assert condition.lag_s == 0.0
    condition.oldest_pending_ns = time.time_ns() - 5 * 10**9
    assert 5.0 <= condition.lag_s < 60.0
    condition.oldest_pending_ns = time.time_ns() + 10**15
    assert condition.lag_s == 0.0


def test_a_refusal_is_a_warning_for_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count stays."""
    condition = HistorianCondition()
    condition.answered()
    condition.refuse("beyond retention", 3)
    assert len(condition.warnings) == 1
    later_s = time.monotonic() + 3601.0
    monkeypatch.setattr("gateway.historian.condition.time.monotonic", lambda: later_s)
    assert not condition.warnings
    assert condition.refused == {"beyond retention": 3}
