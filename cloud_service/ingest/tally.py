"""Durable counts of what came: ``received = stored + rejected(reason)`` at every moment, through crashes too.

An upload is counted in the transaction that stores it. Rejections are counted per gateway and reason, with what the
last one was, so that whoever sends rubbish for ever makes no table grow. An upload that was stored and later withdrawn
from the ledger counts as rejected from then on, for the reason "withdrawn".
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import structlog
from sqlalchemy import Update, insert, select, update
from sqlalchemy.orm import Session

from cloud_service.errors import IngestError
from cloud_service.store import IntakeRow, RejectionRow, Store

log = structlog.get_logger()

WITHDRAWN = "withdrawn"
_DETAIL_LIMIT = 500


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """An upload of *gateway_id* that was not taken, and why."""

    gateway_id: str
    reason: str
    field: str
    detail: str

    @classmethod
    def of(cls, gateway_id: str, error: IngestError) -> Rejection:
        """Return the rejection that *error* is."""
        detail = printable(str(error)[:_DETAIL_LIMIT])
        return cls(gateway_id=gateway_id, reason=error.reason, field=error.field, detail=detail)


def printable(text: str) -> str:
    """Return *text*, which may be a stranger's, without what would do something on a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def count_received(session: Session, gateway_id: str, uploads: int = 1, *, dropped: int = 0) -> None:
    """Count *uploads* of *gateway_id* as received, and so many *dropped* from the quarantine."""
    row = IntakeRow
    added = {"received": row.received + uploads, "quarantine_dropped": row.quarantine_dropped + dropped}
    if not _updated(session, update(row).where(row.gateway_id == gateway_id).values(added)):
        session.execute(insert(row).values(gateway_id=gateway_id, received=uploads, quarantine_dropped=dropped))


def count_rejected(session: Session, rejection: Rejection, uploads: int = 1) -> None:
    """Count *uploads* as rejected, the last of them being *rejection*; who received them counts that."""
    row, key = RejectionRow, {"gateway_id": rejection.gateway_id, "reason": rejection.reason}
    last = {"field": rejection.field, "detail": rejection.detail, "last_at": datetime.now(UTC)}
    if not _updated(session, update(row).filter_by(**key).values(count=row.count + uploads, **last)):
        session.execute(insert(row).values(count=uploads, **key, **last))


def _updated(session: Session, statement: Update) -> bool:
    found = session.execute(statement, execution_options={"synchronize_session": False})
    return bool(found.rowcount)  # type: ignore[attr-defined]  # a CursorResult, as of every update


def uncount_rejected(session: Session, gateway_id: str, reason: str) -> None:
    """Count an upload that was rejected as not rejected: it is stored after all, in the same transaction."""
    row = session.get(RejectionRow, (gateway_id, reason))
    if row is None:
        count_received(session, gateway_id)  # its rejection was never counted: the process ended before
    elif row.count == 1:
        session.delete(row)
    else:
        row.count -= 1


def rejections(session: Session) -> Sequence[RejectionRow]:
    """Return the rejections of all gateways, by gateway and reason."""
    return session.scalars(select(RejectionRow).order_by(RejectionRow.gateway_id, RejectionRow.reason)).all()


class Tally:
    """Counts rejections, as many in one transaction as came while the one before was being synced."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[Rejection] = []
        self._round: asyncio.Task[None] | None = None

    async def rejected(self, rejection: Rejection) -> None:
        """Count *rejection*; it is durable on return."""
        self._waiting.append(rejection)
        last = self._round
        if last is not None and not last.done():
            await asyncio.wait([last])
        if self._round is last:  # the first of those who waited begins the next round for all of them
            self._round = asyncio.create_task(self._count())
        assert self._round is not None
        await asyncio.shield(self._round)

    async def _count(self) -> None:
        batch, self._waiting = self._waiting, []
        if batch:
            await asyncio.to_thread(self._commit, batch)

    def _commit(self, batch: list[Rejection]) -> None:
        last = {(rejection.gateway_id, rejection.reason): rejection for rejection in batch}
        counts = Counter((rejection.gateway_id, rejection.reason) for rejection in batch)
        with self._store.writing() as session:
            for key, rejection in last.items():
                count_rejected(session, rejection, counts[key])
                count_received(session, rejection.gateway_id, counts[key])
        for key, rejection in last.items():  # one line a round, so that a flood of rubbish makes no flood of lines
            log.warning("uploads rejected", uploads=counts[key], **asdict(rejection))
