"""``python -m demo run`` and ``python -m demo replay``."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import click

from demo.acts import PromiseBroken
from demo.play import ROOT, play
from demo.processes import ProgramFailed
from demo.replay import REPLAYS, replay

_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=ROOT / "var" / "demo",
    help="Where everything of the run is kept; emptied first.",
)


@click.group(help=__doc__)
def main() -> None:
    """Group the commands."""


@main.command("run")
@_FOLDER
@click.option("--report", type=click.Path(path_type=Path), default=ROOT, help="Folder of the two reports.")
@click.option("--keep", is_flag=True, help="Stay up afterwards, with the inbox at a local address.")
def run_command(folder: Path, report: Path, *, keep: bool) -> None:
    """Run the whole path on the simulated plant; exit code 1 when a promise is broken."""
    sys.exit(asyncio.run(play(folder.resolve(), report.resolve(), keep=keep)))


@main.command("replay")
@click.argument("name", type=click.Choice(list(REPLAYS)))
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder of the public data sets (it holds cmapss/ and skab/).",
)
@_FOLDER
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on the last line.")
def replay_command(name: str, data: Path, folder: Path, *, as_json: bool) -> None:
    """Serve recorded data over OPC UA in the simulator's place, and run the same path on it."""
    try:
        result = asyncio.run(replay(name, data.resolve(), folder.resolve()))
    except (ProgramFailed, PromiseBroken, TimeoutError) as error:
        click.echo(f"error: the replay stops: {str(error) or 'it took too long'} (logs in {folder / 'logs'})", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
