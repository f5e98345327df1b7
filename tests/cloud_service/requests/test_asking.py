"""What may be asked for, and that nothing is asked for twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud_service.requests import asking
from cloud_service.requests.asking import ask, cancel, close_request, expire
from cloud_service.requests.errors import RequestRefused
from cloud_service.requests.tables import Interval, RequestRow, RequestState, WithheldRow, part_count, without
from cloud_service.requests.withheld import withheld_runs
from tests.cloud_service.requests.given import START, at, hours
from tests.cloud_service.requests.given import note_kept_back as keep_back

HOUR = int(START.timestamp()) // 3600
NOW = START + timedelta(days=3)


def asked(session: Session, start: float, end: float, *channels: str) -> list[tuple[str, Interval, tuple[str, ...]]]:
    """Ask, and return gateway, interval and channels of each request that was made."""
    made = ask(session, "pump-01", at(start), at(end), channels=channels, now=NOW)
    return [(row.gateway_id, row.interval, row.channel_names) for row in made.new]


def test_all_that_was_kept_back_is_asked_for_at_once(session: Session) -> None:
    """Without channels named: those of which something was kept back in that time."""
    keep_back(session, "speed_rpm", "flow_m3_h")
    keep_back(session, "head_m", first=6000, last=6001)
    assert asked(session, 10, 70) == [("gw-1", (at(10), at(70)), ("flow_m3_h", "speed_rpm"))]


def test_the_same_is_not_asked_twice(session: Session) -> None:
    """Nor is what lies inside of it; the request that covers it is told."""
    keep_back(session, "speed_rpm")
    first = ask(session, "pump-01", at(0), at(60), now=NOW).new[0]
    for start, end in ((0, 60), (10, 20)):
        again = ask(session, "pump-01", at(start), at(end), now=NOW)
        assert (again.new, again.earlier) == ((), (first,))
    close_request(first, RequestState.DONE)
    assert asked(session, 0, 60) == []


def test_without_the_comparison_it_would_be_asked_twice(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: no earlier request counts."""
    monkeypatch.setattr(asking, "counting_requests", lambda *_: [])
    keep_back(session, "speed_rpm")
    assert asked(session, 0, 60) == asked(session, 0, 60) != []


def test_what_was_refused_or_cancelled_may_be_asked_again(session: Session) -> None:
    """Somebody may have brought the history back."""
    keep_back(session, "speed_rpm")
    first = ask(session, "pump-01", at(0), at(60), now=NOW).new[0]
    close_request(first, RequestState.REFUSED, "purged")
    second = ask(session, "pump-01", at(0), at(60), now=NOW).new[0]
    assert cancel(session, second.request_id).state == "expired"
    assert len(asked(session, 0, 60)) == 1


def test_of_an_overlap_only_the_rest_is_asked_for(session: Session) -> None:
    """On both sides of what was asked, and by channel."""
    keep_back(session, "speed_rpm", "flow_m3_h")
    asked(session, 20, 40, "speed_rpm")
    assert asked(session, 0, 60) == [
        ("gw-1", (at(0), at(20)), ("speed_rpm",)),
        ("gw-1", (at(0), at(60)), ("flow_m3_h",)),
        ("gw-1", (at(40), at(60)), ("speed_rpm",)),
    ]


def test_the_gateway_that_kept_it_is_asked(session: Session) -> None:
    """An asset that moved has its past at another gateway."""
    keep_back(session, "speed_rpm", last=59)
    keep_back(session, "speed_rpm", first=120, last=179, gateway_id="gw-2")
    assert asked(session, 30, 150) == [
        ("gw-1", (at(30), at(60)), ("speed_rpm",)),
        ("gw-2", (at(120), at(150)), ("speed_rpm",)),
    ]


@pytest.mark.parametrize(
    ("start", "end", "field", "says"),
    [
        (60.0, 60.0, "start", "not before"),
        (0.0, 32 * 1440.0, "end", "31 days"),
        (0.0, 5 * 1440.0, "end", "ahead"),
        (2000.0, 2060.0, "asset_id", "nothing was kept back of pump-01"),
    ],
    ids=["empty", "long", "ahead", "all sent"],
)
def test_what_cannot_be_asked_for_is_said_plainly(
    session: Session, start: float, end: float, field: str, says: str
) -> None:
    """Which of the values is at fault, and that nothing was done."""
    keep_back(session, "speed_rpm")
    with pytest.raises(RequestRefused, match=says) as refused:
        ask(session, "pump-01", at(start), at(end), now=NOW)
    assert refused.value.field == field
    assert session.scalars(select(RequestRow)).all() == []


def test_an_unknown_asset_and_a_time_without_zone_are_refused(session: Session) -> None:
    """A person's mistakes, named."""
    with pytest.raises(RequestRefused, match="no gateway has described an asset pump-99"):
        ask(session, "pump-99", at(0), at(1), now=NOW)
    with pytest.raises(RequestRefused, match="time zone"):
        ask(session, "pump-01", at(0).replace(tzinfo=None), at(1), now=NOW)


def test_a_gateway_has_only_so_many_open_requests(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is refused until one has ended."""
    monkeypatch.setattr(asking, "MOST_OPEN", 2)
    keep_back(session, "speed_rpm")
    for minute in (0, 10):
        asked(session, minute, minute + 5)
    with pytest.raises(RequestRefused, match="2 open requests"):
        asked(session, 20, 25)
    expire(session, NOW + timedelta(days=40))
    assert len(asked(session, 20, 25)) == 1


def test_only_an_open_request_is_cancelled(session: Session) -> None:
    """Others say what they are."""
    keep_back(session, "speed_rpm")
    row = ask(session, "pump-01", at(0), at(1), now=NOW).new[0]
    cancel(session, row.request_id)
    for request_id, says in ((row.request_id, "is expired"), ("00" * 16, "there is no request")):
        with pytest.raises(RequestRefused, match=says):
            cancel(session, request_id)


def test_nobody_answers_for_ever(session: Session) -> None:
    """An open request ends after thirty days."""
    keep_back(session, "speed_rpm")
    row = ask(session, "pump-01", at(0), at(1), now=NOW).new[0]
    expire(session, NOW + timedelta(days=29))
    assert row.state == "open"
    expire(session, NOW + timedelta(days=31))
    assert (row.state, row.reason) == ("expired", "its gateway did not answer in 30 days")


def test_a_channel_that_is_never_sent_costs_one_row(session: Session) -> None:
    """Segment after segment the run of hours grows; what lies between two runs joins them."""
    for minute in (0, 5, 61, 130):
        keep_back(session, "speed_rpm", first=minute, last=minute + 5)
    keep_back(session, "speed_rpm", first=310, last=320)
    assert withheld_runs(session, "pump-01")["gw-1", "speed_rpm"] == [hours(HOUR, HOUR + 2), hours(HOUR + 5, HOUR + 5)]
    keep_back(session, "speed_rpm", first=190, last=250)
    assert withheld_runs(session, "pump-01") == {("gw-1", "speed_rpm"): [hours(HOUR, HOUR + 5)]}
    assert len(session.scalars(select(WithheldRow)).all()) == 1


def test_parts_are_minutes(session: Session) -> None:
    """The last one may be shorter."""
    assert [part_count(at(0), at(minutes)) for minutes in (0.01, 1, 1.01, 1440)] == [1, 1, 2, 1440]
    assert session is not None


moments = st.integers(0, 30).map(at)
intervals = st.tuples(moments, moments).filter(lambda pair: pair[0] < pair[1])


@given(wanted=intervals, taken=st.lists(intervals, max_size=6))
def test_what_is_left_is_what_was_wanted_less_what_is_taken(wanted: Interval, taken: list[Interval]) -> None:
    """Minute by minute."""
    left = without([wanted], taken)
    for minute in range(31):
        moment = at(minute)
        inside = wanted[0] <= moment < wanted[1] and not any(start <= moment < end for start, end in taken)
        assert inside == any(start <= moment < end for start, end in left)


def test_the_clock_of_a_request_is_aware(session: Session) -> None:
    """Without a time given it is now."""
    keep_back(session, "speed_rpm")
    before = datetime.now(UTC)
    assert ask(session, "pump-01", at(0), at(1)).new[0].asked_at >= before
