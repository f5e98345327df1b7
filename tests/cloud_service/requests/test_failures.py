"""Training asks for what was kept back from before failures, and tells what has not come."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud_service.fleet import maintenance
from cloud_service.fleet.maintenance import MaintenanceRecord
from cloud_service.releases import _raw_data
from cloud_service.requests import failures
from cloud_service.requests.asking import close_request
from cloud_service.requests.failures import FailureData, ask_around_failures, missing_data
from cloud_service.requests.tables import RequestRow, RequestState
from cloud_service.store import AssetRow, Store
from cloud_service.training.card import model_card
from gateway.testing import SPECIFICATION, THRESHOLDS, _manifest
from models.evaluation.gate import Decision
from models.records import AssetDescription
from tests.cloud_service.requests.given import at, note_kept_back

BEFORE = timedelta(minutes=60)


def failed(*minutes: float, asset_id: str = "pump-01") -> list[MaintenanceRecord]:
    return [MaintenanceRecord(asset_id=asset_id, failed_at=at(m), failure_mode="seal_leak") for m in minutes]


def intervals(session: Session) -> Sequence[tuple[datetime, datetime]]:
    return [row.interval for row in session.scalars(select(RequestRow).order_by(RequestRow.start))]


def test_the_time_before_each_failure_is_asked_for_once(session: Session) -> None:
    """Another training finds these requests, and makes none."""
    note_kept_back(session, "speed_rpm")
    first = ask_around_failures(session, failed(120, 300), BEFORE)
    again = ask_around_failures(session, failed(120, 300), BEFORE)
    assert (first.asked, again.asked) == (2, 0)
    assert set(first.request_ids) == set(again.request_ids)
    assert intervals(session) == [(at(60), at(120)), (at(240), at(300))]


def test_where_everything_is_sent_nothing_is_asked_for(session: Session) -> None:
    """An asset without channels that are kept back, and a failure in a time when all was sent."""
    note_kept_back(session, "speed_rpm")
    wanted = ask_around_failures(session, [*failed(9000), *failed(120, asset_id="pump-02")], BEFORE)
    assert wanted == FailureData(request_ids=(), asked=0)


def test_only_the_newest_failures_are_looked_at(session: Session) -> None:
    """A training does not ask for years."""
    note_kept_back(session, "speed_rpm", last=60 * (failures.MOST_FAILURES + 10))
    wanted = ask_around_failures(session, failed(*(60 * n for n in range(1, failures.MOST_FAILURES + 10))), BEFORE)
    assert wanted.asked == failures.MOST_FAILURES
    assert intervals(session)[0] == (at(60 * 9), at(60 * 10))


def test_what_has_not_come_is_told_by_request(session: Session) -> None:
    """How far an open one is, and why another ended; what is done is not missing."""
    note_kept_back(session, "speed_rpm")
    wanted = ask_around_failures(session, failed(120, 300, 500), BEFORE)
    newest, middle, oldest = (session.get_one(RequestRow, name) for name in wanted.request_ids)
    close_request(newest, RequestState.DONE)
    close_request(oldest, RequestState.REFUSED, "purged")
    assert missing_data(session, wanted) == (
        "pump-01, speed_rpm, 2026-03-02 01:00 to 2026-03-02 02:00: refused (purged)",
        "pump-01, speed_rpm, 2026-03-02 04:00 to 2026-03-02 05:00: asked for, 0 of 60 parts have come",
    )
    assert middle.state == "open"


def test_training_goes_on_or_waits_as_it_is_told(tmp_path: Path) -> None:
    """Without waiting it tells what is missing; with waiting it tells how far it is until all has ended."""
    store = Store(tmp_path / "cloud.sqlite")
    with store.writing() as session:
        note_kept_back(session, "speed_rpm")
        asset = AssetDescription(asset_id="pump-01", asset_class="pump", channels=())
        description = msgspec.msgpack.encode(asset)
        session.add(AssetRow(asset_id="pump-01", asset_class="pump", gateway_id="gw-1", description=description))
        maintenance.add_record(session, *failed(120))
    requested, missing = _raw_data("pump", store, BEFORE, lambda *_: None, wait=False)
    assert (requested, len(missing)) == (1, 1)

    stages: list[str] = []
    ending = threading.Timer(0.3, end_all, [store])
    ending.start()
    assert _raw_data("pump", store, BEFORE, lambda stage, _: stages.append(stage), wait=True) == (0, ())
    ending.join()
    assert stages[0] == "raw data"
    store.close()


def end_all(store: Store) -> None:
    with store.writing() as session:
        for row in session.scalars(select(RequestRow)):
            close_request(row, RequestState.DONE)


def test_the_model_card_says_what_was_missing() -> None:
    """Whoever judges the model knows what it has not seen."""
    manifest = _manifest(1, SPECIFICATION, THRESHOLDS, datetime(2099, 1, 1, tzinfo=UTC), "0.1.0")
    decision = Decision(released=True, reasons=("it is the first",))
    card = model_card(manifest, decision, (), ("pump-01: purged",))
    assert "gateways had kept data back that had not come:\n\n- pump-01: purged\n" in card
