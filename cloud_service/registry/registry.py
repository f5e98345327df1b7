"""Versions of bundles: numbered without holes, archived by content, one live per asset class.

```
candidate ──► released ──► live ──► withdrawn
    └──► refused
```
A version is registered as candidate, released or refused (with the reasons of the quality gate). A roll-out makes a
released one live and the one before it withdrawn; a roll-back makes a withdrawn one live again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cloud_service.errors import RegistryError
from cloud_service.pki import write_public
from cloud_service.store import BundleRow, Store


class BundleStatus(StrEnum):
    """How far a version got."""

    CANDIDATE = "candidate"
    RELEASED = "released"
    LIVE = "live"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"


_NEXT: dict[BundleStatus, frozenset[BundleStatus]] = {
    BundleStatus.CANDIDATE: frozenset({BundleStatus.RELEASED, BundleStatus.REFUSED}),
    BundleStatus.RELEASED: frozenset({BundleStatus.LIVE, BundleStatus.WITHDRAWN, BundleStatus.REFUSED}),
    BundleStatus.LIVE: frozenset({BundleStatus.WITHDRAWN}),
    BundleStatus.WITHDRAWN: frozenset({BundleStatus.LIVE}),
    BundleStatus.REFUSED: frozenset(),
}


@dataclass(frozen=True, kw_only=True)
class BundleVersion:
    """One version of an asset class's models; ``archive`` is None where none was made."""

    asset_class: str
    version: int
    status: BundleStatus
    archive: Path | None
    archive_sha256: str
    metrics: dict[str, float]
    created_at: datetime
    reason: str


class Registry:
    """The table of versions and the folder of their archives."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self._store = store

    def next_version(self, asset_class: str) -> int:
        """Return the number the next version of *asset_class* gets; refused ones use theirs up."""
        with self._store.reading() as session:
            return _newest(session, asset_class) + 1

    def register(
        self,
        asset_class: str,
        version: int,
        *,
        archive: bytes | None,
        status: BundleStatus,
        metrics: Mapping[str, float],
        reason: str,
    ) -> BundleVersion:
        """Store a new version, archive first.

        Raises:
            RegistryError: If *version* is not the next one, *status* not one to begin with, or *archive* is missing
                where it could be asked for; only what is refused needs none.
        """
        if status in {BundleStatus.LIVE, BundleStatus.WITHDRAWN}:
            raise RegistryError(f"{asset_class} version {version} cannot begin as {status}; it is not registered")
        if archive is None and status != BundleStatus.REFUSED:
            raise RegistryError(f"{asset_class} version {version} has no archive; it is not registered as {status}")
        digest = self._keep(archive) if archive is not None else ""
        with self._store.writing() as session:
            if version != _newest(session, asset_class) + 1:
                raise RegistryError(f"{asset_class} version {version} is not the next one; it is not registered")
            row = BundleRow(
                asset_class=asset_class,
                version=version,
                status=status.value,
                archive_sha256=digest,
                metrics=msgspec.json.encode(dict(metrics)),
                created_at=datetime.now(UTC),
                reason=reason,
            )
            session.add(row)
            return self._version(row)

    def versions(self, asset_class: str | None = None) -> list[BundleVersion]:
        """Return all versions, of *asset_class* only when one is given, by class and version."""
        query = select(BundleRow).order_by(BundleRow.asset_class, BundleRow.version)
        if asset_class is not None:
            query = query.where(BundleRow.asset_class == asset_class)
        with self._store.reading() as session:
            return [self._version(row) for row in session.scalars(query)]

    def version(self, asset_class: str, version: int) -> BundleVersion:
        """Return *version* of *asset_class*, or raise RegistryError."""
        with self._store.reading() as session:
            return self._version(_row(session, asset_class, version))

    def live(self, asset_class: str) -> BundleVersion | None:
        """Return the live version of *asset_class*, or None before the first roll-out."""
        return self._newest_with(asset_class, BundleStatus.LIVE)

    def released(self, asset_class: str) -> BundleVersion | None:
        """Return the newest version of *asset_class* that waits to be rolled out."""
        return self._newest_with(asset_class, BundleStatus.RELEASED)

    def move(self, asset_class: str, version: int, status: BundleStatus, reason: str = "") -> BundleVersion:
        """Give *version* the next *status*. Going live withdraws the one that was.

        Raises:
            RegistryError: If there is no such version, or it cannot get there from where it is.
        """
        with self._store.writing() as session:
            row = _row(session, asset_class, version)
            if row.status == status:
                return self._version(row)
            if status not in _NEXT[BundleStatus(row.status)]:
                raise RegistryError(f"{asset_class} version {version} is {row.status} and cannot become {status}")
            if status == BundleStatus.LIVE:
                _withdraw_live(session, asset_class, f"version {version} went live")
            row.status, row.reason = status.value, reason or row.reason
            return self._version(row)

    def _newest_with(self, asset_class: str, status: BundleStatus) -> BundleVersion | None:
        query = select(BundleRow).where(BundleRow.asset_class == asset_class, BundleRow.status == status.value)
        with self._store.reading() as session:
            row = session.scalars(query.order_by(BundleRow.version.desc()).limit(1)).first()
            return None if row is None else self._version(row)

    def _keep(self, archive: bytes) -> str:
        digest = hashlib.sha256(archive).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._archive_path(digest)
        if not path.exists():
            write_public(path, archive)
        return digest

    def _archive_path(self, digest: str) -> Path:
        return self.folder / f"{digest}.tar"

    def _version(self, row: BundleRow) -> BundleVersion:
        return BundleVersion(
            asset_class=row.asset_class,
            version=row.version,
            status=BundleStatus(row.status),
            archive=self._archive_path(row.archive_sha256) if row.archive_sha256 else None,
            archive_sha256=row.archive_sha256,
            metrics=msgspec.json.decode(row.metrics, type=dict[str, float]),
            created_at=row.created_at,
            reason=row.reason,
        )


def _newest(session: Session, asset_class: str) -> int:
    return session.scalar(select(func.max(BundleRow.version)).where(BundleRow.asset_class == asset_class)) or 0


def _row(session: Session, asset_class: str, version: int) -> BundleRow:
    row = session.get(BundleRow, (asset_class, version))
    if row is None:
        raise RegistryError(f"{asset_class} has no version {version}")
    return row


def _withdraw_live(session: Session, asset_class: str, reason: str) -> None:
    query = select(BundleRow).where(BundleRow.asset_class == asset_class, BundleRow.status == BundleStatus.LIVE.value)
    for row in session.scalars(query):
        row.status, row.reason = BundleStatus.WITHDRAWN.value, reason
