"""An advisory that comes in asks for what happened around its evidence."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud_service.requests.context import MOST_PER_DAY, ask_for_context
from cloud_service.requests.tables import Interval, RequestRow
from models.records import Advisory, AdvisoryState, Results
from tests.cloud_service.conftest import Gateway, make_advisory
from tests.cloud_service.requests.given import START, asset_of, at, keep_back, note_kept_back, page, told

NOW = START + timedelta(days=1)


def advisory(start: float = 30, end: float = 60, **changes: object) -> Advisory:
    return replace(make_advisory(), evidence_start=at(start), evidence_end=at(end), **changes)  # type: ignore[arg-type]  # any field


def asked(session: Session, *advisories: Advisory, gateway_id: str = "gw-1") -> list[tuple[Interval, str]]:
    """Take *advisories* in, and return interval and channels of every request there is then."""
    ask_for_context(session, gateway_id, [Results(advisories=advisories)], now=NOW)
    rows = session.scalars(select(RequestRow).order_by(RequestRow.start))
    return [(row.interval, " ".join(row.channel_names)) for row in rows]


def test_the_evidence_and_ten_minutes_around_it_are_asked_for(session: Session) -> None:
    """Of all channels the gateway was ever known to keep back: its segments of that time may come later."""
    note_kept_back(session, "speed_rpm", first=-6000, last=-5900)
    note_kept_back(session, "flow_m3_h", gateway_id="gw-2")
    assert asked(session, advisory()) == [((at(20), at(70)), "speed_rpm")]
    assert asked(session, advisory(revision=2)) == [((at(20), at(70)), "speed_rpm")]


def test_of_an_advisory_that_grows_only_the_new_is_asked_for(session: Session) -> None:
    """Revision by revision."""
    note_kept_back(session, "speed_rpm")
    asked(session, advisory())
    assert asked(session, advisory(end=90, revision=2))[1:] == [((at(70), at(100)), "speed_rpm")]


@pytest.mark.parametrize(
    "told_of",
    [
        advisory(state=AdvisoryState.CLOSED),
        advisory(start=60, end=30),
        advisory(start=2000, end=4000),
        advisory(asset_id="pump-02"),
    ],
    ids=["closed", "backwards", "to come", "sends everything"],
)
def test_nothing_is_asked_for_where_nothing_is_to_be_had(session: Session, told_of: Advisory) -> None:
    """Whatever a gateway says, ingest goes on."""
    note_kept_back(session, "speed_rpm")
    assert asked(session, told_of) == []


def test_of_long_evidence_the_newest_day_is_asked_for(session: Session) -> None:
    """An advisory may have stood open for months."""
    note_kept_back(session, "speed_rpm")
    assert asked(session, advisory(start=-90 * 1440)) == [((at(60 - 1440 - 10), at(70)), "speed_rpm")]


def test_an_asset_asks_only_so_often_a_day(session: Session) -> None:
    """A model gone wild does not fill the uplink."""
    note_kept_back(session, "speed_rpm")
    wild = [advisory(start=-30 * number, end=1 - 30 * number) for number in range(MOST_PER_DAY + 5)]
    assert len(asked(session, *wild)) == MOST_PER_DAY


def test_an_advisory_on_the_wire_asks_its_gateway(gateway: Gateway) -> None:
    """In the transaction that stores it; sent again it asks no more."""
    keep_back(gateway, [0, 1, 2])
    raised = advisory(0, 2, asset_id=asset_of(gateway), advisory_id=f"{gateway.gateway_id}-1")
    for _ in range(2):
        gateway.put_pages([page(gateway, 3, Results(advisories=(raised,)))])
        (request,) = told(gateway)
    assert request["channels"] == ["speed_rpm"]
