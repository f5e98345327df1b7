"""The commands ``opcua browse`` and ``opcua pick``: find variables, and choose channels among them."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from gateway.commissioning import browse as browsing
from gateway.commissioning import pick as picking
from gateway.commissioning import pick_dialog
from gateway.commissioning.pattern import Pattern
from gateway.commissioning.server_argument import Target, finish, server_argument, target_command
from gateway.commissioning.walk import NODES_MOST
from gateway.commissioning.width import terminal_width

_LEFT_OUT_TOLD = 10


def asked_in_terminal() -> bool:
    """Return whether somebody sits there to be asked."""
    return sys.stdin.isatty()


def _rule(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Pattern | None:
    """Return the rule that *text* is, or end the program with why it is none."""
    try:
        return None if text is None else picking.rule_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _pattern(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Pattern | None:
    """Return the pattern that *text* is, or end the program with why it is none."""
    try:
        return None if text is None else Pattern.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_file = click.Path(dir_okay=False, path_type=Path)
_type_option = click.option("--type", "type_", default="", help="Data type, or 'number': what can be a channel.")
_unit_option = click.option("--unit", default="", help="Unit, as the server tells it.")
_search_option = click.option("--search", default="", metavar="TEXT", help="Part of path, unit or id, in any case.")


@click.command("browse")
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
    lines, unseen = browsing.tree(found, filtered=bool(wanted), room=terminal_width())
    for line in lines:
        click.echo(line)
    if unseen:
        click.secho(unseen, dim=True, err=True)
    click.echo(browsing.summary(found, filtered=bool(wanted)), err=True)
    if found.note:
        click.secho(found.note, fg="yellow", err=True)


@click.command("pick")
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
    if rule is None and (target.as_json or not asked_in_terminal()):
        raise click.UsageError(
            "give a --rule: " + ("--json asks nobody" if target.as_json else "no terminal to ask in")
        )
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
        taken = {row.node or row.path for row in config.tag}
        rows = pick_dialog.ask(
            found.variables, server=target.server.name, classes=list(config.asset_class), taken=taken
        )
        picked = picking.Picked(rows=tuple(rows), left_out={})
    picked = picking.consistent(picked, config)
    read = config.tags_file is not None and config.tags_file.resolve() == path.resolve()
    merged = picking.merge(path, picked.rows, config.tag if read else ())
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
    channels, assets = len(merged.added), len({row.asset_id for row in merged.added})
    told = f"{channels:,} channel{'s' * (channels != 1)} of {assets:,} asset{'s' * (assets != 1)}"
    verb = "added to" if written else "would be added to" if merged.added else "to add to"
    click.echo(f"{told if channels else 'nothing'} {verb} {path}; {len(merged.kept):,} in it already", err=True)
    for row in merged.differing:
        stays = f"{row.asset_id}/{row.channel} stays {row.node or row.path}: the list names it so"
        click.secho(stays, fg="yellow", err=True)
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
