"""The program ``wearsight-gateway``."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import NoReturn

import click
import msgspec
import structlog

from gateway.adaptation.cli import adaptation
from gateway.bundles.slots import BundleSlots
from gateway.command import EXIT_CONFIG, EXIT_FAULT, EXIT_FOUND, config_option, json_option, tell
from gateway.commissioning.cli import opcua
from gateway.config import GatewayConfig
from gateway.config_file import check_config, load_config
from gateway.doctor import Finding, examine
from gateway.errors import BundleRefused, ConfigError, GatewayError
from gateway.historian.cli import historian
from gateway.journal_commands.cli import journal
from gateway.pipeline import bundle_slots, run
from gateway.replay.cli import replay_command
from models.bundle.errors import BundleError


@click.group()
@click.version_option(installed_version("wearsight"), prog_name="wearsight-gateway")
def main() -> None:
    """Read machines, store every value, run signed models on the spot."""
    _log_as_json()


@main.command("run")
@config_option
def run_command(config_file: Path) -> None:
    """Run the gateway until SIGTERM or SIGINT."""
    config = _checked(config_file)
    code = 0
    try:
        asyncio.run(run(config, config_file))
    except* (GatewayError, OSError) as group:
        for reason in _reasons(group):
            click.echo(f"the gateway stops: {reason}", err=True)
        code = EXIT_CONFIG if group.subgroup(ConfigError) else EXIT_FAULT
    sys.exit(code)


@main.command("check-config")
@config_option
def check_config_command(config_file: Path) -> None:
    """Check the configuration and the files it names, without touching the network."""
    config = _checked(config_file)
    click.echo(f"{config_file}: good; gateway {config.gateway_id}, {len(config.asset)} assets")


@main.command("version")
@json_option
def version_command(*, as_json: bool) -> None:
    """Print the version."""
    version = installed_version("wearsight")
    tell({"version": version}, version, as_json=as_json)


@main.command("doctor")
@config_option
@json_option
def doctor_command(config_file: Path, *, as_json: bool) -> None:
    """Look for what keeps this gateway from working, and say the next step."""
    findings = asyncio.run(examine(config_file))
    tell(findings, "\n".join(_line(finding) for finding in findings), as_json=as_json)
    if any(f.level == "fault" for f in findings):
        sys.exit(EXIT_FAULT)


main.add_command(opcua)
main.add_command(historian)
main.add_command(journal)
main.add_command(replay_command)
main.add_command(adaptation)


@main.group()
def bundle() -> None:
    """Install, roll back and list bundles. A running gateway follows within a second or two."""


@bundle.command("install")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@config_option
@json_option
def install_command(archive: Path, config_file: Path, *, as_json: bool) -> None:
    """Check ARCHIVE and make it live, or refuse it and leave everything as it is."""
    slots = _slots(config_file)
    try:
        report = slots.install(archive)
    except (BundleError, BundleRefused) as error:
        _refuse(error, as_json=as_json)
    data = {"installed": True, **msgspec.to_builtins(report)}
    tell(data, f"{report.asset_class} version {report.version} is live", as_json=as_json)


@bundle.command("rollback")
@click.argument("asset_class")
@config_option
@json_option
def rollback_command(asset_class: str, config_file: Path, *, as_json: bool) -> None:
    """Make the bundle of ASSET_CLASS live that was live before; needs no network."""
    try:
        manifest = _slots(config_file).rollback(asset_class)
    except (BundleError, BundleRefused) as error:
        _refuse(error, as_json=as_json)
    data = {"asset_class": asset_class, "version": manifest.version}
    tell(data, f"{asset_class} version {manifest.version} is live again", as_json=as_json)


@bundle.command("list")
@config_option
@json_option
def list_command(config_file: Path, *, as_json: bool) -> None:
    """List the bundles on disk."""
    slots = _slots(config_file).listing()
    lines = [f"{s.asset_class} version {s.version}{' (live)' if s.live else ''}" for s in slots]
    tell(slots, "\n".join(lines) or "no bundles", as_json=as_json)


def _checked(config_file: Path) -> GatewayConfig:
    """Return the checked configuration, or end the program with the reason."""
    try:
        return check_config(config_file)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CONFIG)


def _reasons(group: BaseExceptionGroup[Exception]) -> Iterator[str]:
    """Yield the message of each exception inside *group*."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _reasons(error)
        else:
            yield str(error) or type(error).__name__


def _slots(config_file: Path) -> BundleSlots:
    try:
        return bundle_slots(load_config(config_file))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CONFIG)


def _refuse(error: BundleError | BundleRefused, *, as_json: bool) -> NoReturn:
    if as_json:
        body = {"installed": False, "cause": type(error).__name__, "reason": str(error)}
        click.echo(msgspec.json.encode(body).decode())
    click.echo(f"refused ({type(error).__name__}): {error}", err=True)
    sys.exit(EXIT_FOUND)


def _line(finding: Finding) -> str:
    step = f"\n        → {finding.next_step}" if finding.next_step else ""
    return f"{finding.level:7} {finding.subject}: {finding.message}{step}"


def _log_as_json() -> None:
    """Send logs to standard error, one JSON object a line; those of libraries from warnings on."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # standard output is for data
    )
