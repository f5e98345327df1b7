"""Boards stack rows, rows follow the six blocks of ISO 13374, panels draw signals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dashboards import panels, signals

OUT = Path(__file__).with_name("out")
_GRID_WIDTH = 24
_ONE_ASSET = 'r.asset_id == "${asset}"'

Row = tuple[str, list[tuple[int, panels.Panel]]]


def fleet() -> dict[str, Any]:
    """Return the board of all machines: who needs attention."""
    rows: list[Row] = [
        ("Advisory generation", [(9, panels.table(signals.ADVISORIES))]),
        ("Health assessment", [(6, panels.stat(signals.HEALTH, steps=panels.HEALTH_STEPS))]),
        (
            "State detection",
            [
                (9, panels.state_timeline(signals.ZONE, panels.ZONE_COLOURS)),
                (9, panels.timeseries(signals.SCORE, steps=panels.SCORE_STEPS)),
            ],
        ),
        ("Prognostic assessment", [(8, panels.timeseries(signals.LIFE, condition='r._field == "p50_s"'))]),
        ("Data acquisition", [(8, panels.table(signals.EVENTS)), (8, panels.table(signals.GAPS))]),
    ]
    return _board("wearsight-fleet", "Wearsight: fleet", rows, variables=[])


def asset() -> dict[str, Any]:
    """Return the board of one machine: why it needs attention."""
    rows: list[Row] = [
        ("Advisory generation", [(7, panels.table(signals.ADVISORIES, condition=_ONE_ASSET))]),
        (
            "Prognostic assessment",
            [(8, panels.timeseries(signals.LIFE, condition=_ONE_ASSET))],
        ),
        (
            "Health assessment",
            [
                (8, panels.timeseries(signals.HEALTH, condition=_ONE_ASSET, steps=panels.HEALTH_STEPS)),
                (8, panels.table(signals.FAILURE_MODE, condition=_ONE_ASSET)),
            ],
        ),
        (
            "State detection",
            [(8, panels.timeseries(signals.SCORE, condition=_ONE_ASSET, steps=panels.SCORE_STEPS))],
        ),
        ("Data manipulation", [(6, panels.timeseries(signals.GOOD_SHARE, condition=_ONE_ASSET))]),
        ("Data acquisition", [(10, panels.timeseries(signals.OBSERVATION, condition=_ONE_ASSET))]),
    ]
    return _board("wearsight-asset", "Wearsight: one machine", rows, variables=[_asset_variable()])


BOARDS = {"fleet": fleet, "asset": asset}


def generate(out: Path = OUT) -> list[Path]:
    """Write every board to *out* and return the files."""
    out.mkdir(exist_ok=True)
    written = []
    for name, board in BOARDS.items():
        path = out / f"{name}.json"
        path.write_text(text_of(board()))
        written.append(path)
    return written


def text_of(board: dict[str, Any]) -> str:
    """Return *board* as the text that is committed."""
    return json.dumps(board, indent=2, sort_keys=True) + "\n"


def _board(uid: str, title: str, rows: list[Row], variables: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "tags": ["wearsight"],
        "schemaVersion": 41,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-14d", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source_variable(), _bucket_variable(), *variables]},
        "panels": _laid_out(rows),
    }


def _laid_out(rows: list[Row]) -> list[dict[str, Any]]:
    """Give rows and panels their ids and places: panels of one row share its width."""
    laid: list[dict[str, Any]] = []
    y = 0
    for title, members in rows:
        place = {"h": 1, "w": _GRID_WIDTH, "x": 0, "y": y}
        laid.append(
            {"type": "row", "id": len(laid) + 1, "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        width = _GRID_WIDTH // len(members)
        for place_in_row, (height, panel) in enumerate(members):
            place = {"h": height, "w": width, "x": width * place_in_row, "y": y}
            laid.append({**panel, "id": len(laid) + 1, "gridPos": place})
        y += max(height for height, _ in members)
    return laid


def _source_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "InfluxDB", "type": "datasource", "query": "influxdb", "hide": 0}


def _bucket_variable() -> dict[str, Any]:
    current = {"selected": True, "text": "wearsight", "value": "wearsight"}
    return {"name": "bucket", "label": "Bucket", "type": "textbox", "query": "wearsight", "current": current, "hide": 0}


def _asset_variable() -> dict[str, Any]:
    query = (
        'import "influxdata/influxdb/schema"\n'
        'schema.measurementTagValues(bucket: "${bucket}", measurement: "state", tag: "asset_id")'
    )
    return {
        "name": "asset",
        "label": "Machine",
        "type": "query",
        "datasource": panels.SOURCE,
        "query": {"query": query},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
    }
