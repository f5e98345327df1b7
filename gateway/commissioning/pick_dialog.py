"""Choosing channels in a terminal: search, choose by number, name the machine, look at it all, write."""

from __future__ import annotations

from collections.abc import Sequence

import click

from gateway.commissioning.browse import Filter, span_text, value_text
from gateway.commissioning.pattern import Pattern
from gateway.commissioning.pick import channel_names, chosen_numbers, row_of
from gateway.commissioning.walk import Variable
from gateway.commissioning.width import fitted, kept, terminal_width, widths_of
from gateway.tag_list import TagRow, problem_of

_SHOWN = 40
_WILDCARDS = frozenset("*?[")


def ask(variables: Sequence[Variable], *, server: str, classes: Sequence[str], taken: set[str]) -> list[TagRow]:
    """Return the rows that whoever sits at the terminal chooses among *variables*.

    Args:
        variables: What the server has.
        server: Its name in the configuration.
        classes: The asset classes of the configuration.
        taken: Node ids and paths that are in the tag list already; they are marked.
    """
    numbers = [variable for variable in variables if not variable.why_not]
    click.echo(f"{len(numbers):,} variables hold numbers.")
    rows: list[TagRow] = []
    asset_class = classes[0] if classes else ""
    while True:
        chosen = _choose(_search(numbers), taken)
        if chosen:
            asset_id = _asset(chosen)
            asset_class = _asset_class(classes, asset_class)
            names = channel_names(chosen)
            new = [
                row_of(v, server=server, asset_id=asset_id, channel=name, asset_class=asset_class)
                for v, name in zip(chosen, names, strict=True)
            ]
            for row in new:
                if problem := problem_of(row):
                    click.secho(f"{row.asset_id}/{row.channel} is left out: {problem}", fg="yellow")
            rows += [row for row in new if not problem_of(row)]
            taken = taken | {row.node for row in new}
        if not click.confirm("Another machine or more channels?", default=False):
            return rows


def review(rows: Sequence[TagRow]) -> None:
    """Show *rows*, a line each."""
    if not rows:
        return
    told = [(r.asset_id, r.asset_class, r.channel, span_text(r.low, r.high, r.unit), r.node) for r in rows]
    cells, shown, note = fitted(told, 4, (4, 1), terminal_width())
    widths = widths_of(cells)
    for row in cells:
        click.echo("  ".join(row[i].ljust(widths[i]) for i in shown).rstrip())
    if note:
        click.secho(note, dim=True, err=True)


def _search(variables: Sequence[Variable]) -> list[Variable]:
    """Return those of *variables* that are looked for."""
    while True:
        text = click.prompt(
            "Search (text, or a path as Machines/*/Monitoring/*; empty: all)", default="", show_default=False
        )
        try:
            whole = text if "/" in text else f"**/{text}/**"
            pattern = Pattern.parse(whole) if _WILDCARDS & set(text) else None
        except ValueError as error:
            click.secho(str(error), fg="red")
            continue
        wanted = Filter(pattern=pattern, search="" if pattern is not None else text.strip())
        if found := [variable for variable in variables if wanted.wants(variable)]:
            return found
        click.echo("Nothing is like that.")


def _choose(variables: Sequence[Variable], taken: set[str]) -> list[Variable]:
    """Return those of *variables* that are chosen by their numbers."""
    shown = variables[:_SHOWN]
    cells = [(v.place.path, v.type, span_text(v.low, v.high, v.unit), value_text(v)) for v in shown]
    widths, room = widths_of(cells), terminal_width()
    columns = kept(widths, (1, 2), None if room is None else room - 7)
    for i, (variable, row) in enumerate(zip(shown, cells, strict=True), 1):
        mark = click.style("✓", fg="green") if {variable.node, variable.place.path} & taken else " "
        told = [row[column].ljust(widths[column]) for column in columns]
        click.echo(f"{mark}{i:4}  {'  '.join(told)}".rstrip())
    if len(variables) > len(shown):
        click.echo(f"      … and {len(variables) - len(shown):,} more; 'all' takes them too, or search for less")
    while True:
        text = click.prompt("Choose (1-5,8; all; empty: none)", default="", show_default=False)
        try:
            most = len(variables) if text.strip().casefold() == "all" else len(shown)
            return [variables[number - 1] for number in chosen_numbers(text, most)]
        except ValueError as error:
            click.secho(str(error), fg="red")


def _asset(chosen: Sequence[Variable]) -> str:
    """Return the machine of the *chosen* variables; the folder they share is proposed."""
    folders = [variable.place.names[:-1] for variable in chosen]
    shared = 0
    while all(len(names) > shared and names[shared] == folders[0][shared] for names in folders):
        shared += 1
    names = folders[0][:shared]
    # Machines have folders for their values: Monitoring, Process Values; the machine stands above.
    proposed = names[-2] if len(names) > 2 else "".join(names[-1:])
    return str(click.prompt("Asset (the machine's id)", default=proposed or None)).strip()


def _asset_class(classes: Sequence[str], proposed: str) -> str:
    """Return the class of the machine, one of *classes* where there are any."""
    if not classes:
        return str(click.prompt("Asset class")).strip()
    return str(click.prompt("Asset class", default=proposed, type=click.Choice(list(classes))))
