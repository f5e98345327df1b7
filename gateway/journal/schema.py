"""The journal's tables, and how a journal of an earlier schema becomes one of this.

A migration is one transaction: whenever the process dies, the journal is wholly of the old schema or wholly of the new.

======  ==============================================================================================================
schema  what it brought
======  ==============================================================================================================
1       pages, positions, segments, the newest rows
2       the ledger of holes
3       checksums of pages, quarantine, the chain of segments, what an upload left out, what was given up, the age
======  ==============================================================================================================
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from gateway.journal.holes import HOLE_TABLES

SCHEMA_VERSION: Final = 3

_TABLES = """
CREATE TABLE journal (
    one INTEGER PRIMARY KEY CHECK (one = 1), gateway_id TEXT NOT NULL, epoch TEXT NOT NULL, schema INTEGER NOT NULL,
    appended INTEGER NOT NULL, repeats_dropped INTEGER NOT NULL) STRICT;
CREATE TABLE page (
    seq INTEGER PRIMARY KEY, committed_time INTEGER NOT NULL, observations INTEGER NOT NULL,
    payload BLOB NOT NULL) STRICT;
CREATE TABLE position (reader TEXT PRIMARY KEY, seq INTEGER NOT NULL, state BLOB) STRICT;
CREATE TABLE segment (
    first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL UNIQUE, path TEXT NOT NULL, digest TEXT NOT NULL,
    size INTEGER NOT NULL, observations INTEGER NOT NULL, start_time INTEGER, end_time INTEGER,
    delivered_time INTEGER, CHECK (first_seq <= last_seq)) STRICT;
CREATE INDEX segment_pending ON segment (first_seq) WHERE delivered_time IS NULL;
CREATE TABLE newest (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, snapshot BLOB NOT NULL) STRICT;
"""

# A column that is NULL or 0 says what an older journal says by not having it: no checksum, no link, nothing left out.
_CHECKED_AND_COUNTED = """
ALTER TABLE journal ADD COLUMN age_s REAL NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN purged_pages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE journal ADD COLUMN purged_delivered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE page ADD COLUMN checksum INTEGER;
CREATE INDEX page_count ON page (seq, observations);
ALTER TABLE position ADD COLUMN checksum INTEGER;
ALTER TABLE segment ADD COLUMN previous TEXT NOT NULL DEFAULT '';
ALTER TABLE segment ADD COLUMN stands_for TEXT NOT NULL DEFAULT '';
ALTER TABLE segment ADD COLUMN closed_age_s REAL NOT NULL DEFAULT 0;
ALTER TABLE segment ADD COLUMN cut BLOB;
ALTER TABLE segment ADD COLUMN withheld INTEGER NOT NULL DEFAULT 0;
ALTER TABLE segment ADD COLUMN expired INTEGER NOT NULL DEFAULT 0;
ALTER TABLE segment ADD COLUMN expired_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE segment ADD COLUMN refused TEXT;
CREATE TABLE expired (reason TEXT PRIMARY KEY, observations INTEGER NOT NULL) STRICT;
CREATE TABLE quarantine (
    seq INTEGER PRIMARY KEY, found_time INTEGER NOT NULL, reason TEXT NOT NULL, observations INTEGER NOT NULL,
    payload BLOB) STRICT
"""

_MIGRATIONS: Final[Mapping[int, str]] = {1: HOLE_TABLES, 2: _CHECKED_AND_COUNTED}


def create(connection: sqlite3.Connection, gateway_id: str, epoch: str) -> None:
    """Make the tables of an empty journal; inside the caller's transaction."""
    _execute(connection, _TABLES)
    connection.execute("INSERT INTO journal VALUES (1, ?, ?, 1, 0, 0)", (gateway_id, epoch))
    migrate(connection, 1)


def migrate(connection: sqlite3.Connection, schema: int) -> None:
    """Bring a journal of *schema*, which must be 1 or above, to this schema; inside the caller's transaction."""
    for version in range(schema, SCHEMA_VERSION):
        _execute(connection, _MIGRATIONS[version])
    connection.execute("UPDATE journal SET schema = ?", (SCHEMA_VERSION,))


def _execute(connection: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";"):
        connection.execute(statement)
