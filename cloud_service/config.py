"""The cloud service's configuration: read once, checked, frozen, handed down.

Secrets are paths to files. Paths are relative to the file that names them.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import NamedTuple

import msgspec

from cloud_service.errors import ConfigError
from models.records import UNDECODABLE

SAMPLE = """\
[ingest]
## Where gateways upload, with mutual TLS.
address = "127.0.0.1:8443"

## Largest segment that is read, in MiB.
# segment_limit_mib = 64

## Seconds an upload may stand still before it is given up.
# idle_deadline_s = 30.0

## Slowest upload that is waited for, in KiB/s on average; a slow link may take its time as long as it gets on.
# minimal_rate_kib_s = 1.0

## Bodies on their way in, all together, in MiB on disk; who comes when it is full is told to come again.
# incoming_mib = 1024

## Memory for segments that are decoded and stored, in MiB; further ones wait.
# memory_mib = 1024

## Refused segments of cloned or restored gateways that are kept for an operator, in MiB on disk.
# quarantine_mib = 1024

[web]
## Where people read the inbox. Anything but a loopback address needs an access token.
address = "127.0.0.1:8080"

## File with the token that a browser asks for as password (any user name), or a program sends as Bearer.
# access_token_file = "secrets/web.token"

[storage]
## Folder of the database, the lake, the registry and the keys.
# folder = "."
"""


class Address(NamedTuple):
    """Where a listener listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, key: str) -> Address:
        """Return the address in *text*, ``host:port`` or ``[host]:port``, or raise ConfigError naming *key*."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"{key} must be host:port, not {text!r}; the service does not start")
        return cls(host.strip("[]"), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class IngestConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listener for gateways."""

    address: str = "127.0.0.1:8443"
    segment_limit_mib: int = 64
    idle_deadline_s: float = 30.0
    minimal_rate_kib_s: float = 1.0
    incoming_mib: int = 1024
    memory_mib: int = 1024
    quarantine_mib: int = 1024


class WebConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listener for people."""

    address: str = "127.0.0.1:8080"
    access_token_file: Path | None = None


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where everything is kept."""

    folder: Path = Path()

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.folder / "cloud.sqlite"

    @property
    def lake(self) -> Path:
        """The folder of Parquet files."""
        return self.folder / "lake"

    @property
    def registry(self) -> Path:
        """The folder of bundle archives."""
        return self.folder / "registry"

    @property
    def pki(self) -> Path:
        """The folder of certificates and keys."""
        return self.folder / "pki"


class CloudConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything the cloud service is told."""

    ingest: IngestConfig = IngestConfig()
    web: WebConfig = WebConfig()
    storage: StorageConfig = StorageConfig()

    @property
    def ingest_address(self) -> Address:
        """Where gateways upload."""
        return Address.parse(self.ingest.address, "ingest.address")

    @property
    def web_address(self) -> Address:
        """Where people read."""
        return Address.parse(self.web.address, "web.address")


def load_config(path: Path) -> CloudConfig:
    """Return the checked configuration in *path*, with absolute paths.

    Raises:
        ConfigError: If the file cannot be read, has a key that is unknown, or a value that cannot be used.
    """
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=CloudConfig, dec_hook=_path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; the service does not start") from error
    except UNDECODABLE as error:
        raise ConfigError(f"{path}: {error}; the service does not start") from error
    try:
        return _checked(_absolute(config, path.resolve().parent))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_access_token(path: Path) -> str:
    """Return the token in *path*, of 16 characters or more, or raise ConfigError."""
    try:
        token = path.read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"web.access_token_file {path}: {error.strerror}; the service does not start") from error
    if len(token) < 16:
        raise ConfigError(f"web.access_token_file {path} holds fewer than 16 characters; the service does not start")
    return token


def _path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError("expected a path, as text that is not empty")


def _absolute(config: CloudConfig, base: Path) -> CloudConfig:
    token_file = config.web.access_token_file
    return msgspec.structs.replace(
        config,
        web=msgspec.structs.replace(config.web, access_token_file=base / token_file if token_file else None),
        storage=msgspec.structs.replace(config.storage, folder=base / config.storage.folder),
    )


def _checked(config: CloudConfig) -> CloudConfig:
    _ = config.ingest_address
    for key in IngestConfig.__struct_fields__[1:]:  # all but the address
        if getattr(config.ingest, key) <= 0:
            raise ConfigError(f"ingest.{key} must be above 0; the service does not start")
    if config.ingest.incoming_mib < config.ingest.segment_limit_mib:
        raise ConfigError("ingest.incoming_mib must not be below segment_limit_mib; the service does not start")
    if not config.web_address.is_loopback and config.web.access_token_file is None:
        raise ConfigError(
            f"web.address {config.web.address} can be reached from outside, and web.access_token_file is not set; "
            "the service does not start"
        )
    return config
