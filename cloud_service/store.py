"""The cloud service's tables, and how a transaction on them begins and ends.

SQLite with a write-ahead log that is synced at every commit: what a transaction wrote is durable when it returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Connection, DateTime, Engine, ForeignKey, Index, Integer, LargeBinary, Text, event
from sqlalchemy import create_engine as sqlalchemy_engine
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

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
    """An upload that ended stored or rejected. One that brought nothing new leaves no row."""

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

    ``newest_time`` is the newest source time among its observations. ``fingerprints`` has eight bytes a page;
    see ``cloud_service.ingest.fingerprints``.
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
Index("uploads_by_outcome", UploadRow.outcome, UploadRow.reason)
Index("advisories_by_state", AdvisoryRow.state, AdvisoryRow.updated_at)


class Store:
    """The database. Sessions belong to one thread each; the store may be shared by threads."""

    def __init__(self, database: Path) -> None:
        self._engine = _engine(database)
        self._writer = self._engine.execution_options(**{_BEGIN_OPTION: "BEGIN IMMEDIATE"})
        Table.metadata.create_all(self._writer)

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
