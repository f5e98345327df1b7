"""The gateway's identity towards the cloud, and whom it trusts there: files that may be renewed while it runs."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from gateway.config import UplinkConfig
from gateway.errors import ConfigError

log = structlog.get_logger()

_Seen = tuple[tuple[int, int, int], ...]


class Credentials:
    """The TLS settings that the certificate files give; files that changed are read again.

    Raises:
        ConfigError: If the files cannot be used.
    """

    def __init__(self, config: UplinkConfig) -> None:
        self._config = config
        self._files = (config.ca_file, config.certificate_file, config.key_file)
        self._seen = _look(self._files)
        self._context = _load(config)

    def context(self) -> ssl.SSLContext:
        """Return the settings of the files as they are now, or as they were when they last could be used.

        A connection that is open keeps its own.
        """
        seen = _look(self._files)
        if seen != self._seen:
            try:
                self._context = _load(self._config)
                log.info("uplink certificate files renewed")
            except ConfigError as error:
                log.warning("changed uplink certificate files cannot be used; the ones before stay", reason=str(error))
            self._seen = seen
        return self._context


def _look(files: tuple[Path, ...]) -> _Seen:
    try:
        return tuple((found.st_mtime_ns, found.st_size, found.st_ino) for found in map(Path.stat, files))
    except OSError:
        return ()


def _load(config: UplinkConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(config.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.certificate_file, config.key_file)
    except OSError as error:
        raise ConfigError(
            f"[uplink] ca_file, certificate_file or key_file cannot be used ({error}); the service does not start"
        ) from error
    return context
