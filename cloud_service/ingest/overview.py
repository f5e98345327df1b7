"""What the ledger holds of each journal, for people who look after the fleet."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from sqlalchemy import distinct, func, select
from sqlalchemy.orm import Session

from cloud_service.ingest import journals, quarantine
from cloud_service.ingest.ledger import Range
from cloud_service.store import HeldRow, JournalRow, LedgerRow, QuarantineRow, SegmentRow


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A refused segment in quarantine: its pages, why it was refused, and how often it came."""

    first_seq: int
    last_seq: int
    reason: str
    detail: str
    size: int
    times: int
    last_at: datetime


@dataclass(frozen=True, kw_only=True)
class JournalOverview:
    """One epoch of one gateway.

    ``observations``, ``withheld`` and ``expired`` together are what the gateway appended in the pages that are held.
    """

    gateway_id: str
    epoch: str
    status: str
    first_seen: datetime
    last_new: datetime
    segments: int
    pages: int
    observations: int
    results: int
    repeats: int
    withheld: int
    expired: dict[str, int]
    held: list[Range]
    missing: list[Range]
    quarantined: list[Kept]


def overview(session: Session) -> list[JournalOverview]:
    """Return all journals, by gateway and in the order in which they were first seen."""
    rows = session.scalars(select(JournalRow).order_by(JournalRow.gateway_id, JournalRow.arrival)).all()
    older = journals.superseded(session)
    stored, held, said, kept = _stored(session), _held(session), _said(session), _kept(session)
    found = []
    for row in rows:
        key = (row.gateway_id, row.epoch)
        ranges = held[key]
        withheld, expired = said[key]
        found.append(
            JournalOverview(
                gateway_id=row.gateway_id,
                epoch=row.epoch,
                status="superseded" if key in older else row.status,
                first_seen=row.first_seen,
                last_new=row.last_new,
                **stored.get(key, _NOTHING),
                pages=sum(last - first + 1 for first, last in ranges),
                withheld=withheld,
                expired=expired,
                held=ranges,
                missing=missing(ranges),
                quarantined=kept[key],
            )
        )
    return found


def missing(held: Sequence[Range]) -> list[Range]:
    """Return what is missing before and between the ranges of *held*; pages count from 1."""
    return [(earlier[1] + 1, later[0] - 1) for earlier, later in pairwise([(0, 0), *held]) if later[0] > earlier[1] + 1]


_NOTHING = {"segments": 0, "observations": 0, "results": 0, "repeats": 0}
_Key = tuple[str, str]


def _stored(session: Session) -> dict[_Key, dict[str, int]]:
    columns = (
        func.count(distinct(LedgerRow.upload_id)),
        func.sum(LedgerRow.observations),
        func.sum(LedgerRow.results),
        func.sum(LedgerRow.repeats),
    )
    key = (LedgerRow.gateway_id, LedgerRow.epoch)
    return {
        (gateway_id, epoch): dict(zip(_NOTHING, map(int, sums), strict=True))
        for gateway_id, epoch, *sums in session.execute(select(*key, *columns).group_by(*key))
    }


def _held(session: Session) -> defaultdict[_Key, list[Range]]:
    found: defaultdict[_Key, list[Range]] = defaultdict(list)
    for row in session.scalars(select(HeldRow).order_by(HeldRow.gateway_id, HeldRow.epoch, HeldRow.first_seq)):
        found[row.gateway_id, row.epoch].append((row.first_seq, row.last_seq))
    return found


def _said(session: Session) -> defaultdict[_Key, tuple[int, dict[str, int]]]:
    """Return what segments said was withheld, and has expired by reason."""
    found: defaultdict[_Key, tuple[int, dict[str, int]]] = defaultdict(lambda: (0, {}))
    key = (SegmentRow.gateway_id, SegmentRow.epoch, SegmentRow.expired_reason)
    sums = select(*key, func.sum(SegmentRow.withheld), func.sum(SegmentRow.expired)).group_by(*key)
    for gateway_id, epoch, reason, withheld, expired in session.execute(sums):
        before, reasons = found[gateway_id, epoch]
        found[gateway_id, epoch] = (before + int(withheld), reasons | ({reason: int(expired)} if expired else {}))
    return found


def _kept(session: Session) -> defaultdict[_Key, list[Kept]]:
    found: defaultdict[_Key, list[Kept]] = defaultdict(list)
    for row in quarantine.rows(session):
        found[row.gateway_id, row.epoch].append(_one_kept(row))
    return found


def _one_kept(row: QuarantineRow) -> Kept:
    return Kept(**{name: getattr(row, name) for name in Kept.__dataclass_fields__})
