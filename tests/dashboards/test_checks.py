"""The committed boards, and that the check finds what can be wrong with a board."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashboards.boards import BOARDS, generate
from dashboards.checks import check, check_all

Board = dict[str, Any]


def _first(board: Board, kind: str) -> Board:
    panel: Board = next(p for p in board["panels"] if p["type"] == kind)
    return panel


def _same_place(board: Board) -> None:
    board["panels"][3]["gridPos"] = dict(board["panels"][1]["gridPos"])


FAULTS: dict[str, Callable[[Board], object]] = {
    "an unknown key of a panel": lambda b: _first(b, "timeseries").update(nulls="connected"),
    "a wrong type": lambda b: b.update(schemaVersion="forty"),
    "an unknown choice": lambda b: _first(b, "timeseries")["options"]["tooltip"].update(mode="most"),
    "an unknown panel": lambda b: _first(b, "timeseries").update(type="timeserie"),
    "a missing datasource": lambda b: _first(b, "table").pop("datasource"),
    "an id twice": lambda b: b["panels"][1].update(id=b["panels"][2]["id"]),
    "an overlap": _same_place,
    "an unknown measurement": lambda b: _first(b, "table")["targets"][0].update(query='r._measurement == "advice"'),
    "an unknown field": lambda b: _first(b, "timeseries")["targets"][0].update(
        query='r._measurement == "state" and r._field == "points"'
    ),
    "an unknown variable": lambda b: _first(b, "timeseries")["targets"][0].update(
        query='r._measurement == "state" and r.line == "${line}"'
    ),
    "a datasource of its own": lambda b: _first(b, "table")["targets"][0].update(
        datasource={"type": "influxdb", "uid": "abc"}
    ),
}


def test_the_committed_boards_are_as_generated_and_well() -> None:
    """What is published is what the code says, and nothing is wrong with it."""
    assert check_all() == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", BOARDS)
def test_a_fault_in_a_board_is_found(name: str, fault: str) -> None:
    """Each kind of fault is told; the board without it is the control."""
    board = copy.deepcopy(BOARDS[name]())
    assert check(board) == []
    FAULTS[fault](board)

    assert check(board) != []


def test_an_edited_board_is_found(tmp_path: Path) -> None:
    """Generated JSON is never edited by hand."""
    written = generate(tmp_path)
    assert check_all(tmp_path) == []
    written[0].write_text(written[0].read_text().replace("Advisories", "Advice"))

    assert check_all(tmp_path) == ["fleet.json is not what its code generates; run python -m dashboards generate"]
