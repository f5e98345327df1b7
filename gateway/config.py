"""The gateway's configuration: read once, checked, frozen, handed down.

``sample.toml`` beside this module is the reference. Secrets are paths to files; all paths are relative to the
file that names them, and absolute once loaded. Nothing here touches the network.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigError

SAMPLE = Path(__file__).with_name("sample.toml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # as bundles.verification wants it for slots


class Security(StrEnum):
    """How the channel to an OPC UA server is protected."""

    SIGN_AND_ENCRYPT = "Basic256Sha256-SignAndEncrypt"
    SIGN = "Basic256Sha256-Sign"
    NONE = "None"


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; an unknown key is refused."""


class StatusConfig(_Table, frozen=True, kw_only=True):
    """The HTTP listener for /health and /metrics."""

    address: str = "127.0.0.1:9101"


class AcquisitionConfig(_Table, frozen=True, kw_only=True):
    """Sampling and publishing, for all channels."""

    sampling_interval_ms: float = 0.0
    publishing_interval_ms: float = 250.0
    queue_size: int = 1000
    backfill_limit_h: float = 720.0


class ServerConfig(_Table, frozen=True, kw_only=True):
    """One OPC UA server."""

    name: str
    endpoint: str
    user: str | None = None
    password_file: Path | None = None
    security: Security = Security.SIGN_AND_ENCRYPT


class AssetConfig(_Table, frozen=True, kw_only=True):
    """One machine: where its channels are found."""

    asset_id: str
    asset_class: str
    server: str
    path: str


class AssetClassConfig(_Table, frozen=True, kw_only=True):
    """What the machines of one class have in common; no channels named: every variable with a unit."""

    channels: tuple[str, ...] = ()


class HistorianConfig(_Table, frozen=True, kw_only=True):
    """An InfluxDB 2."""

    influxdb_url: str
    influxdb_org: str
    influxdb_bucket: str
    influxdb_token_file: Path


class UplinkConfig(_Table, frozen=True, kw_only=True):
    """The way to the cloud."""

    cloud_url: str
    ca_file: Path
    certificate_file: Path
    key_file: Path
    segment_interval_s: float = 5.0
    segment_max_pages: int = 256
    retry_min_s: float = 0.5
    retry_max_s: float = 30.0


class BundlesConfig(_Table, frozen=True, kw_only=True):
    """Whose bundles are taken."""

    trusted_key_file: Path


class GatewayConfig(_Table, frozen=True, kw_only=True):
    """Everything a gateway is told."""

    gateway_id: str
    state_dir: Path
    status: StatusConfig = StatusConfig()
    acquisition: AcquisitionConfig = AcquisitionConfig()
    server: tuple[ServerConfig, ...] = ()
    asset: tuple[AssetConfig, ...] = ()
    asset_class: dict[str, AssetClassConfig] = {}
    historian: HistorianConfig | None = None
    uplink: UplinkConfig | None = None
    bundles: BundlesConfig | None = None

    @property
    def pki_dir(self) -> Path:
        """The gateway's own OPC UA certificate and its trust list."""
        return self.state_dir / "pki"

    def assets_of(self, server: str) -> tuple[AssetConfig, ...]:
        """Return the assets that are read from *server*."""
        return tuple(asset for asset in self.asset if asset.server == server)


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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {_with_key(str(error))}; the service does not start") from error
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


def read_secret(path: Path, key: str) -> str:
    """Return the first line of the secret in *path*, which *key* names, or raise ConfigError."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error}); the service does not start") from error
    if not lines or not lines[0].strip():
        raise ConfigError(f"{key}: {path} is empty; the service does not start")
    return lines[0].strip()


def standing_warnings(config: GatewayConfig) -> tuple[str, ...]:
    """Return what is weaker than the default by explicit setting, one sentence each."""
    return tuple(warning for server in config.server for warning in server_warnings(server))


def server_warnings(server: ServerConfig) -> tuple[str, ...]:
    """Return what is weaker than the default in how *server* is reached, one sentence each."""
    found = []
    if server.security is Security.SIGN:
        found.append(f"{server.name}: the OPC UA channel is signed but not encrypted (security = {server.security})")
    if server.security is Security.NONE:
        found.append(f"{server.name}: the OPC UA channel is neither signed nor encrypted (security = None)")
    if server.user is None:
        found.append(f"{server.name}: signs in anonymously (no user)")
    return tuple(found)


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
    yield from _number_problems(config.acquisition, "acquisition")
    if config.acquisition.queue_size > 1_000_000:
        yield f"acquisition.queue_size is {config.acquisition.queue_size}; at most 1000000"
    yield from _server_problems(config)
    yield from _asset_problems(config)
    if config.uplink is not None:
        yield from _number_problems(config.uplink, "uplink")
        if not _is_url(config.uplink.cloud_url, "https"):
            yield f"uplink.cloud_url {config.uplink.cloud_url!r} must be https://host:port"
        if config.uplink.retry_max_s < config.uplink.retry_min_s:
            yield "uplink.retry_max_s is below uplink.retry_min_s"


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


def _number_problems(table: AcquisitionConfig | UplinkConfig, name: str) -> Iterator[str]:
    for field in msgspec.structs.fields(table):
        value = getattr(table, field.name)
        if not isinstance(value, int | float):
            continue
        zero_allowed = field.name in {"sampling_interval_ms", "backfill_limit_h"}
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero_allowed):
            yield f"{name}.{field.name} is {value}; it must be {'0 or more' if zero_allowed else 'above 0'}"


def _server_problems(config: GatewayConfig) -> Iterator[str]:
    yield from _repeated("server.name", [server.name for server in config.server])
    for i, server in enumerate(config.server):
        if not _NAME.fullmatch(server.name):
            yield f"server[{i}].name {server.name!r} must be 1 to 64 letters, digits, '.', '_' or '-'"
        if not _is_url(server.endpoint, "opc.tcp"):
            yield f"server[{i}].endpoint {server.endpoint!r} must be opc.tcp://host:port/path"
        if (server.user is None) != (server.password_file is None):
            yield f"server[{i}]: user and password_file belong together"


def _asset_problems(config: GatewayConfig) -> Iterator[str]:
    yield from _repeated("asset.asset_id", [asset.asset_id for asset in config.asset])
    servers = {server.name for server in config.server}
    for i, asset in enumerate(config.asset):
        if not asset.asset_id or not asset.path.strip("/"):
            yield f"asset[{i}].asset_id and asset[{i}].path must not be empty"
        if asset.server not in servers:
            yield f"asset[{i}].server {asset.server!r} ({asset.asset_id}) names no server; known: {sorted(servers)}"
        if asset.asset_class not in config.asset_class:
            known = sorted(config.asset_class)
            yield f"asset[{i}].asset_class {asset.asset_class!r} ({asset.asset_id}) is not configured; known: {known}"
    for name, asset_class in config.asset_class.items():
        if not _CLASS_NAME.fullmatch(name):
            yield f"asset_class.{name}: must be 1 to 64 letters, digits, '_' or '-', as bundles need it"
        yield from _repeated(f"asset_class.{name}.channels", list(asset_class.channels))


def _repeated(key: str, names: list[str]) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{key} {name!r} is given {count} times"


def _named_files(config: GatewayConfig) -> Iterator[tuple[str, Path]]:
    for i, server in enumerate(config.server):
        if server.password_file is not None:
            yield f"server[{i}].password_file", server.password_file
    if config.historian is not None:
        yield "historian.influxdb_token_file", config.historian.influxdb_token_file
    if config.uplink is not None:
        yield "uplink.ca_file", config.uplink.ca_file
        yield "uplink.certificate_file", config.uplink.certificate_file
        yield "uplink.key_file", config.uplink.key_file
    if config.bundles is not None:
        yield "bundles.trusted_key_file", config.bundles.trusted_key_file
