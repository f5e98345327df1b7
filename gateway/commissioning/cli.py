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

from gateway.commissioning import browse as browsing
from gateway.commissioning import check as checking
from gateway.commissioning import pick as picking
from gateway.commissioning import pick_dialog
from gateway.commissioning import snapshot as snapshots
from gateway.commissioning.endpoints import endpoints_command
from gateway.commissioning.importing import import_command
from gateway.commissioning.pattern import Pattern
from gateway.commissioning.server_argument import EXIT_FAULT, Target, fail, finish, server_argument, target_command
from gateway.commissioning.snapshot_file import read_snapshot
from gateway.commissioning.trust import renew_command, trust_command, trusted_command
from gateway.commissioning.walk import NODES_MOST
from gateway.errors import GatewayError


@click.group()
@click.pass_context
def opcua(context: click.Context) -> None:
    """Find tags on OPC UA servers, choose them, check them; take a plant home and play it again.

    SERVER is the name of a [[server]] in the configuration, or an address as opc.tcp://plc:4840.
    """
    logger = logging.getLogger("asyncua")
    level, configured = logger.level, structlog.get_config()
    logger.setLevel(logging.CRITICAL)  # what matters of it is told as the command's own error
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    context.call_on_close(lambda: logger.setLevel(level))
    context.call_on_close(lambda: structlog.configure(**configured))


for _command in (endpoints_command, trust_command, trusted_command, renew_command, import_command):
    opcua.add_command(_command)


def asked_in_terminal() -> bool:
    """Return whether somebody sits there to be asked."""
    return sys.stdin.isatty()


def _pattern(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Pattern | None:
    """Return the pattern that *text* is, or end the program with why it is none."""
    try:
        return None if text is None else Pattern.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _rule(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Pattern | None:
    """Return the rule that *text* is, or end the program with why it is none."""
    try:
        return None if text is None else picking.rule_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_LEFT_OUT_TOLD = 10
_file = click.Path(dir_okay=False, path_type=Path)
_type_option = click.option("--type", "type_", default="", help="Data type, or 'number': what can be a channel.")
_unit_option = click.option("--unit", default="", help="Unit, as the server tells it.")
_search_option = click.option("--search", default="", metavar="TEXT", help="Part of path, unit or id, in any case.")


@opcua.command("browse")
@server_argument
@click.argument("path", default="")
@_search_option
@click.option(
    "--glob", callback=_pattern, help="Whole paths, such as 'Machines/*/Monitoring/*'; ** is any number of names."
)
@_type_option
@_unit_option
@click.option("--depth", type=click.IntRange(min=1), help="Levels below PATH.")
@click.option("--values", is_flag=True, help="Read what the variables hold now.")
@click.option(
    "--most", type=click.IntRange(1, 2_000_000), default=NODES_MOST, show_default=True, help="Nodes to look at."
)
@target_command
def browse_command(
    target: Target,
    path: str,
    search: str,
    glob: Pattern | None,
    type_: str,
    unit: str,
    depth: int | None,
    most: int,
    *,
    values: bool,
) -> None:
    """Show the tree of a server below PATH: names, types, ranges, ids, and with --values what they hold now."""
    wanted = browsing.Filter(pattern=glob, search=search, type=type_, unit=unit)
    found, namespaces = finish(browsing.browse(target, path, wanted, depth=depth, most=most, values=values))
    if target.as_json:
        body = {
            "server": target.server.name,
            "namespaces": namespaces,
            "nodes_seen": len(found.walk.places),
            "complete": found.walk.complete,
            "note": found.note or None,
            "variables": [browsing.as_data(variable) for variable in found.variables],
        }
        click.echo(msgspec.json.encode(body).decode())
        return
    for line in browsing.tree_lines(found, filtered=bool(wanted)):
        click.echo(line)
    click.echo(browsing.summary(found, filtered=bool(wanted)), err=True)
    if found.note:
        click.echo(click.style(found.note, fg="yellow"), err=True)


@opcua.command("pick")
@server_argument
@click.option(
    "--rule", callback=_rule, help="'Machines/{asset}/Monitoring/{channel}'; * and ** as in --glob of browse."
)
@click.option("--asset-class", default="", help="Class of the machines that --rule finds.")
@click.option("--group", default="", help="[acquisition.group.NAME] of the channels.")
@_search_option
@_type_option
@_unit_option
@click.option("-o", "--output", type=_file, help="The tag list; default: tags_file of the configuration.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@target_command
def pick_command(
    target: Target,
    rule: Pattern | None,
    asset_class: str,
    group: str,
    search: str,
    type_: str,
    unit: str,
    output: Path | None,
    *,
    dry_run: bool,
) -> None:
    r"""Choose channels and write them into a tag list: by --rule, or asked for in a terminal.

    In a rule {asset} stands for the machine's id and {channel} for the channel's name:

    \b
        --rule 'Machines/{asset}/Monitoring/{channel}' --asset-class pump

    Several of a kind are joined; without {channel} the last name is the channel. Lines that are in the list stay.
    """
    config = target.needs_config()
    path = output or config.tags_file
    if path is None:
        raise click.UsageError(f"name the tag list with -o, or as tags_file in {target.config_file}")
    wanted = browsing.Filter(pattern=rule, search=search, type=type_, unit=unit)
    if rule is None and not asked_in_terminal():
        raise click.UsageError("give a --rule: there is no terminal to ask in")
    if rule is not None and asset_class not in config.asset_class:
        known = ", ".join(config.asset_class) or "none"
        raise click.UsageError(
            f"--asset-class {asset_class!r} is not configured in {target.config_file} (it has: {known})"
        )
    if group and group not in config.acquisition.group:
        raise click.UsageError(
            f"--group {group!r} is not configured (known: {', '.join(config.acquisition.group) or 'none'})"
        )
    found, _ = finish(browsing.browse(target, "", wanted, depth=None, most=NODES_MOST, values=rule is None))
    if rule is not None:
        picked = picking.rows_by_rule(
            found.variables, rule, server=target.server.name, asset_class=asset_class, group=group
        )
    else:
        taken = {row.node for row in config.tag if row.node}
        rows = pick_dialog.ask(
            found.variables, server=target.server.name, classes=list(config.asset_class), taken=taken
        )
        picked = picking.Picked(rows=tuple(rows), left_out={})
    merged = picking.merge(path, picked.rows)
    if not target.as_json:
        pick_dialog.review(merged.added)
    if (
        rule is None
        and merged.added
        and not dry_run
        and not click.confirm(f"Write {len(merged.added)} to {path}?", default=True)
    ):
        dry_run = True
    if merged.added and not dry_run:
        picking.write(path, merged.rows)
    _tell_picked(target, path, found.note, picked, merged, written=bool(merged.added) and not dry_run)


def _tell_picked(
    target: Target, path: Path, note: str, picked: picking.Picked, merged: picking.Merged, *, written: bool
) -> None:
    """Say what was picked, what was not, and what is to be done next."""
    if target.as_json:
        body = {
            "output": str(path),
            "written": written,
            "added": merged.added,
            "kept": [f"{row.asset_id}/{row.channel}" for row in merged.kept],
            "differing": [f"{row.asset_id}/{row.channel}" for row in merged.differing],
            "left_out": picked.left_out,
            "note": note or None,
        }
        click.echo(msgspec.json.encode(body).decode())
        return
    assets = len({row.asset_id for row in merged.added})
    verb = "added to" if written else "would be added to"
    click.echo(
        f"{len(merged.added):,} channels of {assets:,} assets {verb} {path}; {len(merged.kept):,} were there", err=True
    )
    for row in merged.differing:
        told = f"{row.asset_id}/{row.channel} stays {row.node or row.path}: the list names it so"
        click.secho(told, fg="yellow", err=True)
    for place, why in list(picked.left_out.items())[:_LEFT_OUT_TOLD]:
        click.echo(f"left out: {place} {why}", err=True)
    if len(picked.left_out) > _LEFT_OUT_TOLD:
        click.echo(f"left out: {len(picked.left_out) - _LEFT_OUT_TOLD:,} more; --json lists them", err=True)
    if note:
        click.secho(note, fg="yellow", err=True)
    config = target.needs_config()
    if written and (config.tags_file is None or config.tags_file.resolve() != path.resolve()):
        click.echo(f'  → the gateway reads it with tags_file = "{path}" in {target.config_file}', err=True)
    if written:
        click.echo(f"  → check them: wearsight-gateway opcua check {target.server.name}", err=True)


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
    widths = [
        max((len(cell) for cell in column), default=0)
        for column in zip(*((t.tag, n, r) for t, n, r in rows), strict=True)
    ]
    for tag, number, rate in rows:
        told = [tag.reason] * bool(tag.reason) + [remark for remark in tag.remarks if remark not in shared]
        verdict = click.style(tag.verdict.ljust(8), fg=_COLOURS[tag.verdict])
        cells = f"{tag.tag.ljust(widths[0])}  {number.rjust(widths[1])}  {rate.rjust(widths[2])}"
        click.echo(f"{verdict}  {cells}  {'; '.join(told)}".rstrip())
    if len(shown) < len(report.tags):
        click.echo(f"{len(good):,} good ones are not shown; --json lists them")
    for remark in shared:
        click.echo(f"of all: {remark}")
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
@click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")
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
