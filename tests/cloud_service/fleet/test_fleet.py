from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from cloud_service.errors import RecordRejected
from cloud_service.fleet import assets, maintenance
from cloud_service.store import Store
from models.records import AdvisoryState, AssetDescription, Channel, Results
from tests.cloud_service.conftest import make_advisory

FAILED = datetime(2026, 3, 5, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "cloud.sqlite")
    yield opened
    opened.close()


def take_over(store: Store, *results: Results, gateway_id: str = "gw-1") -> None:
    with store.writing() as session:
        assets.take_over(session, gateway_id, results)


def test_the_newest_revision_counts_whatever_comes_last(store: Store) -> None:
    """Revisions may come out of order and again; the page of one advisory still shows each, newest first."""
    first = make_advisory(revision=1)
    third = replace(first, revision=3, confidence=0.9)
    for advisory in (third, first, replace(first, revision=2), third):
        take_over(store, Results(advisories=(advisory,)))
    with store.reading() as session:
        assert [found.advisory for found in assets.open_advisories(session)] == [third]
        assert [a.revision for a in assets.advisory_revisions(session, first.advisory_id)] == [3, 2, 1]


@pytest.mark.parametrize("state", [AdvisoryState.RETURNED, AdvisoryState.CLOSED, AdvisoryState.OUT_OF_SERVICE])
def test_an_advisory_that_is_over_leaves_the_inbox(store: Store, state: AdvisoryState) -> None:
    """It stays in the list of all."""
    take_over(store, Results(advisories=(make_advisory(revision=1), make_advisory(revision=2, state=state))))
    with store.reading() as session:
        assert assets.open_advisories(session) == []
        assert len(assets.all_advisories(session)) == 1


def test_a_gateway_cannot_change_another_ones_advisory(store: Store) -> None:
    """A higher revision from elsewhere changes nothing."""
    take_over(store, Results(advisories=(make_advisory(revision=1),)))
    take_over(store, Results(advisories=(make_advisory(revision=9, state=AdvisoryState.CLOSED),)), gateway_id="gw-2")
    with store.reading() as session:
        assert [found.gateway_id for found in assets.open_advisories(session)] == ["gw-1"]


def test_ten_times_as_many_do_not_take_ten_times_as_many_questions(store: Store) -> None:
    """All of a segment are asked for together: nobody else can write meanwhile."""
    asked: list[str] = []
    event.listen(Engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))
    counts = []
    for many in (100, 1000):
        names = [f"pump-{many}-{number}" for number in range(many)]
        described = tuple(AssetDescription(asset_id=name, asset_class="pump", channels=()) for name in names)
        raised = tuple(replace(make_advisory(), advisory_id=name) for name in names)
        asked.clear()
        take_over(store, Results(assets=described, advisories=raised))
        counts.append(len([one for one in asked if one.startswith("SELECT")]))
    assert counts == [3, 9]


def test_assets_are_as_last_described(store: Store) -> None:
    """By class, with their channels."""
    channel = Channel(name="speed_rpm", unit="rpm", low=0.0, high=3000.0)
    for channels in ((), (channel,)):
        take_over(store, Results(assets=(AssetDescription(asset_id="p-1", asset_class="pump", channels=channels),)))
    with store.reading() as session:
        assert [description.channels for description in assets.assets(session, "pump")] == [(channel,)]
        assert assets.assets(session, "spindle") == []


def record(**changes: object) -> maintenance.MaintenanceRecord:
    values = {"asset_id": "pump-01", "failed_at": FAILED, "failure_mode": "seal_leak", **changes}
    return maintenance.MaintenanceRecord(**values)  # type: ignore[arg-type]  # wrong ones are what is tested


def test_a_record_added_twice_is_there_once(store: Store) -> None:
    """The second one replaces the first."""
    for again in (None, FAILED + timedelta(hours=4)):
        with store.writing() as session:
            maintenance.add_record(session, record(in_service_again=again))
    with store.reading() as session:
        assert maintenance.records(session) == [record(in_service_again=FAILED + timedelta(hours=4))]
        assert maintenance.records(session, ["pump-02"]) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"asset_id": " "},
        {"failure_mode": ""},
        {"failed_at": FAILED.replace(tzinfo=None)},
        {"in_service_again": FAILED - timedelta(hours=1)},
    ],
    ids=["asset", "mode", "zone", "order"],
)
def test_a_record_that_cannot_be_is_refused(store: Store, changes: dict[str, object]) -> None:
    """It would become a wrong label."""
    with store.writing() as session, pytest.raises(RecordRejected, match="not stored"):
        maintenance.add_record(session, record(**changes))


def test_records_are_read_from_csv(tmp_path: Path) -> None:
    """Empty fields are left out; a line that holds no record names itself."""
    path = tmp_path / "failures.csv"
    head = "asset_id,failed_at,failure_mode,in_service_again,note\n"
    path.write_text(f"{head}pump-01,2026-03-05T12:00:00Z,seal_leak,,\n")
    assert maintenance.read_records(path) == [record()]
    path.write_text(f"{head}pump-01,2026-03-05T12:00:00Z,seal_leak,,\npump-02,yesterday,seal_leak,,\n")
    with pytest.raises(RecordRejected, match="line 3"):
        maintenance.read_records(path)
    path.write_bytes(f"{head}pump-01,2026-03-05T12:00:00Z,".encode() + b"L\xe4ckage,,\n")
    with pytest.raises(RecordRejected, match="no UTF-8 text"):
        maintenance.read_records(path)
