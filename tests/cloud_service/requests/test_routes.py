"""What gateways ask and say about requests, over real TLS; hostile bodies among it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from cloud_service.requests.asking import ask
from cloud_service.requests.tables import RequestRow
from models.records import to_ns
from tests.cloud_service.conftest import EPOCH, Gateway
from tests.cloud_service.requests.given import asset_of, at, keep_back, page, rows, supply, told, writing


def wish(
    gateway: Gateway, request_id: str, start: float = 0, end: float = 5, *, asset_id: str = "", **others: Any
) -> tuple[int, Any]:
    """Have the gateway make a request of its own."""
    body = {
        "asset_id": asset_id or asset_of(gateway),
        "channels": ["speed_rpm"],
        "start_ns": to_ns(at(start)),
        "end_ns": to_ns(at(end)),
        **others,
    }
    return gateway.ask("PUT", f"/api/v1/requests/{gateway.gateway_id}/{request_id}", json.dumps(body).encode())


def end(gateway: Gateway, request_id: str, **body: Any) -> tuple[int, Any]:
    how = "refused" if "reason" in body else "done"
    return gateway.ask("POST", f"/api/v1/requests/{gateway.gateway_id}/{request_id}/{how}", json.dumps(body).encode())


def test_a_gateway_makes_a_request_of_its_own_once(gateway: Gateway) -> None:
    """Said again, it is the same; it is told back like any other."""
    request_id = secrets.token_hex(16)
    for _ in range(2):
        assert wish(gateway, request_id) == (200, {"state": "open", "reason": ""})
    (open_request,) = told(gateway)
    assert open_request == {
        "request_id": request_id,
        "asset_id": asset_of(gateway),
        "channels": ["speed_rpm"],
        "start_ns": to_ns(at(0)),
        "end_ns": to_ns(at(5)),
        "part_ns": 60 * 10**9,
        "held": [],
        "received": 0,
    }
    status, answer = wish(gateway, request_id, channels=["flow_m3_h"])
    assert (status, answer["field"]) == (422, "request_id")


def test_of_what_others_cover_only_the_rest_is_taken(gateway: Gateway) -> None:
    """An advisory that grows makes a request for what it grew by, or for none."""
    wish(gateway, secrets.token_hex(16), 0, 5)
    assert wish(gateway, secrets.token_hex(16), 1, 4)[1]["state"] == "covered"
    later = secrets.token_hex(16)
    for _ in range(2):
        assert wish(gateway, later, 0, 9)[1]["state"] == "open"
    assert [(r["start_ns"], r["end_ns"]) for r in told(gateway)][1] == (to_ns(at(5)), to_ns(at(9)))


def test_a_request_is_done_when_all_of_it_is_there(gateway: Gateway) -> None:
    """Not before, and not with another count than what came; said twice, it is still done."""
    request_id = secrets.token_hex(16)
    wish(gateway, request_id, 0, 2)
    supply(gateway, request_id, [rows(asset_of(gateway), [0])])
    for body, field in (({"parts": 2, "observations": 1}, "parts"), ({"parts": 1, "observations": 1}, "parts")):
        status, answer = end(gateway, request_id, **body)
        assert (status, answer["reason"], answer["field"]) == (409, "incomplete", field)
    supply(gateway, request_id, [rows(asset_of(gateway), [1])], first=2)
    assert end(gateway, request_id, parts=2, observations=3)[1]["field"] == "observations"
    for _ in range(2):
        assert end(gateway, request_id, parts=2, observations=2) == (200, {"state": "done", "reason": ""})


def test_a_request_says_how_many_parts_had_nothing(gateway: Gateway) -> None:
    """What was purged, or never measured, is told; a part whose rows the lake had already is not empty."""
    request_id, asset_id = secrets.token_hex(16), asset_of(gateway)
    wish(gateway, request_id, 0, 4)
    assert gateway.put_pages([page(gateway, 1, rows(asset_id, [1]))])[0] == 200
    nothing = rows(asset_id, [])
    supply(gateway, request_id, [rows(asset_id, [0]), rows(asset_id, [1]), nothing, nothing])
    status, answer = end(gateway, request_id, parts=4, observations=2)
    assert (status, answer["state"]) == (200, "done")
    assert answer["reason"].startswith("2 of 4 parts had nothing")


def test_a_request_that_cannot_be_answered_says_why(gateway: Gateway) -> None:
    """The reason is kept, and a later one changes nothing."""
    request_id = secrets.token_hex(16)
    wish(gateway, request_id)
    assert end(gateway, request_id, reason="purged") == (200, {"state": "refused", "reason": "purged"})
    assert end(gateway, request_id, reason="something else")[1]["reason"] == "purged"
    assert told(gateway) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"asset_id": "x" * 201}, "asset_id"),
        ({"channels": []}, "channels"),
        ({"channels": ["c"] * 1001}, "channels"),
        ({"channels": [""]}, "channels"),
        ({"start_ns": "now"}, "start_ns"),
        ({"start_ns": -1}, "start_ns"),
        ({"end_ns": 2**63}, "end_ns"),
        ({"end_ns": to_ns(at(0))}, "start"),
        ({"end_ns": to_ns(at(32 * 1440))}, "end"),
        ({"start_ns": 2**61, "end_ns": 2**61 + 10**9}, "end"),
        ({"more": 1}, "more"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wish_that_cannot_be_one_is_refused_by_field(gateway: Gateway, change: dict[str, Any], field: str) -> None:
    """Sizes, names and times are bounded."""
    status, answer = wish(gateway, secrets.token_hex(16), **change)
    assert (status, answer["field"]) == (422, field)
    assert told(gateway) == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"no JSON", 422),
        (b"[1]", 422),
        (b'{"asset_id": "\xff"}', 422),
        (b"[" * 100_000, 422),
        (b'{"asset_id": "' + b"x" * 600_000 + b'"}', 413),
    ],
    ids=["empty", "text", "list", "encoding", "deep", "long"],
)
def test_a_body_is_bounded_and_json(gateway: Gateway, body: bytes, status: int) -> None:
    """Whatever comes is answered with a reason."""
    found, answer = gateway.ask("PUT", f"/api/v1/requests/{gateway.gateway_id}/{secrets.token_hex(16)}", body)
    assert (found, answer["field"]) == (status, "body")


def test_ids_are_no_epochs_and_assets_ones_own(gateway: Gateway, enrolled: Callable[[str], Gateway]) -> None:
    """A journal cannot be taken for a request, nor somebody else's asset be asked for."""
    keep_back(gateway, [0])
    other = enrolled(f"{gateway.gateway_id}-other")
    for request_id, asset_id, field in (
        (EPOCH, "", "request_id"),
        ("../../x", "", "path"),
        ("ABCDEF0123456789", "", "request_id"),
        (secrets.token_hex(16), asset_of(gateway), "asset_id"),
    ):
        status, answer = wish(other, request_id, asset_id=asset_id)
        assert (status // 100, answer["field"]) == (4, field)


def test_only_some_requests_are_told_at_once(gateway: Gateway) -> None:
    """The oldest ones; the others follow when these have ended."""
    with writing(gateway) as session:
        session.add_all(
            RequestRow(
                request_id=secrets.token_hex(16),
                gateway_id=gateway.gateway_id,
                asset_id=asset_of(gateway),
                channels='["speed_rpm"]',
                start=at(number),
                end=at(number + 1),
                asked_by="person",
                asked_at=at(number),
                state="open",
                parts=1,
            )
            for number in range(40)
        )
    assert told(gateway) == []  # asked for in March, and nobody answered
    keep_back(gateway, list(range(40)))
    with writing(gateway) as session:
        for number in range(40):
            ask(session, asset_of(gateway), at(number), at(number + 1))
    assert [r["start_ns"] for r in told(gateway)] == [to_ns(at(number)) for number in range(32)]
