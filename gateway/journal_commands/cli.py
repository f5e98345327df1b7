"""The commands ``wearsight-gateway journal …``: each works in a terminal and gives ``--json``.

``status``, ``verify`` and ``export`` only read, while the gateway runs; ``repair`` needs it to be stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from gateway.command import EXIT_FOUND
from gateway.journal_commands import telling
from gateway.journal_commands.export import (
    Exported,
    Wanted,
    copy_segments,
    export_observations,
    export_results,
    whole_file,
)
from gateway.journal_commands.journal_argument import JournalTarget, journal_command
from gateway.journal_commands.places import stretch_between, stretch_options
from gateway.journal_commands.repair import repair
from gateway.journal_commands.sinks import CsvSink, JsonLinesSink, ParquetSink, Sink
from gateway.journal_commands.status import status_of
from gateway.journal_commands.verify import verify
from gateway.journal_commands.view import JournalView
from gateway.progress import Progress, progress_bar, silent


@click.group()
def journal() -> None:
    """Look into the journal, check it, repair it.

    All but repair only read: a gateway may run meanwhile, and nothing it does waits for them.
    """


@journal.command("status")
@journal_command
def status_command(target: JournalTarget) -> None:
    """Show how the journal is.

    What it holds and what became of that, where its readers are, what lies aside, and how near its limits are.
    """
    with JournalView(target.state_dir) as view:
        found = status_of(view, target.limits)
    target.tell(found, telling.of_status(found))


@journal.command("verify")
@click.option("--fast", is_flag=True, help="Leave out what is in segment files; only their sizes are looked at.")
@journal_command
def verify_command(target: JournalTarget, *, fast: bool) -> None:
    """Check every page, segment and sum.

    Holds pages against their checksums, segment files against their digests, rows and chain, and all counts against
    each other. Exit code 3 when there is a problem; notes are for the record.
    """
    with progress_bar("verifying") as tell:
        found = verify(target.state_dir, fast=fast, progress=tell)
    target.tell(found, telling.of_verified(found))
    if not found.is_fine:
        sys.exit(EXIT_FOUND)


_SINKS: dict[str, Callable[[BinaryIO], Sink]] = {"csv": CsvSink, "jsonl": JsonLinesSink, "parquet": ParquetSink}


@journal.command("export")
@stretch_options
@click.option("--asset", "assets", multiple=True, help="Only of this machine; may be given again.")
@click.option("--channel", "channels", multiple=True, help="Only this channel; may be given again.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet", "segments"]),
    default="csv",
    show_default=True,
    help="How it is written; segments are copied as they are, into a folder.",
)
@click.option("--results", is_flag=True, help="Results instead of observations: states, advisories, gaps, events.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File or folder; default: standard output.")
@journal_command
def export_command(
    target: JournalTarget,
    start: str | None,
    end: str | None,
    assets: tuple[str, ...],
    channels: tuple[str, ...],
    form: str,
    output: Path | None,
    *,
    results: bool,
) -> None:
    """Write observations or results to a file.

    Or to a pipe; in the order of the log. A SEQ is included; a TIME is source time, in UTC where it names no
    offset, and --to TIME is the first that is not in it. A file appears when it is whole. Exit code 3 when pages in
    between cannot be read; all others are written.
    """
    _check(form, output, assets, channels, as_json=target.as_json, results=results)
    wanted = Wanted(stretch=stretch_between(start, end), assets=frozenset(assets), channels=frozenset(channels))
    outside = 0
    with JournalView(target.state_dir) as view, _progress(output) as tell:
        if form == "segments" and output is not None:
            done, outside = copy_segments(view, wanted.stretch, output, tell)
        else:
            with _output(output) as file:
                done = _exported(view, wanted, file, form, tell, results=results)
    body = {
        "output": output,
        "written": done.written,
        "lost": done.lost,
        "pages_in_no_segment": outside,
    }
    if target.as_json:
        target.tell(body, "")
    click.echo(telling.of_exported(done, output, outside, "segments" if form == "segments" else "rows"), err=True)
    if done.lost:
        sys.exit(EXIT_FOUND)


def _exported(
    view: JournalView, wanted: Wanted, file: BinaryIO, form: str, tell: Progress, *, results: bool
) -> Exported:
    if results:
        return export_results(view, wanted, JsonLinesSink(file), tell)
    return export_observations(view, wanted, _SINKS[form](file), tell)


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        return
    with whole_file(path) as file:
        yield file


@contextmanager
def _progress(output: Path | None) -> Iterator[Progress]:
    """Show a bar, unless it would stand among the rows."""
    if output is None and sys.stdout.isatty():
        yield silent
        return
    with progress_bar("exporting") as tell:
        yield tell


def _check(
    form: str, output: Path | None, assets: tuple[str, ...], channels: tuple[str, ...], *, as_json: bool, results: bool
) -> None:
    """Refuse options that do not go together."""
    if output is None and form in ("parquet", "segments"):
        raise click.UsageError(f"--format {form} needs --output; it is not written to standard output")
    if output is None and as_json:
        raise click.UsageError("--json tells what was written, so it needs --output; the data itself is --format jsonl")
    if results and form != "jsonl":
        raise click.UsageError("results have fields within fields: add --format jsonl")
    if results and channels:
        raise click.UsageError("results are of machines, not of channels: leave out --channel")
    if form == "segments" and (assets or channels):
        raise click.UsageError("a segment holds all machines of its time: leave out --asset and --channel")


@journal.command("repair")
@click.option("--dry-run", is_flag=True, help="Only say what would be done; a gateway may run.")
@click.option("--offer-refused", is_flag=True, help="Take all refused segments off their shelf: they are sent again.")
@click.option(
    "--new-epoch",
    is_flag=True,
    help="For a journal restored from a backup, or cloned: go on under an epoch of its own.",
)
@journal_command
def repair_command(target: JournalTarget, *, dry_run: bool, offer_refused: bool, new_epoch: bool) -> None:
    """Put right what verify finds.

    The gateway must be stopped. What is lost is counted; damaged pages and segments are kept aside, and so is a
    copy of the database before its tables are changed. With --new-epoch what the cloud has not confirmed goes on,
    numbered anew; what it has confirmed is set aside as a journal of the old epoch. A repair that is cut off is
    simply run again. Exit code 3 when problems are left.
    """
    gateway_id = target.config.gateway_id if target.config is not None and target.limits is not None else None
    with progress_bar("verifying") as tell:
        done = repair(
            target.state_dir,
            gateway_id,
            dry_run=dry_run,
            offer_refused=offer_refused,
            new_epoch=new_epoch,
            progress=tell,
        )
    target.tell(done, telling.of_repaired(done))
    if done.left:
        sys.exit(EXIT_FOUND)
