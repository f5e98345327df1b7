"""Readers' positions and states: written with what the reader found out, and never believed when they are damaged.

A state is megabytes of open windows that no decoder can tell from other numbers, so a checksum goes with it and with
the position. Where it differs the reader goes on from the position that the witness knows, without a state: its windows
begin anew.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping, Sequence

from gateway.journal.committing import Advance


class Positions:
    """The table of positions behind *connection*.

    Args:
        connection: Writes.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._of_states: dict[str, int] = {}

    def settle(self, known: Mapping[str, int], last: int) -> list[str]:
        """Put right what is damaged, inside the caller's transaction; return what was, in words for people.

        Args:
            known: The positions that the witness knows.
            last: The last page.
        """
        told = []
        rows = self._connection.execute("SELECT reader, seq, state, checksum FROM position").fetchall()
        for reader, seq, state, checksum in rows:
            is_whole = checksum is None or checksum == _checksum(reader, seq, _of_state(state))
            if is_whole and _is_page(seq, last):
                continue
            after = next(place for place in (known.get(reader), seq, 0) if _is_page(place, last))
            self._connection.execute(
                "UPDATE position SET seq = ?, state = NULL, checksum = NULL WHERE reader = ?", (after, reader)
            )
            told.append(
                f"place or state of reader {reader} is damaged (page {seq} of {last}); it goes on after page {after} "
                "and remembers nothing: what it was in the midst of begins anew"
            )
        return told

    def register(self, reader: str) -> tuple[int, bytes | None]:
        """Return the position and state of *reader*, inside the caller's transaction; a new one is before page 1."""
        self._connection.execute("INSERT OR IGNORE INTO position (reader, seq) VALUES (?, 0)", (reader,))
        seq, state = self._connection.execute("SELECT seq, state FROM position WHERE reader = ?", (reader,)).fetchone()
        return int(seq), state

    def forget(self, reader: str) -> None:
        """Remove *reader*, inside the caller's transaction."""
        self._of_states.pop(reader, None)
        self._connection.execute("DELETE FROM position WHERE reader = ?", (reader,))

    def write(self, advances: Sequence[Advance]) -> dict[str, int]:
        """Write *advances*, inside the caller's transaction; return what `apply` takes once that is durable."""
        written: dict[str, int] = {}
        for step in advances:
            of_state = written.get(step.reader) if step.state is None else _of_state(step.state)
            written[step.reader] = self._of_stored(step.reader) if of_state is None else of_state
            checksum = _checksum(step.reader, step.seq, written[step.reader])
            self._connection.execute(
                "INSERT INTO position (reader, seq, state, checksum) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (reader) DO UPDATE SET seq = excluded.seq, "
                "state = coalesce(excluded.state, state), checksum = excluded.checksum",
                (step.reader, step.seq, step.state, checksum),
            )
        return written

    def apply(self, written: Mapping[str, int]) -> None:
        """Take over what `write` returned: it is durable now."""
        self._of_states.update(written)

    def _of_stored(self, reader: str) -> int:
        """Return the checksum of the state that *reader* has in the table."""
        if reader not in self._of_states:
            row = self._connection.execute("SELECT state FROM position WHERE reader = ?", (reader,)).fetchone()
            return _of_state(row[0] if row is not None else None)
        return self._of_states[reader]


def _is_page(seq: object, last: int) -> bool:
    return isinstance(seq, int) and 0 <= seq <= last  # a damaged row may hold anything


def _of_state(state: object) -> int:
    return zlib.crc32(state) if isinstance(state, bytes) else 0


def _checksum(reader: str, seq: int, of_state: int) -> int:
    return zlib.crc32(f"{reader} {seq} {of_state}".encode())
