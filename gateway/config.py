"""The gateway's configuration: read once (`gateway.config_file`), checked, frozen, handed down.

``sample.toml`` beside this module is the reference. Secrets are paths to files; all paths are relative to the
file that names them, and absolute once loaded. Nothing here touches the network.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec

from gateway.errors import ConfigError
from gateway.tag_list import TagRow
from models.records import Stream, to_ns

SAMPLE = Path(__file__).with_name("sample.toml")


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


class Upload(StrEnum):
    """What of a channel is sent to the cloud; what is not stays here, counted."""

    EVERYTHING = "everything"
    FEATURES = "features"
    EVENTS = "events"
    BUDGET = "budget"


class Backlog(StrEnum):
    """Which of the segments that could not be sent goes first."""

    OLDEST = "oldest"
    NEWEST = "newest"


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
    """One machine: where its channels are found; without a path it has the channels that tags name.

    ``in_service_since`` is when its life began: commissioned, or overhauled as good as new. Without it nobody knows
    how old it is, and its remaining life is judged by its last windows alone.
    """

    asset_id: str
    asset_class: str
    server: str
    path: str = ""
    in_service_since: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


class AssetClassConfig(_Table, frozen=True, kw_only=True):
    """What the machines of one class have in common; no channels named: every variable with a unit.

    ``group`` is the group of all channels but those that ``channel_group`` (channel to group) names, ``upload`` what
    is sent of all but those in ``channel_upload``; None is as in ``[uplink]``.
    """

    channels: tuple[str, ...] = ()
    group: str | None = None
    channel_group: dict[str, str] = {}
    upload: Upload | None = None
    channel_upload: dict[str, Upload] = {}

    def group_of(self, channel: str) -> str | None:
        """Return the group of *channel*, or None when it is in none."""
        return self.channel_group.get(channel, self.group)


class DownsampleConfig(_Table, frozen=True, kw_only=True):
    """Mean, least, greatest and number of each stream's good values in *every* interval, kept *retention_days*.

    ``every`` is a number with ``m``, ``h`` or ``d``; 0 days are for ever.
    """

    every: str
    retention_days: float


class HistorianConfig(_Table, frozen=True, kw_only=True):
    """An InfluxDB 2, and what ``wearsight-gateway historian setup`` makes of it; 0 days are for ever."""

    influxdb_url: str
    influxdb_org: str
    influxdb_bucket: str
    influxdb_token_file: Path
    retention_days: float = 90.0
    downsample: tuple[DownsampleConfig, ...] = (
        DownsampleConfig(every="1m", retention_days=730.0),
        DownsampleConfig(every="1h", retention_days=3650.0),
    )


class JournalConfig(_Table, frozen=True, kw_only=True):
    """How often the journal commits, and how much it keeps; 0 is no limit.

    A clock that was set wrong purges nothing: ``max_age_days`` are days of running.
    """

    commit_interval_ms: float = 50.0
    max_size_mib: int = 0
    max_age_days: float = 0.0
    min_free_mib: int = 256
    purge_unsent: bool = False


class UplinkConfig(_Table, frozen=True, kw_only=True):
    """The way to the cloud."""

    cloud_url: str
    ca_file: Path
    certificate_file: Path
    key_file: Path
    segment_interval_s: float = 3.0
    segment_max_pages: int = 256
    retry_min_s: float = 0.5
    retry_max_s: float = 30.0
    backlog: Backlog = Backlog.OLDEST
    bandwidth_kib_s: float = 0.0
    schedule: tuple[str, ...] = ()
    proxy_url: str | None = None
    proxy_user: str | None = None
    proxy_password_file: Path | None = None
    upload: Upload = Upload.EVERYTHING
    events_before_s: float = 600.0
    events_after_s: float = 600.0
    budget_mib_per_day: float = 100.0


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
    journal: JournalConfig = JournalConfig()
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

    @property
    def in_service_since(self) -> dict[str, int]:
        """When the lives of assets began, ns since 1970, as far as it is configured."""
        return {one.asset_id: to_ns(one.in_service_since) for one in self.asset if one.in_service_since is not None}

    def classes_with(self, upload: Upload) -> frozenset[str]:
        """Return the asset classes of which some channel is sent as *upload* says."""
        general = self.uplink.upload if self.uplink is not None else Upload.EVERYTHING
        return frozenset(
            name
            for name, asset_class in self.asset_class.items()
            if upload in {asset_class.upload or general, *asset_class.channel_upload.values()}
        )

    def uploads_of(self, streams: Collection[Stream]) -> dict[Stream, Upload]:
        """Return what of each of *streams* is sent to the cloud."""
        general = self.uplink.upload if self.uplink is not None else Upload.EVERYTHING
        classes = {asset.asset_id: self.asset_class.get(asset.asset_class) for asset in self.asset}

        def told(stream: Stream) -> Upload:
            if (asset_class := classes.get(stream.asset_id)) is None:
                return general
            return asset_class.channel_upload.get(stream.channel) or asset_class.upload or general

        return {stream: told(stream) for stream in streams}


def time_of_day_span(text: str) -> tuple[int, int]:
    """Return the minutes of the day from and to which *text*, ``22:00-06:00``, goes; it may go past midnight.

    Raises:
        ValueError: If it is not written so.
    """
    matched = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])", text)
    if matched is None:
        raise ValueError(f"{text!r} is not written like 22:00-06:00")
    hour, minute, end_hour, end_minute = map(int, matched.groups())
    start, end = 60 * hour + minute, 60 * end_hour + end_minute
    if start == end or end > 24 * 60:
        raise ValueError(f"{text!r} is no span of a day")
    return start, end


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
