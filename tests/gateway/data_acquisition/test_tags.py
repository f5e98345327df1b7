from __future__ import annotations

import math
from pathlib import Path

import pytest

from gateway.config import Deadband, GatewayConfig, Mode
from gateway.config_file import load_config
from gateway.data_acquisition.tags import Tag, WantedTags, wanted_tags
from gateway.errors import ConfigError
from gateway.tag_list import TagRow, write_tags
from models.records import Stream

BASE = """
gateway_id = "gw-1"
state_dir = "state"
tags_file = "tags.csv"
[acquisition.group.fast]
publishing_interval_ms = 50.0
[acquisition.group.slow]
mode = "poll"
sampling_interval_ms = 5000
[[server]]
name = "s"
endpoint = "opc.tcp://plc:4840"
[[server]]
name = "t"
endpoint = "opc.tcp://other:4840"
[[asset]]
asset_id = "pump-01"
asset_class = "pump"
server = "s"
path = "Machines/pump-01"
[[asset]]
asset_id = "fan-01"
asset_class = "fan"
server = "s"
path = "Machines/fan-01"
[asset_class.pump]
channels = ["flow", "in/out"]
group = "slow"
channel_group = { flow = "fast" }
[asset_class.fan]
group = "fast"
channel_group = { speed = "slow" }
"""


def loaded(folder: Path, *rows: TagRow, base: str = BASE) -> GatewayConfig:
    (folder / "gateway.toml").write_text(base)
    write_tags(folder / "tags.csv", rows)
    return load_config(folder / "gateway.toml")


def test_channels_of_a_class_are_wanted_by_path(tmp_path: Path) -> None:
    """Each under its asset's path, a slash in its name escaped, sampled as its group says."""
    wanted = wanted_tags(loaded(tmp_path), "s")
    assert [(tag.stream, tag.path) for tag in wanted.tags] == [
        (Stream("pump-01", "flow"), "Machines/pump-01/flow"),
        (Stream("pump-01", "in/out"), "Machines/pump-01/in\\/out"),
    ]
    assert [tag.sampling.publishing_interval_ms for tag in wanted.tags] == [50.0, 250.0]
    assert [tag.sampling.mode for tag in wanted.tags] == [Mode.SUBSCRIBE, Mode.POLL]


def test_a_class_without_channels_is_a_folder(tmp_path: Path) -> None:
    """Everything in it is wanted; single channels may be sampled otherwise."""
    (folder,) = wanted_tags(loaded(tmp_path), "s").folders
    assert (folder.asset_id, folder.path, folder.place) == ("fan-01", "Machines/fan-01", "fan-01")
    assert folder.sampling_of("anything").publishing_interval_ms == 50.0
    assert folder.sampling_of("speed").mode is Mode.POLL


def test_a_row_wins_over_the_class(tmp_path: Path) -> None:
    """The tag list says where a channel is, in which unit and group; the class no longer does."""
    rows = [
        TagRow(
            server="s", asset_id="pump-01", channel="flow", node="nsu=urn:p;s=F", unit="m³/h", high=40.0, group="slow"
        ),
        TagRow(server="s", asset_id="fan-01", channel="speed", path="Drives/7/Speed"),
    ]
    wanted = wanted_tags(loaded(tmp_path, *rows), "s")
    flow, in_out, speed = wanted.tags
    assert (flow.node, flow.path, flow.unit, flow.low, flow.high) == ("nsu=urn:p;s=F", "", "m³/h", -math.inf, 40.0)
    assert (flow.sampling.mode, speed.sampling.mode) == (Mode.POLL, Mode.POLL)
    assert in_out.stream.channel == "in/out"
    assert wanted.folders[0].own_tags == {"speed"}


def test_a_machine_of_the_tag_list_alone_is_an_asset(tmp_path: Path) -> None:
    """Its class must be known; it is read from the server that its rows name, and from no other."""
    row = TagRow(server="t", asset_id="pump-02", asset_class="pump", channel="flow", node="nsu=urn:p;s=F2")
    config = loaded(tmp_path, row)
    assert [(a.asset_id, a.asset_class, a.path) for a in config.assets_of("t")] == [("pump-02", "pump", "")]
    wanted = wanted_tags(config, "t")
    assert wanted.tags == (
        Tag(stream=Stream("pump-02", "flow"), node="nsu=urn:p;s=F2", sampling=config.acquisition.sampling("fast")),
    )
    assert wanted.folders == ()
    assert Stream("pump-02", "flow") not in [tag.stream for tag in wanted_tags(config, "s").tags]


def test_one_row_of_a_machine_says_its_class(tmp_path: Path) -> None:
    """Whichever it is."""
    rows = [
        TagRow(server="s", asset_id="new", asset_class=asset_class, channel=f"c{i}", path="M")
        for i, asset_class in enumerate(["", "fan", ""])
    ]
    assert [asset.asset_class for asset in loaded(tmp_path, *rows).asset if asset.asset_id == "new"] == ["fan"]


def test_a_part_can_be_asked_for_again(tmp_path: Path) -> None:
    """By the places that were missing: tags by asset and channel, folders by asset."""
    wanted = wanted_tags(loaded(tmp_path), "s")
    part = wanted.only({"pump-01/flow", "fan-01", "gone/x"})
    assert [tag.place for tag in part.tags] == ["pump-01/flow"]
    assert [folder.place for folder in part.folders] == ["fan-01"]
    assert part.assets == wanted.assets
    assert wanted.only(()) == WantedTags(assets=wanted.assets, tags=(), folders=())


def test_tags_are_compared_by_what_they_ask_for(tmp_path: Path) -> None:
    """Loading the same twice changes nothing; a changed group changes its tags alone."""
    before = set(wanted_tags(loaded(tmp_path), "s").tags)
    assert set(wanted_tags(loaded(tmp_path), "s").tags) == before
    after = set(wanted_tags(loaded(tmp_path, base=BASE.replace("= 50.0", "= 60.0")), "s").tags)
    assert {tag.place for tag in after - before} == {"pump-01/flow"}


FLOW = TagRow(server="s", asset_id="pump-01", channel="flow", path="M/F")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (TagRow(server="x", asset_id="pump-01", channel="c", path="M"), "line 3, column server: 'x' names no server"),
        (
            TagRow(server="t", asset_id="pump-01", channel="c", path="M"),
            "line 3, column server: pump-01 is read from 's'",
        ),
        (
            TagRow(server="s", asset_id="pump-01", asset_class="fan", channel="c", path="M"),
            "line 3, column asset_class: pump-01 is of 'pump', not of 'fan'",
        ),
        (
            TagRow(server="s", asset_id="new", asset_class="pomp", channel="c", path="M"),
            "line 3, column asset_class: 'pomp' (new) is not configured; known: ['fan', 'pump']",
        ),
        (
            TagRow(server="s", asset_id="pump-01", channel="c", path="M", group="fats"),
            "line 3, column group: 'fats' is no group; known: ['fast', 'slow']",
        ),
        (FLOW, "tags.csv, line 3, column channel: pump-01/flow is given twice, first at"),
    ],
)
def test_a_row_that_fits_nothing_is_told_with_line_and_column(tmp_path: Path, row: TagRow, told: str) -> None:
    """What a row names has to be configured; the message leads to the cell."""
    with pytest.raises(ConfigError, match="does not start") as refused:
        loaded(tmp_path, FLOW, row)
    assert told in str(refused.value)


def test_a_deadband_of_the_whole_gateway_reaches_every_tag(tmp_path: Path) -> None:
    """A group inherits what it does not name."""
    base = BASE.replace(
        "[acquisition.group.fast]", '[acquisition]\ndeadband = "percent"\ndeadband_value = 1\n[acquisition.group.fast]'
    ).replace('mode = "poll"', 'mode = "poll"\ndeadband = "none"\ndeadband_value = 0')
    samplings = [tag.sampling for tag in wanted_tags(loaded(tmp_path, base=base), "s").tags]
    assert [(s.deadband, s.deadband_value) for s in samplings] == [(Deadband.PERCENT, 1.0), (Deadband.NONE, 0.0)]
