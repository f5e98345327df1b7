"""``wearsight-gateway historian`` where there is no server, or no configuration for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

PLAIN = 'gateway_id = "gw-1"\nstate_dir = "state"\n'
HISTORIAN = """[historian]
influxdb_url = "http://127.0.0.1:{port}"
influxdb_org = "o"
influxdb_bucket = "b"
influxdb_token_file = "token"
"""


def run(tmp_path: Path, text: str, *arguments: str) -> Result:
    """Run the program with *text* as its configuration."""
    config, token = tmp_path / "gateway.toml", tmp_path / "token"
    config.write_text(text)
    token.write_text("secret\n")
    more = ("--setup-token-file", str(token)) if arguments[0] == "setup" else ()
    return CliRunner().invoke(main, ["historian", *arguments, *more, "--config", str(config)])


@pytest.mark.parametrize("command", ["setup", "status"])
def test_without_influxdb_there_is_nothing_to_do(tmp_path: Path, command: str) -> None:
    result = run(tmp_path, PLAIN, command)
    assert (result.exit_code, "the gateway's own segments serve" in result.output) == (2, True)


def test_a_server_that_is_not_there_is_named(tmp_path: Path, unused_port: int) -> None:
    """By setup, which did nothing, and by status, whose data say it too; the secret is in none of it."""
    text = PLAIN + HISTORIAN.format(port=unused_port)
    setup, status = run(tmp_path, text, "setup", "--dry-run"), run(tmp_path, text, "status", "--json")
    assert (setup.exit_code, status.exit_code) == (1, 1)
    assert f"127.0.0.1:{unused_port}" in setup.output
    told = json.loads(status.stdout)
    assert (told["version"], told["retention_days"]) == ("", None)
    assert "ClientConnectorError" in told["trouble"]
    assert "secret" not in setup.output + status.output
    fault = json.loads(run(tmp_path, text, "setup", "--dry-run", "--json").stdout)
    assert (fault["error"], set(fault)) == ("HistorianError", {"error", "reason", "next_step"})


def test_the_setup_token_is_a_file(tmp_path: Path) -> None:
    """Never a value on the command line."""
    (tmp_path / "gateway.toml").write_text(PLAIN + HISTORIAN.format(port=1))
    result = CliRunner().invoke(main, ["historian", "setup", "--config", str(tmp_path / "gateway.toml")])
    assert (result.exit_code, "--setup-token-file" in result.output) == (2, True)
