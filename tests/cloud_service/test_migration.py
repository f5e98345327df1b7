"""A database of the version before this one is taken over whole, whenever the process ends on the way."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.engine import Engine

from cloud_service.config import IngestConfig
from cloud_service.errors import ConfigError, RangeConflict
from cloud_service.ingest.overview import overview
from cloud_service.metrics import metrics_text
from cloud_service.migration import VERSION
from cloud_service.pipeline import Intake
from cloud_service.store import RejectionRow, Store
from models.records import AssetDescription, Results
from models.segment import decode_segment, encode_segment, segment_digest
from tests.cloud_service.conftest import make_advisory, make_page

# Made by the program before version 2: `sqlite3 cloud.sqlite .dump`.
DUMP = Path(__file__).parents[1] / "data" / "cloud-1.sql"
EARLIER = ("ledger", "held", "gateways", "assets", "advisories")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of version 1: three journals of two gateways, and four rejections."""
    path = tmp_path / "cloud.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(DUMP.read_text())
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return path


def content(path: Path) -> dict[str, list[Any]]:
    """Return version, columns and rows of every table."""
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
    found = {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in tables}  # noqa: S608 - own names
    found["version"] = list(connection.execute("PRAGMA user_version"))
    connection.close()
    return found


def taken_over(path: Path) -> dict[str, list[Any]]:
    Store(path).close()
    return content(path)


def test_what_was_there_is_there(database: Path) -> None:
    """Ranges, journals in their order, rejections by reason with the last of them; the sums agree."""
    store = Store(database)
    with store.reading() as session:
        journals = [(j.gateway_id, j.epoch, j.status, j.held, j.observations) for j in overview(session)]
        rejected = {
            (row.gateway_id, row.reason): (row.count, row.detail) for row in session.scalars(select(RejectionRow))
        }
    text = metrics_text(store).decode()
    store.close()
    assert journals == [
        ("gw-1", "00c0ffee00c0ffee", "superseded", [(1, 4), (7, 9)], 30),
        ("gw-1", "0badcafe0badcafe", "active", [(1, 2)], 10),
        ("gw-2", "00decade00decade", "active", [(1, 2)], 10),
    ]
    assert rejected["gw-1", "undecodable"] == (2, "bytes do not start a segment of version 1; they are refused")
    assert sorted(count for count, _ in rejected.values()) == [1, 1, 2]
    assert 'segments_received_total{gateway_id="gw-1"} 6.0' in text
    assert 'segments_stored_total{gateway_id="gw-1"} 3.0' in text


def test_a_page_that_the_version_before_stored_is_known_again(database: Path, tmp_path: Path) -> None:
    """Results among them: the same pages bring nothing new, others are a conflict."""
    store = Store(database)
    intake = Intake(store, tmp_path / "lake", IngestConfig())
    pages = [make_page("gw-1", seq) for seq in (1, 2, 3)]
    described = AssetDescription(asset_id="pump-01", asset_class="centrifugal_pump", channels=())
    same = make_page("gw-1", 4, Results(assets=(described,), advisories=(make_advisory(),)))
    data = encode_segment([*pages, same])
    assert intake.store_segment(decode_segment(data), segment_digest(data)) == [(1, 4), (7, 9)]

    other = encode_segment([*pages, make_page("gw-1", 4, Results(assets=(described,)))])
    with pytest.raises(RangeConflict, match="page 4"):
        intake.store_segment(decode_segment(other), segment_digest(other))
    store.close()


def test_it_has_the_tables_of_a_new_one(database: Path, tmp_path: Path) -> None:
    """Columns, their order, types and defaults."""

    def columns(path: Path) -> dict[str, list[Any]]:
        taken = taken_over(path)
        connection = sqlite3.connect(path)
        found = {name: list(connection.execute(f"PRAGMA table_info({name})")) for name in taken if name != "version"}
        connection.close()
        return found

    assert columns(database) == columns(tmp_path / "new.sqlite")


def test_it_is_taken_over_once(database: Path) -> None:
    """The second start changes nothing, and finds the version."""
    first = taken_over(database)
    assert taken_over(database) == first
    assert first["version"] == [(VERSION,)]


def test_a_kill_at_any_statement_leaves_the_version_before(database: Path, tmp_path: Path) -> None:
    """What lies on the disk before each statement is opened as after a kill there: always to the same end."""
    images: list[Path] = []

    def keep_image(*_: object) -> None:
        folder = tmp_path / f"killed-{len(images)}"
        folder.mkdir()
        for path in database.parent.glob("cloud.sqlite*"):
            shutil.copy(path, folder)
        images.append(folder / database.name)

    before = content(database)
    event.listen(Engine, "before_cursor_execute", keep_image)
    try:
        Store(database).close()
    finally:
        event.remove(Engine, "before_cursor_execute", keep_image)
    expected = content(database)
    assert len(images) > 20
    assert [before[name] for name in ("uploads", "version")] != [expected[name] for name in ("uploads", "version")]
    for image in images:
        assert content(image) == before
        assert taken_over(image) == expected


def test_without_the_transaction_a_kill_would_leave_half(database: Path) -> None:
    """The control: the same statements, each for itself, up to the middle."""
    from cloud_service.migration import _TO_2

    connection = sqlite3.connect(database, isolation_level=None)
    for statement in _TO_2[:6]:
        connection.execute(statement)
    connection.close()
    with pytest.raises(Exception, match="duplicate column"):
        Store(database)


def test_a_database_of_a_later_version_is_left_alone(database: Path) -> None:
    """An older program does not guess."""
    connection = sqlite3.connect(database)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    before = content(database)
    with pytest.raises(ConfigError, match="later"):
        Store(database)
    assert content(database) == before
