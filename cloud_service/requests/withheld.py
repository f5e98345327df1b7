"""What the gateways kept back: which streams, in which hours. That is what can be asked for.

Segments say it themselves. It is written down by the hour, so that a channel that is never sent costs one row that
grows once an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.orm import Session

from cloud_service.requests.tables import Interval, WithheldRow
from models.records import EPOCH, Stream
from models.segment import Segment

_HOUR = timedelta(hours=1)
_HOUR_NS = 3600 * 10**9
_Hours = tuple[int, int]


# By database and gateway: what was written down already, so that segment after segment need not be compared with it.
_written: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()


def note_withheld(session: Session, segment: Segment) -> None:
    """Write down what *segment* says was left out of it; said again, it changes nothing."""
    if not segment.withheld:
        return
    hours = {w.stream: (w.start_ns // _HOUR_NS, max(w.start_ns, w.end_ns) // _HOUR_NS) for w in segment.withheld}
    said = hash(frozenset(hours.items()))
    written = _written.setdefault(session.get_bind(), {})
    if written.get(segment.gateway_id) != said and not _write(session, segment.gateway_id, hours):
        written[segment.gateway_id] = said  # only what an earlier transaction has made durable


def _write(session: Session, gateway_id: str, hours: Mapping[Stream, _Hours]) -> bool:
    """Write down *hours*; return whether anything of it is new."""
    first, last = min(start for start, _ in hours.values()), max(end for _, end in hours.values())
    known = _known(session, gateway_id, first, last)
    outdated, grown = [], []
    for stream, run in hours.items():
        touching = [other for other in known.get(stream, ()) if other[0] <= run[1] + 1 and other[1] >= run[0] - 1]
        starts, ends = zip(run, *touching, strict=True)
        whole = (min(starts), max(ends))
        if touching != [whole]:
            outdated += [(stream, start) for start, _ in touching]
            grown.append((stream, whole))
    _replace(session, gateway_id, outdated, grown)
    return bool(grown)


def _known(session: Session, gateway_id: str, first: int, last: int) -> dict[Stream, list[_Hours]]:
    """Return the runs of *gateway_id* that lie in hours *first* to *last* or touch them."""
    row = WithheldRow
    query = select(row.asset_id, row.channel, row.first_hour, row.last_hour).where(row.gateway_id == gateway_id)
    known: dict[Stream, list[_Hours]] = {}
    for asset_id, channel, start, end in session.execute(
        query.where(row.first_hour <= last + 1, row.last_hour >= first - 1)
    ):
        known.setdefault(Stream(asset_id, channel), []).append((start, end))
    return known


def _replace(
    session: Session, gateway_id: str, outdated: Sequence[tuple[Stream, int]], grown: Sequence[tuple[Stream, _Hours]]
) -> None:
    """Write all of it in two statements, however many streams there are."""
    connection = session.connection()
    if outdated:
        old = [{"a": asset_id, "c": channel, "h": start} for (asset_id, channel), start in outdated]
        row = WithheldRow
        mine = (row.gateway_id == gateway_id, row.asset_id == bindparam("a"), row.channel == bindparam("c"))
        connection.execute(delete(row).where(*mine, row.first_hour == bindparam("h")), old)
    if grown:
        values = [
            {
                "gateway_id": gateway_id,
                "asset_id": asset_id,
                "channel": channel,
                "first_hour": start,
                "last_hour": end,
            }
            for (asset_id, channel), (start, end) in grown
        ]
        connection.execute(insert(WithheldRow), values)


def withheld_runs(session: Session, asset_id: str) -> dict[tuple[str, str], list[Interval]]:
    """Return, by gateway and channel, when something of *asset_id* was kept back, in whole hours."""
    rows = session.scalars(select(WithheldRow).where(WithheldRow.asset_id == asset_id).order_by(WithheldRow.first_hour))
    runs: dict[tuple[str, str], list[Interval]] = {}
    for row in rows:
        run = (_time_of(row.first_hour), _time_of(row.last_hour) + _HOUR)
        runs.setdefault((row.gateway_id, row.channel), []).append(run)
    return runs


def overlap(runs: Sequence[Interval], start: datetime, end: datetime) -> list[Interval]:
    """Return the parts of *runs* that lie between *start* and *end*."""
    pieces = ((max(start, first), min(end, last)) for first, last in runs)
    return [(first, last) for first, last in pieces if first < last]


def _time_of(hour: int) -> datetime:
    return EPOCH + hour * _HOUR
