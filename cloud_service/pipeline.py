"""The cloud's data path, top to bottom: a segment comes in, and its gateway is told what is held now."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from cloud_service.config import IngestConfig
from cloud_service.errors import IngestError
from cloud_service.fleet.assets import take_over
from cloud_service.fleet.gateways import check_entitled
from cloud_service.ingest import ledger
from cloud_service.ingest.fingerprints import UInt64Array, page_fingerprints
from cloud_service.ingest.ledger import Range, StoredRange
from cloud_service.ingest.upload import Claim, open_segment, receive
from cloud_service.lake.files import count_results, remove_strays, write_range
from cloud_service.pki import Identity
from cloud_service.store import Store, UploadRow
from models.records import Results, from_ns
from models.segment import Segment

log = structlog.get_logger()


class Intake:
    """Takes segments in: each page once, whoever sends it how often."""

    def __init__(self, store: Store, lake: Path, config: IngestConfig) -> None:
        self.store = store
        self.lake = lake
        self.config = config
        self._room = asyncio.Semaphore(config.concurrent_uploads)
        self._turns: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)
        self._swept: set[tuple[str, str]] = set()

    async def take_in(self, claim: Claim, body: AsyncIterator[bytes]) -> list[Range]:
        """Carry one upload into lake, ledger and fleet; return what is held of its epoch when all of it is durable.

        Raises:
            IngestError: If it is not taken; nothing of it is stored then.
        """
        async with self._room:  # so many bodies in memory, no more
            data = await receive(body, claim, self.config.upload_deadline_s)  # receive
            segment = await asyncio.to_thread(open_segment, data, claim)  # decode
            return await asyncio.to_thread(self.store_segment, segment, claim.digest)  # store, record, answer

    def store_segment(self, segment: Segment, digest: str) -> list[Range]:
        """Store the pages of *segment* that are not held yet; return what is held now. One at a time per epoch."""
        journal = (segment.gateway_id, segment.epoch)
        with self._turns[journal]:
            new = [_cut(segment, pages, digest) for pages in self._missing(segment)]
            try:
                for stored, rows in new:  # store: the files first, durably,
                    results = _results(segment, stored)
                    write_range(self.lake, stored, segment.observations.take(rows), segment.seq[rows], results)
                held = self._record(segment, [stored for stored, _ in new])  # then the row that makes them count
            except BaseException:
                self._swept.discard(journal)  # files without their row are removed before the next are written
                raise
        log.info(
            "segment stored" if new else "segment was held already",
            gateway_id=segment.gateway_id,
            pages=[segment.first_seq, segment.last_seq],
            observations=sum(stored.observations for stored, _ in new),
        )
        return held

    def reject(self, identity: Identity, error: IngestError) -> None:
        """Count an upload of *identity* that was not taken."""
        log.warning("upload rejected", gateway_id=identity.gateway_id, reason=error.reason, detail=str(error))
        with self.store.writing() as session:
            session.add(_upload(identity.gateway_id, "rejected", error.reason, str(error)))

    def check_entitled(self, identity: Identity) -> None:
        """Raise NotEntitled unless *identity* may upload."""
        with self.store.reading() as session:
            check_entitled(session, identity)

    def held(self, gateway_id: str, epoch: str) -> list[Range]:
        """Return what is held of *gateway_id* and *epoch*."""
        with self.store.reading() as session:
            return ledger.held_ranges(session, gateway_id, epoch)

    def _missing(self, segment: Segment) -> list[Range]:
        """Return which pages of *segment* are new; raise RangeConflict when one that is held differs."""
        journal = (segment.gateway_id, segment.epoch)
        with self.store.reading() as session:
            if journal not in self._swept:
                self._sweep(session, journal)
            rows = ledger.overlapping_rows(session, *journal, segment.first_seq, segment.last_seq)
            if rows:
                ledger.check_same_pages(rows, segment.first_seq, page_fingerprints(segment))
            held = [(row.first_seq, row.last_seq) for row in rows]
        return ledger.missing_ranges(held, segment.first_seq, segment.last_seq)

    def _sweep(self, session: Session, journal: tuple[str, str]) -> None:
        """Remove what an interrupted upload of *journal* left: files whose range the ledger does not name."""
        strays = remove_strays(self.lake, *journal, ledger.stored_ranges(session, *journal))
        if strays:
            log.info("files of interrupted uploads removed", gateway_id=journal[0], files=len(strays))
        self._swept.add(journal)

    def _record(self, segment: Segment, new: list[StoredRange]) -> list[Range]:
        """Enter *new* in the ledger, with all that its results say of the fleet, in one transaction."""
        if not new:
            return self.held(segment.gateway_id, segment.epoch)
        fingerprints = page_fingerprints(segment)
        with self.store.writing() as session:
            upload = _upload(
                segment.gateway_id, "stored", "", f"{segment.epoch} {segment.first_seq}-{segment.last_seq}"
            )
            session.add(upload)
            session.flush()
            for stored in new:
                pages = _pages(fingerprints, segment, stored)
                ledger.record_range(session, stored, pages, upload_id=upload.upload_id, received_at=upload.received_at)
                take_over(session, segment.gateway_id, (content for _, content in _results(segment, stored)))
            return ledger.held_ranges(session, segment.gateway_id, segment.epoch)


def _cut(segment: Segment, pages: Range, digest: str) -> tuple[StoredRange, NDArray[np.intp]]:
    """Return *pages* of *segment* as a range to store, and which rows belong to it."""
    rows = np.flatnonzero((segment.seq >= pages[0]) & (segment.seq <= pages[1]))
    results = [(seq, content) for seq, content in segment.results if pages[0] <= seq <= pages[1]]
    stored = StoredRange(
        gateway_id=segment.gateway_id,
        epoch=segment.epoch,
        first_seq=pages[0],
        last_seq=pages[1],
        digest=digest,
        observations=len(rows),
        results=count_results(results),
        newest_time=from_ns(int(segment.observations.source_time[rows].max())) if rows.size else None,
    )
    return stored, rows


def _results(segment: Segment, stored: StoredRange) -> list[tuple[int, Results]]:
    return [(seq, content) for seq, content in segment.results if stored.first_seq <= seq <= stored.last_seq]


def _pages(fingerprints: UInt64Array, segment: Segment, stored: StoredRange) -> UInt64Array:
    return fingerprints[stored.first_seq - segment.first_seq : stored.last_seq - segment.first_seq + 1]


def _upload(gateway_id: str, outcome: str, reason: str, detail: str) -> UploadRow:
    now = datetime.now(UTC)
    return UploadRow(gateway_id=gateway_id, received_at=now, outcome=outcome, reason=reason, detail=detail)
