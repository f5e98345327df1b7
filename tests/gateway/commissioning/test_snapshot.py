from __future__ import annotations

import asyncio
import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.commissioning.simulate import Stage, play, serving
from gateway.commissioning.snapshot_file import Contents, Header, Link, Node, SnapshotError, read_snapshot, writing
from gateway.commissioning.watching import Arrived
from gateway.config_file import load_config
from gateway.data_acquisition import open_sources
from gateway.data_acquisition.columns import Columns
from gateway.journal import Journal
from tests.gateway.commissioning.conftest import Opcua
from tests.integration.peers.gateway import acquiring, stored, until

SHARED = ("node", "type", "unit", "low", "high", "sample_rate_hz", "sampling_interval_ms", "can_be_channel", "length")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated plant's certificate, the same for all tests: keys take their time."""
    return tmp_path_factory.mktemp("simulated-pki")


@pytest.fixture
def taken(opcua: Opcua, tmp_path: Path) -> Path:
    """A snapshot of the plant."""
    path = tmp_path / "plant.snapshot"
    answer = opcua("snapshot", "plant", "Machines", "-o", str(path), "--seconds", "1")
    assert answer.exit_code == 0, answer.output
    return path


def by_path(text: str) -> dict[str, Any]:
    return {one["path"]: one for one in json.loads(text)["variables"]}


async def test_a_simulated_plant_has_the_same_tags(opcua: Opcua, taken: Path, pki: Path) -> None:
    """Paths, ids, types, units, ranges and values are those of the plant."""
    original = by_path(await asyncio.to_thread(opcua_sync, opcua, "browse", "plant", "Machines", "--values"))
    async with serving(read_snapshot(taken), host="127.0.0.1", port=0, pki=pki) as stage:
        command = ("browse", stage.endpoint, "Machines", "--insecure", "--values")
        simulated = by_path(await asyncio.to_thread(opcua_sync, opcua, *command))

    assert simulated.keys() == original.keys()
    for path, told in original.items():
        assert {key: simulated[path][key] for key in SHARED} == {key: told[key] for key in SHARED}
        if not path.endswith("speed_rpm"):
            assert simulated[path]["value"] == told["value"]


async def test_a_gateway_reads_a_simulated_plant(opcua: Opcua, config: Path, taken: Path, pki: Path) -> None:
    """Encrypted, with the tags picked on the plant: values come, at the rate they came there."""
    rule = ("--rule", "Machines/{asset}/Monitoring/{channel}", "--asset-class", "pump")
    assert (await asyncio.to_thread(opcua, "pick", "plant", *rule)).exit_code == 0
    contents = read_snapshot(taken)
    async with serving(contents, host="127.0.0.1", port=0, pki=pki) as stage:
        point_at(config, stage)
        playing = asyncio.create_task(play(stage, contents, loop=True))
        answer = await asyncio.to_thread(opcua, "check", "plant", "--seconds", "2", "--json")
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)

    assert answer.exit_code == 0, answer.output
    tags = {tag["tag"]: tag for tag in json.loads(answer.stdout)["tags"]}
    assert len(tags) == 8
    assert tags["pump-01/speed_rpm"]["verdict"] == "good"
    assert tags["pump-01/vibration_m_s2"]["length"] == 3
    assert not [remark for tag in tags.values() for remark in tag["remarks"] if "went back" in remark]


async def test_what_was_recorded_reaches_the_journal(opcua: Opcua, config: Path, taken: Path, pki: Path) -> None:
    """Through the gateway's own source: each value once, in order, as far apart in time as it was measured."""
    rule = ("--rule", "Machines/{asset}/Monitoring/{channel}", "--asset-class", "pump", "--search", "pump-01")
    assert (await asyncio.to_thread(opcua, "pick", "plant", *rule)).exit_code == 0
    contents = read_snapshot(taken)
    recorded = recorded_of(contents, "pump-01.speed_rpm")
    journal = await Journal.open(config.parent / "state", "gw-1")
    async with serving(contents, host="127.0.0.1", port=0, pki=pki) as stage, asyncio.timeout(60):
        point_at(config, stage)
        source = open_sources(load_config(config), journal)["plant"]
        async with acquiring(source, journal):
            await until(lambda: source.counters.observations >= 4)  # what the channels hold before the play
            await play(stage, contents)
            values = [value for _, value in recorded]
            while [v for _, v in await journaled(journal, "speed_rpm", len(values))] != values:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)
            played = await journaled(journal, "speed_rpm", len(recorded))
    await journal.close()

    assert len(recorded) > 10
    assert np.diff([row[0] for row in played]) == pytest.approx(np.diff([row[0] for row in recorded]), abs=2_000)


def recorded_of(contents: Contents, node: str) -> list[tuple[int, float]]:
    """Return source time and value of what *node* measured while it was recorded."""
    number = next(i for i, told in enumerate(contents.nodes) if told.node.endswith(f"s={node}"))
    columns = [arrived.values for arrived in contents.values()]
    rows = [
        (int(time), float(value))
        for values in columns
        for handle, time, value in zip(values.handle, values.source_time, values.value, strict=True)
        if handle == number
    ]
    return [row for row in rows if row[0] >= contents.header.made_ns]


async def journaled(journal: Journal, channel: str, last: int) -> list[tuple[int, float]]:
    """Return source time and value of the *last* rows of *channel*."""
    return [(row.source_time, row.numbers[0]) for row in (await stored(journal))[channel][-last:]]


def point_at(config: Path, stage: Stage) -> None:
    """Have the configuration's server be the simulated one, trusted and encrypted."""
    trusted = config.parent / "state" / "pki" / "trusted"
    trusted.mkdir(parents=True)
    (trusted / "simulated.der").write_bytes(stage.certificate.read_bytes())
    lines = config.read_text().splitlines()
    told = [line for line in lines if not line.startswith(("endpoint", "security"))]
    config.write_text("\n".join(told).replace('name = "plant"', f'name = "plant"\nendpoint = "{stage.endpoint}"'))


async def test_recorded_values_are_played_once_each(taken: Path, pki: Path) -> None:
    contents = read_snapshot(taken)
    async with serving(contents, host="127.0.0.1", port=0, pki=pki) as stage:
        assert await play(stage, contents, speed=100) == contents.end.values > 20


async def test_a_play_that_falls_behind_says_so(taken: Path, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More values than can be written in the time are told, not hidden."""
    monkeypatch.setattr("gateway.commissioning.simulate._LATE_S", -60.0)
    late: list[float] = []
    contents = read_snapshot(taken)
    async with serving(contents, host="127.0.0.1", port=0, pki=pki) as stage:
        await play(stage, contents, speed=100, behind=late.append)
    assert len(late) == 1


def test_the_way_in_a_circle_is_taken_along(taken: Path) -> None:
    contents = read_snapshot(taken)
    names = [(contents.nodes[link.parent].name, contents.nodes[link.node].name) for link in contents.links]

    assert ("Monitoring", "Machines") in names


def opcua_sync(opcua: Opcua, *arguments: str) -> str:
    answer = opcua(*arguments, "--json")
    assert answer.exit_code == 0, answer.output
    return answer.stdout


NODE = Node(node="nsu=urn:p;s=a", parent=-1, name="a", namespace=0, is_variable=True, kind=11, value=1.5)


def write_file(path: Path, nodes: list[Node], links: list[Link] | None = None) -> Path:
    zero = np.zeros(1, np.int64)
    columns = Columns(
        handle=zero.astype(np.uint32), source_time=zero, server_time=zero, value=zero.astype(np.float64),
        status=zero.astype(np.uint32), sample_count=zero.astype(np.uint32), samples=np.zeros(0, np.float32),
    )  # fmt: skip
    with writing(path) as file:
        file.header(Header(made_ns=1, server="opc.tcp://p", seconds=1, namespaces=["urn:p"]))
        file.nodes(nodes, links or [])
        file.values(Arrived(values=columns, received_ns=2))
        file.end()
    return path


def block(kind: bytes, content: object, claimed: int | None = None) -> bytes:
    plain = content if isinstance(content, bytes) else msgspec.msgpack.encode(content)
    packed = zlib.compress(plain)
    return struct.pack("<cII", kind, len(packed), len(plain) if claimed is None else claimed) + packed


HEADER = block(b"H", {"made_ns": 1, "server": "", "seconds": 1.0, "namespaces": ["urn:p"]})
NODES = block(b"N", [NODE])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no snapshot"),
        (b"PK\x03\x04 something else", "no snapshot"),
        (b"WSSNAP99", "version 99"),
        (b"WSSNAP01", "cut off"),
        (b"WSSNAP01" + NODES, "where none belongs"),
        (b"WSSNAP01" + HEADER + b"N\x00", "cut off"),
        (b"WSSNAP01" + HEADER + NODES, "cut off"),
        (b"WSSNAP01" + HEADER + block(b"E", {"nodes": 1, "values": 0}), "cut off"),
        (b"WSSNAP01" + HEADER + block(b"X", {}), "where none belongs"),
        (b"WSSNAP01" + HEADER + block(b"N", bytes(9 << 20)), "more than 8 MiB"),
        (b"WSSNAP01" + HEADER + block(b"N", bytes(9 << 20), claimed=100), "not as long as it says"),
        (b"WSSNAP01" + HEADER + block(b"N", b"\x93" * 100_000), "damaged"),
        (b"WSSNAP01" + HEADER + block(b"N", [{"node": 1}]), "damaged"),
    ],
)
def test_what_is_no_snapshot_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.snapshot"
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=reason):
        read_snapshot(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parent": 0}, "stands below node 0"),
        ({"namespace": 1}, "namespace 1"),
        ({"name": ""}, "no name"),
        ({"node": "ns=2;s=a"}, "counts on a namespace index"),
        ({"data_type": "nsu=urn:q;i=1"}, "of a namespace that there is not"),
    ],
)
def test_nodes_that_do_not_fit_together_are_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write_file(tmp_path / "x.snapshot", [msgspec.structs.replace(NODE, **changes)])
    with pytest.raises(SnapshotError, match=reason):
        read_snapshot(path)


@pytest.mark.parametrize("link", [Link(-2, 0), Link(0, 1), Link(1, 0)])
def test_links_to_nowhere_are_refused(tmp_path: Path, link: Link) -> None:
    path = write_file(tmp_path / "x.snapshot", [NODE], [link])
    with pytest.raises(SnapshotError, match="a link between"):
        read_snapshot(path)


def test_a_recording_that_failed_leaves_no_file(tmp_path: Path) -> None:
    """What stood there before stays."""
    path = write_file(tmp_path / "x.snapshot", [NODE])
    before = path.read_bytes()
    with pytest.raises(RuntimeError), writing(path):
        raise RuntimeError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_an_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """A changed byte never ends in anything but a snapshot or a reason."""
    path = write_file(tmp_path / "x.snapshot", [NODE])
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with suppress(SnapshotError):
        read_snapshot(path)
