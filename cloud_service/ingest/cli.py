"""``wearsight-cloud ledger``: what is held of each gateway, whether it is whole, out of it, and mended."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cloud_service.command import EXIT_FOUND, Cloud, as_json, many, print_json, tell, utc_time_of, with_cloud
from cloud_service.errors import CloneRefused, RangeConflict
from cloud_service.ingest.overview import JournalOverview, Kept, overview
from cloud_service.ingest.tally import WITHDRAWN, rejections
from cloud_service.lake.export import Selection, export
from cloud_service.lake.repair import Accepted, Repaired, accept, discard, plan, repair
from cloud_service.lake.verify import Finding, Verified, count_ranges, verify
from cloud_service.pipeline import Intake
from cloud_service.store import RejectionRow

_SHOWN = 20
_TOLD_ABOVE = {RangeConflict.reason, CloneRefused.reason, WITHDRAWN}


@click.group(invoke_without_command=True)
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="The cloud service's configuration.")
@as_json
@click.pass_context
def ledger(context: click.Context, config_path: Path | None, *, as_json: bool) -> None:
    """Look into what gateways sent, check, repair it.

    Without a command: its status.
    """
    given: dict[str, Any] = {"as_json": as_json} | ({"config_path": config_path} if config_path else {})
    if context.invoked_subcommand is None:
        context.invoke(ledger_status, **({"config_path": Path("cloud.toml")} | given))
    else:
        context.default_map = dict.fromkeys(ledger.commands, given)


@ledger.command("status")
@as_json
@with_cloud
def ledger_status(cloud: Cloud, *, as_json: bool) -> None:
    """Show what is held, missing, refused, by journal."""
    with cloud.store.reading() as session:
        journals = overview(session)
        refused = rejections(session)
    if as_json:
        print_json({"journals": journals, "rejections": [_as_data(row) for row in refused]})
        return
    for journal in journals:
        _show_journal(journal)
    if not journals:
        click.echo("nothing has come yet")
    for row in refused:
        last = f"; the last for {row.field}: {row.detail}" if row.reason not in _TOLD_ABOVE else ""
        click.echo(f"{row.gateway_id}: {many(row.count, 'upload')} rejected ({row.reason}){last}")


@ledger.command("verify")
@as_json
@with_cloud
def ledger_verify(cloud: Cloud, *, as_json: bool) -> None:
    """Compare every file with the ledger.

    Page by page; nothing is changed. Exit code 3 when something is wrong.
    """
    verified = _verify(cloud)
    if as_json:
        print_json(verified)
    else:
        for finding in verified.findings:
            click.echo(_sentence(finding))
        click.echo(
            f"{many(verified.ranges, 'range')}, {many(verified.files, 'file')}, "
            f"{many(verified.observations, 'observation')}: "
            f"{len(verified.findings) or 'nothing'} wrong"
        )
    if verified.findings:
        sys.exit(EXIT_FOUND)


@ledger.command("export")
@click.option("--from", "start", metavar="TIME", help="First source time.")
@click.option("--to", "end", metavar="TIME", help="The source time that ends it.")
@click.option("--gateway", "gateway_id", help="Only of this gateway.")
@click.option("--asset", "asset_ids", multiple=True, help="Only of this machine; may be given again.")
@click.option("--channel", "channels", multiple=True, help="Only this channel; may be given again.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="FILE.parquet or FILE.csv."
)
@as_json
@with_cloud
def ledger_export(
    cloud: Cloud,
    *,
    gateway_id: str | None,
    asset_ids: tuple[str, ...],
    channels: tuple[str, ...],
    start: str | None,
    end: str | None,
    output: Path,
    as_json: bool,
) -> None:
    """Write observations from the lake to a file.

    A TIME is in UTC where it names no offset; --to TIME is the first that is not in it. The file appears when it is
    whole.
    """
    selection = Selection(
        gateway_id=gateway_id,
        asset_ids=asset_ids,
        channels=channels,
        start=utc_time_of(start, "--from") if start else None,
        end=utc_time_of(end, "--to") if end else None,
    )
    with _progress(count_ranges(cloud.store), "exporting") as bar:
        rows = export(cloud.lake, selection, output, bar.update)
    tell({"output": output, "written": rows}, f"{many(rows, 'observation')} written to {output}", as_json=as_json)


@ledger.command("repair")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--accept", "accepted", nargs=2, metavar="GATEWAY EPOCH",
    help="Take a superseded journal for legitimate (a rescued disk), and store what is in quarantine of it.",
)  # fmt: skip
@click.option(
    "--discard", "discarded", nargs=2, metavar="GATEWAY EPOCH",
    help="Throw away what is in quarantine of a journal (a clone that was found and switched off).",
)  # fmt: skip
@as_json
@with_cloud
def ledger_repair(
    cloud: Cloud,
    *,
    dry_run: bool,
    accepted: tuple[str, str] | None,
    discarded: tuple[str, str] | None,
    as_json: bool,
) -> None:
    """Put right what verify finds; decide about clones.

    Damaged files are set aside, and gateways send their pages again; stray files are removed.
    """
    if sum((dry_run, accepted is not None, discarded is not None)) > 1:
        raise click.UsageError("give only one of --dry-run, --accept and --discard")
    intake = Intake(cloud.store, cloud.config.storage.lake, cloud.config.ingest)
    if accepted is not None:
        _tell_accepted(accept(intake, *accepted), *accepted, as_json=as_json)
    elif discarded is not None:
        count = discard(cloud.store, intake.quarantine, *discarded)
        tell({"discarded": count}, f"{many(count, 'segment')} of {' '.join(discarded)} discarded", as_json=as_json)
    else:
        findings = _verify(cloud).findings
        lake = cloud.config.storage.lake
        done = plan(cloud.store, lake, findings) if dry_run else repair(cloud.store, lake, intake.quarantine, findings)
        _tell_repaired(done, dry_run=dry_run, as_json=as_json)


def _verify(cloud: Cloud) -> Verified:
    lake = cloud.config.storage.lake
    quarantine = Intake(cloud.store, lake, cloud.config.ingest).quarantine
    with _progress(count_ranges(cloud.store), "verifying") as bar:
        return verify(cloud.store, lake, quarantine, bar.update)


@contextmanager
def _progress(length: int, label: str) -> Iterator[Any]:
    """Show a bar on a terminal, and nothing elsewhere."""
    with click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield bar


def _as_data(row: RejectionRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ("gateway_id", "reason", "count", "field", "detail", "last_at")}


def _show_journal(journal: JournalOverview) -> None:
    click.echo(
        f"{journal.gateway_id} {journal.epoch}: {journal.status}, {many(journal.pages, 'page')} in "
        f"{many(journal.segments, 'segment')}, {many(journal.observations, 'observation')}, "
        f"{many(journal.results, 'result')}, "
        f"last new {journal.last_new:%Y-%m-%d %H:%M}Z"
    )
    for what, count in (("withheld by policy", journal.withheld), ("repeated", journal.repeats)):
        if count:
            click.echo(f"  {many(count, 'observation')} {what}")
    for reason, count in journal.expired.items():
        click.echo(f"  {many(count, 'observation')} expired ({reason})")
    if journal.missing:
        click.echo(f"  missing: {_ranges(journal.missing)}")
    for reason in sorted({kept.reason for kept in journal.quarantined}):
        _show_quarantine([kept for kept in journal.quarantined if kept.reason == reason])


def _show_quarantine(kept: list[Kept]) -> None:
    """Show segments that were refused for one reason, with what was said of the last of them."""
    times = sum(segment.times for segment in kept)
    pages = _ranges([(segment.first_seq, segment.last_seq) for segment in kept])
    last = max(kept, key=lambda segment: segment.last_at)
    refused = f"refused {many(times, 'time')}, last {last.last_at:%Y-%m-%d %H:%M}Z"
    click.echo(f"  in quarantine ({last.reason}): {pages}; {refused}:")
    click.echo(f"    {last.detail}")


def _ranges(ranges: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges[:_SHOWN])
    return shown + (f" and {len(ranges) - _SHOWN} more" if len(ranges) > _SHOWN else "")


def _sentence(finding: Finding) -> str:
    pages = f" {_ranges([finding.pages])}" if finding.pages else ""
    path = f" ({finding.path})" if finding.path else ""
    return f"{finding.gateway_id} {finding.epoch}{pages}: {finding.wrong}: {finding.detail}{path}"


def _tell_repaired(done: Repaired, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": dry_run, **asdict(done)})
        return
    would = "would be " if dry_run else ""
    for gateway_id, epoch, first, last in done.withdrawn:
        click.echo(f"{gateway_id} {epoch} {first}-{last}: {would}withdrawn; the gateway sends it again")
    aside, removed = many(len(done.set_aside), "damaged file"), many(len(done.removed), "stray file")
    click.echo(f"{aside} {would}set aside, {removed} {would}removed")


def _tell_accepted(done: Accepted, gateway_id: str, epoch: str, *, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        click.echo(f"{gateway_id} {epoch} is accepted; {many(len(done.stored), 'segment')} of the quarantine stored")
        for pages, reason in done.refused.items():
            click.echo(f"  {pages} stays in quarantine: {reason}")
    if done.refused:
        sys.exit(EXIT_FOUND)
