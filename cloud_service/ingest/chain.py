"""The chain of segments: each names the digest of the one before it, so that none can be changed or left out unseen.

Neighbours may come in any order. Whichever comes second is checked against the first, on both of its sides. A segment
that names none (the first of a journal, one of the schema before chains, a page sent ahead) is not checked there.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud_service.errors import ChainBroken
from cloud_service.store import SegmentRow
from models.segment import Segment, SegmentKind


def check_chain(session: Session, segment: Segment) -> None:
    """Raise ChainBroken when *segment* does not fit one of its neighbours in the ledger."""
    if segment.kind is SegmentKind.EXPRESS:
        return
    rows = select(SegmentRow).where(SegmentRow.gateway_id == segment.gateway_id, SegmentRow.epoch == segment.epoch)
    before = session.scalars(rows.where(SegmentRow.last_seq == segment.first_seq - 1)).all()
    digests = {row.chain_digest for row in before if row.chain_digest}
    if segment.previous and digests and segment.previous not in digests:
        raise _broken(segment, segment.first_seq - 1, "names another segment as the one before it than is held")
    after = session.scalars(rows.where(SegmentRow.first_seq == segment.last_seq + 1)).all()
    named = {row.previous for row in after if row.previous}
    if segment.chain_digest and named and segment.chain_digest not in named:
        raise _broken(segment, segment.last_seq + 1, "is not the one that the next one, which is held, names")


def is_placed(session: Session, segment: Segment) -> bool:
    """Return whether the pages of *segment* have a place in the chain already, at least some; or need none."""
    if segment.kind is SegmentKind.EXPRESS:
        return True
    rows = select(SegmentRow.first_seq).where(SegmentRow.gateway_id == segment.gateway_id)
    rows = rows.where(SegmentRow.epoch == segment.epoch, SegmentRow.last_seq >= segment.first_seq)
    return session.scalar(rows.where(SegmentRow.first_seq <= segment.last_seq).limit(1)) is not None


def enter_segment(session: Session, segment: Segment, upload_id: int | None) -> None:
    """Write down what *segment* says of itself, once; without an upload it brought no page, and counts nothing."""
    key = (segment.gateway_id, segment.epoch, segment.first_seq, segment.last_seq)
    if segment.kind is SegmentKind.EXPRESS or session.get(SegmentRow, key) is not None:
        return
    new = upload_id is not None
    session.add(
        SegmentRow(
            gateway_id=segment.gateway_id,
            epoch=segment.epoch,
            first_seq=segment.first_seq,
            last_seq=segment.last_seq,
            kind=segment.kind.value,
            previous=segment.previous,
            chain_digest=segment.chain_digest,
            withheld=sum(part.observations for part in segment.withheld) if new else 0,
            expired=segment.expired.observations if new and segment.expired else 0,
            expired_reason=segment.expired.reason if segment.expired else "",
            upload_id=upload_id,
        )
    )


def _broken(segment: Segment, neighbour: int, how: str) -> ChainBroken:
    return ChainBroken(
        f"gateway {segment.gateway_id} epoch {segment.epoch}: segment {segment.first_seq}-{segment.last_seq} {how} "
        f"(page {neighbour}): the journal was changed, or restored from a backup. Nothing of it is stored"
    )
