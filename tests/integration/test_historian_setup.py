"""``wearsight-gateway historian setup`` against a real InfluxDB 2: everything once, changes told and made, no more."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.config import HistorianConfig
from gateway.config_file import load_config
from gateway.historian import InfluxHistorian
from models.records import Page
from tests.integration.influxdb import ORG, TOKEN, InfluxServer, influx_server
from tests.strategies import BAD, make_observations

__all__ = ["influx_server"]
pytestmark = [pytest.mark.integration, pytest.mark.influxdb]

Run = Callable[..., Result]
MINUTE_NS = 60 * 10**9


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"b-{request.node.name}"[:40]


@pytest.fixture
def write_config(influx_server: InfluxServer, tmp_path: Path, bucket: str) -> Callable[[str], Path]:
    """Write a configuration, with more lines for [historian]."""
    (tmp_path / "setup.token").write_text(TOKEN + "\n")

    def write(more: str = "") -> Path:
        path = tmp_path / "gateway.toml"
        path.write_text(
            f'gateway_id = "gw-1"\nstate_dir = "state"\n[historian]\ninfluxdb_url = "{influx_server.url}"\n'
            f'influxdb_org = "{ORG}"\ninfluxdb_bucket = "{bucket}"\ninfluxdb_token_file = "gateway.token"\n{more}'
        )
        return path

    return write


@pytest.fixture
def run(write_config: Callable[[str], Path], tmp_path: Path) -> Run:
    """Run the program ``wearsight-gateway historian`` with the configuration."""

    def run(*arguments: str, more: str = "") -> Result:
        config = write_config(more)
        if arguments[0] == "setup":
            arguments += ("--setup-token-file", str(tmp_path / "setup.token"))
        return CliRunner().invoke(main, ["historian", *arguments, "--config", str(config)])

    return run


def actions(result: Result) -> list[tuple[str, str]]:
    """Return what was done, but for what was kept."""
    assert result.exit_code == 0, result.output
    return [(s["action"], s["what"]) for s in json.loads(result.stdout)["steps"] if s["action"] != "keep"]


def test_everything_is_made_once(run: Run, tmp_path: Path) -> None:
    """Told first, made then; the second run has nothing to do; the token is the gateway's alone to read."""
    made = [("create", "bucket")] * 3 + [("create", "task")] * 2 + [("create", "name")] * 3 + [("create", "token")]
    assert actions(run("setup", "--dry-run", "--json")) == made
    assert not (tmp_path / "gateway.token").exists()
    assert actions(run("setup", "--json")) == made
    assert (tmp_path / "gateway.token").stat().st_mode & 0o777 == 0o600
    assert actions(run("setup", "--json")) == []
    assert "0 changes" in run("setup").output


def test_a_changed_configuration_is_shown_and_made(run: Run) -> None:
    """Days, intervals gone and new; a task that somebody stopped or changed; then nothing is left to do."""
    run("setup")
    more = 'retention_days = 30.0\ndownsample = [{ every = "5m", retention_days = 0.0 }]\n'
    told = run("setup", "--dry-run", more=more).output
    assert "kept 90 days, is to keep 30 days; what is older is deleted" in told
    changed = [("change", "bucket"), ("create", "bucket"), ("create", "task"), ("remove", "task"), ("remove", "task")]
    assert actions(run("setup", "--json", more=more)) == [*changed, ("create", "name")]
    assert actions(run("setup", "--json", more=more)) == []


def test_what_others_made_is_left_alone(run: Run, influx_server: InfluxServer, bucket: str) -> None:
    """A task of the same name that is not ours, and one of ours that was stopped."""
    flux = f'option task = {{name: "{bucket} every 1m", every: 1h}}\nfrom(bucket: "first") |> range(start: -1h)'
    theirs = influx_server.call("/api/v2/tasks", {"orgID": influx_server.org_id, "flux": flux})
    run("setup")
    tasks = influx_server.get(f"/api/v2/tasks?orgID={influx_server.org_id}&limit=500")["tasks"]
    assert [t["flux"] for t in tasks if t["id"] == theirs["id"]] == [flux]
    ours = next(t for t in tasks if t["name"] == f"{bucket} every 1h")
    influx_server.call(f"/api/v2/tasks/{ours['id']}", {"status": "inactive"}, method="PATCH")
    assert actions(run("setup", "--json")) == [("change", "task")]


def test_a_name_of_another_bucket_is_not_taken_over(run: Run, influx_server: InfluxServer, bucket: str) -> None:
    """InfluxQL would otherwise answer from somewhere else all of a sudden."""
    first = influx_server.get("/api/v2/buckets?name=first")["buckets"][0]["id"]
    mapping = {"bucketID": first, "database": bucket, "retention_policy": "1m", "default": False}
    influx_server.call("/api/v2/dbrps", {"orgID": influx_server.org_id, **mapping})
    failed = run("setup")
    assert failed.exit_code == 1
    assert f"{bucket}.1m belongs to another bucket" in failed.output


def test_a_server_that_says_no_is_quoted(run: Run, tmp_path: Path) -> None:
    run("setup", "--dry-run")
    (tmp_path / "setup.token").write_text("wrong\n")
    failed = run("setup")
    assert (failed.exit_code, "unauthorized" in failed.output) == (1, True)


async def test_the_gateway_s_token_writes_reads_and_no_more(
    run: Run, influx_server: InfluxServer, write_config: Callable[[str], Path]
) -> None:
    """The historian works with what setup made; the status says so; another bucket is closed to it."""
    await asyncio.to_thread(run, "setup")
    config = load_config(write_config("")).historian
    assert config is not None
    rows = make_observations(streams=2, rows=3, start_ns=time.time_ns() - MINUTE_NS)
    await write(config, rows)
    historian = InfluxHistorian(config)
    assert len(await historian.read(rows.streams, 0, 2**62)) == 6
    await historian.close()
    status = json.loads((await asyncio.to_thread(run, "status", "--json")).stdout)
    assert (status["trouble"], status["newest_ns"]) == ("", int(rows.source_time.max()))
    assert (
        "the configuration says 7 days"
        in (await asyncio.to_thread(run, "status", more="retention_days = 7.0\n")).output
    )
    other = influx_server.influxql(config.influxdb_token_file.read_text().strip(), "first", "SELECT * FROM x")
    assert "database not found" in other


async def test_the_tasks_give_mean_least_greatest_and_number(
    run: Run, influx_server: InfluxServer, write_config: Callable[[str], Path], bucket: str
) -> None:
    """Run at once: the whole minutes of good values, and InfluxQL finds them under ``bucket."1m"``."""
    await asyncio.to_thread(run, "setup")
    config = load_config(write_config("")).historian
    assert config is not None
    start = time.time_ns() // MINUTE_NS * MINUTE_NS - MINUTE_NS  # the last whole minute
    rows = make_observations(streams=1, rows=5, start_ns=start, first_value=10.0)
    rows = replace(rows, status=np.array([0, 0, 0, 0, BAD], np.uint32))
    await write(config, rows)
    task = next(
        t
        for t in influx_server.get(f"/api/v2/tasks?orgID={influx_server.org_id}&limit=500")["tasks"]
        if t["name"] == f"{bucket} every 1m"
    )
    influx_server.call(f"/api/v2/tasks/{task['id']}/runs", {})
    deadline = time.monotonic() + 60
    while not (found := found_in(influx_server, bucket, start)) and time.monotonic() < deadline:  # noqa: ASYNC110 - a server
        await asyncio.sleep(0.2)
    assert found == [[start, 4, 13.0, 11.5, 10.0]]


def found_in(server: InfluxServer, bucket: str, start: int) -> list[list[Any]]:
    """Return the aggregates of the minute that begins at *start*."""
    query = f'SELECT "count", "max", "mean", "min" FROM "{bucket}"."1m"."observation" WHERE time = {start}'  # noqa: S608 - ours
    answer = json.loads(server.influxql(TOKEN, bucket, query))["results"][0]
    return list(answer["series"][0]["values"]) if "series" in answer else []


async def write(config: HistorianConfig, rows: Any) -> None:
    """Write *rows* as a gateway would."""
    historian = InfluxHistorian(config)
    await historian.write(Page(gateway_id="gw-1", epoch="e0", seq=1, committed_time=0, content=rows))
    await historian.close()
