"""``python -m dashboards generate|check|publish``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from dashboards.boards import generate
from dashboards.checks import check_all
from dashboards.publish import PublishError, load_config, publish


@click.group(help=__doc__)
def main() -> None:
    """Group the commands."""


@main.command("generate")
def generate_command() -> None:
    """Write the boards to dashboards/out."""
    for path in generate():
        click.echo(path)


@main.command("check")
def check_command() -> None:
    """Check the committed boards; exit code 1 when something is wrong."""
    problems = check_all()
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(1 if problems else 0)


@main.command("publish")
@click.option("--config", type=click.Path(path_type=Path), required=True, help="TOML with url and token_file.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def publish_command(config: Path, *, dry_run: bool, as_json: bool) -> None:
    """Publish the boards to a Grafana."""
    try:
        done = publish(load_config(config), dry_run=dry_run)
    except PublishError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if as_json:
        click.echo(json.dumps([asdict(published) for published in done]))
        return
    for published in done:
        click.echo(f"{published.uid}: {published.outcome}{' (dry run)' if dry_run else ''}")


if __name__ == "__main__":
    main()
