"""What all commands share: options, exit codes, and how data and errors are told.

Exit codes: 0 fine, 1 a fault, 2 usage or configuration, 3 all worked, and something is wrong with the data, or refused.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from gateway.errors import ConfigError

EXIT_FAULT, EXIT_CONFIG, EXIT_FOUND = 1, 2, 3

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("gateway.toml"),
    show_default=True,
    help="The gateway's configuration.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")


def tell(data: object, text: str, *, as_json: bool) -> None:
    """Print *data* for programs or *text* for people."""
    click.echo(msgspec.json.encode(data, enc_hook=str).decode() if as_json else text)


def fail_with(error: Exception, reason: str, next_step: str, *, as_json: bool) -> NoReturn:
    """Say what went wrong and the next step, on standard error and as data too when asked, and end the program."""
    if as_json:
        tell({"error": type(error).__name__, "reason": reason, "next_step": next_step}, "", as_json=True)
    click.echo(click.style(reason, fg="red"), err=True)
    if next_step:
        click.echo(f"  → {next_step}", err=True)
    sys.exit(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAULT)
