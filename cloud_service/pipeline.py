"""The cloud's data path, top to bottom: a segment comes in, and its gateway is told what is held now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from cloud_service.config import IngestConfig
from cloud_service.errors import IngestError, Quarantined
from cloud_service.fleet.assets import take_over
from cloud_service.fleet.gateways import check_entitled
from cloud_service.ingest import journals, ledger
from cloud_service.ingest.admission import HEAD_BYTES, Incoming, MemoryBudget, decoding_memory
from cloud_service.ingest.chain import check_chain, enter_segment, is_placed
from cloud_service.ingest.ledger import Range, StoredRange
from cloud_service.ingest.quarantine import Quarantine
from cloud_service.ingest.tally import Rejection, Tally, count_received, uncount_rejected
from cloud_service.ingest.upload import Claim, Pace, open_segment, receive
from cloud_service.lake.files import count_results, lake_lock, remove_strays, write_range
from cloud_service.pki import Identity
from cloud_service.requests import supplement
from cloud_service.store import Store, UploadRow
from models.fingerprints import UInt64Array, page_fingerprints
from models.records import Int64Array, Results, from_ns
from models.segment import Segment, SegmentKind

log = structlog.get_logger()

# Decoding and storing; who only asks, or is refused, does not wait behind them.
_WORKERS = 4
_MIB = 2**20


class Intake:
    """Takes segments in: each page once, whoever sends it how often."""

    def __init__(self, store: Store, lake: Path, config: IngestConfig) -> None:
        self.store = store
        self.lake = lake
        self.config = config
        self.quarantine = Quarantine(
            folder=lake.parent / "quarantine", store=store, limit=int(config.quarantine_mib * _MIB)
        )
        self._incoming = Incoming(lake.parent / "incoming", config.incoming_mib * _MIB)
        self._memory = MemoryBudget(config.memory_mib * _MIB)
        self._pace = Pace(idle_s=config.idle_deadline_s, bytes_per_s=config.minimal_rate_kib_s * 1024)
        self._workers = ThreadPoolExecutor(_WORKERS, "intake")
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._swept: set[tuple[str, str]] = set()
        self._tally = Tally(store)

    async def take_in(self, claim: Claim, body: AsyncIterator[bytes]) -> list[Range]:
        """Carry one upload into lake, ledger and fleet; return what is held of its epoch when all of it is durable.

        Raises:
            IngestError: If it is not taken; nothing of it is in lake or ledger then.
        """
        work = asyncio.get_running_loop().run_in_executor
        with self._incoming.admit(claim.gateway_id, claim.size) as file:  # so many bodies on their way, no more
            await receive(body, claim, self._pace, file)  # receive
            file.seek(0)
            start = file.read(HEAD_BYTES)
            async with self._memory.hold(decoding_memory(start, claim.size)):  # so many in memory, no more
                data = start + file.read()
                segment = await work(self._workers, open_segment, data, claim)  # decode
                async with self._turn(segment):
                    try:
                        return await work(self._workers, self.store_segment, segment, claim.digest)  # store, record
                    except Quarantined as error:
                        await work(self._workers, self.quarantine.keep, claim, data, error)
                        raise

    def store_segment(self, segment: Segment, digest: str, *, refused_as: str = "") -> list[Range]:
        """Store the pages of *segment* that are not held yet; return what is held now. One at a time per epoch.

        With *refused_as* it was counted as rejected for that reason, and waits until nobody else stores.

        Raises:
            RangeConflict: If a page that is held differs.
            CloneRefused: If a page is new and its journal was superseded.
            ChainBroken: If it does not fit its neighbours.
        """
        journal = (segment.gateway_id, segment.epoch)
        with lake_lock(self.lake, alone=bool(refused_as)):
            missing = self._missing(segment)
            if missing:
                with self.store.reading() as session:
                    segment, repeats = supplement.without_repeats(session, self.lake, segment)
            new = [_cut(segment, pages, digest, repeats) for pages in missing]
            try:
                stored = [  # store: the files first, durably,
                    write_range(self.lake, part, segment.observations.take(rows), segment.seq[rows], results)
                    for part, rows, results in new
                ]
                held = self._record(segment, stored, refused_as)  # then the row that makes them count
            except BaseException:
                self._swept.discard(journal)  # files without their row are removed before the next are written
                raise
        log.info(
            "segment stored" if new else "segment was held already",
            gateway_id=segment.gateway_id,
            pages=[segment.first_seq, segment.last_seq],
            observations=sum(part.observations for part in stored),
        )
        return held

    async def reject(self, identity: Identity, error: IngestError) -> None:
        """Count an upload of *identity* that was not taken; it is counted, durably, on return."""
        await self._tally.rejected(Rejection.of(identity.gateway_id, error))

    def check_entitled(self, identity: Identity) -> None:
        """Raise NotEntitled unless *identity* may upload."""
        with self.store.reading() as session:
            check_entitled(session, identity)

    def held(self, gateway_id: str, epoch: str) -> list[Range]:
        """Return what is held of *gateway_id* and *epoch*."""
        with self.store.reading() as session:
            return ledger.held_ranges(session, gateway_id, epoch)

    def _turn(self, segment: Segment) -> asyncio.Lock:
        """Return the lock of the segment's journal: who waits for it takes no thread."""
        return self._turns.setdefault((segment.gateway_id, segment.epoch), asyncio.Lock())

    def _missing(self, segment: Segment) -> list[Range]:
        """Return which pages of *segment* are new, when it may bring any."""
        journal = (segment.gateway_id, segment.epoch)
        with self.store.reading() as session:
            if journal not in self._swept:
                self._sweep(session, journal)
            rows = ledger.overlapping_rows(session, *journal, segment.first_seq, segment.last_seq)
            is_supplement = supplement.is_request(session, *journal)
            if rows and segment.kind is not SegmentKind.TOMBSTONE and not is_supplement:
                kept = ledger.with_content(session, rows)
                ledger.check_same_pages(kept, segment.first_seq, page_fingerprints(segment))
            held = [(row.first_seq, row.last_seq) for row in rows]
            missing = ledger.missing_ranges(held, segment.first_seq, segment.last_seq)
            if missing:
                journals.check_not_superseded(session, *journal)
            if missing or not is_placed(session, segment):
                check_chain(session, segment)
        return missing

    def _sweep(self, session: Session, journal: tuple[str, str]) -> None:
        """Remove what an interrupted upload of *journal* left: files whose range the ledger does not name."""
        strays = remove_strays(self.lake, *journal, ledger.stored_ranges(session, *journal))
        if strays:
            log.info("files of interrupted uploads removed", gateway_id=journal[0], files=len(strays))
        self._swept.add(journal)

    def _nothing_new(self, segment: Segment) -> list[Range]:
        """Return what is held; a segment all of whose pages came ahead of it still gets its place in the chain."""
        with self.store.reading() as session:
            known = is_placed(session, segment)
        if not known:
            with self.store.writing() as session:
                enter_segment(session, segment, None)
        return self.held(segment.gateway_id, segment.epoch)

    def _record(self, segment: Segment, new: list[StoredRange], refused_as: str) -> list[Range]:
        """Enter *new* in the ledger, with all that its results say of the fleet, in one transaction."""
        journal = (segment.gateway_id, segment.epoch)
        if not new:
            return self._nothing_new(segment)
        fingerprints = page_fingerprints(segment)
        now = datetime.now(UTC)
        with self.store.writing() as session:
            journals.enter(session, *journal, now, is_request=supplement.is_request(session, *journal))
            if refused_as:
                uncount_rejected(session, segment.gateway_id, refused_as)
            else:
                count_received(session, segment.gateway_id)
            upload = _upload(segment, now)
            session.add(upload)
            session.flush()
            enter_segment(session, segment, upload.upload_id)
            for stored in new:
                pages, remainders = (_pages(column, segment, stored) for column in (fingerprints, segment.remainders))
                ledger.record_range(session, stored, pages, remainders, upload_id=upload.upload_id, received_at=now)
                take_over(session, segment.gateway_id, (content for _, content in _results(segment, stored)))
            supplement.taken_in(session, segment, new)
            return ledger.held_ranges(session, *journal)


def _cut(
    segment: Segment, pages: Range, digest: str, repeats: Int64Array
) -> tuple[StoredRange, NDArray[np.intp], list[tuple[int, Results]]]:
    """Return *pages* of *segment* as a range to store, which rows belong to it, and which results."""
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
        oldest_time=from_ns(int(segment.observations.source_time[rows].min())) if rows.size else None,
        repeats=int(repeats[pages[0] - segment.first_seq : pages[1] - segment.first_seq + 1].sum()),
    )
    return stored, rows, results


def _results(segment: Segment, stored: StoredRange) -> list[tuple[int, Results]]:
    return [(seq, content) for seq, content in segment.results if stored.first_seq <= seq <= stored.last_seq]


def _pages(column: UInt64Array, segment: Segment, stored: StoredRange) -> UInt64Array:
    return column[stored.first_seq - segment.first_seq : stored.last_seq - segment.first_seq + 1]


def _upload(segment: Segment, now: datetime) -> UploadRow:
    return UploadRow(
        gateway_id=segment.gateway_id,
        received_at=now,
        outcome="stored",
        reason="",
        detail=f"{segment.epoch} {segment.first_seq}-{segment.last_seq}",
    )
