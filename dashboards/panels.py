"""Panels draw signals: the few kinds that our boards use, as Grafana's JSON."""

from __future__ import annotations

from typing import Any

from dashboards.signals import Signal

SOURCE = {"type": "influxdb", "uid": "${datasource}"}
Panel = dict[str, Any]

ZONE_COLOURS = {"normal": "green", "warning": "yellow", "alarm": "red", "unknown": "purple"}
HEALTH_STEPS = ((None, "red"), (40.0, "orange"), (60.0, "yellow"), (80.0, "green"))
SCORE_STEPS = ((None, "green"), (1.0, "orange"))
Steps = tuple[tuple[float | None, str], ...]


def stat(signal: Signal, *, condition: str = "", steps: Steps = ((None, "green"),)) -> Panel:
    """Return a panel with each group's last value, large."""
    options = {"graphMode": "none", "colorMode": "background", "textMode": "value_and_name", "reduceOptions": _LAST}
    return _panel("stat", signal, signal.latest(condition), options, defaults=_thresholds(steps))


def timeseries(signal: Signal, *, condition: str = "", steps: Steps | None = None) -> Panel:
    """Return a panel with each group as a line; *steps* are drawn as dashed lines."""
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 0, "showPoints": "never", "spanNulls": False}
    defaults: dict[str, Any] = {"custom": custom}
    if steps is not None:
        custom["thresholdsStyle"] = {"mode": "dashed"}
        defaults |= _thresholds(steps)
    return _panel("timeseries", signal, signal.series(condition), options, defaults=defaults)


def state_timeline(signal: Signal, colours: dict[str, str], *, condition: str = "") -> Panel:
    """Return a panel with each group as a band, coloured by its text value."""
    options = {"mergeValues": True, "showValue": "never", "rowHeight": 0.8}
    texts = {name: {"color": colour, "index": i} for i, (name, colour) in enumerate(colours.items())}
    mappings = [{"type": "value", "options": texts}]
    return _panel(
        "state-timeline", signal, signal.series(condition), options, defaults={"mappings": mappings, "custom": {}}
    )


def table(signal: Signal, *, condition: str = "") -> Panel:
    """Return a panel with each group's last record as a row, newest first."""
    options = {"showHeader": True, "cellHeight": "sm"}
    return _panel("table", signal, signal.table(condition), options, defaults={"custom": {"filterable": True}})


_LAST = {"calcs": ["lastNotNull"], "fields": "", "values": False}


def _thresholds(steps: Steps) -> dict[str, Any]:
    return {"thresholds": {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]}}


def _panel(kind: str, signal: Signal, query: str, options: dict[str, Any], *, defaults: dict[str, Any]) -> Panel:
    unit = {"unit": signal.unit} if signal.unit else {}
    return {
        "type": kind,
        "title": signal.title,
        "description": signal.description,
        "datasource": SOURCE,
        "targets": [{"refId": "A", "datasource": SOURCE, "query": query}],
        "options": options,
        "fieldConfig": {"defaults": {**unit, **defaults}, "overrides": []},
    }
