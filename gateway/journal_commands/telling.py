"""What the commands say to people: aligned by hand, coloured where it matters, as wide as it must be."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from gateway.commissioning.width import terminal_width, widths_of, with_text
from gateway.journal_commands.export import Exported
from gateway.journal_commands.new_epoch import NewEpoch
from gateway.journal_commands.places import time_text
from gateway.journal_commands.repair import Repaired
from gateway.journal_commands.status import JournalStatus, Limit
from gateway.journal_commands.verify import Finding, Level, Verified

_MIB = 2**20
_HEADING = 14
_INDENT = " " * 9
_MOST = 10  # lines of one kind; --json has all
_NEAR = 0.8


def of_status(status: JournalStatus) -> str:
    """Return how a journal is."""
    lines = [f"{status.path}: gateway {status.gateway_id}, epoch {status.epoch}, {_running(status.age_s)}"]
    lines += _observations(status)
    lines += _pages(status)
    lines += _table("readers", [(r.reader, f"{r.seq:,}", _behind(r.behind)) for r in status.readers])
    lines += _table("limits", [_limit(limit) for limit in status.limits])
    lines += _aside(status)
    return "\n".join(lines)


def _observations(status: JournalStatus) -> Iterator[str]:
    stored = status.observations_stored
    rows = [
        ("delivered", status.observations_delivered),
        ("withheld", status.observations_withheld),
        ("pending", status.observations_pending),
        *((f"expired ({reason})", count) for reason, count in status.observations_expired.items()),
    ]
    cells = [("stored", f"{stored:,}", "")]
    cells += [(f"  {name}", f"{count:,}", f"{count / stored:.1%}" if stored else "") for name, count in rows]
    yield from _table("observations", cells)
    if status.adds_up:
        yield _line("", "these add up")
    else:
        yield _line("", click.style("these do not add up: wearsight-gateway journal verify", fg="red"))
    if status.repeats_dropped:
        yield _line("", f"{status.repeats_dropped:,} more came again and were dropped")


def _pages(status: JournalStatus) -> Iterator[str]:
    span = f"{status.first_seq:,} to {status.last_seq:,}" if status.last_seq else "none yet"
    purged = f", {status.pages_purged:,} before them purged" if status.pages_purged else ""
    yield _line("pages", f"{span}{purged}; {status.pages_in_rows:,} in the database")
    refused = f", {len(status.shelf):,} refused" if status.shelf else ""
    yield _line("segments", f"{status.segments:,}, {status.segments_pending:,} not delivered{refused}")
    yield _line(
        "on disk", f"{status.segment_bytes / _MIB:,.1f} MiB segments, {status.database_bytes / _MIB:,.1f} MiB database"
    )
    if status.oldest_ns is not None:
        yield _line("source times", f"{time_text(status.oldest_ns)} to {time_text(status.newest_ns)}")


def _aside(status: JournalStatus) -> Iterator[str]:
    """Yield what does not flow: the refused shelf, pages put aside, open holes."""
    room = terminal_width()
    shelf = [(f"{s.first_seq:,}-{s.last_seq:,}", _count(s.observations, "observation"), s.reason) for s in status.shelf]
    yield from _texts("refused", shelf, room)
    aside = [(f"page {q.seq:,}", _count(q.observations, "observation"), q.reason) for q in status.quarantine]
    yield from _texts("quarantine", aside, room)
    holes = [
        (f"{h.asset_id}/{h.channel}", f"{time_text(h.start_ns)} to {time_text(h.end_ns)}", h.cause)
        for h in status.holes
    ]
    yield from _texts("open holes", holes, room)


def of_verified(found: Verified) -> str:
    """Return what a verification looked at and found."""
    room = terminal_width()
    lines: list[str] = []
    for finding in found.findings:
        lines += _finding(finding, room)
    problems = sum(finding.level is Level.PROBLEM for finding in found.findings)
    looked = f"{found.pages:,} pages in rows, {found.segments:,} segments"
    looked += " by size alone" if found.fast else f", {found.observations:,} observations"
    verdict = (
        click.style(_count(problems, "problem"), fg="red") if problems else click.style("all is whole", fg="green")
    )
    return "\n".join([*lines, f"{found.path}: {looked}: {verdict}"])


def _finding(finding: Finding, room: int | None) -> Iterator[str]:
    colour = "red" if finding.level is Level.PROBLEM else "yellow"
    text = _wrapped(f"{finding.level.ljust(8)} {finding.subject}: {finding.message}", room)
    yield text.replace(finding.level, click.style(finding.level, fg=colour), 1)
    yield _wrapped(f"{_INDENT}{finding.meaning}", room)
    if finding.next_step:
        yield _wrapped(f"{_INDENT}→ {finding.next_step}", room)


def _wrapped(line: str, room: int | None) -> str:
    if room is None:
        return line
    return textwrap.fill(line, room, subsequent_indent=_INDENT, break_on_hyphens=False, break_long_words=False)


def of_exported(done: Exported, output: Path | None, outside: int, what: str) -> str:
    """Return what was written, and what could not be."""
    lines = [f"{output or 'standard output'}: {done.written:,} {what}"]
    lines += [
        click.style(f"left out: pages {lost.first_seq:,}-{lost.last_seq:,}: {lost.reason}", fg="red")
        for lost in done.lost[:_MOST]
    ]
    if len(done.lost) > _MOST:
        lines.append(f"and {len(done.lost) - _MOST:,} more; --json lists them")
    if outside:
        lines.append(f"{outside:,} pages are in no segment yet; --format csv or jsonl has them")
    return "\n".join(lines)


def of_repaired(done: Repaired) -> str:
    """Return what a repair did, or would do."""
    would = "would: " * done.dry_run
    lines = [f"{would}{action}" for action in done.actions]
    if done.offered:
        lines.append(f"{would}{_count(done.offered, 'refused segment')} offered again")
    if done.new_epoch is not None:
        lines += _new_epoch(done.new_epoch, would)
    if done.copy is not None:
        lines.append(f"the database as it was: {done.copy}")
    room = terminal_width()
    for finding in done.left:
        lines += _finding(finding, room)
    return "\n".join(lines or [click.style("nothing to repair", fg="green")])


def _new_epoch(epoch: NewEpoch, would: str) -> Iterator[str]:
    name = f" {epoch.new}" if epoch.new else ""
    carried = f"{epoch.carried_observations:,} observations in {epoch.carried_pages:,} pages"
    yield f"{would}go on under a new epoch{name} in the place of {epoch.old}: {carried}"
    yield f"{would}set aside in {epoch.aside}: {epoch.aside_observations:,} observations in {epoch.aside_pages:,} pages"
    for reader, first in epoch.unread.items():
        yield click.style(f"reader {reader} has not done all that is set aside, from page {first:,} on", fg="yellow")
        if reader == "historian":
            yield f"  → wearsight-gateway replay --into historian --journal {epoch.aside} --from {first}"


def _table(heading: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield *rows* of three cells, the second to the right, under *heading*."""
    widths = widths_of(rows)
    for place, (name, number, more) in enumerate(rows):
        cells = f"{name.ljust(widths[0])}  {number.rjust(widths[1])}  {more}".rstrip()
        yield _line(heading if place == 0 else "", cells)


def _texts(heading: str, rows: Sequence[tuple[str, str, str]], room: int | None) -> Iterator[str]:
    """Yield the first *rows*, the last cell a text that may go on below."""
    for place, (name, number, text) in enumerate(rows[:_MOST]):
        cells = _line(heading if place == 0 else "", f"{name}  {number}")
        yield from with_text(cells, [text], _HEADING + 2, room)
    if len(rows) > _MOST:
        yield _line("", f"and {len(rows) - _MOST:,} more; --json lists them")


def _limit(limit: Limit) -> tuple[str, str, str]:
    if limit.key == "min_free_mib":
        told = f"{limit.now:,.0f} MiB are free"
        return limit.key, f"{limit.limit:,.0f}", click.style(told, fg="red") if limit.share >= 1 else told
    told = f"{limit.share:.0%} used ({limit.now:,.1f})"
    return limit.key, f"{limit.limit:,g}", click.style(told, fg="yellow") if limit.share >= _NEAR else told


def _behind(pages: int) -> str:
    if pages < 0:
        return click.style("beyond the last page: wearsight-gateway journal verify", fg="red")
    return f"{pages:,} behind" if pages else "up to date"


def _running(age_s: float) -> str:
    days, hours = divmod(age_s / 3600, 24)
    return f"{days:.0f} d {hours:.1f} h of running" if days else f"{hours:.1f} h of running"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _line(heading: str, text: str) -> str:
    return f"{heading.ljust(_HEADING)}{text}"
