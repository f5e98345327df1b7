"""Samples of what the historian said it stored, kept with the reader's position: by them a later loss is noticed.

A database that acknowledged a point may lose it all the same: a power cut with a log that is not flushed, a damaged
log that is cut off behind the damage, a backup put back, a bucket made anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from models.records import UNDECODABLE, Observations, Page, Stream

_MOST = 32
_KEPT_S = 7 * 86400.0
_SURE_SHARE = 0.9  # of the retention: later a value may be gone by right


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """One observation that was stored: ``seq`` is the last page that was stored with it."""

    seq: int
    stream: Stream
    time_ns: int
    stored_s: float


class Marks:
    """The newest marks, and ever fewer of the older ones; at most 32, of the last week."""

    def __init__(self, marks: Sequence[Mark] = ()) -> None:
        self._marks = list(marks)

    @classmethod
    def from_bytes(cls, data: bytes | None) -> Marks:
        """Return what `to_bytes` made; none of what is not understood."""
        try:
            return cls(msgspec.msgpack.decode(data or b"", type=list[Mark]))
        except UNDECODABLE:
            return cls()

    def to_bytes(self) -> bytes:
        """Return them for the reader's state."""
        return msgspec.msgpack.encode(self._marks)

    def current(self, retention_s: float) -> list[Mark]:
        """Return the marks that a historian with that retention (0: for ever) must still have, oldest first."""
        since_ns = time.time_ns() - round(retention_s * _SURE_SHARE * 1e9)
        return [mark for mark in self._marks if not retention_s or mark.time_ns > since_ns]

    def cut(self, lost: Mark) -> int:
        """Forget *lost* and all later marks; return the page of the mark before, 0 when there is none."""
        self._marks = [mark for mark in self._marks if mark.seq < lost.seq]
        return self._marks[-1].seq if self._marks else 0

    def add(self, stored: Sequence[Page]) -> None:
        """Remember the newest plain value of *stored*, pages that were stored whole."""
        rows = [page.content for page in stored if isinstance(page.content, Observations) and len(page.content)]
        found = [mark for content in rows if (mark := _newest(content)) is not None]
        if not found:
            return
        stream, time_ns = max(found, key=lambda pair: pair[1])
        now_s = time.time()
        self._marks = [mark for mark in self._marks if now_s - mark.stored_s < _KEPT_S and mark.seq < stored[-1].seq]
        self._marks.append(Mark(stored[-1].seq, stream, time_ns, now_s))
        if len(self._marks) > _MOST:
            half = _MOST // 2
            self._marks = self._marks[:half:2] + self._marks[half:]


def _newest(rows: Observations) -> tuple[Stream, int] | None:
    plain = np.flatnonzero(rows.sample_count == 0)
    if not plain.size:
        return None
    row = plain[rows.source_time[plain].argmax()]
    return rows.streams[rows.stream[row]], int(rows.source_time[row])
