"""``wearsight-gateway opcua`` against OPC UA servers of other makers, as a person or a script calls it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.data_acquisition import ensure_application_certificate
from gateway.data_acquisition.certificate import application_uri
from gateway.data_acquisition.trust import fingerprint
from gateway.tag_list import TagRow, read_tags, write_tags
from tests.gateway.data_acquisition.small_plant import free_port
from tests.integration.peers.server import UNITS, Maker, Milo, MiloLoad, NodeOpcua, Peer

pytestmark = [pytest.mark.integration, pytest.mark.slow]

NODE = "nsu=urn:wearsight:test:plant;s=pump-01."
MONITORING = "Machines/pump-01/Monitoring"
RULE = ("--rule", "Machines/{asset}/Monitoring/{channel}", "--asset-class", "pump")
SECONDS = "4"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("asyncua")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


def started(maker: Maker, folder: Path, clients: Sequence[bytes]) -> Peer:
    """Start a peer, or skip, or fail where nothing may be skipped."""
    if lacking := maker.lacking():
        if os.environ.get("WEARSIGHT_NO_SKIP") == "1":
            pytest.fail(lacking)
        pytest.skip(lacking)
    peer = Peer(maker, folder, free_port(), clients)
    try:
        peer.start()
    except BaseException:
        peer.kill()
        raise
    return peer


class Place:
    """A gateway's folder with its configuration, and a peer that trusts it."""

    def __init__(self, folder: Path, maker: Maker) -> None:
        self.pki = folder / "state" / "pki"
        ensure_application_certificate(self.pki, application_uri("gw-1"), "Wearsight gateway gw-1")
        self.peer = started(maker, folder / "peer", [(self.pki / "application.der").read_bytes()])
        self.config = folder / "gateway.toml"
        self.tags = folder / "tags.csv"
        (folder / "password").write_text("secret\n")
        self.config.write_text(f"""
gateway_id = "gw-1"
state_dir = "state"
tags_file = "tags.csv"
[acquisition.group.tiny]
queue_size = 2
publishing_interval_ms = 1000
[acquisition.group.polled]
mode = "poll"
sampling_interval_ms = 500
[[server]]
name = "peer"
endpoint = "{self.peer.endpoint}"
user = "gateway"
password_file = "password"
[asset_class.pump]
""")

    def opcua(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["opcua", command, "peer", *arguments, "--config", str(self.config)])

    def data(self, command: str, *arguments: str) -> dict[str, Any]:
        answer = self.opcua(command, *arguments, "--json")
        assert answer.stdout, answer.output
        told: dict[str, Any] = json.loads(answer.stdout)
        return told

    def check(self, *rows: TagRow) -> dict[str, dict[str, Any]]:
        write_tags(self.tags, rows)
        return {tag["tag"]: tag for tag in self.data("check", "--seconds", SECONDS)["tags"]}


@pytest.fixture(scope="module", params=[NodeOpcua, Milo], ids=lambda maker: maker.name)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    place = Place(folder, request.param())
    try:
        assert place.opcua("trust", "--yes").exit_code == 0
        yield place
    finally:
        place.peer.kill()
        shutil.rmtree(folder, ignore_errors=True)


def row(channel: str, *, node: str = "", path: str = "", group: str = "") -> TagRow:
    told = f"{NODE}{node}" if node else ""
    where = f"{MONITORING}/{path}" if path else ""
    return TagRow(server="peer", asset_id="p", asset_class="pump", channel=channel, node=told, path=where, group=group)


def test_its_endpoint_is_listed_with_its_fingerprint(place: Place) -> None:
    (offer,) = place.data("endpoints")["offers"]

    assert (offer["security"], offer["trusted"]) == ("Basic256Sha256-SignAndEncrypt", True)
    assert offer["fingerprint"] == fingerprint(place.peer.certificate)
    assert "user and password" in offer["sign_in"]


def test_trust_is_given_by_fingerprint_and_taken_again(place: Place) -> None:
    """Without it nothing is read; a stranger's fingerprint changes nothing."""
    assert place.opcua("trust", "--remove").exit_code == 0
    refused = place.data("browse")
    assert (refused["error"], "opcua trust peer" in refused["next_step"]) == ("ServerUntrusted", True)
    assert place.opcua("trust", "--fingerprint", "AB" * 32).exit_code == 1
    assert place.data("trust", "--fingerprint", fingerprint(place.peer.certificate))["accepted"] is True


def test_channels_are_browsed_with_unit_range_rate_and_value(place: Place) -> None:
    found = {one["path"]: one for one in place.data("browse", "Machines", "--values")["variables"]}

    assert set(found) == {f"{MONITORING}/{name}" for name in (*UNITS, "serial_number")}
    for name, (unit, low, high, rate) in UNITS.items():
        one = found[f"{MONITORING}/{name}"]
        assert (one["unit"], one["low"], one["high"], one["sample_rate_hz"] or 0.0) == (unit, low, high, rate)
        assert one["node"] == NODE + name
        assert one["length"] or one["value"] is not None
    assert found[f"{MONITORING}/serial_number"]["why_not"] == "holds String, not numbers"
    assert found[f"{MONITORING}/serial_number"]["value"] == "P-4711"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--search", "VIBR"), {"vibration_waveform_m_s2"}),
        (("--glob", "Machines/*/Monitoring/*_c"), {"bearing_temperature_c"}),
        (("--type", "Int32"), {"load_pct"}),
        (("--type", "number", "--unit", "1/min"), {"speed_rpm"}),
    ],
)
def test_filters_find_one_of_them(place: Place, arguments: tuple[str, ...], names: set[str]) -> None:
    variables = place.data("browse", *arguments)["variables"]

    assert {one["path"].rpartition("/")[2] for one in variables} == names


def test_what_is_picked_by_rule_is_good(place: Place) -> None:
    """By node and path, with unit and range; a second time nothing is new."""
    place.tags.unlink(missing_ok=True)
    assert place.opcua("pick", *RULE).exit_code == 0
    rows = {one.channel: one for one in read_tags(place.tags).values()}
    assert set(rows) == set(UNITS)
    speed = rows["speed_rpm"]
    assert (speed.node, speed.path) == (NODE + "speed_rpm", f"{MONITORING}/speed_rpm")
    assert (speed.unit, speed.low, speed.high) == ("1/min", 0.0, 3600.0)
    assert len(place.data("pick", *RULE)["kept"]) == len(UNITS)
    tags = {tag["tag"]: tag for tag in place.data("check", "--seconds", SECONDS)["tags"]}
    assert tags["pump-01/load_pct"]["verdict"] == "good"
    assert tags["pump-01/vibration_waveform_m_s2"]["length"] == 256


def test_check_tells_faults_apart(place: Place) -> None:
    """Gone, of another type, bad in between, overflowing, polled, moved: each by itself."""
    tags = place.check(
        row("gone", node="nowhere"),
        row("text", path="serial_number"),
        row("sometimes", node="speed_rpm"),
        row("queue", node="load_pct", group="tiny"),  # node-opcua 2.182 ends when another status overflows
        row("polled", node="load_pct", group="polled"),
        row("moved", node="before.load_pct", path="load_pct"),
        row("plain", node="load_pct"),
    )
    verdicts = {name.removeprefix("p/"): tag["verdict"] for name, tag in tags.items()}

    assert verdicts == {
        "gone": "missing", "text": "missing", "sometimes": "bad", "queue": "good", "polled": "good", "moved": "good",
        "plain": "good",
    }  # fmt: skip
    assert "BadNodeIdUnknown" in tags["p/gone"]["reason"]
    assert "holds String, not numbers" in tags["p/text"]["reason"]
    assert tags["p/sometimes"]["reason"] in {  # which of the two is there when the look ends is chance
        "Good now, and BadSensorFailure in between",
        "BadSensorFailure now, and Good in between",
    }
    assert tags["p/queue"]["overflows"] > 0
    assert any("overflowed" in remark for remark in tags["p/queue"]["remarks"])
    assert tags["p/plain"]["overflows"] == 0
    assert any("at its path" in remark for remark in tags["p/moved"]["remarks"])
    assert 0 < tags["p/polled"]["rate_hz"] < tags["p/plain"]["rate_hz"]


def test_a_plant_taken_home_is_complete(place: Place, tmp_path: Path) -> None:
    told = place.data("snapshot", "Machines", "-o", str(tmp_path / "peer.snapshot"), "--seconds", "2")

    assert (told["nodes"], told["variables"], told["complete"]) == (8, 5, True)
    assert told["values"] > 4
    assert told["not_recorded"] == 0


def test_ten_thousand_nodes_are_browsed(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """Encrypted, from a server that is a process of its own; the aim is 30 s, the limit what a busy machine needs."""
    place = Place(tmp_path, MiloLoad(10_000, 1_000))
    try:
        assert place.opcua("trust", "--yes").exit_code == 0
        begin = time.monotonic()
        told = place.data("browse", "--values")
        seconds = time.monotonic() - begin
    finally:
        place.peer.kill()
    record_property("seconds", round(seconds, 1))
    assert sum(one["can_be_channel"] for one in told["variables"]) == 10_000
    assert seconds < 90
