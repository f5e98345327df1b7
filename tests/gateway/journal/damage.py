"""Journals with something in them, and ways to damage them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from gateway.journal import Hole, Journal, SegmentStore, compact_once
from gateway.journal_commands.view import JournalView
from tests.strategies import NOON_NS, SECOND_NS, make_observations, make_results

ROWS = 20  # of each of three streams, in each page of observations


async def make_journal(folder: Path, *, pages: int = 8, compacted: int = 6, delivered: int = 3) -> None:
    """Write a journal of gateway gw-1 with *pages* pages, the second and each eighth after it of results.

    The first *compacted* are in segments of three, those of the first *delivered* are delivered. The reader "monitor"
    has done one page, and one stream has an open hole.
    """
    journal = await Journal.open(folder, "gw-1")
    reader = await journal.reader("monitor")
    for number in range(pages):
        if number % 8 == 1:
            await journal.append_results(make_results())
            continue
        rows = make_observations(rows=ROWS, start_ns=time_of(number), first_value=number * 1000.0)
        hole = Hole(stream=rows.streams[0], start_ns=time_of(number) - 5, end_ns=time_of(number), cause="link down")
        await journal.append(rows, opened=[hole] if number == 2 else [])
    for _ in range(compacted // 3):
        await compact_once(journal, max_pages=3)
    await SegmentStore(journal).mark_delivered([(1, delivered)])
    await reader.commit(1)
    await journal.close()


def time_of(page: int) -> int:
    """Return the source time of the first row in the page that is number *page*, from 0."""
    return NOON_NS + page * ROWS * SECOND_NS


def change_page(folder: Path, seq: int) -> None:
    """Flip a byte in the payload of page *seq*, as a disk might."""
    with closing(sqlite3.connect(folder / "journal.sqlite")) as connection, connection:
        payload = bytearray(connection.execute("SELECT payload FROM page WHERE seq = ?", (seq,)).fetchone()[0])
        payload[len(payload) // 2] ^= 0x10
        connection.execute("UPDATE page SET payload = ? WHERE seq = ?", (bytes(payload), seq))


def execute(folder: Path, statement: str) -> None:
    """Run *statement* on the tables, which no program of ours would."""
    with closing(sqlite3.connect(folder / "journal.sqlite")) as connection, connection:
        connection.execute(statement)


def segment_file(folder: Path, number: int) -> Path:
    """Return the file of the segment that is *number*, from 0."""
    with JournalView(folder) as view:
        return view.segments()[number].path


def flip_byte(path: Path, place: int = -20) -> None:
    """Flip a bit in the byte at *place*."""
    data = bytearray(path.read_bytes())
    data[place] ^= 0x04
    path.write_bytes(bytes(data))


def truncate(path: Path, share: float) -> None:
    """Keep only the first *share* of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
