"""``python -m demo run``, ``python -m demo replay`` and ``python -m demo trial``."""

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
from gateway.progress import progress_bar

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


@main.command("trial")
@click.option(
    "--machines", type=click.IntRange(2, 10_000), default=50, show_default=True, help="How many, half of each class."
)
@click.option("--days", type=click.IntRange(5, 365), default=30, show_default=True, help="Simulated days of each.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the machines and their faults.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def trial_command(machines: int, days: int, seed: int, *, as_json: bool) -> None:
    """Judge the models on many simulated machines: lead time and false advisories against the truth."""
    from demo.trial import run_trial  # noqa: PLC0415 - it needs the extra `train`, the other commands do not

    with progress_bar("trial") as bar:
        trial = run_trial(machines=machines, days=days, seed=seed, tell=lambda share: bar(round(100 * share), 100))
    if as_json:
        click.echo(json.dumps(trial.report()))
        return
    for name, value in trial.figures().items():
        told = "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
        click.echo(f"{name.replace('_', ' '):<36} {told}")


if __name__ == "__main__":
    main()
