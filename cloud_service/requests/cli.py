"""``wearsight-cloud request-data``: ask the gateways for raw data that their upload policy kept back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy.orm import Session

from cloud_service.command import Cloud, as_json, many, print_json, utc_time_of, with_cloud
from cloud_service.requests import asking
from cloud_service.requests.tables import RequestRow
from cloud_service.requests.waiting import parts_held, wait_for


@click.command("request-data")
@click.argument("asset_id", required=False)
@click.option("--from", "start", metavar="TIME", help="First source time.")
@click.option("--to", "end", metavar="TIME", help="The source time that ends it.")
@click.option("--channel", "channels", multiple=True, help="Only this channel; may be given again.")
@click.option("--wait", is_flag=True, help="Wait until everything asked for has come.")
@click.option("--list", "listed", is_flag=True, help="List requests, those for ASSET_ID alone when it is given.")
@click.option("--cancel", "cancelled", metavar="REQUEST_ID", help="Take an open request back.")
@as_json
@with_cloud
def request_data(
    cloud: Cloud,
    *,
    asset_id: str | None,
    start: str | None,
    end: str | None,
    channels: tuple[str, ...],
    wait: bool,
    listed: bool,
    cancelled: str | None,
    as_json: bool,
) -> None:
    """Ask for raw data that was kept back.

    Of ASSET_ID, between two times; its gateway sends it when it has nothing else to send. A TIME is in UTC where it
    names no offset; --to TIME is the first that is not in it.
    """
    if cancelled is not None:
        _cancel(cloud, cancelled, as_json=as_json)
    elif listed:
        _list(cloud, asset_id, as_json=as_json)
    elif asset_id is None or start is None or end is None:
        raise click.UsageError("give ASSET_ID, --from and --to, or --list, or --cancel")
    else:
        interval = utc_time_of(start, "--from"), utc_time_of(end, "--to")
        with cloud.store.writing() as session:
            asked = asking.ask(session, asset_id, *interval, channels=channels)
        if not as_json:
            click.echo(_asked_sentence(asked))
        if wait:
            with _progress_bar(asset_id) as tell:
                wait_for(cloud.store, asked.request_ids, tell)
        if as_json or wait:
            _tell(cloud, asked.request_ids, as_json=as_json)


def _asked_sentence(asked: asking.Asked) -> str:
    sentences = [
        f"asked {row.gateway_id} for {many(len(row.channel_names), 'channel')} of {row.asset_id} "
        f"({many(row.parts, 'part')}): request {row.request_id}"
        for row in asked.new
    ]
    sentences += [f"request {row.request_id}, {row.state}, has some of it already" for row in asked.earlier]
    return "\n".join(sentences)


def _tell(cloud: Cloud, request_ids: Sequence[str], *, as_json: bool) -> None:
    with cloud.store.reading() as session:
        _print(session, [session.get_one(RequestRow, name) for name in request_ids], as_json=as_json)


def _list(cloud: Cloud, asset_id: str | None, *, as_json: bool) -> None:
    with cloud.store.writing() as session:
        asking.expire(session, datetime.now(UTC))
        found = [row for row in asking.requests(session) if asset_id in {None, row.asset_id}]
        _print(session, found, as_json=as_json)


def _cancel(cloud: Cloud, request_id: str, *, as_json: bool) -> None:
    with cloud.store.writing() as session:
        _print(session, [asking.cancel(session, request_id)], as_json=as_json)


def _print(session: Session, rows: Sequence[RequestRow], *, as_json: bool) -> None:
    told = [_told(session, row) for row in rows]
    if as_json:
        print_json({"requests": told})
        return
    if not told:
        click.echo("no requests")
    for one in told:
        line = (
            "{request_id} {state:7} {asset_id} {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} at {gateway_id}, "
            "for {asked_by}: {parts_held} of {parts} parts, {observations:,} observations, {repeats:,} repeats. "
            "{reason}"
        )
        click.echo(line.format(**one).rstrip(" ."))


def _told(session: Session, row: RequestRow) -> dict[str, Any]:
    names = ("request_id", "gateway_id", "asset_id", "start", "end", "asked_by", "asked_at", "state", "reason")
    counts = ("parts", "observations", "repeats", "closed_at")
    return {
        **{name: getattr(row, name) for name in (*names, *counts)},
        "channels": row.channel_names,
        "parts_held": parts_held(session, row),
    }


@contextmanager
def _progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told how many parts have come, of how many."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=hidden, show_pos=True) as bar:

        def tell(done: int, of: int) -> None:
            bar.length = max(of, 1)
            bar.update(done - bar.pos)

        yield tell
