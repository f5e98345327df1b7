"""Whether the lake holds what the ledger says, file by file and page by page, and the ledger agrees with itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.ingest import ledger
from cloud_service.ingest.ledger import Range
from cloud_service.ingest.quarantine import Quarantine
from cloud_service.ingest.quarantine import rows as quarantine_rows
from cloud_service.lake.files import FIELDS, OBSERVATIONS, RESULTS, file_digest, lake_files, lake_lock, range_path
from cloud_service.lake.lake import observations_of
from cloud_service.store import HeldRow, LedgerRow, SegmentRow, Store
from models.fingerprints import UInt64Array, results_fingerprint, row_sums

Progress = Callable[[int], None]
_BATCH = 100
# A page of results that holds none has a fingerprint, and no row.
_NO_RESULTS = results_fingerprint(dict.fromkeys(FIELDS.values(), ()))


class Wrong(StrEnum):
    """What can be wrong: with a file, a range of the ledger, or what is kept aside."""

    MISSING = "missing"
    DAMAGED = "damaged"
    FINGERPRINT = "fingerprint"
    STRAY = "stray"
    HELD = "held"
    CHAIN = "chain"
    QUARANTINE = "quarantine"


# What a gateway can mend by sending the pages again.
SENT_AGAIN = frozenset({Wrong.MISSING, Wrong.DAMAGED})


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong; ``upload_id`` is of the range concerned, ``path`` of the file, where there is one."""

    wrong: Wrong
    gateway_id: str
    epoch: str
    pages: Range | None
    detail: str
    path: Path | None = None
    upload_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was looked at, and what is wrong with it."""

    ranges: int
    files: int
    observations: int
    findings: list[Finding]


def count_ranges(store: Store) -> int:
    """Return how many ranges `verify` will look at now."""
    with store.reading() as session:
        return session.scalar(select(func.count()).select_from(LedgerRow)) or 0


def verify(store: Store, lake: Path, quarantine: Quarantine, progress: Progress) -> Verified:
    """Look at everything; *progress* hears how many ranges were done since it heard last. Nothing is changed."""
    findings: list[Finding] = []
    ranges = files = observations = 0
    for rows in _batches(store):
        for row in rows:
            findings += _check_range(row, lake)
            ranges, observations = ranges + 1, observations + row.observations
            files += bool(row.observations) + bool(row.results)
        progress(len(rows))
    with lake_lock(lake, alone=True), store.reading() as session:
        findings += _strays(session, lake)
        findings += _held(session)
    with store.reading() as session:
        findings += _chain(session)
    findings += _quarantine(store, quarantine)
    return Verified(ranges=ranges, files=files, observations=observations, findings=findings)


def _batches(store: Store) -> Iterator[Sequence[LedgerRow]]:
    """Yield the ledger's rows, some at a time: each has a number for each of its pages."""
    after = ("", "", 0)
    key = (LedgerRow.gateway_id, LedgerRow.epoch, LedgerRow.first_seq)
    while True:
        with store.reading() as session:
            later = (
                (key[0] > after[0])
                | ((key[0] == after[0]) & (key[1] > after[1]))
                | ((key[0] == after[0]) & (key[1] == after[1]) & (key[2] > after[2]))
            )
            rows = session.scalars(select(LedgerRow).where(later).order_by(*key).limit(_BATCH)).all()
        if not rows:
            return
        yield rows
        after = (rows[-1].gateway_id, rows[-1].epoch, rows[-1].first_seq)


def _check_range(row: LedgerRow, lake: Path) -> Iterator[Finding]:
    pages = np.zeros(row.last_seq - row.first_seq + 1, np.uint64)
    if row.remainders:
        pages += np.frombuffer(row.remainders, "<u8")
    known = True
    for kind, count, digest, add in (
        (OBSERVATIONS, row.observations, row.observations_sha256, _add_observations),
        (RESULTS, row.results, row.results_sha256, _add_results),
    ):
        if not count:
            continue
        path = range_path(lake, kind, row.gateway_id, row.epoch, (row.first_seq, row.last_seq))
        wrong, detail = _check_file(path, digest, count, row, pages, add)
        if wrong is not None:
            yield _of_range(row, wrong, detail, path)
            return
        known = known and bool(digest)
    held = np.frombuffer(row.fingerprints, "<u8")
    differing = np.flatnonzero((pages != held) & (pages + _NO_RESULTS != held))
    if differing.size:
        # A file whose digest is right is as it was written; without a digest the pages alone tell.
        wrong = Wrong.FINGERPRINT if known else Wrong.DAMAGED
        page = row.first_seq + int(differing[0])
        yield _of_range(row, wrong, f"{differing.size} pages differ from the ledger, page {page} first", None)


def _check_file(
    path: Path, digest: str, count: int, row: LedgerRow, pages: UInt64Array, add: Callable[..., None]
) -> tuple[Wrong | None, str]:
    try:
        if digest and file_digest(path) != digest:
            return Wrong.DAMAGED, "the file does not have the SHA-256 it was written with"
        table = pq.ParquetFile(path).read()
        if table.num_rows != count:
            return Wrong.DAMAGED, f"the file has {table.num_rows} rows, the ledger {count}"
        add(table, row.first_seq, pages)
    except FileNotFoundError:
        return Wrong.MISSING, "the file is not there"
    except (OSError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
        return Wrong.DAMAGED, f"the file cannot be read ({error})"
    return None, ""


def _add_observations(table: pa.Table, first: int, pages: UInt64Array) -> None:
    pages += row_sums(observations_of(table), table["seq"].to_numpy() - first, len(pages))


def _add_results(table: pa.Table, first: int, pages: UInt64Array) -> None:
    by_page: defaultdict[int, dict[str, list[object]]] = defaultdict(lambda: {name: [] for name in FIELDS.values()})
    for row in table.select(["kind", "json", "seq"]).to_pylist():
        by_page[row["seq"]][FIELDS[row["kind"]]].append(msgspec.json.decode(row["json"]))
    for seq, fields in by_page.items():
        pages[seq - first] += results_fingerprint(fields)


def _strays(session: Session, lake: Path) -> Iterator[Finding]:
    expected = set()
    columns = (LedgerRow.gateway_id, LedgerRow.epoch, LedgerRow.first_seq, LedgerRow.last_seq)
    for gateway_id, epoch, first, last, observations, results in session.execute(
        select(*columns, LedgerRow.observations, LedgerRow.results)
    ):
        for kind, count in ((OBSERVATIONS, observations), (RESULTS, results)):
            if count:
                expected.add(range_path(lake, kind, gateway_id, epoch, (first, last)))
    for path in lake_files(lake):
        if path not in expected:
            gateway_id, epoch = path.parent.name.removeprefix("gateway="), path.name.partition("-")[0]
            yield Finding(
                wrong=Wrong.STRAY, gateway_id=gateway_id, epoch=epoch, pages=None, path=path,
                detail="no range of the ledger has this file",
            )  # fmt: skip


def _held(session: Session) -> Iterator[Finding]:
    """Compare what gateways are told with the ranges that are stored."""
    told: defaultdict[tuple[str, str], list[Range]] = defaultdict(list)
    for row in session.scalars(select(HeldRow).order_by(HeldRow.gateway_id, HeldRow.epoch, HeldRow.first_seq)):
        told[row.gateway_id, row.epoch].append((row.first_seq, row.last_seq))
    stored: defaultdict[tuple[str, str], list[Range]] = defaultdict(list)
    columns = (LedgerRow.gateway_id, LedgerRow.epoch, LedgerRow.first_seq, LedgerRow.last_seq)
    for gateway_id, epoch, first, last in session.execute(select(*columns).order_by(*columns[:3])):
        stored[gateway_id, epoch].append((first, last))
    for gateway_id, epoch in sorted({*told, *stored}):
        if told[gateway_id, epoch] != ledger.joined(stored[gateway_id, epoch]):
            yield Finding(
                wrong=Wrong.HELD, gateway_id=gateway_id, epoch=epoch, pages=None,
                detail="the gateway is told other ranges than are stored",
            )  # fmt: skip


def _chain(session: Session) -> Iterator[Finding]:
    """Look for neighbours that do not name each other."""
    order = (SegmentRow.gateway_id, SegmentRow.epoch, SegmentRow.first_seq)
    for earlier, later in pairwise(session.scalars(select(SegmentRow).order_by(*order))):
        ends = (earlier.gateway_id, earlier.epoch, earlier.last_seq + 1)
        if ends != (later.gateway_id, later.epoch, later.first_seq):
            continue
        if earlier.chain_digest and later.previous and earlier.chain_digest != later.previous:
            yield Finding(
                wrong=Wrong.CHAIN, gateway_id=later.gateway_id, epoch=later.epoch,
                pages=(later.first_seq, later.last_seq), detail="it names another segment as the one before it",
            )  # fmt: skip


def _quarantine(store: Store, quarantine: Quarantine) -> Iterator[Finding]:
    for path in quarantine.strays():
        yield Finding(
            wrong=Wrong.STRAY, gateway_id=path.parent.name.removeprefix("gateway="), epoch=path.name.partition("-")[0],
            pages=None, path=path, detail="no row of the quarantine has this file",
        )  # fmt: skip
    with store.reading() as session:
        for row in quarantine_rows(session):
            path = quarantine.path(row.gateway_id, row.epoch, row.digest)
            if not path.exists() or file_digest(path) != row.digest:
                yield Finding(
                    wrong=Wrong.QUARANTINE, gateway_id=row.gateway_id, epoch=row.epoch, path=path,
                    pages=(row.first_seq, row.last_seq), detail="the kept segment is gone or damaged",
                )  # fmt: skip


def _of_range(row: LedgerRow, wrong: Wrong, detail: str, path: Path | None) -> Finding:
    return Finding(
        wrong=wrong,
        gateway_id=row.gateway_id,
        epoch=row.epoch,
        pages=(row.first_seq, row.last_seq),
        detail=detail,
        path=path,
        upload_id=row.upload_id,
    )
