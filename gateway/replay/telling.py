"""What a replay says to people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import click

from gateway.commissioning.width import widths_of
from gateway.journal_commands.reading import Lost
from gateway.replay.history import Written
from gateway.replay.monitoring import Raised, Replayed

_MOST = 10  # lines of one kind; --json has all


def of_replayed(found: Replayed, versions: Mapping[str, int], warnings: Sequence[str]) -> str:
    """Return what came out of a replay through condition monitoring."""
    bundles = ", ".join(f"{asset_class} version {version}" for asset_class, version in versions.items())
    with_bundle = f"bundle {bundles}" if bundles else "no bundle"
    pages = f"pages {found.first_seq:,} to {found.last_seq:,}, {found.observations:,} observations"
    lines = [f"{pages}, {with_bundle}; nothing was stored"]
    lines += [click.style(warning, fg="yellow") for warning in warnings]
    cells = [("windows", "replayed", "stored")]
    cells += [(f"  {zone}", f"{count:,}", f"{found.stored_zones[zone]:,}") for zone, count in found.zones.items()]
    cells += [("advisories", f"{len(found.advisories):,}", f"{len(found.stored_advisories):,}")]
    widths = widths_of(cells)
    lines += [f"{a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}" for a, b, c in cells]
    lines.append(
        f"{found.same:,} windows in the same zone, {len(found.different):,} in another; "
        f"{found.only_replayed:,} only replayed, {found.only_stored:,} only stored"
    )
    for one in found.different[:_MOST]:
        score = "" if one.score is None else f", score {one.score:.3g}"
        lines.append(f"  {one.asset_id} {one.window_end:%Y-%m-%d %H:%M:%SZ}: {one.stored} → {one.replayed}{score}")
    if len(found.different) > _MOST:
        lines.append(f"  and {len(found.different) - _MOST:,} more; --json lists them")
    lines += _advisories("only replayed", set(found.advisories) - set(found.stored_advisories))
    lines += _advisories("only stored", set(found.stored_advisories) - set(found.advisories))
    return "\n".join([*lines, *_lost(found.lost)])


def of_written(written: Written) -> str:
    """Return what came of writing pages to InfluxDB again."""
    resumed = f", after page {written.resumed_after:,} of an earlier run" if written.resumed_after else ""
    lines = [f"{written.pages:,} pages up to page {written.last_seq:,}{resumed}: {written.points:,} points written"]
    lines += [
        click.style(f"{count:,} points refused ({reason}); they are in the journal alone", fg="red")
        for reason, count in sorted(written.refused.items())
    ]
    return "\n".join([*lines, *_lost(written.lost)])


def _advisories(what: str, raised: set[Raised]) -> Iterator[str]:
    for asset_id, mode, moment in sorted(raised)[:_MOST]:
        yield f"  advisory {what}: {asset_id} {mode}, raised {moment:%Y-%m-%d %H:%M:%SZ}"


def _lost(lost: Sequence[Lost]) -> Iterator[str]:
    for one in lost[:_MOST]:
        yield click.style(f"left out: pages {one.first_seq:,}-{one.last_seq:,}: {one.reason}", fg="red")
    if len(lost) > _MOST:
        yield f"and {len(lost) - _MOST:,} more; --json lists them"
