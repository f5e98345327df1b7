from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from cloud_service.fleet.assets import FleetAdvisory
from cloud_service.inbox.pages import render_advisory, render_inbox
from cloud_service.testing import CloudProcess
from models.records import Advisory, AdvisoryState, ChannelShare, Results
from tests.cloud_service.conftest import RAISED, Gateway, make_advisory, make_page

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"


def inbox(*advisories: Advisory) -> str:
    return render_inbox([FleetAdvisory(gateway_id="gw-1", advisory=a) for a in advisories], RAISED)


def test_an_advisory_is_shown_with_all_that_it_says() -> None:
    """Machine, mode, since, channels against their band, confidence, life, act by, action, model, trust."""
    page = inbox(make_advisory())
    for told in (
        "pump-01",
        "bearing outer race",
        "since 20 Mar 2026, 14:00 UTC",
        "Replace the drive-end bearing.",
        "Impacts at the outer race.",
        "21 Mar 2026, 05:00 UTC",
        "19 – 43 – 78 hours",  # noqa: RUF001 - a dash, as people read it
        "93 %",
        "98 %",
        "version 3",
        "bearing temperature",
        "71.3",
        "normal 48.2 to 58.9",
        "°C",
        "gateway gw-1",
        "Act now",
    ):
        assert told in page


def test_an_empty_inbox_says_so() -> None:
    assert "Nothing to do" in inbox()


def test_the_most_urgent_stands_first() -> None:
    """By what is left until somebody has to act, those that cannot tell last."""
    dues = {"later": timedelta(days=30), "now": timedelta(hours=2), "week": timedelta(days=3)}
    advisories = [replace(make_advisory(), asset_id=name, act_by=RAISED + due) for name, due in dues.items()]
    page = inbox(replace(make_advisory(), asset_id="unknown", act_by=None), *advisories)
    assert re.findall(r"<h2>([a-z]+):", page) == ["now", "week", "later", "unknown"]


@pytest.mark.parametrize(
    "field",
    ["asset_id", "asset_class", "failure_mode", "reason", "recommended_action", "advisory_id"],
)
def test_hostile_words_are_words(field: str) -> None:
    """Whatever a gateway writes appears as text, on both pages."""
    changes: dict[str, Any] = {field: HOSTILE}
    advisory = replace(make_advisory(), **changes)
    for page in (inbox(advisory), render_advisory([advisory], RAISED)):
        assert "<script" not in page
        assert "49" not in page.split("</style>")[1]


def test_hostile_channels_are_words_and_odd_numbers_no_errors() -> None:
    """Names, units and features are escaped; a value that is no number leaves its mark out."""
    share = ChannelShare(
        channel=HOSTILE, share=math.inf, feature=HOSTILE, now=math.nan, normal_low=math.nan, normal_high=0.0, unit="<b>"
    )
    advisory = replace(make_advisory(), top_channels=(share,), confidence=math.nan, life_p50_s=math.inf)
    page = inbox(advisory)
    assert "<b>" not in page
    assert "<script" not in page
    assert not re.search(r"\b(nan|inf)\b", page.split("</style>")[1])


def test_a_life_that_nobody_knows_is_no_number() -> None:
    advisory = replace(make_advisory(), life_p10_s=None, life_p50_s=None, life_p90_s=None, act_by=None)
    assert "cannot be told yet" in inbox(advisory)


def test_the_page_of_one_advisory_shows_its_revisions() -> None:
    """Newest first; and one that does not exist is said to."""
    page = render_advisory([make_advisory(revision=2, state=AdvisoryState.ACKNOWLEDGED), make_advisory()], RAISED)
    assert re.findall(r"<tr><td>(\d)</td>", page) == ["2", "1"]
    assert "acknowledged" in page
    assert "no advisory of this name" in render_advisory([], RAISED)


def test_the_pages_are_served_with_a_policy_that_allows_no_script(cloud: CloudProcess, gateway: Gateway) -> None:
    """What a gateway uploads is on the page at once; nothing may be loaded or run there."""
    advisory = replace(make_advisory(), advisory_id=f"{gateway.gateway_id}/a b", asset_id=gateway.gateway_id)
    gateway.put_pages([make_page(gateway.gateway_id, 1, Results(advisories=(advisory,)))])
    for path in ("/", "/inbox", f"/advisories/{gateway.gateway_id}/a%20b"):
        answer = httpx.get(cloud.web_url + path)
        assert answer.status_code == 200
        assert gateway.gateway_id in answer.text
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy
    assert httpx.get(f"{cloud.web_url}/advisories/none").status_code == 404


def test_a_page_elsewhere_cannot_borrow_the_browser(cloud: CloudProcess) -> None:
    """Another host's name, or a form, gets nothing."""
    assert httpx.get(f"{cloud.web_url}/inbox", headers={"Host": "evil.example"}).status_code == 400
    assert httpx.post(f"{cloud.web_url}/api/v1/maintenance", data={"asset_id": "pump-01"}).status_code == 415


def test_maintenance_records_come_in_over_http(cloud: CloudProcess) -> None:
    """One or several; one that holds no record is refused with its field."""
    url = f"{cloud.web_url}/api/v1/maintenance"
    order = {"asset_id": "pump-77", "failed_at": "2026-03-05T12:00:00+00:00", "failure_mode": "seal_leak"}
    assert httpx.post(url, json=order).status_code == 201
    assert httpx.post(url, json=[order, {**order, "asset_id": "pump-78"}]).json() == {"added": 2}
    assert [r["asset_id"] for r in httpx.get(url).json()["records"]] == ["pump-77", "pump-78"]
    refused = httpx.post(url, json={**order, "failed": "x"})
    assert refused.status_code == 422
    assert "failed" in refused.json()["detail"]
    for body, status in ((b"[" + b" " * 70_000, 413), (b'{"note":"\xff"}', 422), (b'{"x":' * 10_000, 422)):
        assert httpx.post(url, content=body, headers={"content-type": "application/json"}).status_code == status
