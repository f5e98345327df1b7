"""What an operator asks first: why does this gateway not work, and what do I do about it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from gateway.config import GatewayConfig, standing_warnings
from gateway.config_file import load_config, missing_files
from gateway.errors import ConfigError

EXPIRES_SOON = timedelta(days=30)
LOW_DISK_BYTES = 2 * 2**30
REACH_TIMEOUT_S = 5.0
# A clock before this software was written is a clock that was never set.
EARLIEST_TIME = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. ``level`` is ``good``, ``warning`` or ``fault``."""

    level: str
    subject: str
    message: str
    next_step: str = ""


async def examine(config_file: Path) -> tuple[Finding, ...]:
    """Return what was found, in the order of the flow; nothing is changed."""
    try:
        config = load_config(config_file)
    except ConfigError as error:
        return (_fault("configuration", str(error), "correct the named key, then run check-config"),)
    findings = [_good("configuration", f"{config_file} is understood"), *_files(config)]
    findings += [*_folder(config), *_certificates(config), *_clock()]
    findings += [finding async for finding in _endpoints(config)]
    return tuple(findings)


def _files(config: GatewayConfig) -> Iterator[Finding]:
    for missing in missing_files(config):
        yield _fault("files", missing, "put the file there, or correct the key")
    if config.historian is not None and not config.historian.influxdb_token_file.is_file():
        yield Finding(
            level="warning",
            subject="historian",
            message=f"{config.historian.influxdb_token_file} is not there; the journal keeps what InfluxDB lacks",
            next_step="wearsight-gateway historian setup makes it",
        )
    for warning in standing_warnings(config):
        yield Finding(level="warning", subject="security", message=warning, next_step="use the default where you can")


def _folder(config: GatewayConfig) -> Iterator[Finding]:
    folder = config.state_dir
    if not folder.is_dir():
        yield _fault("state_dir", f"{folder} is not a folder", "create it, owned by the gateway's user")
        return
    try:
        probe = folder / ".doctor"
        probe.touch()
        probe.unlink()
    except OSError as error:
        yield _fault("state_dir", f"{folder} cannot be written ({error.strerror})", "give it to the gateway's user")
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free at {folder}"
    if free < LOW_DISK_BYTES:
        yield _fault("disk", text, "make room: a full disk stops the journal, and values wait in the servers' queues")
    else:
        yield _good("disk", text)


def _certificates(config: GatewayConfig) -> Iterator[Finding]:
    files = list((config.pki_dir / "trusted").glob("*.der")) + list(config.pki_dir.glob("*.der"))
    if config.uplink is not None:
        files += [config.uplink.ca_file, config.uplink.certificate_file]
    if config.server and not list((config.pki_dir / "trusted").glob("*.der")):
        yield _fault(
            "trust list",
            f"{config.pki_dir / 'trusted'} is empty: no server is trusted",
            "put each server's certificate there, as .der, after comparing its fingerprint",
        )
    for path in files:
        if path.is_file():
            yield _certificate(path)


def _certificate(path: Path) -> Finding:
    data = path.read_bytes()
    try:
        pem = data.startswith(b"-----")
        certificate = x509.load_pem_x509_certificate(data) if pem else x509.load_der_x509_certificate(data)
    except ValueError as error:
        return _fault("certificate", f"{path} cannot be read ({error})", "put a good one in its place")
    end, now = certificate.not_valid_after_utc, datetime.now(UTC)
    text = f"{path.name} is valid until {end:%Y-%m-%d}"
    if end < now:
        return _fault("certificate", f"{path.name} expired on {end:%Y-%m-%d}", "have it issued anew")
    if certificate.not_valid_before_utc > now:
        return _fault("certificate", f"{path.name} is not valid yet", "set this machine's clock")
    if end - now < EXPIRES_SOON:
        return Finding(level="warning", subject="certificate", message=text, next_step="have it issued anew soon")
    return _good("certificate", text)


def _clock() -> Iterator[Finding]:
    now = datetime.now(UTC)
    if now < EARLIEST_TIME:
        yield _fault("clock", f"it says {now:%Y-%m-%d %H:%M} UTC", "set it, and keep it with NTP")
    else:
        yield _good("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


async def _endpoints(config: GatewayConfig) -> AsyncIterator[Finding]:
    places = [(f"server {s.name}", s.endpoint, 4840) for s in config.server]
    if config.uplink is not None:
        places.append(("uplink", config.uplink.cloud_url, 443))
    if config.historian is not None:
        places.append(("historian", config.historian.influxdb_url, 8086))
    for subject, url, usual_port in places:
        parts = urlsplit(url)
        yield await _reach(subject, parts.hostname or "", parts.port or usual_port)


async def _reach(subject: str, host: str, port: int) -> Finding:
    try:
        async with asyncio.timeout(REACH_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        reason = str(error) or "no answer"
        return _fault(subject, f"{host}:{port} cannot be reached ({reason})", "check address, cable, firewall")
    return _good(subject, f"{host}:{port} answers")


def _good(subject: str, message: str) -> Finding:
    return Finding(level="good", subject=subject, message=message)


def _fault(subject: str, message: str, next_step: str) -> Finding:
    return Finding(level="fault", subject=subject, message=message, next_step=next_step)
