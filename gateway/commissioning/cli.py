"""The commands ``wearsight-gateway opcua …``: each gives ``--json``, blocks no script, and says the next step."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from pathlib import Path

import click
import msgspec
import structlog

from gateway.command import EXIT_FAULT, json_option
from gateway.commissioning import check as checking
from gateway.commissioning import snapshot as snapshots
from gateway.commissioning.endpoints import endpoints_command
from gateway.commissioning.find_commands import browse_command, pick_command
from gateway.commissioning.importing import import_command
from gateway.commissioning.server_argument import Target, fail, finish, server_argument, target_command
from gateway.commissioning.snapshot_file import read_snapshot
from gateway.commissioning.trust import renew_command, trust_command, trusted_command
from gateway.commissioning.walk import NODES_MOST
from gateway.commissioning.width import terminal_width, widths_of, with_text
from gateway.errors import GatewayError


@click.group()
@click.pass_context
def opcua(context: click.Context) -> None:
    """Find tags on OPC UA servers, choose them, check them; take a plant home and play it again.

    SERVER is the name of a [[server]] in the configuration, or an address as opc.tcp://plc:4840.
    """
    logger = logging.getLogger("asyncua")
    level, configured = logger.level, structlog.get_config()
    logger.setLevel(logging.CRITICAL + 1)  # what matters of it is told as the command's own error
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    context.call_on_close(lambda: logger.setLevel(level))
    context.call_on_close(lambda: structlog.configure(**configured))


for _command in (
    endpoints_command, trust_command, trusted_command, renew_command, browse_command, pick_command, import_command
):  # fmt: skip
    opcua.add_command(_command)


_file = click.Path(dir_okay=False, path_type=Path)


_COLOURS = {"missing": "red", "dead": "red", "bad": "red", "constant": "yellow", "good": "green"}
_GOOD_SHOWN = 100


@opcua.command("check")
@server_argument
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), default=10.0, show_default=True, help="How long tags are watched."
)
@target_command
def check_command(target: Target, seconds: float) -> None:
    """Read each configured tag once, then watch all: which are missing, dead, bad, constant; rates, queues, times.

    Exit code 1 when a tag is missing, dead or bad.
    """
    report = finish(checking.check(target, seconds))
    if target.as_json:
        click.echo(msgspec.json.encode(checking.as_data(report)).decode())
    else:
        _tell_checked(report)
    if not report.is_fine:
        sys.exit(EXIT_FAULT)


def _tell_checked(report: checking.Report) -> None:
    """Print the table, the good ones only where there are not too many, and the sum."""
    good = [tag for tag in report.tags if tag.verdict == "good"]
    shown = [tag for tag in report.tags if tag.verdict != "good"] + (good if len(good) <= _GOOD_SHOWN else [])
    shared = checking.shared_remarks(report)
    rows = [(tag, _last_value(tag), f"{tag.rate_hz:.3g} Hz" if tag.values > 1 else "") for tag in shown]
    widths, room = widths_of([(tag.tag, number, rate) for tag, number, rate in rows]), terminal_width()
    for tag, number, rate in rows:
        told = [tag.reason] * bool(tag.reason) + [remark for remark in tag.remarks if remark not in shared]
        verdict = tag.verdict.ljust(8)
        cells = f"{verdict}  {tag.tag.ljust(widths[0])}  {number.rjust(widths[1])}  {rate.rjust(widths[2])}"
        for line in with_text(cells, told, 10, room):
            click.echo(line.replace(verdict, click.style(verdict, fg=_COLOURS[tag.verdict]), line.startswith(verdict)))
    if len(shown) < len(report.tags):
        click.echo(f"{len(good):,} good ones are not shown; --json lists them")
    for remark, count in shared.items():
        click.echo(f"of {count:,} tags: {remark}")
    counts = Counter(tag.verdict.value for tag in report.tags)
    summed = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in checking.Verdict if counts[verdict]) or "no tags"
    in_all = sum(tag.rate_hz for tag in report.tags)
    click.echo(f"{report.server}: {summed}; {in_all:,.1f} values/s over {report.seconds:g} s", err=True)
    if report.budget:
        click.secho(report.budget, fg="red", err=True)


def _last_value(tag: checking.Checked) -> str:
    if tag.length:
        return f"[{tag.length:,} values] {tag.unit}".rstrip()
    return "" if tag.value is None else f"{tag.value:.6g} {tag.unit}".rstrip()


@opcua.command("snapshot")
@server_argument
@click.argument("path", default="")
@click.option("-o", "--output", type=_file, required=True, help="The snapshot, such as plant.snapshot.")
@click.option(
    "--seconds", type=click.FloatRange(0, 86_400), default=60.0, show_default=True, help="How long values are recorded."
)
@click.option("--most", type=click.IntRange(1, 1_000_000), default=NODES_MOST, show_default=True, help="Nodes taken.")
@target_command
def snapshot_command(target: Target, path: str, output: Path, seconds: float, most: int) -> None:
    """Take the nodes below PATH home, and what their variables tell for a while; simulate serves them again."""
    end, found, granted = finish(snapshots.snapshot(target, path, output, seconds, most))
    if target.as_json:
        body = {
            "output": str(output),
            "nodes": end.nodes,
            "variables": len(found.variables),
            "values": end.values,
            "not_recorded": len(granted.refused),
            "complete": found.walk.complete,
            "note": found.note or None,
        }
        click.echo(msgspec.json.encode(body).decode())
        return
    size = output.stat().st_size / 1024
    click.echo(f"{output}: {end.nodes:,} nodes, {end.values:,} values in {seconds:g} s, {size:,.0f} KiB")
    if granted.refused:
        why = next(iter(granted.refused.values()))
        click.secho(f"{len(granted.refused):,} variables were not recorded: {why}", fg="yellow", err=True)
    if found.note:
        click.secho(found.note, fg="yellow", err=True)
    click.echo(f"  → serve it: wearsight-gateway opcua simulate {output}", err=True)


@opcua.command("simulate")
@click.argument("snapshot", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=4840, show_default=True, help="0 takes a free one.")
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=1.0, show_default=True, help="Times as fast.")
@click.option("--loop", is_flag=True, help="Play again and again; without it, the last values stay.")
@click.option("--seconds", type=click.FloatRange(min=0), help="End after so long; default: at Ctrl-C.")
@click.option("--pki", type=click.Path(file_okay=False, path_type=Path), help="Folder of its certificate.")
@json_option
def simulate_command(
    snapshot: Path,
    host: str,
    port: int,
    speed: float,
    seconds: float | None,
    pki: Path | None,
    *,
    loop: bool,
    as_json: bool,
) -> None:
    """Serve SNAPSHOT as a real OPC UA server and play its values; whoever comes is let in."""
    from gateway.commissioning import simulate as simulating  # noqa: PLC0415 - a server takes half a second to import

    folder = pki or snapshot.with_name(f"{snapshot.name}.pki")
    try:
        contents = read_snapshot(snapshot)
        asyncio.run(simulating.simulate(contents, host, port, folder, speed, seconds, loop=loop, as_json=as_json))
    except KeyboardInterrupt:
        click.echo("ended", err=True)
    except (GatewayError, OSError) as error:
        fail(error, str(snapshot), as_json=as_json)
