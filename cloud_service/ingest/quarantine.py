"""Refused uploads that an operator may want to look at: kept as they came, in a folder with a limit.

These are the pages of a second machine with one identity, or of a restored backup. When there is no room, the oldest
upload of the gateway that takes the most of it goes, so that one clone cannot push out the trace of another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.errors import Quarantined
from cloud_service.ingest.tally import count_received
from cloud_service.ingest.upload import Claim
from cloud_service.lake.files import sync_folder
from cloud_service.store import QuarantineRow, Store

log = structlog.get_logger()

MOST_KEPT = 10_000  # a small segment takes a file and a row all the same


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """The folder of such uploads, of at most *limit* bytes and `MOST_KEPT` segments, and their rows in the *store*."""

    folder: Path
    store: Store
    limit: int

    def keep(self, claim: Claim, data: bytes, error: Quarantined) -> None:
        """Keep *data*, durably; the same segment again is only counted."""
        path = self.path(claim.gateway_id, claim.epoch, claim.digest)
        if len(data) <= self.limit and not path.exists():
            self._write(path, data)
        with self.store.writing() as session:
            row = _row(session, claim)
            if row is None and len(data) > self.limit:
                _count_dropped(session, claim.gateway_id)
                return
            if row is None:
                self._make_room(session, len(data))
                row = _new_row(claim)
                session.add(row)
            row.times += 1
            row.reason, row.detail, row.last_at = error.reason, str(error), datetime.now(UTC)

    def read(self, row: QuarantineRow) -> bytes:
        """Return the bytes of *row*."""
        return self.path(row.gateway_id, row.epoch, row.digest).read_bytes()

    def discard(self, session: Session, rows: Sequence[QuarantineRow]) -> None:
        """Remove *rows* and their files."""
        for row in rows:
            self.path(row.gateway_id, row.epoch, row.digest).unlink(missing_ok=True)
            session.delete(row)

    def strays(self) -> list[Path]:
        """Return the files that no row names: a process ended between the two."""
        with self.store.reading() as session:
            known = {self.path(row.gateway_id, row.epoch, row.digest) for row in rows(session)}
        return sorted(path for path in self.folder.glob("*/*") if path not in known)

    def path(self, gateway_id: str, epoch: str, digest: str) -> Path:
        """Return where such a segment is kept."""
        return self.folder / f"gateway={gateway_id}" / f"{epoch}-{digest}.segment"

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)

    def _make_room(self, session: Session, size: int) -> None:
        while _is_full(session, self.limit - size):
            most = select(QuarantineRow.gateway_id).group_by(QuarantineRow.gateway_id)
            share = func.sum(QuarantineRow.size) / self.limit + func.count() / MOST_KEPT
            gateway_id = session.scalar(most.order_by(share.desc()).limit(1))
            oldest = select(QuarantineRow).where(QuarantineRow.gateway_id == gateway_id)
            row = session.scalars(oldest.order_by(QuarantineRow.quarantine_id).limit(1)).one()
            log.warning("quarantine is full; its oldest segment goes", gateway_id=row.gateway_id, epoch=row.epoch)
            _count_dropped(session, row.gateway_id)
            self.discard(session, [row])
            session.flush()


def rows(session: Session, gateway_id: str | None = None, epoch: str | None = None) -> Sequence[QuarantineRow]:
    """Return what is in quarantine, of *gateway_id* and *epoch* when they are given, in the order of its pages."""
    query = select(QuarantineRow).order_by(QuarantineRow.gateway_id, QuarantineRow.epoch, QuarantineRow.first_seq)
    if gateway_id is not None:
        query = query.where(QuarantineRow.gateway_id == gateway_id)
    if epoch is not None:
        query = query.where(QuarantineRow.epoch == epoch)
    return session.scalars(query).all()


def count(session: Session) -> int:
    """Return how many segments are in quarantine."""
    return session.scalar(select(func.count()).select_from(QuarantineRow)) or 0


def _is_full(session: Session, room: int) -> bool:
    size, count = session.execute(select(func.coalesce(func.sum(QuarantineRow.size), 0), func.count())).one()
    return int(size) > room or int(count) >= MOST_KEPT


def _row(session: Session, claim: Claim) -> QuarantineRow | None:
    query = select(QuarantineRow).where(QuarantineRow.gateway_id == claim.gateway_id)
    return session.scalar(query.where(QuarantineRow.epoch == claim.epoch, QuarantineRow.digest == claim.digest))


def _new_row(claim: Claim) -> QuarantineRow:
    return QuarantineRow(
        gateway_id=claim.gateway_id,
        epoch=claim.epoch,
        first_seq=claim.first_seq,
        last_seq=claim.last_seq,
        digest=claim.digest,
        size=claim.size,
        times=0,
        first_at=datetime.now(UTC),
    )


def _count_dropped(session: Session, gateway_id: str) -> None:
    count_received(session, gateway_id, 0, dropped=1)
