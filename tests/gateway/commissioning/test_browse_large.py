"""A plant of ten thousand nodes, browsed over the wire."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.commissioning.simulate import serving
from gateway.commissioning.snapshot_file import Header, Node, read_snapshot, writing

pytestmark = pytest.mark.slow

FOLDERS, EACH = 100, 99
STANDARD = "http://opcfoundation.org/UA/"


def large_plant(path: Path) -> Path:
    """Write a snapshot with a hundred machines of 99 variables each, all with unit and range."""
    nodes: list[Node] = []
    for machine in range(FOLDERS):
        parent = len(nodes)
        nodes.append(Node(node=f"nsu=urn:p;s=m{machine}", parent=-1, name=f"m{machine:02}", namespace=1))
        nodes += [
            Node(
                node=f"nsu=urn:p;s=m{machine}.{i}", parent=parent, name=f"v{i:02}", namespace=1, is_variable=True,
                data_type=f"nsu={STANDARD};i=11", type_name="Double", standard_type=11, kind=11, value=float(i),
                low=0.0, high=100.0, unit=("", 1, "°C", ""),
            )
            for i in range(EACH)
        ]  # fmt: skip
    with writing(path) as file:
        file.header(Header(made_ns=1, server="opc.tcp://p", seconds=0, namespaces=[STANDARD, "urn:p"]))
        file.nodes(nodes, [])
        file.end()
    return path


async def test_ten_thousand_nodes_are_browsed(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """All of them with type, unit, range and value, of a server in the same process; the aim is 30 s.

    Measured: 6 to 11 s with Eclipse Milo as a process of its own, encrypted.
    """
    contents = read_snapshot(large_plant(tmp_path / "large.snapshot"))
    async with serving(contents, host="127.0.0.1", port=0, pki=tmp_path / "server-pki") as stage:
        command = ["opcua", "browse", stage.endpoint, "--insecure", "--json", "--pki", str(tmp_path / "pki")]
        begin = time.monotonic()
        told = await asyncio.to_thread(answer, [*command, "--values"])
        record_property("seconds", round(time.monotonic() - begin, 1))
        bounded = await asyncio.to_thread(answer, [*command, "--most", "2500"])

    variables = told["variables"]
    assert len(variables) == FOLDERS * EACH
    assert told["complete"]
    assert {(v["type"], v["unit"], v["high"], v["status"]) for v in variables} == {("Double", "°C", 100.0, "Good")}
    assert (bounded["complete"], bounded["nodes_seen"]) == (False, 2500)
    assert "stopped at 2,500 nodes" in bounded["note"]


def answer(command: list[str]) -> dict[str, Any]:
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found
