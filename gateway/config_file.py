"""Reading the configuration file: decoded, joined with its tag list, and checked in itself."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.config import (
    AcquisitionConfig,
    AssetClassConfig,
    AssetConfig,
    Deadband,
    DownsampleConfig,
    GatewayConfig,
    HistorianConfig,
    JournalConfig,
    Mode,
    Sampling,
    StatusConfig,
    UplinkConfig,
    time_of_day_span,
)
from gateway.errors import ConfigError
from gateway.tag_list import TagRow, problem_of, read_tags, split_path
from models.records import UNDECODABLE

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # as bundles.verification wants it for slots
_EVERY = re.compile(r"[1-9][0-9]{0,3}[mhd]")
_RETENTION_LEAST_DAYS = 1 / 24
_QUEUE_SIZE_MOST = 1_000_000
_LONGEST_COMMIT_INTERVAL_MS = 250  # longer, and a value is not safe soon enough
_ZERO_ALLOWED = ("sampling_interval_ms", "deadband_value", "heartbeat_s")


def load_config(path: Path) -> GatewayConfig:
    """Return the configuration in *path*, checked in itself, with absolute paths.

    Files it names need not exist yet: see `missing_files`.

    Raises:
        ConfigError: If the file cannot be read, has an unknown key, or a value that cannot be used; the message
            names file, key and reason.
    """
    base = path.resolve().parent

    def decode(kind: type, value: Any) -> Any:
        if kind is Path and isinstance(value, str) and value:
            return base / value
        raise ValueError("expected a path as a text that is not empty")

    try:
        config = msgspec.toml.decode(path.read_bytes(), type=GatewayConfig, dec_hook=decode)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; the service does not start") from error
    except UNDECODABLE as error:
        raise ConfigError(f"{path}: {_with_key(str(error))}; the service does not start") from error
    labels = [f"{path}: tag[{i}]." for i in range(len(config.tag))]
    if config.tags_file is not None and config.tags_file.is_file():
        try:
            rows = read_tags(config.tags_file)
        except ConfigError as error:
            raise ConfigError(f"{error}; the service does not start") from error
        labels += [f"{config.tags_file}, line {line}, column " for line in rows]
        config = msgspec.structs.replace(config, tag=(*config.tag, *rows.values()))
    for problem in _tag_problems(config, labels):
        raise ConfigError(f"{problem}; the service does not start")
    config = msgspec.structs.replace(config, asset=(*config.asset, *_assets_of_tags(config)))
    for problem in _problems(config):
        raise ConfigError(f"{path}: {problem}; the service does not start")
    return config


def missing_files(config: GatewayConfig) -> list[str]:
    """Return one sentence for each file that *config* names and that is not a readable file, naming its key."""
    return [f"{key}: {path} is not a file" for key, path in _named_files(config) if not path.is_file()]


def check_config(path: Path) -> GatewayConfig:
    """Return the configuration in *path* as `load_config` does, and refuse missing files too.

    Raises:
        ConfigError: As `load_config`; and naming all files that are missing, each with its key.
    """
    config = load_config(path)
    if missing := missing_files(config):
        raise ConfigError(f"{path}: {'; '.join(missing)}; the service does not start")
    return config


def _with_key(message: str) -> str:
    """Return msgspec's message; an unknown key is joined to its table: ``status.port``."""
    unknown = re.fullmatch(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?", message)
    if unknown is None:
        return message.replace("`$.", "`")
    key, table = unknown.groups()
    return f"unknown key `{f'{table}.' if table else ''}{key}`"


def _problems(config: GatewayConfig) -> Iterator[str]:
    """Yield what is wrong between the keys, naming each."""
    if not _NAME.fullmatch(config.gateway_id):
        yield f"gateway_id {config.gateway_id!r} must be 1 to 64 letters, digits, '.', '_' or '-'"
    yield from _address_problems(config.status)
    yield from _acquisition_problems(config.acquisition)
    yield from _server_problems(config)
    yield from _asset_problems(config)
    yield from _journal_problems(config.journal)
    if config.historian is not None:
        yield from _historian_problems(config.historian)
    if config.uplink is not None:
        yield from _uplink_problems(config.uplink)


def _journal_problems(journal: JournalConfig) -> Iterator[str]:
    yield from _number_problems(journal, "journal", journal.__struct_fields__)
    if journal.commit_interval_ms > _LONGEST_COMMIT_INTERVAL_MS:
        yield f"journal.commit_interval_ms is {journal.commit_interval_ms:g}; at most {_LONGEST_COMMIT_INTERVAL_MS}"


def _uplink_problems(uplink: UplinkConfig) -> Iterator[str]:
    yield from _number_problems(uplink, "uplink", ("bandwidth_kib_s", "events_before_s", "events_after_s"))
    if not _is_url(uplink.cloud_url, "https"):
        yield f"uplink.cloud_url {uplink.cloud_url!r} must be https://host:port"
    if uplink.retry_max_s < uplink.retry_min_s:
        yield "uplink.retry_max_s is below uplink.retry_min_s"
    for i, span in enumerate(uplink.schedule):
        try:
            time_of_day_span(span)
        except ValueError as error:
            yield f"uplink.schedule[{i}]: {error}"
    if uplink.proxy_url is not None and not _is_url(uplink.proxy_url, "http"):
        yield f"uplink.proxy_url {uplink.proxy_url!r} must be http://host:port"
    if (uplink.proxy_user is None) != (uplink.proxy_password_file is None):
        yield "uplink: proxy_user and proxy_password_file belong together"
    if uplink.proxy_user is not None and uplink.proxy_url is None:
        yield "uplink.proxy_user is given without uplink.proxy_url"


def _is_url(url: str, scheme: str) -> bool:
    """Return whether *url* has *scheme*, a host, and no impossible port."""
    try:
        parts = urlsplit(url)
        return parts.scheme == scheme and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a broken IPv6 address, a port that is no number
        return False


def _address_problems(status: StatusConfig) -> Iterator[str]:
    host, _, port = status.address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        yield f"status.address {status.address!r} must be host:port"


def _number_problems(table: Any, name: str, zero_allowed: Collection[str] = ()) -> Iterator[str]:
    """Yield which numbers of *table*, a dataclass or struct called *name*, are not finite or not above 0."""
    for key in getattr(table, "__struct_fields__", None) or [field.name for field in fields(table)]:
        value = getattr(table, key)
        if not isinstance(value, int | float):
            continue
        zero = key in zero_allowed
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            yield f"{name}.{key} is {value}; it must be {'0 or more' if zero else 'above 0'}"


def _historian_problems(historian: HistorianConfig) -> Iterator[str]:
    if not _is_url(historian.influxdb_url, "http") and not _is_url(historian.influxdb_url, "https"):
        yield f"historian.influxdb_url {historian.influxdb_url!r} must be http://host:port or https://host:port"
    downsample = [(f"historian.downsample[{i}]", table) for i, table in enumerate(historian.downsample)]
    tables: list[tuple[str, HistorianConfig | DownsampleConfig]] = [("historian", historian), *downsample]
    for name, table in tables:
        yield from _number_problems(table, name, ("retention_days",))
        if 0 < table.retention_days < _RETENTION_LEAST_DAYS:
            yield f"{name}.retention_days is {table.retention_days}; InfluxDB keeps an hour at least (or 0: for ever)"
    for name, interval in downsample:
        if not _EVERY.fullmatch(interval.every):
            yield f"{name}.every {interval.every!r} must be as '5m', '1h' or '1d'"
    yield from _repeated("historian.downsample.every", [interval.every for _, interval in downsample])


def _acquisition_problems(acquisition: AcquisitionConfig) -> Iterator[str]:
    yield from _number_problems(acquisition, "acquisition", (*_ZERO_ALLOWED, "backfill_limit_h"))
    yield from _sampling_problems(acquisition.sampling(), "acquisition")
    for name in acquisition.group:
        if not _NAME.fullmatch(name):
            yield f"acquisition.group.{name!r} must be 1 to 64 letters, digits, '.', '_' or '-'"
        sampling = acquisition.sampling(name)
        yield from _number_problems(sampling, f"acquisition.group.{name}", _ZERO_ALLOWED)
        yield from _sampling_problems(sampling, f"acquisition.group.{name}")


def _sampling_problems(sampling: Sampling, name: str) -> Iterator[str]:
    """Yield what does not go together in the *sampling* that *name* comes to, inherited keys and all."""
    if sampling.queue_size > _QUEUE_SIZE_MOST:
        yield f"{name}.queue_size is {sampling.queue_size}; at most {_QUEUE_SIZE_MOST}"
    polled = sampling.mode is Mode.POLL
    if polled and sampling.sampling_interval_ms == 0:
        yield f"{name}.sampling_interval_ms must be above 0 with mode = poll: it is the time between two reads"
    if polled and sampling.deadband is not Deadband.NONE:
        yield f"{name}.deadband must be none with mode = poll: a read tells every value"
    if (sampling.deadband is Deadband.NONE) != (sampling.deadband_value == 0):
        yield (
            f"{name}.deadband = {sampling.deadband} and {name}.deadband_value = {sampling.deadband_value:g}"
            " do not go together: both, or neither (none and 0)"
        )
    if sampling.deadband is Deadband.PERCENT and sampling.deadband_value > 100:
        yield f"{name}.deadband_value is {sampling.deadband_value}; a share of the range is at most 100 percent"


def _server_problems(config: GatewayConfig) -> Iterator[str]:
    yield from _repeated("server.name", [server.name for server in config.server])
    for i, server in enumerate(config.server):
        if not _NAME.fullmatch(server.name):
            yield f"server[{i}].name {server.name!r} must be 1 to 64 letters, digits, '.', '_' or '-'"
        if not _is_url(server.endpoint, "opc.tcp"):
            yield f"server[{i}].endpoint {server.endpoint!r} must be opc.tcp://host:port/path"
        if (server.user is None) != (server.password_file is None):
            yield f"server[{i}]: user and password_file belong together"
        if not math.isfinite(server.clock_tolerance_s) or server.clock_tolerance_s < 0:
            yield f"server[{i}].clock_tolerance_s is {server.clock_tolerance_s}; it must be 0 or more"


def _asset_problems(config: GatewayConfig) -> Iterator[str]:
    yield from _repeated("asset.asset_id", [asset.asset_id for asset in config.asset])
    servers = {server.name for server in config.server}
    tagged = {tag.asset_id for tag in config.tag}
    for i, asset in enumerate(config.asset):
        if not asset.asset_id:
            yield f"asset[{i}].asset_id must not be empty"
        try:
            steps = split_path(asset.path)
        except ValueError as error:
            yield f"asset[{i}].path: {error}"
            continue
        if not steps and asset.asset_id not in tagged:
            yield f"asset[{i}].path must not be empty: no tag names a channel of {asset.asset_id!r}"
        if asset.server not in servers:
            yield f"asset[{i}].server {asset.server!r} ({asset.asset_id}) names no server; known: {sorted(servers)}"
        if asset.asset_class not in config.asset_class:
            known = sorted(config.asset_class)
            yield f"asset[{i}].asset_class {asset.asset_class!r} ({asset.asset_id}) is not configured; known: {known}"
    for name, asset_class in config.asset_class.items():
        if not _CLASS_NAME.fullmatch(name):
            yield f"asset_class.{name}: must be 1 to 64 letters, digits, '_' or '-', as bundles need it"
        yield from _repeated(f"asset_class.{name}.channels", list(asset_class.channels))
        yield from _group_problems(config, name, asset_class)


def _group_problems(config: GatewayConfig, name: str, asset_class: AssetClassConfig) -> Iterator[str]:
    groups = {f"asset_class.{name}.group": asset_class.group} if asset_class.group is not None else {}
    groups |= {f"asset_class.{name}.channel_group.{c}": group for c, group in asset_class.channel_group.items()}
    for key, group in groups.items():
        if group not in config.acquisition.group:
            yield f"{key} {group!r} is no group; known: {sorted(config.acquisition.group)}"
    for key in ("channel_group", "channel_upload"):
        for channel in getattr(asset_class, key):
            if asset_class.channels and channel not in asset_class.channels:
                yield f"asset_class.{name}.{key}.{channel}: {name} has no such channel"


def _tag_problems(config: GatewayConfig, labels: Sequence[str]) -> Iterator[str]:
    """Yield what is wrong with the tags, each told by its label of *labels* and the column."""
    servers = {server.name for server in config.server}
    machines = {asset.asset_id: asset for asset in (*config.asset, *_assets_of_tags(config))}
    first: dict[tuple[str, str], str] = {}
    for label, tag in zip(labels, config.tag, strict=True):
        if problem := problem_of(tag):
            yield label + problem
        if tag.server not in servers:
            yield f"{label}server: {tag.server!r} names no server; known: {sorted(servers)}"
        machine = machines[tag.asset_id]
        server, asset_class = machine.server, machine.asset_class
        if tag.server != server:
            yield f"{label}server: {tag.asset_id} is read from {server!r}, not from {tag.server!r}"
        if tag.asset_class not in {asset_class, ""}:
            yield f"{label}asset_class: {tag.asset_id} is of {asset_class!r}, not of {tag.asset_class!r}"
        if asset_class not in config.asset_class:
            known = sorted(config.asset_class)
            yield f"{label}asset_class: {asset_class!r} ({tag.asset_id}) is not configured; known: {known}"
        if tag.group and tag.group not in config.acquisition.group:
            yield f"{label}group: {tag.group!r} is no group; known: {sorted(config.acquisition.group)}"
        stream = (tag.asset_id, tag.channel)
        if stream in first:
            yield f"{label}channel: {tag.asset_id}/{tag.channel} is given twice, first at {first[stream].rstrip('.')}"
        first.setdefault(stream, label.removesuffix(", column "))


def _assets_of_tags(config: GatewayConfig) -> list[AssetConfig]:
    """Return the machines that only tags name, each as the first tag says that says it."""
    known = {asset.asset_id for asset in config.asset}
    first: dict[str, TagRow] = {}
    classes: dict[str, str] = {}
    for tag in config.tag:
        if tag.asset_id not in known:
            first.setdefault(tag.asset_id, tag)
            classes[tag.asset_id] = classes.get(tag.asset_id) or tag.asset_class
    return [
        AssetConfig(asset_id=asset_id, asset_class=classes[asset_id], server=tag.server)
        for asset_id, tag in sorted(first.items())
    ]


def _repeated(key: str, names: list[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{key} {name!r} is given {count} times"


def _named_files(config: GatewayConfig) -> Iterator[tuple[str, Path]]:
    if config.tags_file is not None:
        yield "tags_file", config.tags_file
    for i, server in enumerate(config.server):
        if server.password_file is not None:
            yield f"server[{i}].password_file", server.password_file
    # historian.influxdb_token_file may come later: `historian setup` makes it, and the gateway goes on without it.
    if config.uplink is not None:
        yield "uplink.ca_file", config.uplink.ca_file
        yield "uplink.certificate_file", config.uplink.certificate_file
        yield "uplink.key_file", config.uplink.key_file
        if config.uplink.proxy_password_file is not None:
            yield "uplink.proxy_password_file", config.uplink.proxy_password_file
    if config.bundles is not None:
        yield "bundles.trusted_key_file", config.bundles.trusted_key_file
