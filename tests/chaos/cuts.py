"""What a disk holds after the power is cut: a log of changes, replayed to a moment, without what was not flushed.

The model is what POSIX promises and no more: a file's bytes are safe after a flush of the file, its name after a flush
of its folder, and a rename happens wholly or not at all. What was not flushed is dropped, or some of it stays, sector
by sector, whatever the order in which it was written; names stay in the order in which they changed, as a file system
with a journal has it.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

from tests.chaos.disk import Op, Record

_SECTOR, _PAGE = 512, 4096


class Keeps(StrEnum):
    """What becomes of what was not flushed."""

    NOTHING = "nothing"
    SOME = "some"
    ALL = "all"


@dataclass
class _File:
    """One file: what programs see of it, what is safe of it, and what was done to it since."""

    seen: bytearray = field(default_factory=bytearray)
    safe: bytearray = field(default_factory=bytearray)
    unsafe: list[tuple[int, bytes | None]] = field(default_factory=list)

    def change(self, offset: int, data: bytes | None) -> None:
        _apply(self.seen, offset, data)
        self.unsafe.append((offset, data))

    def flush(self) -> None:
        """Make what was done safe: pages as they are seen, whatever else of them was forgotten before."""
        for offset, data in self.unsafe:
            if data is None:
                _apply(self.safe, offset, None)
                continue
            start, end = offset // _PAGE * _PAGE, -(-(offset + len(data)) // _PAGE) * _PAGE
            _apply(self.safe, start, bytes(self.seen[start:end]))
        self.unsafe.clear()

    def forget(self) -> None:
        """Take what was done for written, though it is not: a flush has failed."""
        self.unsafe.clear()

    def after_cut(self, keeps: Keeps, chance: random.Random) -> bytes:
        content = bytearray(self.safe)
        for offset, data in self.unsafe if keeps != Keeps.NOTHING else ():
            if keeps == Keeps.ALL or data is None:
                if keeps == Keeps.ALL or chance.random() < 0.5:
                    _apply(content, offset, data)
                continue
            start = offset
            while start < offset + len(data):
                end = min((start // _SECTOR + 1) * _SECTOR, offset + len(data))
                if chance.random() < 0.5:
                    _apply(content, start, data[start - offset : end - offset])
                start = end
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write *data* at *offset*, or without data cut or stretch *content* to *offset*."""
    if data is None:
        del content[offset:]
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if data is not None:
        content[offset : offset + len(data)] = data


_Renaming = tuple[Record, _File | None]


class ReplayedDisk:
    """A folder that comes to be again from a log, change by change.

    Args:
        root: The folder that was watched, as the log names it; it was empty at first.
    """

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._files: dict[int, _File] = {}
        self._folders: dict[int, str] = {}
        self._names: dict[str, _File | None] = {}  # None: a folder
        self._safe_names: dict[str, _File | None] = {}
        self._unsafe: list[_Renaming] = []

    def apply(self, record: Record) -> None:
        """Take over the next change of the log."""
        if record.op == Op.OPEN:
            self._open(record)
        elif record.op in (Op.WRITE, Op.TRUNCATE):
            data = record.data if record.op == Op.WRITE else None
            self._files[record.serial].change(record.offset, data)
        elif record.op == Op.SYNC:
            self._flush(record.serial, has_failed=record.offset == 1)
        elif record.op in (Op.RENAME, Op.UNLINK, Op.MKDIR):
            self._change_names(record, None)

    def _open(self, record: Record) -> None:
        file = self._names.get(record.path)
        if record.path == self._root or (record.path in self._names and file is None):
            self._folders[record.serial] = record.path
            return
        if file is None:
            file = _File()
            self._change_names(record, file)
        elif record.offset & os.O_TRUNC:
            file.change(0, None)
        self._files[record.serial] = file

    def _flush(self, serial: int, *, has_failed: bool) -> None:
        if file := self._files.get(serial):
            file.forget() if has_failed else file.flush()
        if has_failed or serial in self._files:
            return
        folder, waiting = self._folders[serial], []
        for change, file in self._unsafe:
            if str(PurePosixPath(change.target or change.path).parent) == folder:
                _rename(self._safe_names, change, file)
            else:
                waiting.append((change, file))
        self._unsafe = waiting

    def _change_names(self, record: Record, file: _File | None) -> None:
        self._unsafe.append((record, file))
        _rename(self._names, record, file)

    def rebuild(self, folder: Path, keeps: Keeps, chance: random.Random) -> None:
        """Write into *folder* what a cut of the power now would leave."""
        names = dict(self._safe_names)
        most = len(self._unsafe)
        lasting = {Keeps.NOTHING: 0, Keeps.ALL: most, Keeps.SOME: chance.randint(0, most)}[keeps]
        for change, file in self._unsafe[:lasting]:
            _rename(names, change, file)
        folder.mkdir(parents=True)
        for name, file in sorted(names.items(), key=lambda item: item[0]):
            path = folder / PurePosixPath(name).relative_to(self._root)
            if file is None:
                path.mkdir(exist_ok=True)
            else:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(file.after_cut(keeps, chance))


def _rename(names: dict[str, _File | None], change: Record, file: _File | None) -> None:
    if change.op == Op.RENAME:
        if change.path in names:
            names[change.target] = names.pop(change.path)
    elif change.op == Op.UNLINK:
        names.pop(change.path, None)
    else:
        names[change.path] = file
