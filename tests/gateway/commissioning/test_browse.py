from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gateway.cli import main
from tests.gateway.commissioning.conftest import Opcua

SPEED = "Machines/pump-01/Monitoring/speed_rpm"


def variables(opcua: Opcua, *arguments: str) -> dict[str, Any]:
    answer = opcua("browse", "plant", *arguments, "--json")
    assert answer.exit_code == 0, answer.output
    return {one["path"]: one for one in json.loads(answer.stdout)["variables"]}


def test_a_variable_is_told_with_all_that_is_known(opcua: Opcua) -> None:
    speed = variables(opcua, "--values")[SPEED]

    assert (speed["node"], speed["type"], speed["unit"]) == (
        "nsu=urn:test:plant;s=pump-01.speed_rpm",
        "Double",
        "1/min",
    )
    assert (speed["low"], speed["high"], speed["status"]) == (0, 3000, "Good")
    assert 1480 <= speed["value"] <= 1489
    assert speed["source_time"]


def test_each_node_is_shown_once_though_ways_lead_in_circles(opcua: Opcua) -> None:
    assert len([path for path in variables(opcua) if path.startswith("Machines")]) == 10


def test_filters_narrow_what_is_found(opcua: Opcua) -> None:
    assert set(variables(opcua, "--glob", "Machines/*/Monitoring/speed*")) == {SPEED, SPEED.replace("01", "02")}
    assert set(variables(opcua, "--search", "RPM", "Machines/pump-01")) == {SPEED}
    assert {path.rsplit("/", 1)[1] for path in variables(opcua, "--unit", "°C")} == {"winding_celsius"}
    assert {path.rsplit("/", 1)[1] for path in variables(opcua, "--type", "runmode")} == {"mode"}
    numbers = variables(opcua, "--type", "number", "Machines")
    assert {path.rsplit("/", 1)[1] for path in numbers} == {"speed_rpm", "winding_celsius", "vibration_m_s2", "mode"}


def test_a_slash_in_a_name_is_escaped(opcua: Opcua) -> None:
    serial = variables(opcua, "Machines/pump-01/Monitoring/serial\\/no", "--values")

    assert serial["Machines/pump-01/Monitoring/serial\\/no"]["value"] == "X-17"


def test_the_tree_shows_folders_and_values(opcua: Opcua) -> None:
    answer = opcua("browse", "plant", "Machines/pump-01", "--values")

    assert "└─ pump-01" in answer.stdout
    assert "[3 values]" in answer.stdout
    assert "0 … 150 °C" in answer.stdout


def test_the_number_of_nodes_is_bounded_and_told(opcua: Opcua) -> None:
    answer = opcua("browse", "plant", "--most", "5", "--json")

    assert json.loads(answer.stdout)["complete"] is False
    assert "stopped at 5 nodes" in json.loads(answer.stdout)["note"]


def test_a_wrong_path_is_answered_with_what_is_there(opcua: Opcua) -> None:
    answer = opcua("browse", "plant", "Machines/pump-1")

    assert answer.exit_code == 1
    assert "no node 'pump-1' in Machines; there are: pump-01, pump-02" in answer.stderr


def test_an_address_in_clear_needs_the_explicit_flag(plant_endpoint: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["opcua", "browse", plant_endpoint, "--security", "None"])
    taken = CliRunner().invoke(
        main, ["opcua", "browse", plant_endpoint, "Machines", "--insecure", "--pki", str(tmp_path)]
    )

    assert (refused.exit_code, taken.exit_code) == (2, 0)
    assert "add --insecure" in refused.stderr


def test_an_error_is_data_too(opcua: Opcua) -> None:
    answer = opcua("browse", "nobody", "--json")

    assert answer.exit_code == 2
    assert json.loads(answer.stdout)["next_step"]
