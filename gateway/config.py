"""The gateway's configuration: read once, checked, frozen, handed down.

``sample.toml`` beside this module is the reference. Secrets are paths to files; all paths are relative to the
file that names them, and absolute once loaded. Nothing here touches the network.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigError
from gateway.tag_list import TagRow, problem_of, read_tags, split_path

SAMPLE = Path(__file__).with_name("sample.toml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_CLASS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # as bundles.verification wants it for slots
_QUEUE_SIZE_MOST = 1_000_000
_ZERO_ALLOWED = ("sampling_interval_ms", "deadband_value", "heartbeat_s")


class Security(StrEnum):
    """How the channel to an OPC UA server is protected: the policy by its name in OPC 10000-7, then the mode."""

    SIGN_AND_ENCRYPT = "Basic256Sha256-SignAndEncrypt"
    SIGN = "Basic256Sha256-Sign"
    AES256_SIGN_AND_ENCRYPT = "Aes256_Sha256_RsaPss-SignAndEncrypt"
    AES256_SIGN = "Aes256_Sha256_RsaPss-Sign"
    AES128_SIGN_AND_ENCRYPT = "Aes128_Sha256_RsaOaep-SignAndEncrypt"
    AES128_SIGN = "Aes128_Sha256_RsaOaep-Sign"
    BASIC256_SIGN_AND_ENCRYPT = "Basic256-SignAndEncrypt"
    BASIC256_SIGN = "Basic256-Sign"
    BASIC128_SIGN_AND_ENCRYPT = "Basic128Rsa15-SignAndEncrypt"
    BASIC128_SIGN = "Basic128Rsa15-Sign"
    NONE = "None"

    @property
    def policy(self) -> str:
        """The name of the policy alone."""
        return self.value.partition("-")[0]

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way can read along."""
        return self.value.endswith("-SignAndEncrypt")

    @property
    def deprecated(self) -> bool:
        """Whether the policy rests on SHA-1, which OPC 10000-7 has given up."""
        return self.policy in {"Basic256", "Basic128Rsa15"}


class Tolerated(StrEnum):
    """What may be wrong with a server all the same, by explicit setting and under a standing warning."""

    VALIDITY = "validity"
    HOST_NAME = "host-name"
    USAGE = "usage"
    REVOCATION = "revocation-unknown"
    CLEAR_PASSWORD = "clear-password"  # noqa: S105 - the name of a choice


_TOLERATED = {
    Tolerated.VALIDITY: "its certificate is taken outside the time it is valid for",
    Tolerated.HOST_NAME: "its certificate is taken under another host name",
    Tolerated.USAGE: "its certificate is taken for a use it is not made for",
    Tolerated.REVOCATION: "its certificate is taken though nothing tells whether it was revoked",
    Tolerated.CLEAR_PASSWORD: "the password may go in clear text to whoever answers",
}


class Mode(StrEnum):
    """How values come."""

    SUBSCRIBE = "subscribe"
    POLL = "poll"


class Deadband(StrEnum):
    """Which changes the server keeps to itself."""

    NONE = "none"
    ABSOLUTE = "absolute"
    PERCENT = "percent"


class Discard(StrEnum):
    """Which value the server gives up when its queue for a channel is full."""

    OLDEST = "oldest"
    NEWEST = "newest"


class TimeSource(StrEnum):
    """Whose clock times a server's values."""

    SOURCE = "source"
    SERVER = "server"
    GATEWAY = "gateway"


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the values of one channel are asked for.

    Attributes:
        mode: Subscribed to, or read again and again.
        sampling_interval_ms: Between two samples; 0 is every change. When polled the period, above 0.
        publishing_interval_ms: Between two messages of the server, above 0.
        queue_size: Values the server may queue between two messages, 1 to 1,000,000.
        deadband: Which changes are not worth a value.
        deadband_value: In the unit of the value, or in percent of the server's EURange (0 to 100).
        discard: What the server gives up when the queue is full.
        heartbeat_s: The last known value is told again so often, apart from real values; 0 is never.
        silence_s: So long without evidence, and the channel is looked at.
    """

    mode: Mode = Mode.SUBSCRIBE
    sampling_interval_ms: float = 0.0
    publishing_interval_ms: float = 250.0
    queue_size: int = 1000
    deadband: Deadband = Deadband.NONE
    deadband_value: float = 0.0
    discard: Discard = Discard.OLDEST
    heartbeat_s: float = 0.0
    silence_s: float = 30.0


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; an unknown key is refused."""


class StatusConfig(_Table, frozen=True, kw_only=True):
    """The HTTP listener for /health and /metrics."""

    address: str = "127.0.0.1:9101"


class GroupConfig(_Table, frozen=True, kw_only=True):
    """Channels that are asked for alike; what is None is as in ``[acquisition]``."""

    mode: Mode | None = None
    sampling_interval_ms: float | None = None
    publishing_interval_ms: float | None = None
    queue_size: int | None = None
    deadband: Deadband | None = None
    deadband_value: float | None = None
    discard: Discard | None = None
    heartbeat_s: float | None = None
    silence_s: float | None = None


class AcquisitionConfig(_Table, frozen=True, kw_only=True):
    """How values are asked for (see `Sampling`), where no group says otherwise."""

    mode: Mode = Mode.SUBSCRIBE
    sampling_interval_ms: float = 0.0
    publishing_interval_ms: float = 250.0
    queue_size: int = 1000
    deadband: Deadband = Deadband.NONE
    deadband_value: float = 0.0
    discard: Discard = Discard.OLDEST
    heartbeat_s: float = 0.0
    silence_s: float = 30.0
    backfill_limit_h: float = 720.0
    group: dict[str, GroupConfig] = {}

    def sampling(self, group: str | None = None) -> Sampling:
        """Return how the channels of *group*, which must be known, are asked for; of none: those in no group."""
        keys: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Sampling)}
        if group is not None:
            told = msgspec.structs.asdict(self.group[group])
            keys |= {key: value for key, value in told.items() if value is not None}
        return Sampling(**keys)


class ServerConfig(_Table, frozen=True, kw_only=True):
    """One OPC UA server."""

    name: str
    endpoint: str
    user: str | None = None
    password_file: Path | None = None
    security: Security = Security.SIGN_AND_ENCRYPT
    tolerate: tuple[Tolerated, ...] = ()
    time: TimeSource = TimeSource.SOURCE
    clock_tolerance_s: float = 86400.0


class AssetConfig(_Table, frozen=True, kw_only=True):
    """One machine: where its channels are found; without a path it has the channels that tags name."""

    asset_id: str
    asset_class: str
    server: str
    path: str = ""


class AssetClassConfig(_Table, frozen=True, kw_only=True):
    """What the machines of one class have in common; no channels named: every variable with a unit.

    ``group`` is the group of all channels but those that ``channel_group`` (channel to group) names.
    """

    channels: tuple[str, ...] = ()
    group: str | None = None
    channel_group: dict[str, str] = {}

    def group_of(self, channel: str) -> str | None:
        """Return the group of *channel*, or None when it is in none."""
        return self.channel_group.get(channel, self.group)


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
    """Everything a gateway is told.

    Once loaded, ``tag`` has the rows of ``tags_file`` too, and ``asset`` the machines that only tags name.
    """

    gateway_id: str
    state_dir: Path
    tags_file: Path | None = None
    status: StatusConfig = StatusConfig()
    acquisition: AcquisitionConfig = AcquisitionConfig()
    server: tuple[ServerConfig, ...] = ()
    asset: tuple[AssetConfig, ...] = ()
    asset_class: dict[str, AssetClassConfig] = {}
    tag: tuple[TagRow, ...] = ()
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
    if server.security is Security.NONE:
        found.append(f"{server.name}: the OPC UA channel is neither signed nor encrypted (security = None)")
    elif not server.security.encrypted:
        found.append(f"{server.name}: the OPC UA channel is signed but not encrypted (security = {server.security})")
    if server.security.deprecated:
        found.append(f"{server.name}: {server.security.policy} is out of date and weak (security = {server.security})")
    found += [f"{server.name}: {_TOLERATED[what]} (tolerate = {what})" for what in server.tolerate]
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
    yield from _acquisition_problems(config.acquisition)
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


def _number_problems(table: Any, name: str, zero_allowed: Collection[str] = ()) -> Iterator[str]:
    """Yield which numbers of *table*, a dataclass or struct called *name*, are not finite or not above 0."""
    for key in getattr(table, "__struct_fields__", None) or [field.name for field in fields(table)]:
        value = getattr(table, key)
        if not isinstance(value, int | float):
            continue
        zero = key in zero_allowed
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            yield f"{name}.{key} is {value}; it must be {'0 or more' if zero else 'above 0'}"


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
    for channel in asset_class.channel_group:
        if asset_class.channels and channel not in asset_class.channels:
            yield f"asset_class.{name}.channel_group.{channel}: {name} has no such channel"


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
    if config.historian is not None:
        yield "historian.influxdb_token_file", config.historian.influxdb_token_file
    if config.uplink is not None:
        yield "uplink.ca_file", config.uplink.ca_file
        yield "uplink.certificate_file", config.uplink.certificate_file
        yield "uplink.key_file", config.uplink.key_file
    if config.bundles is not None:
        yield "bundles.trusted_key_file", config.bundles.trusted_key_file
