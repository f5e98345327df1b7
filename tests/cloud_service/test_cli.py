from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cloud_service.cli import main
from cloud_service.config import load_config
from cloud_service.registry.registry import BundleStatus, Registry
from cloud_service.store import Store


def run(*arguments: str | Path, code: int = 0) -> Result:
    """Run the program in this process and check how it ended."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def told(*arguments: str | Path, code: int = 0) -> Any:
    """Return what a command says for programs."""
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A cloud that was just set up."""
    run("init", tmp_path / "cloud")
    return tmp_path / "cloud" / "cloud.toml"


def test_init_makes_everything_once(config: Path) -> None:
    """A second one says why not, and keeps the keys as they are."""
    ca = (config.parent / "pki" / "ca.pem").read_bytes()
    assert "can be used" in run("check-config", "--config", config).output
    assert "exists" in run("init", config.parent, code=1).output
    assert (config.parent / "pki" / "ca.pem").read_bytes() == ca


def test_a_wrong_configuration_ends_with_one_line(config: Path) -> None:
    """It names the file and the key, for every command."""
    config.write_text("[ingest]\nadress = 1\n")
    for command in (["check-config"], ["ledger"], ["serve"]):
        output = run(*command, "--config", config, code=2).output
        assert "cloud.toml" in output
        assert "adress" in output
        assert "Traceback" not in output


def test_a_gateway_is_enrolled_and_revoked(config: Path, tmp_path: Path) -> None:
    """Its files are where they were asked for; one that never was cannot be revoked."""
    answer = told("enroll", "gw-1", "--out", tmp_path / "tls", "--config", config)
    assert answer["gateway_id"] == "gw-1"
    assert (tmp_path / "tls" / "gateway.key").stat().st_mode & 0o777 == 0o600
    assert told("revoke", "gw-1", "--config", config)["revoked"]
    assert "never enrolled" in run("revoke", "gw-2", "--config", config, code=1).output
    assert "gateway's id" in run("enroll", "../gw", "--config", config, code=1).output


def test_maintenance_records_are_added_and_imported(config: Path, tmp_path: Path) -> None:
    """By hand or from a file; a time without a zone is refused."""
    base: list[str | Path] = ["maintenance", "add", "pump-01", "--failure-mode", "seal_leak", "--config", config]
    assert told(*base, "--failed-at", "2026-03-05T12:00:00Z") == {"stored": 1}
    assert "zone" in run(*base, "--failed-at", "2026-03-05T12:00:00", code=1).output
    path = tmp_path / "failures.csv"
    path.write_text("asset_id,failed_at,failure_mode\npump-02,2026-03-05T12:00:00Z,seal_leak\n")
    assert told("maintenance", "import", path, "--config", config) == {"stored": 1}


def test_a_candidate_is_released_by_hand(config: Path) -> None:
    """The list of bundles shows where each one stands and where its archive is."""
    store = Store(load_config(config).storage.database)
    Registry(config.parent / "registry", store).register(
        "pump", 1, archive=b"tar", status=BundleStatus.CANDIDATE, metrics={"auc": 0.9}, reason=""
    )
    store.close()
    run("release", "--asset-class", "pump", "--version", "1", "--config", config)
    (bundle,) = told("bundles", "--config", config)
    assert (bundle["status"], bundle["metrics"]) == ("released", {"auc": 0.9})
    assert Path(bundle["archive"]).read_bytes() == b"tar"


def test_training_without_an_asset_says_so(config: Path) -> None:
    """No version is used up by it."""
    assert "no gateway has described" in run("train", "--asset-class", "pump", "--config", config, code=1).output
    assert told("bundles", "--config", config) == []


def test_nothing_released_is_nothing_rolled_out(config: Path, tmp_path: Path) -> None:
    """Neither a class without a release nor a file that is no bundle reaches Ansible."""
    (tmp_path / "inventory.json").write_text("{}")
    (tmp_path / "bundle.tar").write_bytes(b"not a bundle")
    base: list[str | Path] = ["rollout", "--inventory", tmp_path / "inventory.json", "--config", config]
    assert "no released version" in run(*base, "--asset-class", "pump", code=1).output
    assert "no bundle" in run(*base, "--archive", tmp_path / "bundle.tar", code=1).output
    assert "either" in run(*base, code=2).output


def test_an_empty_ledger_has_no_journals(config: Path) -> None:
    assert told("ledger", "--config", config) == {"journals": [], "rejections": []}


def test_what_goes_wrong_is_data_too(config: Path) -> None:
    """The shape is that of the gateway's commands; 1 is a fault, 2 usage or configuration."""
    fault = told("revoke", "gw-2", "--config", config, code=1)
    usage = told("request-data", "pump-01", "--from", "soon", "--to", "later", "--config", config, code=2)
    assert (fault["error"], set(fault)) == ("EnrollmentError", {"error", "reason", "next_step"})
    assert (usage["error"], usage["reason"]) == ("UsageError", "--from 'soon' is not a time, as 2026-03-02T08:00")
