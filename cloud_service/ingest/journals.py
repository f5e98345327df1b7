"""Which journals a gateway has had, and which of them may bring new pages.

A gateway has one journal. When its disk is cloned, or a backup of it restored, two of them live: the one that the cloud
saw last is taken for the gateway's own, and an older one brings nothing new any more, until an operator says that it
is legitimate (a disk that was rescued). What it brings until then is kept aside.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.errors import CloneRefused, LedgerError
from cloud_service.store import JournalRow

ACTIVE, ACCEPTED, REQUEST = "active", "accepted", "request"


def check_not_superseded(session: Session, gateway_id: str, epoch: str) -> None:
    """Raise CloneRefused when new pages of *epoch* come after a newer journal of *gateway_id*."""
    row = session.get(JournalRow, (gateway_id, epoch))
    newer = superseded_by(session, row) if row is not None else None
    if newer is not None:
        raise CloneRefused(
            f"gateway {gateway_id}: the journal {epoch} has new pages, but {newer.epoch} came after it "
            f"({newer.first_seen:%Y-%m-%d %H:%M}Z): a second machine runs with this identity, or an old disk is back. "
            "The segment is kept in quarantine; `wearsight-cloud ledger status` tells, an operator decides"
        )


def superseded_by(session: Session, journal: JournalRow) -> JournalRow | None:
    """Return the newest journal of the same gateway when it came after *journal*, which only then is superseded."""
    if journal.status != ACTIVE:
        return None
    query = select(JournalRow).where(JournalRow.gateway_id == journal.gateway_id, JournalRow.status != REQUEST)
    query = query.where(JournalRow.arrival > journal.arrival).order_by(JournalRow.arrival.desc()).limit(1)
    return session.scalar(query)


def superseded(session: Session) -> set[tuple[str, str]]:
    """Return gateway and epoch of every journal that was superseded."""
    rows = session.scalars(select(JournalRow).where(JournalRow.status != REQUEST)).all()
    newest: dict[str, int] = {}
    for row in rows:
        newest[row.gateway_id] = max(newest.get(row.gateway_id, 0), row.arrival)
    older = (row for row in rows if row.status == ACTIVE and row.arrival < newest[row.gateway_id])
    return {(row.gateway_id, row.epoch) for row in older}


def enter(session: Session, gateway_id: str, epoch: str, now: datetime, *, is_request: bool) -> None:
    """Write down that *epoch* brought new pages *now*; see it for the first time, maybe.

    Raises:
        CloneRefused: If it was superseded.
    """
    check_not_superseded(session, gateway_id, epoch)
    row = session.get(JournalRow, (gateway_id, epoch))
    if row is None:
        last = session.scalar(select(func.max(JournalRow.arrival)).where(JournalRow.gateway_id == gateway_id))
        row = JournalRow(gateway_id=gateway_id, epoch=epoch, arrival=(last or 0) + 1, first_seen=now)
        row.status = REQUEST if is_request else ACTIVE
        session.add(row)
    row.last_new = now


def accept(session: Session, gateway_id: str, epoch: str) -> None:
    """Let *epoch* bring new pages from now on, whatever came after it.

    Raises:
        LedgerError: If it was never seen.
    """
    row = session.get(JournalRow, (gateway_id, epoch))
    if row is None:
        raise LedgerError(f"gateway {gateway_id} has no journal {epoch} in the ledger; nothing is accepted")
    if row.status == ACTIVE:
        row.status = ACCEPTED
