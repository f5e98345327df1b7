"""The newest stored row of every stream: what tells a repeated row from a new one.

A server repeats a value after a reconnect, and a batch comes twice when the gateway dies between commit and
acknowledgement. A row that equals the newest stored row of its stream in source time, value and status is such a
repeat. Rows that are older than the newest are late, not repeated.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.records import UNDECODABLE, BoolArray, Int64Array, Observations, Stream

Indices = NDArray[np.intp]

_CHECKED = b"N1"  # MessagePack of a snapshot never begins like this


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What makes a row equal another: all columns are compared bit by bit, so that NaN equals NaN."""

    time: Int64Array
    value: Int64Array
    status: Int64Array
    waveform: Int64Array

    @classmethod
    def of(cls, observations: Observations, rows: Indices | slice = slice(None)) -> Rows:
        """Return those of *rows* of *observations*."""
        return cls(
            time=np.asarray(observations.source_time[rows], np.int64),
            value=np.ascontiguousarray(observations.value[rows], np.float64).view(np.int64),
            status=observations.status[rows].astype(np.int64),
            waveform=_waveform_digests(observations, rows),
        )

    @classmethod
    def blank(cls, count: int) -> Rows:
        """Return *count* rows of zeros."""
        return cls(**{name: np.zeros(count, np.int64) for name in _COLUMNS})

    def columns(self) -> tuple[Int64Array, ...]:
        """Return all columns, each of shape ``(n,)``."""
        return self.time, self.value, self.status, self.waveform

    def take(self, rows: Indices) -> Rows:
        """Return *rows*, in the order given."""
        return Rows(**{n: c[rows] for n, c in zip(_COLUMNS, self.columns(), strict=True)})

    def equal(self, other: Rows) -> BoolArray:
        """Return which rows equal those of *other* at the same place, shape ``(n,)``."""
        pairs = zip(self.columns(), other.columns(), strict=True)
        same: BoolArray = np.logical_and.reduce([mine == others for mine, others in pairs])
        return same

    def followed_by(self, other: Rows) -> Rows:
        """Return these rows and then those of *other*."""
        pairs = zip(_COLUMNS, self.columns(), other.columns(), strict=True)
        return Rows(**{name: np.concatenate([mine, others]) for name, mine, others in pairs})


_COLUMNS = ("time", "value", "status", "waveform")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """The newest rows after a batch; taken over by `Newest.apply` when the batch is durable."""

    streams: Indices
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class _Snapshot:
    streams: tuple[tuple[str, str], ...]
    columns: tuple[bytes, bytes, bytes, bytes]


class Newest:
    """The newest stored row of each stream, in columns."""

    def __init__(self) -> None:
        self._index: dict[Stream, int] = {}
        self._rows = Rows.blank(0)
        self._stored = np.zeros(0, np.bool_)
        self._last_table: tuple[tuple[Stream, ...], Indices] = ((), np.zeros(0, np.intp))

    def streams(self) -> tuple[Stream, ...]:
        """Return every stream that something was ever stored of."""
        stored = self._stored
        return tuple(stream for stream, place in list(self._index.items()) if place < len(stored) and stored[place])

    def source_time(self, stream: Stream) -> int | None:
        """Return the newest stored source time of *stream* in ns, or None when nothing of it is stored."""
        place, stored, rows = self._index.get(stream), self._stored, self._rows
        if place is None or place >= len(stored) or not stored[place]:
            return None
        return int(rows.time[place])

    def examine(self, observations: Observations) -> tuple[BoolArray, Change]:
        """Return which rows are new, shape ``(n,)``, and what the newest rows are once those are stored.

        The rows are looked at in their order, each beside the newest row of its stream before it.
        """
        streams = self._places(observations.streams)[observations.stream]
        return self._examine_forward(observations, streams) or self._examine_any(observations, streams)

    def _examine_forward(self, observations: Observations, streams: Indices) -> tuple[BoolArray, Change] | None:
        """Examine rows of which none is older than the one before it in its stream; None if there is such a row.

        That is what a server sends, and it needs no sorting by time. A row is beside the one before it or, the first
        of its stream, beside the newest stored; only where both times are equal is there more to compare.
        """
        order = _by_stream(streams, len(self._index))
        group, time = streams[order], observations.source_time[order]
        same_stream = group[1:] == group[:-1]
        halts = np.flatnonzero(same_stream & (time[1:] <= time[:-1])) + 1
        firsts = np.concatenate([np.zeros(1, np.intp), np.flatnonzero(~same_stream) + 1])
        known = firsts[self._stored[group[firsts]]]
        newest = self._rows.time[group[known]]
        if (time[halts] < time[halts - 1]).any() or (time[known] < newest).any():
            return None
        new = np.ones(len(time), np.bool_)
        known = known[time[known] == newest]
        lasts = np.append(firsts[1:] - 1, len(time) - 1)
        if isinstance(order, slice):
            order = np.arange(len(time))
        if len(halts):
            new[order[halts]] = ~Rows.of(observations, order[halts]).equal(Rows.of(observations, order[halts - 1]))
        if len(known):
            new[order[known]] = ~Rows.of(observations, order[known]).equal(self._rows.take(group[known]))
        return new, Change(streams=group[lasts], rows=Rows.of(observations, order[lasts]))

    def _examine_any(self, observations: Observations, streams: Indices) -> tuple[BoolArray, Change]:
        """Examine rows in any order of time."""
        known = np.unique(streams)
        known = known[self._stored[known]]
        rows = self._rows.take(known).followed_by(Rows.of(observations))
        group = np.concatenate([known, streams])
        order = np.argsort(group, kind="stable")
        group = group[order]
        same_stream = group[1:] == group[:-1]
        newest = _newest_so_far(same_stream, rows.time[order])
        repeated = same_stream.copy()
        for column in rows.columns():
            ordered = column[order]
            repeated &= ordered[1:] == ordered[newest[:-1]]
        new = np.ones(len(order), np.bool_)
        new[order[1:]] = ~repeated
        last = np.flatnonzero(np.append(~same_stream, True))
        return new[len(known) :], Change(streams=group[last], rows=rows.take(order[newest[last]]))

    def apply(self, change: Change) -> None:
        """Take over *change*: its rows are durable now."""
        for mine, new in zip(self._rows.columns(), change.rows.columns(), strict=True):
            mine[change.streams] = new
        self._stored[change.streams] = True

    def to_bytes(self) -> bytes:
        """Return a snapshot for `from_bytes`."""
        stored = np.flatnonzero(self._stored)
        streams = tuple(self._index)
        a, b, c, d = (column.tobytes() for column in self._rows.take(stored).columns())
        packed = msgspec.msgpack.encode(_Snapshot(streams=tuple(streams[i] for i in stored), columns=(a, b, c, d)))
        return _CHECKED + zlib.crc32(packed).to_bytes(4, "little") + packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Newest:
        """Return what `to_bytes` saved.

        Raises:
            ValueError: If it is damaged.
        """
        packed = data
        if data.startswith(_CHECKED):  # earlier versions saved no checksum
            packed = data[len(_CHECKED) + 4 :]
            if zlib.crc32(packed) != int.from_bytes(data[len(_CHECKED) : len(_CHECKED) + 4], "little"):
                raise ValueError("the checksum of the newest rows differs")
        try:
            snapshot = msgspec.msgpack.decode(packed, type=_Snapshot)
        except UNDECODABLE as error:
            raise ValueError(f"the newest rows do not decode ({error})") from error
        newest = cls()
        places = newest._places(tuple(Stream(*names) for names in snapshot.streams))
        columns = zip(_COLUMNS, snapshot.columns, strict=True)
        newest.apply(Change(streams=places, rows=Rows(**{n: np.frombuffer(c, np.int64) for n, c in columns})))
        return newest

    def _places(self, streams: tuple[Stream, ...]) -> Indices:
        if streams is self._last_table[0]:  # a source hands down the same table with every batch
            return self._last_table[1]
        places = np.array([self._index.setdefault(stream, len(self._index)) for stream in streams], np.intp)
        missing = len(self._index) - len(self._stored)
        if missing > 0:
            room = missing + len(self._index) // 2
            self._rows = self._rows.followed_by(Rows.blank(room))
            self._stored = np.concatenate([self._stored, np.zeros(room, np.bool_)])
        self._last_table = streams, places
        return places


def _newest_so_far(same_stream: BoolArray, time: Int64Array) -> Indices:
    """Return for each row the place of the newest row of its stream up to it; of equal times the later row.

    A running maximum over ``stream * n + rank in time`` finds it without a loop: a new stream starts above all.
    """
    count = len(time)
    by_time = np.argsort(time, kind="stable")
    rank = np.empty(count, np.intp)
    rank[by_time] = np.arange(count)
    stream = np.concatenate([np.zeros(1, np.intp), np.cumsum(~same_stream)])
    places: Indices = np.maximum.accumulate(stream * count + rank) % count
    return by_time[places]


def _by_stream(streams: Indices, count: int) -> Indices | slice:
    """Return what puts rows of *count* streams in the order of their streams, each stream's in the order they have."""
    if (streams[1:] >= streams[:-1]).all():
        return slice(None)
    # NumPy sorts 16 bits by radix, in a tenth of the time.
    return np.argsort(streams.astype(np.uint16) if count <= 2**16 else streams, kind="stable")


def _waveform_digests(observations: Observations, rows: Indices | slice) -> Int64Array:
    counts = observations.sample_count[rows].astype(np.int64)
    digests = np.zeros(len(counts), np.int64)
    if observations.samples.size:
        ends = np.cumsum(observations.sample_count, dtype=np.int64)[rows]
        for row in np.flatnonzero(counts):
            samples = observations.samples[ends[row] - counts[row] : ends[row]]
            digests[row] = zlib.crc32(samples.tobytes()) | int(counts[row]) << 32
    return digests
