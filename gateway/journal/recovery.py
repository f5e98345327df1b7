"""What can still be read of a damaged journal, carried into a new one; the damaged files are kept beside it.

SQLite gives up a table at the first page of the file that it cannot read. Here each table is read from both ends and
the pages one by one over what is damaged. Identity and numbering stay: same epoch, same seqs, and what is lost is
counted and gets tombstones (`gateway.journal.settling`).

It may be killed at any moment: the new journal takes the old one's name only when it is whole and the old one is aside.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from gateway.journal.newest import Newest
from gateway.journal.orphans import epoch_of_files, orphan_after
from gateway.journal.pages import insert, tombstone
from gateway.journal.quarantine import expire
from gateway.journal.schema import create
from gateway.journal.witness import Witness

_SMALL_TABLES: Final = ("segment", "hole", "filled", "late", "expired", "quarantine")
_SIDE_FILES: Final = ("-wal", "-shm", "")  # in this order: a log must never lie beside a journal it is not of
_MOST_ASIDE: Final = 4  # damaged journals, so that a failing disk is not filled with them
_UNSEEN_PAGES: Final = 4096  # more than are ever committed before they are in a segment
_UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)  # a damaged name breaks the very message about it
_BROKEN: Final = "\ufffd"  # stands in a text for what is none
_LOST: Final = "its place in the journal's file is damaged"

log = structlog.get_logger()


def _is_sound(journal: Mapping[str, Any]) -> bool:
    """Return whether the journal's own row has values of the kinds that its table takes."""
    texts = [journal.get("gateway_id"), journal.get("epoch")]
    counts = [journal.get(name, 0) for name in ("appended", "repeats_dropped", "purged_pages", "purged_delivered")]
    return (
        all(isinstance(text, str) and text for text in texts)
        and all(isinstance(count, int) and count >= 0 for count in counts)
        and isinstance(journal.get("age_s", 0.0), int | float)
    )


def is_gone(path: Path) -> bool:
    """Return whether the journal at *path* is missing or no file, while what lies around says that there was one."""
    is_there = path.is_file() and path.stat().st_size > 0
    beside = [path.with_name(path.name + suffix) for suffix in _SIDE_FILES if suffix]
    is_odd = any(os.path.lexists(file) and not file.is_file() for file in beside)
    return is_odd or (not is_there and (path.is_dir() or _has_traces(path)))


def _has_traces(path: Path) -> bool:
    return bool(epoch_of_files(path.parent / "segments")) or Witness(path.parent / "journal.last").head is not None


def finish(path: Path) -> bool:
    """Finish what a salvage had begun when the process died; return whether there was one."""
    whole = path.with_name("journal.salvaged")
    if not whole.exists():
        return False
    _swap(path, whole)
    return True


def salvage(path: Path, gateway_id: str) -> str:
    """Put the journal at *path* aside and a new one of all that can be read in its place; say in words what was done.

    Raises:
        OSError: If the disk does not take it.
        sqlite3.Error: The same.
    """
    made = path.with_name("journal.salvaging")
    for name in (made, made.with_name("journal.salvaging-journal")):
        name.unlink(missing_ok=True)
    witness = Witness(path.parent / "journal.last")
    with closing(sqlite3.connect(made, isolation_level=None)) as new, closing(_open_damaged(path)) as old:
        new.execute("PRAGMA synchronous = FULL")
        new.execute("BEGIN")
        told = _Salvage(old, new, path, gateway_id, witness).run()
        new.execute("COMMIT")
    whole = path.with_name("journal.salvaged")
    made.replace(whole)
    aside = _swap(path, whole)
    for copy in path.parent.glob("journal.copy*"):
        copy.unlink()
    message = f"{path}: was damaged and is put aside as {aside.name}; {told}"
    log.error("journal salvaged", put_aside=str(aside), found=told)
    return message


def _swap(path: Path, whole: Path) -> Path:
    """Put the files of the journal at *path* into a folder of their own, and *whole* in their place."""
    aside = _folder_aside(path.parent)
    for suffix in _SIDE_FILES:
        old = path.with_name(path.name + suffix)
        if os.path.lexists(old):
            old.rename(aside / old.name)
            _sync(path.parent)
    whole.replace(path)
    _sync(path.parent)
    return aside


def _folder_aside(state_dir: Path) -> Path:
    """Return the folder that an interrupted salvage was filling, or a new one; of older ones the newest few stay."""
    found = {int(path.suffix[9:]): path for path in state_dir.glob("journal.damaged-*") if path.suffix[9:].isdecimal()}
    last = max(found, default=0)
    if last and found[last].is_dir() and not os.path.lexists(found[last] / "journal.sqlite"):
        return found[last]
    for number in sorted(found)[: 1 - _MOST_ASIDE]:
        shutil.rmtree(found[number], ignore_errors=True)
    folder = state_dir / f"journal.damaged-{last + 1}"
    folder.mkdir()
    return folder


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open_damaged(path: Path) -> sqlite3.Connection:
    """Open what is left for reading; an empty one when there is nothing that SQLite would take for a database."""
    if not path.is_file():
        return sqlite3.connect(":memory:")
    with suppress(*_UNREADABLE):
        return _readable(path)
    copy = path.with_name("journal.copy")
    for suffix in ("", "-wal"):
        if path.with_name(path.name + suffix).is_file():
            shutil.copyfile(path.with_name(path.name + suffix), copy.with_name(copy.name + suffix))
    with copy.open("r+b") as file:  # the head of a database is the same in each of ours
        file.write(b"SQLite format 3\0" + bytes([16, 0, 2, 2, 0, 64, 32, 32]))
        file.seek(44)
        file.write(bytes([0, 0, 0, 4]))
        file.seek(56)
        file.write(bytes([0, 0, 0, 1]))
    with suppress(*_UNREADABLE):
        return _readable(copy)
    return sqlite3.connect(":memory:")


def _readable(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except _UNREADABLE:
        connection.close()
        raise
    return connection


class _Salvage:
    """One salvage, inside a transaction of the new journal."""

    def __init__(
        self, old: sqlite3.Connection, new: sqlite3.Connection, path: Path, gateway_id: str, witness: Witness
    ) -> None:
        self._old = old
        self._new = new
        self._folder = path.parent / "segments"
        self._gateway_id = gateway_id
        self._witness = witness
        self._is_whole = True

    def run(self) -> str:
        rows = self._rows("journal")
        journal = rows[0] if rows and _is_sound(rows[0]) else {}
        head = self._witness.head
        epoch = journal.get("epoch") or (head.epoch if head else "") or epoch_of_files(self._folder)
        create(self._new, journal.get("gateway_id") or self._gateway_id, epoch or secrets.token_hex(8))
        self._copy_journal_row(journal)
        for table in _SMALL_TABLES:
            self._insert(table, self._rows(table))
        self._copy_positions(head.positions if head else {})
        saved = self._copy_newest()
        purged = self._first_segment() - 1 if not journal else journal.get("purged_pages", 0)
        self._new.execute("UPDATE journal SET purged_pages = ?", (purged,))
        compacted, in_files = self._compacted(epoch, purged)
        copied, lost, counted = self._copy_pages(min(saved, compacted), compacted)
        if not journal:
            self._count_again(purged, in_files)
        return (
            f"{copied} pages of its table were carried over, {lost} were lost, with {counted} observations that are "
            "counted as damaged"
        )

    # Small tables

    def _rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of *table* that can be read, from its beginning and from its end."""
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for order in ("ASC", "DESC"):
            try:
                cursor = self._old.execute(f"SELECT * FROM {table} NOT INDEXED ORDER BY 1 {order}")  # noqa: S608 - our own
                names = [column[0] for column in cursor.description]
                for row in cursor:
                    found.setdefault(tuple(row), dict(zip(names, row, strict=True)))
            except _UNREADABLE:
                self._is_whole = False
                continue
            break
        return list(found.values())

    def _insert(self, table: str, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if any(isinstance(value, str) and _BROKEN in value for value in row.values()):
                continue
            names, places = ", ".join(row), ", ".join("?" * len(row))
            with suppress(*_UNREADABLE):  # a row that its own table would not take is not what was written
                self._new.execute(
                    f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({places})",  # noqa: S608 - names of our columns
                    tuple(row.values()),
                )

    def _copy_journal_row(self, row: dict[str, Any]) -> None:
        last = self._witness.last
        appended = max(row.get("appended", 0), last.appended if last else 0)
        kept: dict[str, Any] = {
            name: row[name] for name in ("repeats_dropped", "age_s", "purged_pages", "purged_delivered") if name in row
        }
        for name, value in {"appended": appended, **kept}.items():
            self._new.execute(f"UPDATE journal SET {name} = ?", (value,))  # noqa: S608 - names of our columns

    def _copy_positions(self, known: Mapping[str, int]) -> None:
        """Copy the readers' positions; one that is lost is as the witness has it, without a state."""
        self._insert("position", self._rows("position"))
        self._new.executemany("INSERT OR IGNORE INTO position (reader, seq) VALUES (?, ?)", list(known.items()))

    def _copy_newest(self) -> int:
        """Copy the saved newest rows if they are whole; return as of which page they are."""
        for row in self._rows("newest"):
            with suppress(ValueError):
                Newest.from_bytes(row["snapshot"])
                self._insert("newest", [row])
                return int(row["seq"])
        return 0

    def _first_segment(self) -> int:
        first = self._new.execute("SELECT min(first_seq) FROM segment").fetchone()[0]
        names = [int(path.name.split("-")[1]) for path in self._folder.glob("*-*-*.wseg")]
        return min([*names, first if first is not None else 2**62, *([1] if not names and first is None else [])])

    def _compacted(self, epoch: str, purged: int) -> tuple[int, int]:
        """Return the last page that is in a segment, or in a file that can be taken over, and what such files hold."""
        in_files = 0
        after = max(purged, self._new.execute("SELECT coalesce(max(last_seq), 0) FROM segment").fetchone()[0])
        while orphan := orphan_after(self._folder, gateway_id=self._gateway_id, epoch=epoch, after=after):
            after = orphan.entry.last_seq
            in_files += orphan.entry.observations
        return int(after), in_files

    def _count_again(self, purged: int, in_files: int) -> None:
        """Without the journal's own row: what is not found was purged, if anything was."""
        if purged:
            last = self._witness.last
            found = self._new.execute(
                "SELECT (SELECT coalesce(sum(observations), 0) FROM page) + "
                "(SELECT coalesce(sum(observations), 0) FROM segment) + "
                "(SELECT coalesce(sum(observations), 0) FROM expired)"
            ).fetchone()[0]
            gone = max((last.appended if last else 0) - found - in_files, 0)
            self._new.execute(
                "UPDATE journal SET purged_delivered = ?, appended = max(appended, ?)", (gone, gone + found)
            )

    # Pages

    def _copy_pages(self, after: int, compacted: int) -> tuple[int, int, int]:
        """Copy the pages after *after*; return how many, how many after *compacted* are lost, and what these held."""
        counts = self._counts(after)
        last = max([compacted, *counts, *self._witness.pages])
        copied: set[int] = set()
        for row in self._readable_pages(after, last):
            if row["seq"] in counts and row["observations"] != counts[row["seq"]]:
                row["observations"] = counts[row["seq"]]  # settled by what the page holds, when that is whole
            self._insert("page", [row])
            copied.add(row["seq"])
        stones = []
        counted = 0
        for seq in range(compacted + 1, max([compacted, *copied, *counts]) + 1):
            if seq not in copied:
                witnessed = self._witness.pages.get(seq)
                count = counts.get(seq, witnessed.observations if witnessed else -1)
                stones.append((seq, count))
                counted += max(count, 0)
        stones += self._unseen(max([compacted, *copied, *counts]))
        now = self._new_time()
        insert(self._new, [tombstone(seq, observations=count, reason=_LOST, time_ns=now) for seq, count in stones])
        self._new.executemany(
            "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, NULL)",
            [(seq, now, _LOST, max(count, 0)) for seq, count in stones],
        )
        expire(self._new, counted)
        return len(copied), len(stones), counted

    def _unseen(self, last: int) -> list[tuple[int, int]]:
        """Return seqs after *last* that may have been used, when nothing says which were the last."""
        if self._witness.last is not None or self._is_whole or not last:
            return []
        return [(seq, -1) for seq in range(last + 1, last + 1 + _UNSEEN_PAGES)]

    def _new_time(self) -> int:
        return int(self._new.execute("SELECT strftime('%s', 'now')").fetchone()[0]) * 1_000_000_000

    def _counts(self, after: int) -> dict[int, int]:
        """Return how many observations each page held, as the index says: it lies elsewhere than the pages."""
        found: dict[int, int] = {}
        for order in ("ASC", "DESC"):
            try:
                rows = self._old.execute(
                    f"SELECT seq, observations FROM page INDEXED BY page_count WHERE seq > ? ORDER BY seq {order}",  # noqa: S608 - our own
                    (after,),
                )
                found.update((seq, count) for seq, count in rows)  # what came before an error stays
            except _UNREADABLE:
                continue
            break
        return found

    def _readable_pages(self, after: int, last: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of pages after *after* that can be read; what is damaged is stepped over one by one."""
        while True:
            try:
                cursor = self._old.execute("SELECT * FROM page NOT INDEXED WHERE seq > ? ORDER BY seq", (after,))
                names = [column[0] for column in cursor.description]
                for values in cursor:
                    row = dict(zip(names, values, strict=True))
                    if row["seq"] <= after:
                        raise sqlite3.DatabaseError("a row is out of order")
                    after = row["seq"]
                    yield row
            except _UNREADABLE:
                self._is_whole = False
                following = next((found for seq in range(after + 1, last + 1) if (found := self._page(seq))), None)
                if following is None:
                    return
                after = following["seq"]
                yield following
            else:
                return

    def _page(self, seq: int) -> dict[str, Any] | None:
        """Return the row of one page, None when it cannot be read."""
        try:
            cursor = self._old.execute("SELECT * FROM page NOT INDEXED WHERE seq = ?", (seq,))
            values = cursor.fetchone() or ()
        except _UNREADABLE:
            return None
        row = {column[0]: value for column, value in zip(cursor.description, values, strict=False)}
        return row if row.get("seq") == seq else None
