"""Which time a value gets, and what is told of a server's clock."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from gateway.config import ServerConfig, TimeSource
from gateway.data_acquisition.clock import ClockGuard
from gateway.data_acquisition.columns import Columns
from models.records import to_ns

NOW = to_ns(datetime(2026, 3, 1, 12, tzinfo=UTC))
SECOND = 10**9
RESETS = [datetime(1970, 1, 1, 0, 5, tzinfo=UTC), datetime(2000, 1, 1, 3, tzinfo=UTC)]


def guard(**keys: object) -> ClockGuard:
    return ClockGuard(ServerConfig(name="cell-1", endpoint="opc.tcp://localhost:4840", **keys))  # type: ignore[arg-type]  # as given


def values(source: list[int], server: list[int] | None = None) -> Columns:
    n = len(source)
    return Columns(
        handle=np.arange(n, dtype=np.uint32),
        source_time=np.array(source, np.int64),
        server_time=np.array(server or [0] * n, np.int64),
        value=np.zeros(n),
        status=np.zeros(n, np.uint32),
        sample_count=np.zeros(n, np.uint32),
        samples=np.empty(0, np.float32),
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [(TimeSource.SOURCE, NOW - 5), (TimeSource.SERVER, NOW - 3), (TimeSource.GATEWAY, NOW)],
)
def test_time_is_taken_from_the_chosen_clock(choice: TimeSource, expected: int) -> None:
    """Source, server or arrival, as the server's configuration says."""
    timed = guard(time=choice).timed(values([NOW - 5], [NOW - 3]), NOW)
    assert timed.source_time.tolist() == [expected]


@pytest.mark.parametrize("reset", RESETS, ids=["1970", "2000"])
def test_a_clock_that_starts_anew_times_nothing(reset: datetime) -> None:
    """The server's time takes the place of a source time of 1970 or 2000, and the others keep theirs."""
    checked = guard()
    timed = checked.timed(values([to_ns(reset), NOW - 5], [NOW - 3, NOW - 3]), NOW)
    assert timed.source_time.tolist() == [NOW - 3, NOW - 5]
    assert checked.replaced == 1


def test_where_the_server_was_reset_too_the_arrival_counts() -> None:
    """A device whose every clock says 2000 still gives values in the order in which they came."""
    timed = guard().timed(values([to_ns(RESETS[1])], [to_ns(RESETS[1])]), NOW)
    assert timed.source_time.tolist() == [NOW]


def test_a_source_far_ahead_is_measured_by_the_server_s_clock() -> None:
    """What is ahead of the gateway alone is fine when the server's clock is ahead as well."""
    ahead = NOW + 100 * SECOND
    strict = guard(clock_tolerance_s=10.0)
    assert strict.timed(values([ahead], [NOW]), NOW).source_time.tolist() == [NOW]
    strict.observe(ahead, NOW, NOW)
    assert strict.timed(values([ahead], [NOW]), NOW).source_time.tolist() == [ahead]


def test_without_a_tolerance_every_time_is_taken() -> None:
    """The control: with the check off a time of 1970 stands."""
    unchecked = guard(clock_tolerance_s=0.0)
    assert unchecked.timed(values([1]), NOW).source_time.tolist() == [1]
    assert unchecked.replaced == 0


def test_a_step_of_the_server_s_clock_is_told_once() -> None:
    """The first time told is no step, drift is none; an hour is, and the hour after it stands."""
    clock = guard()
    assert clock.observe(NOW, NOW, NOW + 2) == ""
    assert clock.observe(NOW + 11 * SECOND, NOW + 10 * SECOND, NOW + 10 * SECOND) == ""
    told = clock.observe(NOW + 3620 * SECOND, NOW + 20 * SECOND, NOW + 20 * SECOND)
    assert told.startswith("cell-1: the server's clock went from +1.0 s to +3600.0 s")
    assert clock.observe(NOW + 3630 * SECOND, NOW + 30 * SECOND, NOW + 30 * SECOND) == ""


def test_a_slow_answer_is_no_step() -> None:
    """An answer that took twenty seconds says the time to within ten."""
    clock = guard()
    clock.observe(NOW, NOW, NOW)
    assert clock.observe(NOW + 20 * SECOND, NOW, NOW + 20 * SECOND) == ""
