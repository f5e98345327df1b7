"""The cloud service's tables, and how a transaction on them begins and ends.

SQLite with a write-ahead log that is synced at every commit: what a transaction wrote is durable when it returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    DateTime,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    event,
    text,
)
from sqlalchemy import create_engine as sqlalchemy_engine
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from cloud_service.migration import migrate

_BEGIN_OPTION = "wearsight_begin"


class UtcTime(TypeDecorator[datetime]):
    """An aware time, kept as UTC without a zone, which every database can compare."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return *value* as it is stored; a time without a zone is refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; it is not stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Return the stored *value* as an aware time."""
        return None if value is None else value.replace(tzinfo=UTC)


class Table(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {datetime: UtcTime, str: Text, int: BigInteger, bytes: LargeBinary}  # noqa: RUF012 - SQLAlchemy's way


class GatewayRow(Table):
    """A gateway that was given an identity; only the newest certificate counts."""

    __tablename__ = "gateways"

    gateway_id: Mapped[str] = mapped_column(primary_key=True)
    certificate_sha256: Mapped[str]
    enrolled_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class UploadRow(Table):
    """An upload that was stored. One that brought nothing new leaves no row.

    ``outcome`` is "stored", or "withdrawn" once an operator took its pages out of the ledger.
    """

    __tablename__ = "uploads"

    # SQLite numbers rows by itself only where the type is its own INTEGER.
    upload_id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    gateway_id: Mapped[str]
    received_at: Mapped[datetime]
    outcome: Mapped[str]
    reason: Mapped[str]
    detail: Mapped[str]


class LedgerRow(Table):
    """A run of pages that the lake holds, once: rows of one epoch never overlap.

    ``newest_time`` and ``oldest_time`` are of its observations; an earlier version did not write the second.
    ``fingerprints`` has eight bytes a page, and ``remainders`` too (what is in the fingerprints, but not in the lake),
    unless it is empty: see ``models.fingerprints``. The files' digests are empty where there is no file, or where an
    earlier version wrote it.
    ``repeats`` counts observations of a data request that the lake held already; they are in no file.
    """

    __tablename__ = "ledger"

    gateway_id: Mapped[str] = mapped_column(ForeignKey("gateways.gateway_id"), primary_key=True)
    epoch: Mapped[str] = mapped_column(primary_key=True)
    first_seq: Mapped[int] = mapped_column(primary_key=True)
    last_seq: Mapped[int]
    digest: Mapped[str]
    observations: Mapped[int]
    results: Mapped[int]
    newest_time: Mapped[datetime | None]
    received_at: Mapped[datetime]
    upload_id: Mapped[int] = mapped_column(ForeignKey("uploads.upload_id"))
    fingerprints: Mapped[bytes]
    remainders: Mapped[bytes] = mapped_column(server_default=text("X''"))
    observations_sha256: Mapped[str] = mapped_column(server_default="")
    results_sha256: Mapped[str] = mapped_column(server_default="")
    repeats: Mapped[int] = mapped_column(server_default="0")
    oldest_time: Mapped[datetime | None]


class SegmentRow(Table):
    """What an accepted segment said of itself: its place in the chain, and the observations that are not in it.

    ``withheld`` were left out by policy and stay at the gateway; ``expired`` are lost, for ``expired_reason``.
    ``upload_id`` is None when all of its pages were held before it came.
    """

    __tablename__ = "segments"

    gateway_id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[str] = mapped_column(primary_key=True)
    first_seq: Mapped[int] = mapped_column(primary_key=True)
    last_seq: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    previous: Mapped[str]
    chain_digest: Mapped[str]
    withheld: Mapped[int]
    expired: Mapped[int]
    expired_reason: Mapped[str]
    upload_id: Mapped[int | None] = mapped_column(ForeignKey("uploads.upload_id"))


class JournalRow(Table):
    """An epoch of a gateway. ``arrival`` counts the gateway's epochs in the order in which they were first seen.

    ``status`` is "active", "accepted" by an operator although a newer one came, or "request": answers to a data
    request.
    """

    __tablename__ = "journals"

    gateway_id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[str] = mapped_column(primary_key=True)
    arrival: Mapped[int]
    first_seen: Mapped[datetime]
    last_new: Mapped[datetime]
    status: Mapped[str]


class IntakeRow(Table):
    """A gateway's uploads: all that were received, and those that the quarantine has no room for any more."""

    __tablename__ = "intake"

    gateway_id: Mapped[str] = mapped_column(primary_key=True)
    received: Mapped[int]
    quarantine_dropped: Mapped[int]


class RejectionRow(Table):
    """How many uploads of a gateway were rejected for one reason, and what the last of them was."""

    __tablename__ = "rejections"

    gateway_id: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    field: Mapped[str]
    detail: Mapped[str]
    last_at: Mapped[datetime]


class QuarantineRow(Table):
    """A refused upload whose bytes are kept; ``times`` counts how often they came."""

    __tablename__ = "quarantine"

    quarantine_id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    gateway_id: Mapped[str]
    epoch: Mapped[str]
    first_seq: Mapped[int]
    last_seq: Mapped[int]
    digest: Mapped[str]
    reason: Mapped[str]
    detail: Mapped[str]
    size: Mapped[int]
    times: Mapped[int]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]


class HeldRow(Table):
    """The ledger's ranges of one epoch, joined where they touch: what a gateway is told that it need not send."""

    __tablename__ = "held"

    gateway_id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[str] = mapped_column(primary_key=True)
    first_seq: Mapped[int] = mapped_column(primary_key=True)
    last_seq: Mapped[int]


class AssetRow(Table):
    """An asset as its gateway last described it."""

    __tablename__ = "assets"

    asset_id: Mapped[str] = mapped_column(primary_key=True)
    asset_class: Mapped[str]
    gateway_id: Mapped[str]
    description: Mapped[bytes]


class AdvisoryRow(Table):
    """The newest revision of an advisory; it belongs to the gateway that raised it."""

    __tablename__ = "advisories"

    advisory_id: Mapped[str] = mapped_column(primary_key=True)
    gateway_id: Mapped[str]
    revision: Mapped[int]
    asset_id: Mapped[str]
    state: Mapped[str]
    updated_at: Mapped[datetime]
    record: Mapped[bytes]


class AdvisoryRevisionRow(Table):
    """Every revision of every advisory."""

    __tablename__ = "advisory_revisions"

    advisory_id: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    record: Mapped[bytes]


class MaintenanceRow(Table):
    """A failure that people found or repaired: one label for training."""

    __tablename__ = "maintenance_records"

    asset_id: Mapped[str] = mapped_column(primary_key=True)
    failed_at: Mapped[datetime] = mapped_column(primary_key=True)
    failure_mode: Mapped[str]
    in_service_again: Mapped[datetime | None]
    note: Mapped[str]


class BundleRow(Table):
    """A version of an asset class's models; ``archive_sha256`` is empty where none was made."""

    __tablename__ = "bundles"

    asset_class: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]
    archive_sha256: Mapped[str]
    metrics: Mapped[bytes]
    created_at: Mapped[datetime]
    reason: Mapped[str]


Index("ledger_by_end", LedgerRow.gateway_id, LedgerRow.epoch, LedgerRow.last_seq)
Index("ledger_by_newest_time", LedgerRow.newest_time)
Index("ledger_by_upload", LedgerRow.upload_id)
Index("segments_by_end", SegmentRow.gateway_id, SegmentRow.epoch, SegmentRow.last_seq)
Index("quarantine_by_segment", QuarantineRow.gateway_id, QuarantineRow.epoch, QuarantineRow.digest, unique=True)
Index("advisories_by_state", AdvisoryRow.state, AdvisoryRow.updated_at)


class Store:
    """The database. Sessions belong to one thread each; the store may be shared by threads."""

    def __init__(self, database: Path) -> None:
        self._engine = _engine(database)
        self._writer = self._engine.execution_options(**{_BEGIN_OPTION: "BEGIN IMMEDIATE"})
        with self._writer.begin() as connection:  # one transaction: a process killed in it leaves the old tables
            migrate(connection)
            Table.metadata.create_all(connection)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Give a session that sees one state of all tables from its first query to its end."""
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Give the only session that writes; all it did is durable when the block ends, or none of it on an error."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            # Takes the write lock now: what is read here cannot change before it is written.
            session.connection()
            yield session

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _engine(database: Path) -> Engine:
    engine = sqlalchemy_engine(f"sqlite:///{database}", connect_args={"timeout": 30.0})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, record: object) -> None:  # noqa: ARG001 - the driver's connection, SQLAlchemy's signature
    connection.isolation_level = None  # the driver begins nothing by itself; _begin does
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN_OPTION, "BEGIN"))
