"""How far requests are, and waiting until they have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud_service.ingest.ledger import held_ranges
from cloud_service.requests.tables import RequestRow, RequestState
from cloud_service.store import LedgerRow, Store

_LOOK_S = 0.5


def parts_held(session: Session, row: RequestRow) -> int:
    """Return how many parts of *row* the lake holds."""
    return sum(last - first + 1 for first, last in held_ranges(session, row.gateway_id, row.request_id))


def empty_parts(session: Session, row: RequestRow) -> int:
    """Return how many parts of *row* came without a single observation: the fingerprint of such a page is 0."""
    pages = select(LedgerRow.fingerprints).where(LedgerRow.gateway_id == row.gateway_id)
    found = session.scalars(pages.where(LedgerRow.epoch == row.request_id))
    return sum(int((np.frombuffer(fingerprints, "<u8") == 0).sum()) for fingerprints in found)


def wait_for(
    store: Store, request_ids: Collection[str], tell: Callable[[int, int], None] = lambda _done, _of: None
) -> list[RequestRow]:
    """Return the requests *request_ids* once none of them is open; *tell* how many parts of all have come."""
    while True:
        with store.reading() as session:
            rows = session.scalars(select(RequestRow).where(RequestRow.request_id.in_(request_ids))).all()
            waiting = [row for row in rows if row.state == RequestState.OPEN]
            done = sum(parts_held(session, row) if row in waiting else row.parts for row in rows)
        tell(done, sum(row.parts for row in rows))
        if not waiting:
            return list(rows)
        time.sleep(_LOOK_S)
