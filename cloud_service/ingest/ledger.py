"""The ledger: which pages of which gateway the cloud holds, and what is missing.

Ranges are closed, ``(first, last)``. Rows of one gateway and epoch never overlap; every function here that writes does
so inside the caller's transaction, so that pages count as held exactly when everything about them is durable.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from cloud_service.errors import RangeConflict
from cloud_service.ingest.tally import WITHDRAWN, Rejection, count_rejected
from cloud_service.store import HeldRow, LedgerRow, SegmentRow, UploadRow
from models.fingerprints import UInt64Array
from models.segment import SegmentKind

Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class StoredRange:
    """One run of pages as the lake holds it: files and their digests, digest of the segment it came in, rows."""

    gateway_id: str
    epoch: str
    first_seq: int
    last_seq: int
    digest: str
    observations: int
    results: int
    newest_time: datetime | None
    oldest_time: datetime | None = None
    observations_sha256: str = ""
    results_sha256: str = ""
    repeats: int = 0


def missing_ranges(held: Iterable[Range], first: int, last: int) -> list[Range]:
    """Return what of ``first..last`` no range of *held* covers, in order."""
    missing = []
    for start, end in sorted(held):
        if start > first:
            missing.append((first, min(start - 1, last)))
        first = max(first, end + 1)
        if first > last:
            return missing
    return [*missing, (first, last)]


def held_ranges(session: Session, gateway_id: str, epoch: str) -> list[Range]:
    """Return what is held of *gateway_id* and *epoch*, joined where it touches, in order."""
    query = select(HeldRow.first_seq, HeldRow.last_seq).where(HeldRow.gateway_id == gateway_id, HeldRow.epoch == epoch)
    return [(first, last) for first, last in session.execute(query.order_by(HeldRow.first_seq))]


def stored_ranges(session: Session, gateway_id: str, epoch: str) -> set[Range]:
    """Return every range of *gateway_id* and *epoch* as it was stored, each with files of its own."""
    columns = (LedgerRow.first_seq, LedgerRow.last_seq)
    query = select(*columns).where(LedgerRow.gateway_id == gateway_id, LedgerRow.epoch == epoch)
    return {(first, last) for first, last in session.execute(query)}


def newest_source_time(session: Session, now: datetime) -> datetime:
    """Return the newest source time in the lake: the plant's own present. Never later than *now*, its default."""
    newest = session.scalar(select(func.max(LedgerRow.newest_time)).where(LedgerRow.newest_time <= now))
    return now if newest is None else newest


def overlapping_rows(session: Session, gateway_id: str, epoch: str, first: int, last: int) -> Sequence[LedgerRow]:
    """Return the ledger's rows that share pages with ``first..last``."""
    query = select(LedgerRow).where(LedgerRow.gateway_id == gateway_id, LedgerRow.epoch == epoch)
    return session.scalars(query.where(LedgerRow.last_seq >= first, LedgerRow.first_seq <= last)).all()


def with_content(session: Session, rows: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Return those of *rows* that did not come as a tombstone, whose pages have lost their content."""
    lost = select(SegmentRow.upload_id).where(SegmentRow.kind == SegmentKind.TOMBSTONE.value)
    tombstones = set(session.scalars(lost.where(SegmentRow.upload_id.in_({row.upload_id for row in rows}))))
    return [row for row in rows if row.upload_id not in tombstones]


def check_same_pages(rows: Iterable[LedgerRow], first: int, fingerprints: UInt64Array) -> None:
    """Raise RangeConflict where a held page of *rows* differs from *fingerprints*, whose first page is *first*."""
    last = first + len(fingerprints) - 1
    for row in rows:
        start, end = max(first, row.first_seq), min(last, row.last_seq)
        held = np.frombuffer(row.fingerprints, "<u8")[start - row.first_seq : end - row.first_seq + 1]
        differing = np.flatnonzero(held != fingerprints[start - first : end - first + 1])
        if differing.size:
            raise RangeConflict(
                f"gateway {row.gateway_id} epoch {row.epoch}: page {start + int(differing[0])} is held with other "
                "content; this gateway's journal was cloned or restored from a backup. Nothing of the segment is stored"
            )


def record_range(
    session: Session,
    stored: StoredRange,
    fingerprints: UInt64Array,
    remainders: UInt64Array,
    *,
    upload_id: int,
    received_at: datetime,
) -> None:
    """Enter *stored* with its pages' *fingerprints* and *remainders* in the ledger."""
    session.add(
        LedgerRow(
            **{name: getattr(stored, name) for name in stored.__dataclass_fields__},
            received_at=received_at,
            upload_id=upload_id,
            fingerprints=fingerprints.astype("<u8").tobytes(),
            remainders=remainders.astype("<u8").tobytes() if remainders.any() else b"",
        )
    )
    _join_held(session, stored)


def withdraw(session: Session, upload_ids: Collection[int]) -> list[Range]:
    """Take all that came with *upload_ids* out of the ledger, so that it is missing, and return the ranges.

    Whole uploads go, never parts: what a segment said of itself holds for all of its pages or for none.
    """
    rows = session.scalars(select(LedgerRow).where(LedgerRow.upload_id.in_(upload_ids))).all()
    session.execute(delete(SegmentRow).where(SegmentRow.upload_id.in_(upload_ids)))
    for row in rows:
        session.delete(row)
    session.flush()
    for gateway_id, epoch in {(row.gateway_id, row.epoch) for row in rows}:
        hold_anew(session, gateway_id, epoch)
    for upload in session.scalars(select(UploadRow).where(UploadRow.upload_id.in_(upload_ids))):
        upload.outcome = WITHDRAWN
        gone = Rejection(gateway_id=upload.gateway_id, reason=WITHDRAWN, field="", detail=upload.detail)
        count_rejected(session, gone)
    return [(row.first_seq, row.last_seq) for row in rows]


def hold_anew(session: Session, gateway_id: str, epoch: str) -> None:
    """Tell *gateway_id* from now on that of *epoch* is held what the ledger's ranges say."""
    session.execute(delete(HeldRow).where(HeldRow.gateway_id == gateway_id, HeldRow.epoch == epoch))
    for first, last in joined(stored_ranges(session, gateway_id, epoch)):
        session.add(HeldRow(gateway_id=gateway_id, epoch=epoch, first_seq=first, last_seq=last))


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Return *ranges*, which do not overlap, joined where they touch, in order."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and found[-1][1] + 1 == first:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


def _join_held(session: Session, stored: StoredRange) -> None:
    touching = (
        HeldRow.gateway_id == stored.gateway_id,
        HeldRow.epoch == stored.epoch,
        HeldRow.last_seq >= stored.first_seq - 1,
        HeldRow.first_seq <= stored.last_seq + 1,
    )
    ranges = [(stored.first_seq, stored.last_seq)]
    ranges += [
        (first, last) for first, last in session.execute(select(HeldRow.first_seq, HeldRow.last_seq).where(*touching))
    ]
    session.execute(delete(HeldRow).where(*touching))
    first, last = min(first for first, _ in ranges), max(last for _, last in ranges)
    session.add(HeldRow(gateway_id=stored.gateway_id, epoch=stored.epoch, first_seq=first, last_seq=last))
    session.flush()
