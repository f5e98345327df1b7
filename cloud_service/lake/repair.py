"""Mends what `verify` found: what is damaged is set aside, and missing in the ledger from then on.

A gateway that asks what is held learns what is missing, and sends it again. Nothing is deleted that anyone could need:
damaged files go to a folder of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from cloud_service.errors import IngestError
from cloud_service.ingest import journals, ledger, quarantine
from cloud_service.ingest.quarantine import Quarantine
from cloud_service.ingest.upload import Claim, open_segment
from cloud_service.lake.files import OBSERVATIONS, RESULTS, lake_lock, range_path, sync_folder
from cloud_service.lake.verify import SENT_AGAIN, Finding, Wrong
from cloud_service.pipeline import Intake
from cloud_service.store import LedgerRow, Store


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was mended, or would be: files removed or set aside, ranges that are missing now."""

    removed: list[Path]
    set_aside: list[Path]
    withdrawn: list[tuple[str, str, int, int]]


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What came of the segments in quarantine: ranges stored now, and those that stay, each with the reason."""

    stored: list[tuple[int, int]]
    refused: dict[str, str]


def plan(store: Store, lake: Path, findings: Sequence[Finding]) -> Repaired:
    """Return what `repair` would do about *findings*."""
    uploads = _uploads(findings)
    with store.reading() as session:
        rows = session.scalars(select(LedgerRow).where(LedgerRow.upload_id.in_(uploads))).all()
    files = [path for row in rows for path in _files(lake, row) if path.exists()]
    withdrawn = sorted((row.gateway_id, row.epoch, row.first_seq, row.last_seq) for row in rows)
    strays = [finding.path for finding in findings if finding.wrong is Wrong.STRAY and finding.path is not None]
    return Repaired(removed=strays, set_aside=sorted(files), withdrawn=withdrawn)


def repair(store: Store, lake: Path, kept: Quarantine, findings: Sequence[Finding]) -> Repaired:
    """Mend *findings* and return what was done. Uploads wait meanwhile."""
    with lake_lock(lake, alone=True):
        planned = plan(store, lake, findings)
        # Files first: should the process end here, their ranges are found to be missing the next time.
        for path in planned.set_aside:
            _set_aside(lake, path)
        for path in planned.removed:
            path.unlink(missing_ok=True)
        with store.writing() as session:
            ledger.withdraw(session, _uploads(findings))
            for finding in findings:
                if finding.wrong is Wrong.HELD:
                    ledger.hold_anew(session, finding.gateway_id, finding.epoch)
                if finding.wrong is Wrong.QUARANTINE and finding.pages is not None:
                    rows = quarantine.rows(session, finding.gateway_id, finding.epoch)
                    gone = [row for row in rows if kept.path(row.gateway_id, row.epoch, row.digest) == finding.path]
                    kept.discard(session, gone)
    return planned


def accept(intake: Intake, gateway_id: str, epoch: str) -> Accepted:
    """Take *epoch* for legitimate from now on, and store what of it is in quarantine, in the order of its pages.

    Raises:
        LedgerError: If the ledger has no such journal.
    """
    with intake.store.writing() as session:
        journals.accept(session, gateway_id, epoch)
        kept = quarantine.rows(session, gateway_id, epoch)
    stored, refused = [], {}
    for row in kept:
        pages = (row.first_seq, row.last_seq)
        claim = Claim(
            gateway_id=gateway_id, epoch=epoch, first_seq=row.first_seq, last_seq=row.last_seq,
            digest=row.digest, size=row.size,
        )  # fmt: skip
        try:
            intake.store_segment(open_segment(intake.quarantine.read(row), claim), row.digest, refused_as=row.reason)
        except (IngestError, OSError) as error:
            refused[f"{row.first_seq}-{row.last_seq}"] = str(error)
            continue
        with intake.store.writing() as session:
            intake.quarantine.discard(session, [row])
        stored.append(pages)
    return Accepted(stored=stored, refused=refused)


def discard(store: Store, kept: Quarantine, gateway_id: str, epoch: str) -> int:
    """Remove what of *epoch* is in quarantine and return how many segments that were."""
    with store.writing() as session:
        rows = quarantine.rows(session, gateway_id, epoch)
        kept.discard(session, rows)
        return len(rows)


def _uploads(findings: Sequence[Finding]) -> set[int]:
    return {f.upload_id for f in findings if f.wrong in SENT_AGAIN and f.upload_id is not None}


def _files(lake: Path, row: LedgerRow) -> list[Path]:
    pages = (row.first_seq, row.last_seq)
    return [range_path(lake, kind, row.gateway_id, row.epoch, pages) for kind in (OBSERVATIONS, RESULTS)]


def _set_aside(lake: Path, path: Path) -> None:
    target = lake.parent / "damaged" / path.relative_to(lake)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    sync_folder(target.parent)
    sync_folder(path.parent)
