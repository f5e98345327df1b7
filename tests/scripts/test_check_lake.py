from __future__ import annotations

import ast
import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_service.ingest.ledger import StoredRange
from cloud_service.lake.files import write_range
from models.records import Observations, Stream

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_lake.py"
WAVE = np.array([0.1, -0.2, 0.3], np.float32)
MADE = [
    "pump-01,speed_rpm,1000,0,1480.1",
    "pump-01,speed_rpm,2000,2147483648,nan",
    f"pump-01,wave,1000,0,crc32:{zlib.crc32(WAVE.tobytes()):08x}",
]


def write(lake: Path, rows: slice, *, gateway_id: str = "gw-1", first: int = 1, value: float = 1480.1) -> None:
    """Write some of the three rows that were made as one file of the lake."""
    observations = Observations(
        streams=(Stream("pump-01", "speed_rpm"), Stream("pump-01", "wave")),
        stream=np.array([0, 0, 1], np.uint32),
        source_time=np.array([1000, 2000, 1000], np.int64),
        value=np.array([value, np.nan, np.nan]),
        status=np.array([0, 1 << 31, 0], np.uint32),
        sample_count=np.array([0, 0, 3], np.uint32),
        samples=WAVE,
    ).take(np.arange(3)[rows])
    stored = StoredRange(
        gateway_id=gateway_id,
        epoch="ab12cd34",
        first_seq=first,
        last_seq=first,
        digest="",
        observations=len(observations),
        results=0,
        newest_time=None,
    )
    write_range(lake, stored, observations, np.full(len(observations), first, np.int64), [])


def check(tmp_path: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the script as a program and return its exit code and what it says."""
    made = tmp_path / "made-cell-1.csv.gz"
    # Two members, one after the other, are one gzip file: plants write it in pieces.
    lines = "".join(f"{line}\n" for line in MADE)
    made.write_bytes(gzip.compress(b"asset_id,channel,source_time_ns,status,value\n") + gzip.compress(lines.encode()))
    command = [sys.executable, str(SCRIPT), "--lake", str(tmp_path), "--json", *options, str(made)]
    done = subprocess.run(command, capture_output=True, check=False)
    return done.returncode, json.loads(done.stdout)


def counts(answer: dict[str, Any]) -> dict[str, int]:
    return {name: answer[name] for name in ("lost", "duplicated", "differing", "unknown") if answer[name]}


def test_what_was_made_and_delivered_balances(tmp_path: Path) -> None:
    """Plain values, a Bad one without a value, and a waveform, over two files."""
    write(tmp_path, slice(0, 2))
    write(tmp_path, slice(2, 3), first=2)
    code, answer = check(tmp_path)
    assert (code, answer["made"], answer["delivered"], counts(answer)) == (0, 3, 3, {})


def test_a_lost_one_is_found(tmp_path: Path) -> None:
    write(tmp_path, slice(0, 2))
    code, answer = check(tmp_path)
    assert (code, counts(answer)) == (1, {"lost": 1})
    assert answer["examples"] == ["lost: pump-01 wave at 1000"]


def test_one_that_came_twice_is_found(tmp_path: Path) -> None:
    write(tmp_path, slice(0, 3))
    write(tmp_path, slice(0, 1), first=2)
    assert [check(tmp_path)[0], counts(check(tmp_path)[1])] == [1, {"duplicated": 1}]


@pytest.mark.parametrize("value", [1480.1000001, float("nan")])
def test_one_that_changed_is_found(tmp_path: Path, value: float) -> None:
    """In its last digit, too."""
    write(tmp_path, slice(0, 3), value=value)
    assert [check(tmp_path)[0], counts(check(tmp_path)[1])] == [1, {"differing": 1}]


def test_another_gateways_files_can_be_left_out(tmp_path: Path) -> None:
    """Earlier records are nothing the plant made; counted with the rest, they would be noticed."""
    write(tmp_path, slice(0, 3))
    write(tmp_path, slice(0, 3), gateway_id="archive")
    assert check(tmp_path, "--ignore-gateway", "archive")[0] == 0
    assert counts(check(tmp_path)[1]) == {"duplicated": 3}


def test_it_imports_nothing_of_ours() -> None:
    """A witness that uses the suspect's tools is none."""
    tree = ast.parse(SCRIPT.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names | {"pyarrow"}
