"""The commands ``wearsight-gateway historian …``: make an InfluxDB ready for a gateway, and see how it stands.

Exit codes: 0 fine, 1 the server cannot be had or lacks something, 2 the configuration.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from gateway.config import HistorianConfig, read_secret
from gateway.config_file import load_config
from gateway.errors import ConfigError, HistorianError
from gateway.historian.setup import Step, set_up
from gateway.historian.survey import HistorianStatus, survey
from models.records import from_ns

EXIT_FAULT, EXIT_CONFIG = 1, 2
_SIGNS = {"keep": " ", "create": "+", "change": "~", "remove": "-"}

_config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("gateway.toml"),
    show_default=True,
    help="The gateway's configuration.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")


@click.group()
def historian() -> None:
    """Make the InfluxDB of the configuration ready, and see how it stands."""


@historian.command("setup")
@_config_option
@click.option(
    "--setup-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="File with a token that may make buckets, tasks and tokens; the gateway never keeps it.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@_json_option
def setup_command(config_file: Path, setup_token_file: Path, *, dry_run: bool, as_json: bool) -> None:
    """Make buckets, downsampling tasks, InfluxQL names and the gateway's token as configured.

    A second run changes nothing; a changed configuration is shown and made so. What others made there stays as it is.
    """
    config = _config(config_file)
    try:
        steps = asyncio.run(set_up(config, read_secret(setup_token_file, "--setup-token-file"), dry_run=dry_run))
    except ConfigError as error:
        _fail(str(error), EXIT_CONFIG)
    except (HistorianError, OSError) as error:
        _fail(str(error), EXIT_FAULT)
    changes = sum(step.action != "keep" for step in steps)
    if as_json:
        data = {"changes": changes, "dry_run": dry_run, "steps": [_as_data(step) for step in steps]}
        click.echo(msgspec.json.encode(data).decode())
        return
    for step in steps:
        detail = f": {step.detail}" if step.detail else ""
        click.echo(f"{_SIGNS[step.action]} {step.action:6} {step.what} {step.name}{detail}")
    click.echo(f"{changes} changes{', none made (--dry-run)' if dry_run and changes else ''}")


@historian.command("status")
@_config_option
@_json_option
def status_command(config_file: Path, *, as_json: bool) -> None:
    """Say whether the server answers the gateway's token, what the bucket keeps and its newest value."""
    status = asyncio.run(survey(_config(config_file)))
    click.echo(msgspec.json.encode(status).decode() if as_json else _told(status))
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
    """Return the table ``[historian]``, or end the program with the reason."""
    try:
        config = load_config(config_file)
    except ConfigError as error:
        _fail(str(error), EXIT_CONFIG)
    if config.historian is None:
        _fail(
            f"{config_file}: has no [historian]; the gateway's own segments serve, there is nothing to do", EXIT_CONFIG
        )
    return config.historian


def _fail(reason: str, code: int) -> NoReturn:
    click.echo(reason, err=True)
    sys.exit(code)
