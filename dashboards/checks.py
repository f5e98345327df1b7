"""What must hold for the committed boards: they are as generated, of Grafana's shape, and ask for what there is."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from dashboards.boards import BOARDS, OUT, text_of
from dashboards.panels import SOURCE
from dashboards.signals import MEASUREMENTS

_SCHEMA = Path(__file__).with_name("schema") / "dashboard.schema.json"
_MEASUREMENT = re.compile(r'r\._measurement == "([^"]+)"')
_FIELD = re.compile(r'r\._field == "([^"]+)"')
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def check_all(out: Path = OUT) -> list[str]:
    """Return what is wrong with the committed boards, a line each; empty when all is well."""
    found = []
    for name, generate in BOARDS.items():
        path = out / f"{name}.json"
        if not path.exists() or path.read_text() != text_of(generate()):
            found.append(f"{path.name} is not what its code generates; run python -m dashboards generate")
        found += [f"{path.name}: {problem}" for problem in check(generate())]
    return found


def check(board: dict[str, Any]) -> list[str]:
    """Return what is wrong with *board*, a line each."""
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    return [
        *_of_shape(board),
        *_ids(board["panels"]),
        *_overlaps(board["panels"]),
        *(problem for panel in panels for problem in _query(panel, board)),
    ]


def _of_shape(board: dict[str, Any]) -> list[str]:
    validator = Draft7Validator(json.loads(_SCHEMA.read_text()))
    errors = sorted(validator.iter_errors(board), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{'/'.join(map(str, e.absolute_path))}: not of Grafana's shape: {e.message[:160]}" for e in errors]


def _ids(panels: list[dict[str, Any]]) -> list[str]:
    ids = [panel.get("id") for panel in panels]
    return [f"panel id {i} occurs twice" for i in sorted({i for i in ids if ids.count(i) > 1}, key=str)]


def _overlaps(panels: list[dict[str, Any]]) -> list[str]:
    return [
        f"panels {a['id']} and {b['id']} overlap"
        for a, b in combinations(panels, 2)
        if _overlap(a["gridPos"], b["gridPos"])
    ]


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
    apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
    return not (apart_x or apart_y)


def _query(panel: dict[str, Any], board: dict[str, Any]) -> list[str]:
    known_variables = {variable["name"] for variable in board["templating"]["list"]}
    found = []
    for target in panel["targets"]:
        query, name = target["query"], panel["title"]
        if target.get("datasource") != SOURCE or panel.get("datasource") != SOURCE:
            found.append(f"{name}: its datasource is not the board's variable")
        measurements = _MEASUREMENT.findall(query)
        fields = set().union(*(MEASUREMENTS.get(m, frozenset()) for m in measurements))
        found += [f"{name}: no measurement is called {m!r}" for m in measurements if m not in MEASUREMENTS]
        found += [f"{name}: {measurements} has no field {f!r}" for f in _FIELD.findall(query) if f not in fields]
        found += [f"{name}: no variable {v!r}" for v in _VARIABLE.findall(query) if v not in known_variables]
        if not measurements:
            found.append(f"{name}: its query names no measurement")
    return found
