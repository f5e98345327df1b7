"""Tag lists of other programs become ours; what cannot be taken is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.commissioning.importing import import_command
from gateway.config import Deadband, Mode
from gateway.config_file import load_config
from gateway.data_acquisition.tags import wanted_tags
from gateway.tag_list import TagRow, read_tags, write_tags

PUBLISHER = """
// of line 3
[
  {
    "EndpointUrl": "opc.tcp://line3:4840", "UseSecurity": true, "DataSetWriterId": "press-01",
    "DataSetPublishingInterval": 5000,
    "OpcNodes": [
      {"Id": "nsu=http://plant/;s=Force", "DisplayName": "force", "OpcSamplingInterval": 100, "QueueSize": 50},
      {"ExpandedNodeId": "nsu=http://plant/;s=\\"DB\\".\\"Speed\\"", "OpcPublishingIntervalTimespan": "00:00:01.5"},
      {"Id": "http://plant/#i=77", "DeadbandType": "Percent", "DeadbandValue": 2.5, "DiscardNew": true},
      {"Id": "i=2258", "UseCyclicRead": true, "HeartbeatInterval": 60, "SkipFirst": true},
      {"Id": "ns=4;s=Unknown"},
      {"Id": "nsu=http://plant/;s=Force", "DisplayName": "force"},
      {"Id": "nsu=http://plant/;s=E", "EventFilter": {"TypeDefinitionId": "i=2041"}},
      {"Id": "nsu=http://plant/;s=A", "AttributeId": "NodeClass"},
      {"Id": "nsu=http://plant/;s=A", "IndexRange": "0:3"},
      {"Id": "i=85", "BrowsePath": ["Machines", "Press"]},
      {"DisplayName": "nothing"},
      {"Id": "nsu=http://plant/;s=B", "OpcSamplingInterval": "fast"},
      /* the last */
    ],
  },
  {"EndpointUrl": "opc.tcp://line3:4840", "DataSetWriterGroup": "old", "NodeId": {"Identifier": "nsu=http://plant/;s=Old"}},
]
"""

TELEGRAF = """
[agent]
interval = "20s"
[[outputs.file]]
files = ["stdout"]
[[inputs.opcua_listener]]
endpoint = "opc.tcp://line3:4840"
subscription_interval = "500ms"
security_policy = "auto"
timestamp = "source"
nodes = [
  {name="force", namespace="3", identifier_type="s", identifier="Force"},
  {name="speed", id="nsu=http://plant/;s=Speed"},
  {name="nothing", namespace="3"},
]
[[inputs.opcua_listener.group]]
name = "press-01"
namespace_uri = "http://plant/"
identifier_type = "i"
sampling_interval = "1m0.5s"
nodes = [{name="count", identifier="77"}]
[[inputs.opcua_listener.group]]
name = "press-01"
[[inputs.opcua_listener.group.nodes]]
name = "torque"
namespace = "3"
identifier_type = "s"
identifier = "Torque"
default_tags = { tag1 = "x" }
[inputs.opcua_listener.group.nodes.monitoring_params]
sampling_interval = "10ms"
queue_size = 10
discard_oldest = false
[inputs.opcua_listener.group.nodes.monitoring_params.data_change_filter]
trigger = "StatusValue"
deadband_type = "Absolute"
deadband_value = 0.5
[[inputs.opcua_listener.events]]
event_type = "x"
[[inputs.opcua]]
endpoint = "opc.tcp://line3:4840"
nodes = [{name="slow", namespace="0", identifier_type="i", identifier="2258"}]
"""

KEPWARE = """\
Tag Name,Address,Data Type,Respect Data Type,Client Access,Scan Rate,Scaling,Raw Low,Raw High,Scaled Low,Scaled High,\
Scaled Data Type,Clamp Low,Clamp High,Eng Units,Description,Negate Value
"Flow","DB1.DBD0",Float,1,R/W,100,Linear,0,27648,0,40,Double,0,0,"m³/h","flow, at the outlet",0
"Motor.Speed","DB1.DBD4",Word,1,RO,1000,,,,,,,,,"","",
"Name","DB2.DBB0",String,1,RO,1000,,,,,,,,,"","",
"Reset","DB3.DBX0.0",Boolean,1,WO,1000,,,,,,,,,"","",
"Curve [8]","DB4.DBD0",Float Array,1,RO,soon,,,,,,,,,"","",
"""

CONFIG = """
gateway_id = "gw-1"
state_dir = "state"
tags_file = "tags.csv"
[[server]]
name = "cell-3"
endpoint = "opc.tcp://line3:4840"
"""


def imported(folder: Path, text: str, *options: str, name: str = "list.txt") -> Result:
    (folder / name).write_text(text, "utf-8")
    return CliRunner().invoke(import_command, [str(folder / name), "--server", "cell-3", *options])


def data(folder: Path, text: str, *options: str) -> dict[str, Any]:
    """Return what the command tells as data."""
    result = imported(folder, text, "--json", *options)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def rows(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["channel"]: (row["asset_id"], row["node"]) for row in found["rows"]}


def test_opc_publisher(tmp_path: Path) -> None:
    """Its nodes are tags; each it cannot give is named with its place."""
    found = data(tmp_path, PUBLISHER)
    assert rows(found) == {
        "force": ("press-01", "nsu=http://plant/;s=Force"),
        "DB.Speed": ("press-01", 'nsu=http://plant/;s="DB"."Speed"'),
        "77": ("press-01", "nsu=http://plant/;i=77"),
        "2258": ("press-01", "nsu=http://opcfoundation.org/UA/;i=2258"),
        "Old": ("old", "nsu=http://plant/;s=Old"),
    }
    groups = [found["groups"].get(row["group"]) for row in found["rows"]]
    assert groups == [
        {"sampling_interval_ms": 100.0, "publishing_interval_ms": 5000.0, "queue_size": 50},
        {"publishing_interval_ms": 1500.0},
        {"publishing_interval_ms": 5000.0, "discard": "newest", "deadband": "percent", "deadband_value": 2.5},
        {"mode": "poll", "sampling_interval_ms": 1000.0, "publishing_interval_ms": 5000.0, "heartbeat_s": 60.0},
        None,
    ]
    reasons = {one["where"]: one["reason"] for one in found["not_taken"]}
    assert list(reasons) == [f"[0].OpcNodes[{i}]" for i in (4, 5, 6, 7, 8, 9, 10, 11)]
    for told, reason in zip(
        ("give --namespace 4=URI, or --connect", "is there already, at [0].OpcNodes[0]", "asks for events",
         "the attribute NodeClass", "the part 0:3", "has a BrowsePath", "neither Id nor", "'fast' is no number"),
        reasons.values(), strict=True,
    ):  # fmt: skip
        assert told in reason
    assert "OpcNodes.SkipFirst, UseSecurity" in found["notes"][0]


def test_telegraf(tmp_path: Path) -> None:
    """Nodes of both inputs, single and in groups, with the groups' defaults; only a listener subscribes."""
    found = data(tmp_path, TELEGRAF, "--namespace", "3=http://plant/", "--asset-id", "press-01")
    assert rows(found) == {
        "slow": ("press-01", "nsu=http://opcfoundation.org/UA/;i=2258"),
        "force": ("press-01", "nsu=http://plant/;s=Force"),
        "speed": ("press-01", "nsu=http://plant/;s=Speed"),
        "count": ("press-01", "nsu=http://plant/;i=77"),
        "torque": ("press-01", "nsu=http://plant/;s=Torque"),
    }
    groups = {row["channel"]: found["groups"][row["group"]] for row in found["rows"]}
    assert groups["slow"] == {"mode": "poll", "sampling_interval_ms": 20_000.0}
    assert groups["speed"] == {"publishing_interval_ms": 500.0}
    assert groups["count"] == {"sampling_interval_ms": 60_500.0, "publishing_interval_ms": 500.0}
    assert groups["torque"] == {
        "sampling_interval_ms": 10.0,
        "publishing_interval_ms": 500.0,
        "queue_size": 10,
        "discard": "newest",
        "deadband": "absolute",
        "deadband_value": 0.5,
    }
    assert [(one["where"], one["reason"]) for one in found["not_taken"]] == [
        ("inputs.opcua_listener[0].nodes[2]", "names no identifier"),
        ("inputs.opcua_listener[0].events[0]", "asks for events, which are not read"),
    ]
    assert any('set time = "source"' in note for note in found["notes"])
    assert any("data_change_filter.trigger, nodes.default_tags, security_policy" in note for note in found["notes"])


def test_without_an_asset_a_list_gives_those_it_knows(tmp_path: Path) -> None:
    """A Telegraf group is one; nodes outside of any are named."""
    found = data(tmp_path, TELEGRAF, "--namespace", "3=http://plant/")
    assert rows(found) == {
        "count": ("press-01", "nsu=http://plant/;i=77"),
        "torque": ("press-01", "nsu=http://plant/;s=Torque"),
    }
    assert sum("give --asset-id" in one["reason"] for one in found["not_taken"]) == 3


def test_kepware(tmp_path: Path) -> None:
    """Tags of a device, with unit, scaled range and scan rate; the export does not name the device."""
    found = data(tmp_path, KEPWARE, "--device", "Channel1.Device1")
    assert rows(found) == {
        "Flow": ("Channel1.Device1", "nsu=KEPServerEX;s=Channel1.Device1.Flow"),
        "Motor.Speed": ("Channel1.Device1", "nsu=KEPServerEX;s=Channel1.Device1.Motor.Speed"),
    }
    flow, speed = found["rows"]
    assert (flow["unit"], flow["low"], flow["high"]) == ("m³/h", 0.0, 40.0)
    assert (speed["unit"], speed["low"], speed["high"]) == ("", None, None)
    assert found["groups"][flow["group"]] == {"sampling_interval_ms": 100.0}
    assert [(one["where"], one["name"]) for one in found["not_taken"]] == [
        ("line 4", "Name"), ("line 5", "Reset"), ("line 6", "Curve [8]")
    ]  # fmt: skip
    assert found["not_taken"][0]["reason"] == "holds String, not numbers"
    assert "respect data type" in found["notes"][0]
    refused = imported(tmp_path, KEPWARE)
    assert refused.exit_code == 2
    assert "give --device Channel.Device" in refused.stderr


@pytest.mark.parametrize("text", [PUBLISHER, TELEGRAF, KEPWARE])
def test_what_is_imported_is_a_configuration(tmp_path: Path, text: str) -> None:
    """The list and the tables that the command asks for make a configuration that loads, and ask as the list did."""
    options = ("--device", "Channel1.Device1", "--asset-class", "press", "-o", str(tmp_path / "tags.csv"))
    result = imported(tmp_path, text, "--namespace", "3=http://plant/", *options)
    assert result.exit_code == 0
    needed = result.stderr.split("The configuration needs:\n")[1]
    assert 'tags_file = "tags.csv"' in needed
    tables = needed.split("\n", 2)[2]
    (tmp_path / "gateway.toml").write_text(CONFIG + tables)
    config = load_config(tmp_path / "gateway.toml")
    tags = wanted_tags(config, "cell-3").tags
    assert len(tags) == len(read_tags(tmp_path / "tags.csv")) > 0
    assert all(tag.sampling == config.acquisition.sampling(row.group or None) for tag, row in zip(
        sorted(tags, key=lambda tag: tag.stream), sorted(config.tag, key=lambda row: (row.asset_id, row.channel)),
        strict=True,
    ))  # fmt: skip
    if text is PUBLISHER:
        assert {tag.sampling.deadband for tag in tags} == {Deadband.NONE, Deadband.PERCENT}
        assert {tag.sampling.mode for tag in tags} == {Mode.SUBSCRIBE, Mode.POLL}


def test_a_list_is_added_to(tmp_path: Path) -> None:
    """Rows that are there stay; the same channel is not added again. A dry run writes nothing."""
    output = tmp_path / "tags.csv"
    there = TagRow(server="cell-3", asset_id="press-01", channel="force", path="M/Force")
    write_tags(output, [there])
    before = output.read_bytes()
    dry = imported(tmp_path, PUBLISHER, "-o", str(output), "--dry-run")
    assert "4 tags would be added to" in dry.stderr
    assert output.read_bytes() == before
    done = imported(tmp_path, PUBLISHER, "-o", str(output))
    assert "press-01/force is there already, in the tag list" in done.stderr
    listed = list(read_tags(output).values())
    assert listed[0] == there
    assert len(listed) == 5
    again = imported(tmp_path, PUBLISHER, "-o", str(output))
    assert again.exit_code == 1
    assert list(read_tags(output).values()) == listed


def test_without_an_output_the_list_is_printed(tmp_path: Path) -> None:
    """What is data goes to standard output, what is told about it to standard error."""
    result = imported(tmp_path, KEPWARE, "--device", "C.D")
    assert result.stdout.startswith("server,asset_id,")
    assert len(result.stdout.splitlines()) == 3
    assert "not taken: line 4 Name: holds String, not numbers" in result.stderr
    assert "2 tags printed, 3 not taken" in result.stderr


SECOND = PUBLISHER.replace(
    '[\n  {\n    "EndpointUrl": "opc.tcp://line3:4840"', '[\n  {\n    "EndpointUrl": "opc.tcp://line4:4840"'
)


def test_a_list_of_several_servers_is_imported_one_by_one(tmp_path: Path) -> None:
    """One is chosen; the nodes of the others are named."""
    assert "choose one with --endpoint: opc.tcp://line3:4840, opc.tcp://line4:4840" in imported(tmp_path, SECOND).stderr
    found = data(tmp_path, SECOND, "--endpoint", "opc.tcp://line3:4840")
    assert list(rows(found)) == ["Old"]
    assert "of another server, opc.tcp://line4:4840" in {one["reason"] for one in found["not_taken"]}
    assert "has no nodes of opc.tcp://x" in imported(tmp_path, SECOND, "--endpoint", "opc.tcp://x").stderr


@pytest.mark.parametrize(
    ("text", "form", "told"),
    [
        ("", "auto", "none of the known formats"),
        ("", "kepware", "has no line that begins with Tag Name and Address"),
        ("[{]", "opc-publisher", "not JSON"),
        ("{}", "opc-publisher", "not a list of objects with an EndpointUrl each"),
        ("[" * 100_000, "opc-publisher", "not JSON"),
        ("a = ", "telegraf", "not TOML"),
        ("[agent]", "telegraf", "has neither [[inputs.opcua]] nor [[inputs.opcua_listener]]"),
        ('Tag Name,Address\n"a', "kepware", "line 2: "),
    ],
)
def test_a_file_of_no_format_is_refused(tmp_path: Path, text: str, form: str, told: str) -> None:
    """With the reason, and the exit code of a usage error."""
    result = imported(tmp_path, text, "--format", form, "--device", "C.D")
    assert result.exit_code == 2
    assert told in result.stderr


def test_the_server_tells_what_an_index_means(tmp_path: Path, config: Path) -> None:
    """--connect asks for the namespaces as they are now."""
    nodes = '[{"EndpointUrl": "opc.tcp://x", "OpcNodes": [{"Id": "ns=2;s=speed"}]}]'
    found = data(tmp_path, nodes, "--connect", "--config", str(config), "--asset-id", "pump-01", "--server", "plant")
    assert rows(found) == {"speed": ("pump-01", "nsu=urn:test:plant;s=speed")}
    unknown = imported(tmp_path, nodes, "--connect", "--config", str(config))
    assert unknown.exit_code == 2
    assert "has no server 'cell-3' (it has: plant)" in unknown.stderr
