"""Whether a quiet tag lives, is not reported any more, or is gone."""

from __future__ import annotations

import numpy as np
import pytest
from asyncua import ua

from gateway.config import Deadband, Mode, Sampling
from gateway.data_acquisition.columns import BAD_WAITING_FOR_INITIAL_DATA, Columns
from gateway.data_acquisition.liveness import Verdict, due, judge
from gateway.data_acquisition.resolution import FoundChannel
from gateway.data_acquisition.watched import Watched
from models.records import Channel, Stream

BAD_NODE_ID_UNKNOWN = 0x80340000
BAD_NOT_CONNECTED = 0x808A0000
QUIET_SINCE, NOW = 100.0, 200.0


def found(name: str, sampling: Sampling) -> FoundChannel:
    channel = Channel(name=name, unit="bar", low=0.0, high=1.0)
    return FoundChannel(
        stream=Stream("pump-01", name),
        node=ua.NodeId(ua.String(name), ua.Int16(2)),
        channel=channel,
        has_history=False,
        sampling=sampling,
    )


def watched_tag(sampling: Sampling | None = None) -> Watched:
    """Return one tag whose last value, 1.0 at time 10, came at QUIET_SINCE."""
    watched = Watched()
    watched.begin(watched.add([found("pressure", sampling or Sampling())]), 0.0)
    watched.note(values(10, 1.0), QUIET_SINCE)
    return watched


def values(time: int, value: float, status: int = 0) -> Columns:
    return Columns(
        handle=np.zeros(1, np.uint32),
        source_time=np.array([time], np.int64),
        server_time=np.zeros(1, np.int64),
        value=np.array([value]),
        status=np.array([status], np.uint32),
        sample_count=np.zeros(1, np.uint32),
        samples=np.empty(0, np.float32),
    )


def found_in(verdict: Verdict) -> list[str]:
    return [name for name in ("alive", "dead", "gone", "silent") if len(getattr(verdict, name))]


def test_a_tag_that_is_quiet_too_long_is_looked_at() -> None:
    """Silence is counted from the last value, for active tags alone."""
    watched = watched_tag(Sampling(silence_s=30.0))
    assert due(watched, QUIET_SINCE + 30.0).tolist() == []
    assert due(watched, QUIET_SINCE + 30.1).tolist() == [0]
    watched.end([0])
    assert due(watched, QUIET_SINCE + 30.1).tolist() == []


def test_a_tag_with_a_heartbeat_is_looked_at_when_it_is_due() -> None:
    watched = watched_tag(Sampling(heartbeat_s=5.0))
    assert due(watched, QUIET_SINCE + 4.0).tolist() == []
    assert due(watched, QUIET_SINCE + 5.0).tolist() == [0]


def test_a_slow_tag_is_alive() -> None:
    """The server says what it said last, so nothing was missed, and the tag is quiet for good reason."""
    watched = watched_tag()
    assert found_in(judge(watched, values(10, 1.0), NOW)) == ["alive"]
    assert due(watched, NOW + 1).tolist() == []


@pytest.mark.parametrize("read", [values(11, 2.0), values(11, 1.0), values(11, 1.0, BAD_NOT_CONNECTED)])
def test_a_value_the_subscription_never_told_twice_in_a_row_is_a_dead_tag(read: Columns) -> None:
    """Once may be a value on its way; it is looked at again soon, and then the server has stopped to report it."""
    watched = watched_tag()
    assert found_in(judge(watched, read, NOW)) == []
    assert due(watched, NOW + 1).tolist() == [0]
    assert found_in(judge(watched, read, NOW + 1)) == ["dead"]


def test_a_value_on_its_way_is_no_death() -> None:
    """The control of the second look: the value came meanwhile."""
    watched = watched_tag()
    judge(watched, values(11, 2.0), NOW)
    watched.note(values(11, 2.0), NOW)
    assert found_in(judge(watched, values(11, 2.0), NOW + 1)) == ["alive"]


def test_a_server_that_times_the_read_is_judged_by_its_values() -> None:
    """Where nothing but the time differs and asking anew changed nothing, the time is the read's own."""
    watched = watched_tag()
    judge(watched, values(11, 1.0), NOW)
    assert found_in(judge(watched, values(12, 1.0), NOW + 1)) == ["dead"]
    watched.begin([0], NOW + 2)
    watched.note(values(12, 1.0), NOW + 2)
    assert found_in(judge(watched, values(13, 1.0), NOW + 40)) == ["alive"]
    judge(watched, values(14, 2.0), NOW + 80)
    assert found_in(judge(watched, values(15, 2.0), NOW + 81)) == ["dead"]


def test_inside_a_deadband_values_may_move_untold() -> None:
    """With a deadband only a change of the status must be told."""
    watched = watched_tag(Sampling(deadband=Deadband.ABSOLUTE, deadband_value=5.0))
    assert found_in(judge(watched, values(11, 2.0), NOW)) == ["alive"]
    assert found_in(judge(watched, values(12, 2.0, BAD_NOT_CONNECTED), NOW)) == []


def test_a_node_that_is_not_there_is_gone() -> None:
    assert found_in(judge(watched_tag(), values(11, np.nan, BAD_NODE_ID_UNKNOWN), NOW)) == ["gone"]


def test_a_server_that_waits_for_its_device_is_silent_itself() -> None:
    assert found_in(judge(watched_tag(), values(0, np.nan, BAD_WAITING_FOR_INITIAL_DATA), NOW)) == ["silent"]


def test_a_value_that_may_be_told_late_is_waited_for() -> None:
    """A subscription that publishes once a minute owes nothing before, and a tag is not quiet before either."""
    watched = watched_tag(Sampling(publishing_interval_ms=60_000.0, silence_s=1.0))
    assert due(watched, QUIET_SINCE + 80).tolist() == []
    assert due(watched, QUIET_SINCE + 100).tolist() == [0]
    judge(watched, values(11, 2.0), QUIET_SINCE + 100)
    assert due(watched, QUIET_SINCE + 150).tolist() == []
    assert found_in(judge(watched, values(11, 2.0), QUIET_SINCE + 150)) == []
    assert due(watched, QUIET_SINCE + 200).tolist() == [0]
    assert found_in(judge(watched, values(11, 2.0), QUIET_SINCE + 200)) == ["dead"]


def test_what_came_meanwhile_ends_the_doubt() -> None:
    """A look after a value begins anew: it takes two that differ."""
    watched = watched_tag()
    judge(watched, values(11, 2.0), NOW)
    watched.note(values(11, 2.0), NOW + 1)
    assert found_in(judge(watched, values(12, 3.0), NOW + 2)) == []


@pytest.mark.parametrize(("value", "verdict"), [(5.9, "alive"), (6.1, "dead")])
def test_outside_a_deadband_values_must_be_told(value: float, verdict: str) -> None:
    """The last value told is 1.0, so 6.1 is one that was not; an overflow bit of old makes no difference."""
    watched = watched_tag(Sampling(deadband=Deadband.ABSOLUTE, deadband_value=5.0))
    watched.note(values(10, 1.0, 0x480), QUIET_SINCE)
    first = found_in(judge(watched, values(11, value), NOW))
    assert (first or found_in(judge(watched, values(11, value), NOW + 10))) == [verdict]


def test_a_polled_value_that_stays_has_heartbeats() -> None:
    """What is read again and again and stored once is told all the same."""
    watched = watched_tag(Sampling(mode=Mode.POLL, sampling_interval_ms=1000.0, heartbeat_s=5.0))
    for second in range(1, 6):
        watched.note(values(10, 1.0), QUIET_SINCE + second)
    assert due(watched, QUIET_SINCE + 5.0).tolist() == [0]
    watched.note(values(11, 1.0), QUIET_SINCE + 5)
    assert due(watched, QUIET_SINCE + 6.0).tolist() == []
