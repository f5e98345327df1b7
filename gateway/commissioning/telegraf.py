"""Reading the nodes of Telegraf's inputs ``opcua`` and ``opcua_listener`` from its configuration."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.commissioning.foreign import Entry, ForeignList, UnreadableList, escaped, identifier_of

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_UNITS_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 36e5, "d": 864e5}
_CLOCKS = {"gather": "gateway", "server": "server", "source": "source"}
_OF_INPUT = frozenset(
    {"endpoint", "nodes", "group", "name", "subscription_interval", "interval", "timestamp", "events"}
)
_OF_GROUP = frozenset({"name", "namespace", "namespace_uri", "identifier_type", "sampling_interval", "nodes"})
_OF_NODE = frozenset(
    {"name", "id", "namespace", "namespace_uri", "identifier_type", "identifier", "monitoring_params"}
)  # fmt: skip
_OF_MONITORING = frozenset({"sampling_interval", "queue_size", "discard_oldest", "data_change_filter"})


def read_telegraf(text: str) -> ForeignList:
    """Return the nodes of a Telegraf configuration.

    A listener's nodes are subscribed to; those of ``inputs.opcua`` are polled at its interval, or the agent's.

    Raises:
        UnreadableList: If it is no TOML, or has none of the two inputs.
    """
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UnreadableList(f"not TOML ({error})") from error
    inputs = _table(tables.get("inputs"))
    plugins = [(kind, i, p) for kind in ("opcua", "opcua_listener") for i, p in enumerate(_tables(inputs.get(kind)))]
    if not plugins:
        raise UnreadableList("has neither [[inputs.opcua]] nor [[inputs.opcua_listener]]")
    agent = _table(tables.get("agent"))
    entries: list[Entry] = []
    notes: dict[str, None] = {}
    for kind, i, plugin in plugins:
        where = f"inputs.{kind}[{i}]"
        entries += _of_plugin(kind, where, plugin, agent)
        notes |= dict.fromkeys(_notes(where, plugin))
    return ForeignList(entries=tuple(entries), notes=tuple(notes))


def _of_plugin(kind: str, where: str, plugin: Mapping[str, Any], agent: Mapping[str, Any]) -> Iterator[Entry]:
    endpoint = str(plugin.get("endpoint") or "")
    listens = kind == "opcua_listener"
    interval = (
        plugin.get("subscription_interval") if listens else plugin.get("interval") or agent.get("interval") or "10s"
    )
    yield from _of_nodes(where, plugin, {}, endpoint, listens, interval)
    for i, group in enumerate(_tables(plugin.get("group"))):
        yield from _of_nodes(f"{where}.group[{i}]", group, group, endpoint, listens, interval)
    events = _tables(plugin.get("events"))
    for i in range(len(events)):
        yield Entry(where=f"{where}.events[{i}]", name="", refused="asks for events, which are not read")


def _of_nodes(
    where: str,
    table: Mapping[str, Any],
    group: Mapping[str, Any],
    endpoint: str,
    listens: bool,  # noqa: FBT001 - one of the two inputs
    interval: object,
) -> Iterator[Entry]:
    """Yield the nodes of *table*; a *group* has defaults for them."""
    for i, node in enumerate(_tables(table.get("nodes"))):
        told = _node(node, group)
        settings: dict[str, Any] = {}
        refused = "" if told else "names no identifier"
        try:
            settings = _listening(node, group, interval) if listens else _polling(interval)
        except (ValueError, TypeError) as error:
            refused = refused or str(error)
        yield Entry(
            where=f"{where}.nodes[{i}]",
            name=str(node.get("name") or identifier_of(told)),
            node=told,
            asset_id=str(group.get("name") or ""),
            endpoint=endpoint,
            settings=settings,
            refused=refused,
        )


def _node(node: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    """Return the node id that *node* names; a URI goes before an index, and its own before the group's."""
    if node.get("id"):
        return str(node["id"])
    kind = node.get("identifier_type") or group.get("identifier_type") or "s"
    if node.get("identifier") in (None, ""):
        return ""
    own = node.get("namespace") not in (None, "")
    uri = node.get("namespace_uri") or (None if own else group.get("namespace_uri"))
    index = node.get("namespace") if own else group.get("namespace") or 0
    return f"{f'nsu={escaped(uri)}' if uri else f'ns={index}'};{kind}={node['identifier']}"


def _listening(node: Mapping[str, Any], group: Mapping[str, Any], interval: object) -> dict[str, Any]:
    told = _table(node.get("monitoring_params"))
    settings: dict[str, Any] = {}
    if sampling := _ms(told.get("sampling_interval") or group.get("sampling_interval")):
        settings["sampling_interval_ms"] = sampling
    if publishing := _ms(interval):
        settings["publishing_interval_ms"] = publishing
    if told.get("queue_size"):
        settings["queue_size"] = int(told["queue_size"])
    if told.get("discard_oldest") is False:
        settings["discard"] = "newest"
    change = _table(told.get("data_change_filter"))
    kind = str(change.get("deadband_type") or "None").lower()
    if kind != "none" and float(change.get("deadband_value") or 0.0) > 0:
        settings |= {"deadband": kind, "deadband_value": float(change["deadband_value"])}
    return settings


def _polling(interval: object) -> dict[str, Any]:
    return {"mode": "poll", "sampling_interval_ms": _ms(interval)}


def _ms(duration: object) -> float:
    """Return a Go duration (``1m30s``), or a number of seconds, in ms; 0 when there is none."""
    if duration is None or duration == "":
        return 0.0
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        return float(duration) * 1000
    parts = _DURATION.findall(str(duration))
    if "".join(number + unit for number, unit in parts) != duration and duration != "0":
        raise ValueError(f"{duration!r} is no duration as 1m30s")
    return sum(float(number) * _UNITS_MS[unit] for number, unit in parts)


def _notes(where: str, plugin: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of *plugin* has no place in a tag list."""
    if clock := _CLOCKS.get(str(plugin.get("timestamp", ""))):
        yield f'{where}: values are timed by {plugin["timestamp"]}; set time = "{clock}" in [[server]]'
    ignored = {key for key in plugin if key not in _OF_INPUT}
    groups = _tables(plugin.get("group"))
    nodes = [node for table in (plugin, *groups) for node in _tables(table.get("nodes"))]
    ignored |= {f"group.{key}" for group in groups for key in group if key not in _OF_GROUP}
    ignored |= {f"nodes.{key}" for node in nodes for key in node if key not in _OF_NODE}
    told = [_table(node.get("monitoring_params")) for node in nodes]
    ignored |= {f"monitoring_params.{key}" for one in told for key in one if key not in _OF_MONITORING}
    if any("trigger" in _table(one.get("data_change_filter")) for one in told):
        ignored.add("data_change_filter.trigger")
    if ignored:
        yield f"{where}: not taken over: {', '.join(sorted(ignored))}; how the server is reached stands in [[server]]"


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
