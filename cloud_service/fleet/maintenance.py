"""What maintenance found: failures with their mode and time, the labels of training."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from cloud_service.errors import RecordRejected
from cloud_service.store import MaintenanceRow


class MaintenanceRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A failure of an asset, or a worn part found in time; times are aware.

    ``in_service_again`` is when it ran again, repaired; None while it did not, or when nobody wrote it down.
    """

    asset_id: str
    failed_at: datetime
    failure_mode: str
    in_service_again: datetime | None = None
    note: str = ""


def add_record(session: Session, record: MaintenanceRecord) -> None:
    """Store *record*; one of the same asset and time is replaced, so that adding twice changes nothing.

    Raises:
        RecordRejected: If a name is missing, a time has no zone, or the times are the wrong way round.
    """
    for name in ("asset_id", "failure_mode"):
        if not getattr(record, name).strip():
            raise RecordRejected(f"maintenance record of {record.failed_at} has no {name}; it is not stored")
    moments = [record.failed_at, *([record.in_service_again] if record.in_service_again else [])]
    if any(moment.tzinfo is None for moment in moments):
        raise RecordRejected(f"maintenance record of {record.asset_id} has a time without a zone; it is not stored")
    if moments[-1] < moments[0]:
        raise RecordRejected(f"{record.asset_id} was in service again before it failed; the record is not stored")
    session.merge(MaintenanceRow(**msgspec.structs.asdict(record)))


def records(session: Session, asset_ids: Iterable[str] | None = None) -> list[MaintenanceRecord]:
    """Return the records of *asset_ids*, or all, by asset and time."""
    query = select(MaintenanceRow).order_by(MaintenanceRow.asset_id, MaintenanceRow.failed_at)
    if asset_ids is not None:
        query = query.where(MaintenanceRow.asset_id.in_(list(asset_ids)))
    return [
        MaintenanceRecord(
            asset_id=row.asset_id,
            failed_at=row.failed_at,
            failure_mode=row.failure_mode,
            in_service_again=row.in_service_again,
            note=row.note,
        )
        for row in session.scalars(query)
    ]


def read_records(path: Path) -> list[MaintenanceRecord]:
    """Return the records in *path*, a CSV file with the record's fields as its first line.

    Raises:
        RecordRejected: If a line does not hold a record; it names file and line, and nothing of the file is used.
    """
    found = []
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):  # noqa: B007 - named in the refusal
                found.append(msgspec.convert({key: text for key, text in row.items() if text}, MaintenanceRecord))
    except UnicodeDecodeError as error:
        raise RecordRejected(f"{path}: is no UTF-8 text ({error}); nothing of the file is stored") from error
    except (msgspec.ValidationError, csv.Error) as error:
        raise RecordRejected(f"{path} line {line}: {error}; nothing of the file is stored") from error
    return found
