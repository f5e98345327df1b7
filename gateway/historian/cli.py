"""The commands ``wearsight-gateway historian …``: make an InfluxDB ready for a gateway, and see how it stands."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from gateway.command import EXIT_FAULT, config_option, fail_with, json_option, tell
from gateway.config import HistorianConfig, read_secret
from gateway.config_file import load_config
from gateway.errors import ConfigError, HistorianError
from gateway.historian.setup import Step, set_up
from gateway.historian.survey import HistorianStatus, survey
from models.records import from_ns

_SIGNS = {"keep": " ", "create": "+", "change": "~", "remove": "-"}


@click.group()
def historian() -> None:
    """Make InfluxDB ready, and see how it stands."""


@historian.command("setup")
@config_option
@click.option(
    "--setup-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="File with a token that may make buckets, tasks and tokens; the gateway never keeps it.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def setup_command(config_file: Path, setup_token_file: Path, *, dry_run: bool, as_json: bool) -> None:
    """Make InfluxDB ready as configured.

    Buckets, downsampling tasks, InfluxQL names, the gateway's token. A second run changes nothing; a changed
    configuration is shown and made so. What others made there stays as it is.
    """
    try:
        config = _config(config_file)
        steps = asyncio.run(set_up(config, read_secret(setup_token_file, "--setup-token-file"), dry_run=dry_run))
    except (ConfigError, HistorianError, OSError) as error:
        fail_with(error, str(error), _next_step(error), as_json=as_json)
    changes = sum(step.action != "keep" for step in steps)
    if as_json:
        tell({"changes": changes, "dry_run": dry_run, "steps": [_as_data(step) for step in steps]}, "", as_json=True)
        return
    for step in steps:
        detail = f": {step.detail}" if step.detail else ""
        click.echo(f"{_SIGNS[step.action]} {step.action:6} {step.what} {step.name}{detail}")
    click.echo(f"{changes} changes{', none made (--dry-run)' if dry_run and changes else ''}")


@historian.command("status")
@config_option
@json_option
def status_command(config_file: Path, *, as_json: bool) -> None:
    """Show how InfluxDB stands.

    Whether it answers the gateway's token, what the bucket keeps, and its newest value.
    """
    try:
        status = asyncio.run(survey(_config(config_file)))
    except ConfigError as error:
        fail_with(error, str(error), _next_step(error), as_json=as_json)
    tell(status, _told(status), as_json=as_json)
    if status.trouble:
        sys.exit(EXIT_FAULT)


def _told(status: HistorianStatus) -> str:
    newest = "none" if status.newest_ns is None else from_ns(status.newest_ns).isoformat()
    keeps = "unknown" if status.retention_days is None else f"{status.retention_days:g} days (0: for ever)"
    rows = [
        ("server", f"{status.server}, {status.version or 'does not answer'}"),
        ("bucket", status.bucket),
        ("keeps", keeps),
        ("newest value", newest),
        ("trouble", status.trouble or "none"),
    ]
    return "\n".join(f"{name:13} {text}" for name, text in rows)


def _as_data(step: Step) -> dict[str, str]:
    return {"what": step.what, "name": step.name, "action": step.action, "detail": step.detail}


def _config(config_file: Path) -> HistorianConfig:
    """Return the table ``[historian]``.

    Raises:
        ConfigError: If there is none.
    """
    config = load_config(config_file)
    if config.historian is None:
        raise ConfigError(
            f"{config_file}: has no [historian]; the gateway's own segments serve, there is nothing to do"
        )
    return config.historian


def _next_step(error: Exception) -> str:
    if "has no [historian]" in str(error):
        return "to have one, add the table: docs/how-to/set-up-influxdb.md"
    if isinstance(error, ConfigError):
        return "correct the named key or option; wearsight-gateway check-config checks a configuration"
    return "see whether the server answers: wearsight-gateway historian status"
