"""Raw data that was asked for comes in over real TLS, once, and only what was asked for."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_service.lake.lake import Lake
from cloud_service.requests import supplement
from cloud_service.requests.asking import Asked, ask
from cloud_service.requests.tables import RequestRow
from cloud_service.testing import CloudProcess
from models.records import BoolArray, GatewayEvent, Observations, Results
from models.segment import encode_segment
from tests.cloud_service.conftest import Gateway
from tests.cloud_service.requests.given import asset_of, at, keep_back, page, rows, supply, told, writing


def asked_for(gateway: Gateway, start: float = 0, end: float = 5) -> str:
    """Have somebody ask for what *gateway* keeps back between two minutes; return the request's id."""
    with writing(gateway) as session:
        return ask(session, asset_of(gateway), at(start), at(end)).new[0].request_id


def request(gateway: Gateway, request_id: str) -> RequestRow:
    with writing(gateway) as session:
        return session.get_one(RequestRow, request_id)


def minutes_in_lake(gateway: Gateway, channel: str = "speed_rpm") -> list[float]:
    store = gateway.cloud.store()
    found = Lake(gateway.cloud.lake, store).observations([asset_of(gateway)], [channel])
    store.close()
    return [float(value) for value in found.value]


def parts_of(gateway: Gateway, *minutes: float) -> list[Observations]:
    """Return five parts with a row at each of *minutes*."""
    asset_id = asset_of(gateway)
    return [rows(asset_id, [m for m in minutes if place <= m < place + 1]) for place in range(5)]


def test_what_was_kept_back_comes_when_it_is_asked_for(gateway: Gateway) -> None:
    """Asked for, told to the gateway, sent, said to be done; the lake gives it back with the rest, in order."""
    keep_back(gateway, [0, 1, 2, 3, 4])
    assert minutes_in_lake(gateway) == []
    request_id = asked_for(gateway)
    (open_request,) = told(gateway)
    assert (open_request["request_id"], open_request["channels"]) == (request_id, ["speed_rpm"])
    assert supply(gateway, request_id, parts_of(gateway, 0, 1, 2, 3, 4)) == (200, {"held": [[1, 5]]})
    path = f"/api/v1/requests/{gateway.gateway_id}/{request_id}/done"
    assert gateway.ask("POST", path, b'{"parts": 5, "observations": 5}')[0] == 200
    assert told(gateway) == []
    assert request(gateway, request_id).state == "done"
    assert minutes_in_lake(gateway) == [0, 1, 2, 3, 4]
    assert minutes_in_lake(gateway, "flow_m3_h") == [0, 1, 2, 3, 4]


def test_rows_the_lake_has_are_counted_and_not_stored(gateway: Gateway) -> None:
    """Received is stored and repeats, to the row, for whatever way the first ones came."""
    keep_back(gateway, [0, 1, 2, 3, 4])
    gateway.put_pages([page(gateway, 3, rows(asset_of(gateway), [1, 3]))])
    request_id = asked_for(gateway)
    assert supply(gateway, request_id, parts_of(gateway, 0, 1, 2, 3, 3.5))[0] == 200
    row = request(gateway, request_id)
    assert (row.observations, row.repeats) == (3, 2)
    assert minutes_in_lake(gateway) == [0, 1, 2, 3, 3.5]


def test_without_the_comparison_they_would_be_there_twice(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: every row is taken for new."""
    from cloud_service.config import IngestConfig
    from cloud_service.pipeline import Intake
    from models.segment import decode_segment, segment_digest

    monkeypatch.setattr(supplement, "_new_rows", everything)
    keep_back(gateway, [0, 1])
    gateway.put_pages([page(gateway, 3, rows(asset_of(gateway), [1]))])
    request_id = asked_for(gateway)
    store = gateway.cloud.store()
    intake = Intake(store, gateway.cloud.lake, IngestConfig())
    data = encode_segment([page(gateway, 1 + m, rows(asset_of(gateway), [m]), request_id) for m in range(2)])
    intake.store_segment(decode_segment(data), segment_digest(data))
    store.close()
    assert minutes_in_lake(gateway) == [0, 1, 1]


def everything(_session: object, _lake: object, segment: Any) -> BoolArray:
    return np.ones(len(segment.observations), np.bool_)


def test_a_part_that_is_held_is_held_whatever_comes_again(gateway: Gateway) -> None:
    """History may have got late rows since: the first answer counts, and it is no clone."""
    keep_back(gateway, [0, 1, 2, 3, 4])
    request_id = asked_for(gateway)
    parts = parts_of(gateway, 0, 1, 2, 3, 4)
    for again in (parts[:2], parts[:2], [parts[0], rows(asset_of(gateway), [1, 1.5])]):
        assert supply(gateway, request_id, again) == (200, {"held": [[1, 2]]})
    assert supply(gateway, request_id, parts) == (200, {"held": [[1, 5]]})
    row = request(gateway, request_id)
    assert (row.observations, row.repeats) == (5, 0)
    assert minutes_in_lake(gateway) == [0, 1, 2, 3, 4]


def test_two_requests_that_overlap_bring_each_row_once(gateway: Gateway) -> None:
    """A gateway's own request, whose interval another covers in part."""
    keep_back(gateway, [0, 1, 2, 3, 4])
    first = asked_for(gateway, 0, 5)
    assert supply(gateway, first, parts_of(gateway, 0, 1, 2, 3, 4))[0] == 200
    own = secrets.token_hex(16)
    with writing(gateway) as session:
        row = session.get_one(RequestRow, first)
        values = {column.name: getattr(row, column.name) for column in RequestRow.__table__.columns}
        session.add(RequestRow(**{**values, "request_id": own, "start": at(2), "end": at(7), "observations": 0}))
    parts = [rows(asset_of(gateway), [m]) for m in range(2, 7)]
    assert supply(gateway, own, parts)[0] == 200
    assert (request(gateway, own).observations, request(gateway, own).repeats) == (2, 3)
    assert minutes_in_lake(gateway) == [0, 1, 2, 3, 4, 5, 6]


def test_parts_without_rows_are_held_too(gateway: Gateway) -> None:
    """A machine that stood still has nothing to tell, and the request ends all the same."""
    keep_back(gateway, [0, 4])
    request_id = asked_for(gateway)
    assert supply(gateway, request_id, parts_of(gateway, 0, 4)) == (200, {"held": [[1, 5]]})
    assert request(gateway, request_id).observations == 2


Spoil = Callable[[str], list[Observations]]


@pytest.mark.parametrize(
    ("field", "spoil"),
    [
        ("streams", lambda asset_id: [rows("another", [0])]),  # noqa: ARG005 - the others need it
        ("streams", lambda asset_id: [rows(asset_id, [0], "flow_m3_h")]),
        ("source_time", lambda asset_id: [rows(asset_id, [1])]),
        ("source_time", lambda asset_id: [rows(asset_id, [-0.5])]),
        ("source_time", lambda asset_id: [rows(asset_id, [m]) for m in (0, 1, 2, 3, 5)]),
        ("last_seq", lambda asset_id: [rows(asset_id, [m]) for m in range(6)]),
    ],
    ids=["other asset", "other channel", "other part", "before", "behind", "more parts"],
)
def test_what_was_not_asked_for_is_refused(gateway: Gateway, field: str, spoil: Spoil) -> None:
    """The answer names the field, and nothing is stored."""
    keep_back(gateway, [0, 1, 2, 3, 4])
    request_id = asked_for(gateway)
    status, answer = supply(gateway, request_id, spoil(asset_of(gateway)))
    assert (status, answer["field"]) == (422, field)
    assert minutes_in_lake(gateway) == []
    assert gateway.ask("GET", f"/api/v1/ledger/{gateway.gateway_id}/{request_id}") == (200, {"held": []})


def test_results_do_not_come_by_request(gateway: Gateway) -> None:
    """A supplement has observations alone: an advisory in it would not be the gateway's journal's."""
    keep_back(gateway, [0])
    request_id = asked_for(gateway)
    event = GatewayEvent(kind="made_up", gateway_time=at(0), message="")
    data = encode_segment([page(gateway, 1, Results(events=(event,)), request_id)])
    status, answer = gateway.put(data, 1, 1, epoch=request_id)
    assert (status, answer["field"]) == (422, "results")


def test_a_request_to_another_gateway_is_nobody_elses(gateway: Gateway, enrolled: Callable[[str], Gateway]) -> None:
    """Its id as epoch is refused, and it is neither told nor ended by others."""
    keep_back(gateway, [0, 1, 2, 3, 4])
    request_id = asked_for(gateway)
    other = enrolled(f"{gateway.gateway_id}-other")
    status, answer = supply(other, request_id, [rows(asset_of(gateway), [0])])
    assert (status, answer["field"]) == (422, "epoch")
    assert told(other) == []
    assert gateway.ask("GET", f"/api/v1/requests/{other.gateway_id}")[0] == 403
    for how in ("done", "refused"):
        body = b'{"parts": 5, "observations": 0}' if how == "done" else b'{"reason": "I do not like it"}'
        status, answer = other.ask("POST", f"/api/v1/requests/{other.gateway_id}/{request_id}/{how}", body)
        assert (status, answer["field"]) == (422, "request_id")
    assert request(gateway, request_id).state == "open"


def test_a_request_that_has_ended_takes_nothing_new(gateway: Gateway) -> None:
    """What it holds may be sent again; more is refused."""
    keep_back(gateway, [0, 1, 2, 3, 4])
    request_id = asked_for(gateway)
    parts = parts_of(gateway, 0, 1, 2, 3, 4)
    supply(gateway, request_id, parts[:1])
    path = f"/api/v1/requests/{gateway.gateway_id}/{request_id}/refused"
    assert gateway.ask("POST", path, b'{"reason": "purged"}') == (200, {"state": "refused", "reason": "purged"})
    assert supply(gateway, request_id, parts[:1])[0] == 200
    status, answer = supply(gateway, request_id, parts)
    assert (status, answer["field"]) == (422, "epoch")
    assert minutes_in_lake(gateway) == [0]


def test_a_request_is_no_clone_and_the_journal_goes_on(gateway: Gateway) -> None:
    """Its epoch is new, and yet supersedes nothing."""
    keep_back(gateway, [0, 1])
    request_id = asked_for(gateway, 0, 2)
    assert supply(gateway, request_id, [rows(asset_of(gateway), [m]) for m in range(2)])[0] == 200
    assert gateway.put_pages([page(gateway, 3, rows(asset_of(gateway), [9], "flow_m3_h"))])[0] == 200


def test_parts_survive_a_cloud_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL after the answer: what was answered is held, and the request is open as before."""
    import signal

    with CloudProcess(tmp_path / "cloud") as cloud:
        gateway = Gateway(cloud, "gw-1")
        keep_back(gateway, [0, 1, 2, 3, 4])
        request_id = asked_for(gateway)
        parts = parts_of(gateway, 0, 1, 2, 3, 4)
        supply(gateway, request_id, parts[:3])
        cloud.stop(signal.SIGKILL)
        cloud.start()
        (open_request,) = told(gateway)
        assert (open_request["held"], open_request["received"]) == ([[1, 3]], 3)
        assert supply(gateway, request_id, parts[3:], first=4) == (200, {"held": [[1, 5]]})
        assert minutes_in_lake(gateway) == [0, 1, 2, 3, 4]


def test_a_day_of_parts_goes_in_one_upload(gateway: Gateway) -> None:
    """Parts are minutes, uploads are as large as they may be."""
    day = list(range(24 * 60))
    keep_back(gateway, day)
    with writing(gateway) as session:
        asked: Asked = ask(session, asset_of(gateway), at(0), at(0) + timedelta(days=1))
    parts = [rows(asset_of(gateway), [m]) for m in day]
    assert supply(gateway, asked.new[0].request_id, parts) == (200, {"held": [[1, 1440]]})
    assert minutes_in_lake(gateway) == day
