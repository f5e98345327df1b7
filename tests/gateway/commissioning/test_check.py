from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.tag_list import TagRow, write_tags
from tests.gateway.commissioning.conftest import Opcua


def tag(channel: str, node: str) -> TagRow:
    return TagRow(
        server="plant", asset_id="m", asset_class="pump", channel=channel, node=f"nsu=urn:test:plant;s={node}"
    )


def checked(opcua: Opcua, config: Path, *rows: TagRow) -> tuple[int, dict[str, Any]]:
    write_tags(config.parent / "tags.csv", rows)
    answer = opcua("check", "plant", "--seconds", "1", "--json")
    return answer.exit_code, {one["tag"]: one for one in json.loads(answer.stdout)["tags"]}


def test_tags_that_do_what_they_should_are_fine(opcua: Opcua, config: Path) -> None:
    code, tags = checked(opcua, config, tag("speed", "pump-01.speed_rpm"), tag("heat", "pump-01.winding_celsius"))

    assert code == 0
    assert tags["m/speed"]["verdict"] == "good"
    assert tags["m/speed"]["rate_hz"] > 1
    assert (tags["m/heat"]["verdict"], tags["m/heat"]["values"], tags["m/heat"]["value"]) == ("constant", 1, 61.5)


@pytest.mark.parametrize(
    ("node", "verdict", "reason"),
    [
        ("gone", "missing", "BadNodeIdUnknown"),
        ("pump-01.serial", "missing", "holds String, not numbers"),
        ("broken", "bad", "BadSensorFailure"),
        ("empty", "dead", "no number in it"),
    ],
)
def test_what_is_wrong_is_told_and_ends_with_1(
    opcua: Opcua, config: Path, node: str, verdict: str, reason: str
) -> None:
    code, tags = checked(opcua, config, tag("x", node), tag("speed", "pump-01.speed_rpm"))

    assert code == 1
    assert tags["m/x"]["verdict"] == verdict
    assert reason in tags["m/x"]["reason"]
    assert tags["m/speed"]["verdict"] == "good"


def test_odd_times_are_told(opcua: Opcua, config: Path) -> None:
    _, tags = checked(opcua, config, tag("old", "clock_1999"), tag("ahead", "clock_ahead"))

    assert "before 2001" in tags["m/old"]["remarks"][0]
    assert [remark for remark in tags["m/ahead"]["remarks"] if "ahead of the clock" in remark]


def test_what_most_tags_have_in_common_is_told_once(opcua: Opcua, config: Path) -> None:
    """The server revised every interval: one line says of how many."""
    names = ("speed_rpm", "winding_celsius", "vibration_m_s2")
    write_tags(config.parent / "tags.csv", [tag(name, f"pump-01.{name}") for name in names])
    answer = opcua("check", "plant", "--seconds", "0.5")

    assert answer.stdout.count("sampled every 250 ms") == 1
    assert "of 3 tags: sampled every 250 ms" in answer.stdout


def test_nothing_configured_is_told_with_the_next_step(opcua: Opcua) -> None:
    answer = opcua("check", "plant", "--json")

    assert answer.exit_code == 2
    assert json.loads(answer.stdout)["next_step"] == "choose channels: wearsight-gateway opcua pick plant"


def test_the_table_shows_the_worst_first(opcua: Opcua, config: Path) -> None:
    write_tags(config.parent / "tags.csv", [tag("a", "pump-01.speed_rpm"), tag("b", "gone")])
    answer = opcua("check", "plant", "--seconds", "1")

    lines = answer.stdout.splitlines()
    assert lines[0].startswith("missing   m/b")
    assert lines[1].startswith("good      m/a")
    assert "1 missing, 1 good" in answer.stderr
