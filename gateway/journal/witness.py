"""What was committed last, written down beside the journal after each commit.

SQLite drops the tail of a damaged write-ahead log without a word, and whoever restores a backup has an older journal
than before. Both would hand out seqs again that the cloud may hold with other content. This small file remembers them:
the last pages with their counts and checksums, and where each reader was. It is never flushed and never trusted alone:
it may be older than the journal after a power cut, it cannot be newer than what was durable.

Layout: a head of 4,096 bytes (magic, CRC-32, length, MessagePack), then a ring of slots, one a page.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from gateway.journal.pages import PageRow
from models.records import UNDECODABLE

_MAGIC: Final = b"WSJL1\n"
_HEAD: Final = struct.Struct("<6sII")
_HEAD_BYTES: Final = 4096
_SLOT: Final = struct.Struct("<QQIII4x")  # seq, appended after it, observations, checksum, CRC-32 of these
_SLOTS: Final = 8192


class Committed(NamedTuple):
    """One page that was committed: `appended` counts all observations up to it."""

    seq: int
    appended: int
    observations: int
    checksum: int


@dataclass(frozen=True, kw_only=True)
class Head:
    """Whose journal it is, and the last seq each reader has done."""

    gateway_id: str
    epoch: str
    positions: Mapping[str, int] = field(default_factory=dict)


class Witness:
    """The file, for reading at the start and writing from then on."""

    def __init__(self, path: Path) -> None:
        """Read *path*; what is not there or damaged is left out."""
        self._path = path
        self._file = -1
        self.head, self.pages = _read(path)

    @property
    def last(self) -> Committed | None:
        """The newest page, None when none is known."""
        return self.pages[max(self.pages)] if self.pages else None

    def begin(self, head: Head) -> None:
        """Write for the journal of *head* from now on; what is there of another one is dropped."""
        if self.head is None or self.head.epoch != head.epoch:
            self.pages = {}
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self.close()
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.write_head(head)

    def write_head(self, head: Head) -> None:
        """Write where the readers are."""
        self.head = head
        packed = msgspec.msgpack.encode(head)
        if len(packed) <= _HEAD_BYTES - _HEAD.size:
            self._write(_HEAD.pack(_MAGIC, zlib.crc32(packed), len(packed)) + packed, 0)

    def write_pages(self, rows: Sequence[PageRow], appended: int) -> None:
        """Write down *rows*, which are durable; before them there were *appended* observations."""
        for row in rows:
            appended += row.observations
            slot = _SLOT.pack(row.seq, appended, row.observations, row.checksum or 0, 0)
            slot = slot[:24] + zlib.crc32(slot[:24]).to_bytes(4, "little") + slot[28:]
            self._write(slot, _HEAD_BYTES + row.seq % _SLOTS * _SLOT.size)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, data: bytes, place: int) -> None:
        """Write *data*; that it cannot be written holds nothing up, since the journal itself can do without."""
        if self._file >= 0:
            with suppress(OSError):
                os.pwrite(self._file, data, place)


def _read(path: Path) -> tuple[Head | None, dict[int, Committed]]:
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD_BYTES + _SLOTS * _SLOT.size)
    except OSError:
        return None, {}
    pages = {}
    for place in range(_HEAD_BYTES, len(data) - _SLOT.size + 1, _SLOT.size):
        *fields, checksum = _SLOT.unpack_from(data, place)
        if fields[0] and zlib.crc32(data[place : place + 24]) == checksum:
            pages[fields[0]] = Committed(*fields)
    head = _head(data)
    return head, pages if head is not None else {}


def _head(data: bytes) -> Head | None:
    if len(data) < _HEAD.size:
        return None
    magic, checksum, length = _HEAD.unpack_from(data)
    packed = data[_HEAD.size : _HEAD.size + length]
    if magic != _MAGIC or zlib.crc32(packed) != checksum:
        return None
    with suppress(*UNDECODABLE):
        return msgspec.msgpack.decode(packed, type=Head)
    return None
