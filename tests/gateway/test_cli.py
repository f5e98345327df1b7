import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.cli import main
from gateway.testing import ASSET_CLASS, make_bundle, public_pem

CONFIG = """
gateway_id = "gw-1"
state_dir = "state"
[[server]]
name = "cell-1"
endpoint = "opc.tcp://127.0.0.1:1/"
[[asset]]
asset_id = "m-1"
asset_class = "test_machine"
server = "cell-1"
path = "Machines/m-1"
[asset_class.test_machine]
[bundles]
trusted_key_file = "signing.pub"
"""


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def config(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    (tmp_path / "signing.pub").write_bytes(public_pem(key))
    (tmp_path / "gateway.toml").write_text(CONFIG)
    return tmp_path / "gateway.toml"


def call(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--config", str(config)])


def test_a_good_configuration_is_told(config: Path) -> None:
    answer = call(config, "check-config")

    assert answer.exit_code == 0
    assert "gateway gw-1, 1 assets" in answer.output


@pytest.mark.parametrize("command", [["check-config"], ["run"], ["bundle", "list"]])
def test_a_wrong_key_is_exit_code_2_with_file_and_key(config: Path, command: list[str]) -> None:
    config.write_text(CONFIG.replace("trusted_key_file", "trustd_key_file"))

    answer = call(config, *command)

    assert answer.exit_code == 2
    assert str(config) in answer.stderr
    assert "trustd_key_file" in answer.stderr


def test_bundles_are_installed_listed_and_rolled_back(config: Path, key: Ed25519PrivateKey, tmp_path: Path) -> None:
    """The commands that Ansible calls, with data as JSON."""
    first, second = (make_bundle(tmp_path, version=v, signing_key=key) for v in (1, 2))

    assert json.loads(call(config, "bundle", "install", str(first), "--json").stdout)["version"] == 1
    installed = json.loads(call(config, "bundle", "install", str(second), "--json").stdout)
    assert (installed["installed"], installed["replaced"]) == (True, 1)
    back = call(config, "bundle", "rollback", ASSET_CLASS, "--json")
    assert json.loads(back.stdout) == {"asset_class": ASSET_CLASS, "version": 1}
    listed = json.loads(call(config, "bundle", "list", "--json").stdout)
    assert [(slot["version"], slot["live"]) for slot in listed] == [(1, True), (2, False)]


def test_a_refused_bundle_is_exit_code_3_with_cause_and_reason(config: Path, tmp_path: Path) -> None:
    foreign = make_bundle(tmp_path, version=1, signing_key=Ed25519PrivateKey.generate())

    answer = call(config, "bundle", "install", str(foreign), "--json")

    assert answer.exit_code == 3
    refusal = json.loads(answer.stdout)
    assert (refusal["installed"], refusal["cause"]) == (False, "SignatureInvalid")
    assert refusal["reason"] in answer.stderr


def test_nothing_to_roll_back_to_is_exit_code_3(config: Path) -> None:
    assert call(config, "bundle", "rollback", ASSET_CLASS).exit_code == 3


def test_doctor_finds_what_is_wrong_and_says_the_next_step(config: Path) -> None:
    """No folder, nobody trusted, nobody there: each a fault with a next step, and exit code 1."""
    answer = call(config, "doctor", "--json")

    findings = json.loads(answer.stdout)
    faults = {f["subject"]: f for f in findings if f["level"] == "fault"}
    assert answer.exit_code == 1
    assert {"state_dir", "trust list", "server cell-1"} <= faults.keys()
    assert all(fault["next_step"] for fault in faults.values())


def test_doctor_names_the_key_of_a_broken_configuration(config: Path) -> None:
    config.write_text(CONFIG.replace("gateway_id", "gatewayid"))

    answer = call(config, "doctor")

    assert answer.exit_code == 1
    assert "gatewayid" in answer.output


def test_the_version_is_told(config: Path) -> None:
    del config
    answer = CliRunner().invoke(main, ["version", "--json"])

    assert set(json.loads(answer.stdout)) == {"version"}
