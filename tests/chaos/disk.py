"""A disk under test: a library preloaded into a program writes down what the program does below one folder.

It also fails calls when told, holds flushes up, and shifts the wall clock, all of it while the program runs and from
any process: both sides map one small file. Needs ``cc``; the library is compiled once into the user's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

_SOURCE: Final = Path(__file__).with_name("disk.c")
_HEAD: Final = struct.Struct("<IIIIq")
_FIELDS: Final = ("clock_offset_ns", "stalled", "ops", "from", "until", "errno", "short")
FOR_EVER: Final = 2**62


class Op(IntEnum):
    """What a record is about, and what can be made to fail."""

    WRITE = 1
    SYNC = 2
    RENAME = 3
    OPEN = 4
    UNLINK = 5
    TRUNCATE = 6
    MKDIR = 7
    MARK = 8


class Record(NamedTuple):
    """One change that took effect.

    Attributes:
        op: Which.
        serial: The opened file it is about, counted from 1; 0 for changes by name and marks.
        offset: Where a write begins, the size after a truncation, the flags of an opening; 1: a flush that failed.
        path: The name, of a renamed file its old one.
        target: The new name of a renamed file.
        data: What was written, or a mark's text.
    """

    op: Op
    serial: int
    offset: int
    path: str
    target: str
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Calls that fail: of *ops*, from the call number *first* to the one before *until*, counted from 1 per op.

    ``is_short``: a write that fails puts half of its bytes down first and returns how many, as a full disk does.
    """

    ops: Collection[Op]
    first: int
    until: int
    error: int
    is_short: bool = False


class Control:
    """What is told to the preloaded library, through a file that both sides map."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * (len(_FIELDS) + len(Op) + 2)))
        self._words = np.memmap(path, np.int64, "r+")

    def close(self) -> None:
        """Let go of the file."""
        del self._words

    def calls(self, op: Op) -> int:
        """Return how many calls of *op* there were below the folder."""
        return int(self._words[len(_FIELDS) + op])

    @property
    def failed(self) -> int:
        """How many calls were made to fail since the count began."""
        return int(self._words[-1])

    def fail(self, fault: Fault) -> None:
        """Have calls fail, and begin to count all of them anew."""
        self.heal()
        values = (sum(1 << op for op in fault.ops), fault.first, fault.until, fault.error, fault.is_short)
        self._words[3:7] = values[1:]
        self._words[2] = values[0]

    def stop_failing(self) -> None:
        """Let every call through from now on."""
        self._words[2] = 0

    def heal(self) -> None:
        """Let every call through from now on, and count anew."""
        self.stop_failing()
        self._words[len(_FIELDS) :] = 0

    def shift_clock(self, offset_s: float) -> None:
        """Have the wall clock be *offset_s* off what it is; the monotonic clock goes on."""
        self._words[0] = round(offset_s * 1e9)

    def stall(self, *, holds: bool) -> None:
        """Have flushes wait, or go on."""
        self._words[1] = holds


class Disk:
    """A folder whose disk is under test.

    Args:
        folder: For the library's files; not the one that is watched.
        watched: The folder whose changes are written down and can fail; all below counts.
        is_recorded: Whether a log is kept, which `records` reads. Then flushes are written down and not done.
    """

    def __init__(self, folder: Path, watched: Path, *, is_recorded: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "disk.log"
        self.control = Control(folder / "disk.control")
        self.environment = {
            "LD_PRELOAD": str(library()),
            "WEARSIGHT_DISK_FOLDER": str(watched.resolve()),
            "WEARSIGHT_DISK_CONTROL": str(folder / "disk.control"),
        }
        if is_recorded:
            self.environment["WEARSIGHT_DISK_LOG"] = str(self._log)

    def records(self) -> Iterator[Record]:
        """Yield what was written down, oldest first; a record the program died in is left out."""
        return read_log(self._log.read_bytes())


def read_log(data: bytes) -> Iterator[Record]:
    """Yield the records in *data*."""
    at = 0
    while at + _HEAD.size <= len(data):
        op, serial, path_size, data_size, offset = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        at = start + path_size + data_size
        if at > len(data):
            return
        path, _, target = data[start : start + path_size].decode().partition("\0")
        yield Record(Op(op), serial, offset, path, target, data[start + path_size : at])


def library() -> Path:
    """Return the compiled library; compile it when there is none of this source.

    Raises:
        RuntimeError: If it cannot be compiled.
    """
    source = _SOURCE.read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wearsight" / "disk"
    path = cache / f"{hashlib.sha256(source).hexdigest()[:16]}.so"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", made, _SOURCE, "-ldl", "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{_SOURCE}: does not compile: {done.stderr}")
    made.replace(path)
    return path


def mark(text: str) -> None:
    """Put *text* into the log of the disk this program runs on; nothing happens without one."""
    marking = getattr(ctypes.CDLL(None), "wearsight_mark", None)
    if marking is not None:
        data = text.encode()
        marking(data, ctypes.c_size_t(len(data)))
