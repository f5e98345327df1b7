"""A journal of an earlier schema becomes one of this, whole or not yet, whenever the process dies."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.journal import Journal
from gateway.journal.schema import SCHEMA_VERSION
from models.records import Observations
from tests.gateway.journal.stored import stored_observations

PROGRAM = Path(__file__).with_name("migration_killer.py")
DATA = Path(__file__).parent / "data"


def made_of(schema: int, folder: Path) -> Path:
    """Make the journal that the program of *schema* left."""
    old = DATA / f"schema-{schema}"
    (folder / "segments").mkdir(parents=True)
    for segment in (old / "segments").iterdir():
        (folder / "segments" / segment.name).write_bytes(segment.read_bytes())
    connection = sqlite3.connect(folder / "journal.sqlite")
    connection.executescript((old / "journal.sql").read_text())
    connection.close()
    return folder


async def content(folder: Path) -> tuple[object, ...]:
    """Return all that a journal holds, as it opens now."""
    journal = await Journal.open(folder, "gw-1")
    rows: Observations = await stored_observations(journal)
    reader = await journal.reader("monitor")
    found = (journal.epoch, journal.last_seq, journal.counters, journal.holes(), reader.position, reader.state)
    await journal.close()
    return (*found, rows.value.tobytes(), rows.source_time.tobytes())


@pytest.mark.parametrize("schema", range(1, SCHEMA_VERSION))
async def test_a_kill_at_any_statement_leaves_a_journal_that_opens_as_it_was(tmp_path: Path, schema: int) -> None:
    """The old tables or the new ones, with the same content."""
    expected = await content(made_of(schema, tmp_path / "whole"))
    folder, copies = made_of(schema, tmp_path / "old"), tmp_path / "copies"
    said = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
        [sys.executable, str(PROGRAM), str(folder), str(copies)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    statements = int(said.stdout)
    assert statements > 25
    for number in range(1, statements + 1):
        assert await content(copies / str(number)) == expected, number
