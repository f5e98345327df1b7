"""The plant as others start it: a process that is told what to do line by line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "demo.plant", "--cell", "cell-2", "--folder", str(tmp_path), "--until-days", "0.5"]
    with subprocess.Popen(
        [*command, "--speed", "400000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        yield process
        process.kill()


def hear(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert process.stdout
    for line in process.stdout:
        said: dict[str, Any] = json.loads(line)
        if said["event"] == event:
            return said
    raise AssertionError(f"the plant ended without saying {event}")


def tell(process: subprocess.Popen[str], command: str) -> None:
    assert process.stdin
    process.stdin.write(command + "\n")


def listed(folder: Path) -> int:
    return len(gzip.decompress((folder / "made-cell-2.csv.gz").read_bytes()).splitlines()) - 1


def test_the_plant_plays_to_its_end_and_keeps_count(plant: subprocess.Popen[str], tmp_path: Path) -> None:
    """Half a day of six machines, after ten days of history; then it stays up until it is told to stop."""
    ready = hear(plant, "ready")
    assert len(ready["assets"]) == 6
    assert Path(ready["password_file"]).stat().st_mode & 0o777 == 0o600
    history = 10 * 6 * (144 * 9 + 24)
    assert ready["made"] == history == listed(tmp_path)
    tell(plant, "go")
    assert hear(plant, "ended")["made"] == history + history // 20 == listed(tmp_path)
    tell(plant, "stop")
    assert hear(plant, "stopped")["source_time"].startswith("2026-03-12T11:59:59")
    assert plant.wait(20) == 0
    assert len(json.loads((tmp_path / "truth-cell-2.json").read_text())["faults"]) == 4


def test_time_stands_until_told_to_go_and_when_paused(plant: subprocess.Popen[str]) -> None:
    hear(plant, "ready")
    tell(plant, "speed 600")
    tell(plant, "pause")
    assert hear(plant, "paused")["source_time"].startswith("2026-03-11T23:59:59")
    tell(plant, "go")
    hear(plant, "clock")
    tell(plant, "pause")
    before = hear(plant, "paused")
    tell(plant, "pause")
    assert hear(plant, "paused") == before
    assert before["source_time"] > "2026-03-12"


def test_an_unknown_command_is_refused_and_changes_nothing(plant: subprocess.Popen[str]) -> None:
    hear(plant, "ready")
    for command in ("fly", "speed -1", "speed fast"):
        tell(plant, command)
        assert hear(plant, "refused")["command"] == command


def test_the_plant_ends_with_whoever_started_it(plant: subprocess.Popen[str]) -> None:
    """A closed standard input is a stop."""
    hear(plant, "ready")
    assert plant.stdin
    plant.stdin.close()
    hear(plant, "stopped")
    assert plant.wait(20) == 0


def test_the_plant_takes_its_commands_from_a_file_too(tmp_path: Path) -> None:
    """Nothing but the end of the file: the plant says what it made and ends."""
    command = [sys.executable, "-m", "demo.plant", "--cell", "cell-1", "--folder", str(tmp_path)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert [json.loads(line)["event"] for line in ended.stdout.splitlines()] == ["ready", "stopped"]


def test_a_replay_needs_its_data(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demo.plant", "--cell", "cell-1", "--folder", str(tmp_path), "--source", "skab"]
    nowhere = subprocess.run([*command, "--data", str(tmp_path)], capture_output=True, text=True, check=False)
    assert nowhere.returncode == 1
    assert "anomaly-free" in nowhere.stderr
