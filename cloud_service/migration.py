"""Brings a database of an earlier version up to this one's tables, inside the caller's transaction.

The version stands in the database's own ``user_version``, which SQLite changes with the transaction: a process that is
killed at any moment leaves the earlier version, whole. Tables that are only new need no step here.
"""

from __future__ import annotations

from sqlalchemy import Connection

from cloud_service.errors import ConfigError

VERSION = 2

# What version 2 adds to the tables of version 1, whose every rejection was a row of its own.
_TO_2 = (
    "ALTER TABLE ledger ADD COLUMN remainders BLOB DEFAULT X'' NOT NULL",
    "ALTER TABLE ledger ADD COLUMN observations_sha256 TEXT DEFAULT '' NOT NULL",
    "ALTER TABLE ledger ADD COLUMN results_sha256 TEXT DEFAULT '' NOT NULL",
    "ALTER TABLE ledger ADD COLUMN repeats BIGINT DEFAULT '0' NOT NULL",
    "ALTER TABLE ledger ADD COLUMN oldest_time DATETIME",
    "CREATE INDEX ledger_by_upload ON ledger (upload_id)",
    """CREATE TABLE journals (
        gateway_id TEXT NOT NULL, epoch TEXT NOT NULL, arrival BIGINT NOT NULL, first_seen DATETIME NOT NULL,
        last_new DATETIME NOT NULL, status TEXT NOT NULL, PRIMARY KEY (gateway_id, epoch))""",
    """INSERT INTO journals
        SELECT gateway_id, epoch, row_number() OVER (PARTITION BY gateway_id ORDER BY min(upload_id)),
               min(received_at), max(received_at), 'active'
        FROM ledger GROUP BY gateway_id, epoch""",
    """CREATE TABLE intake (
        gateway_id TEXT NOT NULL, received BIGINT NOT NULL, quarantine_dropped BIGINT NOT NULL,
        PRIMARY KEY (gateway_id))""",
    "INSERT INTO intake SELECT gateway_id, count(*), 0 FROM uploads GROUP BY gateway_id",
    """CREATE TABLE rejections (
        gateway_id TEXT NOT NULL, reason TEXT NOT NULL, count BIGINT NOT NULL, field TEXT NOT NULL,
        detail TEXT NOT NULL, last_at DATETIME NOT NULL, PRIMARY KEY (gateway_id, reason))""",
    """INSERT INTO rejections
        SELECT last.gateway_id, last.reason, found.count, '', last.detail, last.received_at
        FROM uploads AS last JOIN (
            SELECT count(*) AS count, max(upload_id) AS upload_id FROM uploads WHERE outcome = 'rejected'
            GROUP BY gateway_id, reason) AS found ON found.upload_id = last.upload_id""",
    "DELETE FROM uploads WHERE outcome = 'rejected'",
    "DROP INDEX uploads_by_outcome",
)


def migrate(connection: Connection) -> None:
    """Bring the tables behind *connection* up to `VERSION`; a new database only gets its version.

    Raises:
        ConfigError: If a later version of this program has changed them.
    """
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > VERSION:
        raise ConfigError(
            f"the database has version {version} and this program knows {VERSION}: a later one wrote it. "
            "Nothing is changed, and the service does not start"
        )
    if version == VERSION:
        return
    if connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'ledger'").first():
        for statement in _TO_2:
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")
