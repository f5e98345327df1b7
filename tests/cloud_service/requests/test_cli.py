"""``wearsight-cloud request-data`` in a terminal and for programs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cloud_service.cli import main
from cloud_service.config import load_config
from cloud_service.requests.asking import close_request
from cloud_service.requests.tables import RequestRow, RequestState
from cloud_service.store import Store
from tests.cloud_service.requests.given import note_kept_back

INTERVAL = ("--from", "2026-03-02T00:00:00Z", "--to", "2026-03-02T00:05:00Z")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A cloud to which gw-1 did not send the speed of pump-01."""
    CliRunner().invoke(main, ["init", str(tmp_path / "cloud")])
    path = tmp_path / "cloud" / "cloud.toml"
    store = Store(load_config(path).storage.database)
    with store.writing() as session:
        note_kept_back(session, "speed_rpm")
    store.close()
    return path


def run(config: Path, *arguments: str, code: int = 0) -> str:
    """Run the command and return what it says."""
    result = CliRunner().invoke(main, ["request-data", *arguments, "--config", str(config)])
    assert result.exit_code == code, result.output
    return str(result.output)


def requests(config: Path, *arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(run(config, *arguments, "--json"))["requests"])


def test_data_is_asked_for_listed_and_cancelled(config: Path) -> None:
    """A sentence for people, an object for programs; asked again it says what covers it."""
    assert "asked gw-1 for 1 channel of pump-01 (5 parts)" in run(config, "pump-01", *INTERVAL)
    (listed,) = requests(config, "--list")
    assert (listed["state"], listed["parts"], listed["parts_held"], listed["channels"]) == ("open", 5, 0, ["speed_rpm"])
    assert f"request {listed['request_id']}, open, has some of it already" in run(config, "pump-01", *INTERVAL)
    assert requests(config, "pump-99", "--list") == []
    assert "cancelled" in run(config, "--cancel", listed["request_id"])
    assert "is expired; nothing is cancelled" in run(config, "--cancel", listed["request_id"], code=1)


def test_where_nothing_was_kept_back_that_is_said(config: Path) -> None:
    """And which asset, channel or time is at fault."""
    assert "nothing was kept back of flow_m3_h of pump-01" in run(
        config, "pump-01", *INTERVAL, "--channel", "flow_m3_h", code=1
    )
    assert "no gateway has described an asset pump-99" in run(config, "pump-99", *INTERVAL, code=1)
    assert "--from 'soon' is not a time" in run(config, "pump-01", "--from", "soon", "--to", "later", code=2)
    assert "give ASSET_ID" in run(config, "pump-01", code=2)


def test_waiting_ends_with_the_request(config: Path) -> None:
    """It tells then how it ended."""
    run(config, "pump-01", *INTERVAL)
    ending = threading.Timer(0.3, refuse_all, [config])
    ending.start()
    assert "refused pump-01" in run(config, "pump-01", *INTERVAL, "--wait")
    ending.join()


def refuse_all(config: Path) -> None:
    store = Store(load_config(config).storage.database)
    with store.writing() as session:
        for row in session.query(RequestRow):
            close_request(row, RequestState.REFUSED, "purged")
    store.close()
