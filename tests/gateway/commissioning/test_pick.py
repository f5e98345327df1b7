from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commissioning.pick import chosen_numbers, write
from gateway.errors import ConfigError
from gateway.tag_list import TagRow, read_tags, write_tags
from tests.gateway.commissioning.conftest import Opcua

RULE = ("--rule", "Machines/{asset}/Monitoring/{channel}", "--asset-class", "pump")


def tags(config: Path) -> dict[str, TagRow]:
    return {f"{row.asset_id}/{row.channel}": row for row in read_tags(config.parent / "tags.csv").values()}


def test_a_rule_writes_the_channels_of_all_machines(opcua: Opcua, config: Path) -> None:
    answer = opcua("pick", "plant", *RULE)

    assert answer.exit_code == 0, answer.output
    found = tags(config)
    assert len(found) == 8
    speed = found["pump-02/speed_rpm"]
    assert (speed.server, speed.asset_class, speed.unit) == ("plant", "pump", "1/min")
    assert (speed.node, speed.low, speed.high) == ("nsu=urn:test:plant;s=pump-02.speed_rpm", 0, 3000)
    assert speed.path == "Machines/pump-02/Monitoring/speed_rpm"
    assert "serial\\/no holds String, not numbers" in answer.stderr


def test_lines_that_are_there_stay(opcua: Opcua, config: Path) -> None:
    """Somebody's own lines, and what somebody changed in ours, are neither dropped nor changed."""
    own = TagRow(server="plant", asset_id="fan-9", asset_class="pump", channel="x", path="Elsewhere/x")
    changed = TagRow(
        server="plant", asset_id="pump-01", asset_class="pump", channel="speed_rpm", unit="rpm",
        node="nsu=urn:test:plant;s=pump-01.speed_rpm",
    )  # fmt: skip
    write_tags(config.parent / "tags.csv", [own, changed])
    answer = opcua("pick", "plant", *RULE, "--json")

    assert json.loads(answer.stdout)["kept"] == ["pump-01/speed_rpm"]
    found = tags(config)
    assert (found["fan-9/x"], found["pump-01/speed_rpm"]) == (own, changed)
    assert len(found) == 9


def test_a_line_by_path_is_the_same_channel(opcua: Opcua, config: Path) -> None:
    """What is found again by its path alone is there already, and stays as it is."""
    path = "Machines/pump-01/Monitoring/speed_rpm"
    own = TagRow(server="plant", asset_id="pump-01", asset_class="pump", channel="speed_rpm", path=path)
    write_tags(config.parent / "tags.csv", [own])
    answer = json.loads(opcua("pick", "plant", *RULE, "--json").stdout)

    assert (answer["kept"], answer["differing"]) == (["pump-01/speed_rpm"], [])
    assert tags(config)["pump-01/speed_rpm"] == own


def test_a_replaced_server_is_read_by_path(opcua: Opcua, config: Path) -> None:
    """What was picked goes on being found when all ids are others, and check says so."""
    assert opcua("pick", "plant", *RULE, "--unit", "1/min").exit_code == 0
    there = (config.parent / "tags.csv").read_text()
    (config.parent / "tags.csv").write_text(there.replace("urn:test:plant", "urn:old:plant"))
    answer = json.loads(opcua("check", "plant", "--seconds", "0.5", "--json").stdout)

    assert [tag["verdict"] for tag in answer["tags"]] == ["good", "good"]
    assert "no namespace 'urn:old:plant'; nsu=urn:test:plant;s=pump-01" in "; ".join(answer["tags"][0]["remarks"])


def test_a_channel_of_the_configuration_is_not_named_twice(opcua: Opcua, config: Path) -> None:
    """What a [[tag]] names stays there: the list with it would be refused."""
    told = 'server = "plant"\nasset_id = "pump-01"\nchannel = "speed_rpm"\nasset_class = "pump"\npath = "Elsewhere"'
    config.write_text(f"{config.read_text()}[[tag]]\n{told}\n")
    answer = json.loads(opcua("pick", "plant", *RULE, "--json").stdout)

    assert answer["differing"] == ["pump-01/speed_rpm"]
    assert "pump-01/speed_rpm" not in tags(config)
    assert opcua("check", "plant", "--seconds", "0.2").exit_code == 1  # Elsewhere is nowhere, but all is read


def test_a_dry_run_writes_nothing(opcua: Opcua, config: Path) -> None:
    answer = opcua("pick", "plant", *RULE, "--unit", "°C", "--dry-run")

    assert answer.stdout.count("winding_celsius") == 2 * 2  # name and node
    assert not (config.parent / "tags.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give a --rule"),
        (("--rule", "Machines/*", "--asset-class", "pump"), "which name is the asset"),
        (("--rule", "{asset}/**", "--asset-class", "boat"), "'boat' is not configured"),
    ],
)
def test_a_script_is_never_asked(opcua: Opcua, arguments: tuple[str, ...], reason: str) -> None:
    answer = opcua("pick", "plant", *arguments)

    assert answer.exit_code == 2
    assert reason in answer.stderr


def test_data_is_asked_for_nothing(opcua: Opcua, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json even a wrong option is answered with data, and no question, whoever sits there."""
    monkeypatch.setattr("gateway.commissioning.find_commands.asked_in_terminal", lambda: True)
    answer = opcua("pick", "plant", "--json")

    assert answer.exit_code == 2
    assert "give a --rule" in json.loads(answer.stdout)["reason"]


def test_a_terminal_is_asked(opcua: Opcua, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search, choose by number, take the proposed asset and class, write."""
    monkeypatch.setattr("gateway.commissioning.find_commands.asked_in_terminal", lambda: True)
    answer = opcua("pick", "plant", input="pump-9*\npump-01*\nfoo\n1,2\n\n\nn\ny\n")

    assert answer.exit_code == 0, answer.output
    assert "'foo' is no number" in answer.output
    assert set(tags(config)) == {"pump-01/speed_rpm", "pump-01/winding_celsius"}


def test_what_is_there_survives_a_failed_write(tmp_path: Path) -> None:
    """A list that cannot be written whole is as it was."""
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(ConfigError, match="is as it was"):
        write(path, [])
    assert path.is_dir()
    assert list(tmp_path.iterdir()) == [path]


def test_a_machine_keeps_its_class(opcua: Opcua, config: Path) -> None:
    """Rows that contradict the configuration would make it useless; they are left out."""
    config.write_text(config.read_text() + "[asset_class.fan]\n")
    assert opcua("pick", "plant", *RULE).exit_code == 0
    answer = opcua("pick", "plant", "--rule", "Machines/{asset}/**", "--asset-class", "fan", "--json")

    left_out = json.loads(answer.stdout)["left_out"]
    assert left_out["pump-01/speed_rpm"] == "is of a 'pump', not of a 'fan'"
    assert json.loads(answer.stdout)["written"] is False
    assert opcua("check", "plant", "--seconds", "0.5").exit_code == 0


@pytest.mark.parametrize("text", ["x", "0", "4", "2-1", "1-", "-", "1;2", "²"])
def test_what_is_no_choice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|not within"):
        chosen_numbers(text, 3)


@given(st.sets(st.integers(1, 40), max_size=10))
def test_a_choice_reads_back(numbers: set[int]) -> None:
    assert chosen_numbers(", ".join(map(str, numbers)), 40) == list(map(int, map(str, numbers)))
