"""The ledger of holes: where rows are missing that a server's history may still have.

A hole is opened in the transaction that stores the first row after it, and filled in the transaction that stores what
was fetched for it, so that no crash can lose one or fill one twice. Rows that fall into an open hole, whoever sent
them, are known by time, value, status and waveform in the table ``late``, and each is stored once. Of each stream it
is remembered from where to where it was ever filled: what comes late for there is looked up among the stored rows.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gateway.journal.newest import Rows
from gateway.journal.spans import Indices, Span, SpanTable, filled, opened
from models.records import BoolArray, Int64Array, Observations, Stream

HOLE_TABLES = """
CREATE TABLE hole (
    asset_id TEXT NOT NULL, channel TEXT NOT NULL, start_time INTEGER NOT NULL, end_time INTEGER NOT NULL,
    cause TEXT NOT NULL, unknown INTEGER NOT NULL,
    PRIMARY KEY (asset_id, channel, start_time), CHECK (start_time < end_time)) STRICT, WITHOUT ROWID;
CREATE TABLE filled (
    asset_id TEXT NOT NULL, channel TEXT NOT NULL, start_time INTEGER NOT NULL, end_time INTEGER NOT NULL,
    PRIMARY KEY (asset_id, channel)) STRICT, WITHOUT ROWID;
CREATE TABLE late (
    asset_id TEXT NOT NULL, channel TEXT NOT NULL, source_time INTEGER NOT NULL, value INTEGER NOT NULL,
    status INTEGER NOT NULL, waveform INTEGER NOT NULL,
    PRIMARY KEY (asset_id, channel, source_time, value, status, waveform)) STRICT, WITHOUT ROWID;
"""

# Gives the stored rows of some streams from a source time up to another, both included.
Lookup = Callable[[Collection[Stream], int, int], Observations]
_NEVER = (2**63 - 1, -(2**63))


@dataclass(frozen=True, kw_only=True)
class Hole:
    """Rows of *stream* with ``start_ns <= source time < end_ns`` are not all stored, and history may have them."""

    stream: Stream
    start_ns: int
    end_ns: int
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class HolesChange:
    """What a batch does to the ledger; written in the batch's transaction, taken over when that is durable.

    Attributes:
        kept: Which rows of the batch are to be stored, shape ``(n,)``.
        judged: The rows the ledger judged; the rule for repeats has no say about them, shape ``(n,)``.
        spans: The open spans of every stream of which they change.
        filled: From where to where a stream was ever filled, where that changes.
        late: Rows for the table ``late``.
        done: Stream, start and end of what is filled now, where the table ``late`` has rows to forget.
    """

    kept: BoolArray
    judged: BoolArray
    spans: dict[Stream, tuple[Span, ...]] = field(default_factory=dict)
    filled: dict[Stream, tuple[int, int]] = field(default_factory=dict)
    late: Sequence[tuple[str | int, ...]] = ()
    done: Sequence[tuple[str, str, int, int]] = ()

    @property
    def is_written(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.spans or self.late)


@dataclass(frozen=True, kw_only=True)
class _Inside:
    """Rows of a batch where something is or was missing, by their indices in the batch.

    ``is_open`` says whether that is still so; ``unknown``, whether there may be stored rows the ledger does not know.
    """

    rows: Indices
    is_open: BoolArray
    unknown: BoolArray


class Holes:
    """The open holes of every stream, in memory and in tables. One thread changes them, any may read `open`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Read the tables through *connection*, which later writes them."""
        self._connection = connection
        self._changing = threading.Lock()
        self._spans: dict[Stream, tuple[Span, ...]] = {}
        for asset_id, channel, start, end, cause, unknown in connection.execute("SELECT * FROM hole ORDER BY 1, 2, 3"):
            stream = Stream(asset_id, channel)
            self._spans[stream] = (*self._spans.get(stream, ()), Span(start, end, cause, bool(unknown)))
        self._filled = {Stream(*row[:2]): (row[2], row[3]) for row in connection.execute("SELECT * FROM filled")}
        self._with_late = {Stream(*row) for row in connection.execute("SELECT DISTINCT asset_id, channel FROM late")}
        self._ends: tuple[tuple[Stream, ...], Int64Array] | None = None

    def open(self, streams: Iterable[Stream] | None = None) -> tuple[Hole, ...]:
        """Return the open holes, of all *streams* or of those given, each stream's oldest first."""
        with self._changing:
            asked = self._spans if streams is None else streams
            chosen = [(stream, self._spans.get(stream, ())) for stream in asked]
        return tuple(
            Hole(stream=stream, start_ns=span.start, end_ns=span.end, cause=span.cause)
            for stream, spans in chosen
            for span in spans
        )

    def examine(
        self,
        observations: Observations,
        *,
        opened: Sequence[Hole],
        filled: Sequence[Hole],
        newest: Callable[[Stream], int | None],
        stored: Lookup,
    ) -> HolesChange | None:
        """Return what a batch does to the ledger, None when nothing.

        Args:
            observations: Its rows.
            opened: Holes it opens, before the rows are looked at.
            filled: What it fills, after the rows are looked at.
            newest: Gives the newest stored source time of a stream, or None.
            stored: Finds stored rows.
        """
        spans = self._open(opened, newest)
        inside = self._inside(observations, spans)
        if not (len(inside.rows) or spans or filled):
            return None
        count = len(observations)
        change = HolesChange(kept=np.ones(count, np.bool_), judged=np.zeros(count, np.bool_), spans=spans)
        numbers: dict[Stream, int] = {}
        keys = _keys(observations, inside.rows, numbers)
        if len(inside.rows):
            change.judged[inside.rows] = True
            change.kept[inside.rows] = ~_repeats(self._stored_keys(observations, inside, stored, numbers), keys)
        done = self._fill(filled, change)
        if filled:
            inside, all_rows = self._inside(observations, spans), inside.rows
            keys = keys[:, np.isin(all_rows, inside.rows, assume_unique=True)]
        names = tuple(numbers)
        late = keys[:, inside.is_open & change.kept[inside.rows]].T.tolist()
        return replace(change, late=[(*names[key[0]], *key[1:]) for key in late], done=done)

    def write(self, change: HolesChange) -> None:
        """Write *change* to the tables, inside the transaction of its batch."""
        gone, new = [], []
        for stream, spans in change.spans.items():
            before = self._spans.get(stream, ())
            starts = [span[0] for span in spans]
            gone += [(*stream, span[0]) for span in before if span[0] not in starts]
            new += [(*stream, *span) for span in spans if span not in before]
        ever = [(*stream, *ends) for stream, ends in change.filled.items()]
        execute = self._connection.executemany
        execute("DELETE FROM hole WHERE asset_id = ? AND channel = ? AND start_time = ?", gone)
        execute("INSERT OR REPLACE INTO hole VALUES (?, ?, ?, ?, ?, ?)", new)
        execute("INSERT OR REPLACE INTO filled VALUES (?, ?, ?, ?)", ever)
        execute(
            "DELETE FROM late WHERE asset_id = ? AND channel = ? AND source_time >= ? AND source_time < ?", change.done
        )
        execute("INSERT OR IGNORE INTO late VALUES (?, ?, ?, ?, ?, ?)", change.late)

    def apply(self, change: HolesChange) -> None:
        """Take over *change*: it is durable now."""
        with self._changing:
            self._spans.update(change.spans)
            for stream in [stream for stream, spans in change.spans.items() if not spans]:
                del self._spans[stream]
        self._filled.update(change.filled)
        self._with_late |= {Stream(str(row[0]), str(row[1])) for row in change.late}
        self._with_late -= {stream for stream, spans in change.spans.items() if not spans}
        if change.spans:
            self._ends = None

    def _open(self, holes: Sequence[Hole], newest: Callable[[Stream], int | None]) -> dict[Stream, tuple[Span, ...]]:
        """Return the spans of the streams in which *holes* are opened."""
        changed: dict[Stream, tuple[Span, ...]] = {}
        for hole in holes:
            if hole.start_ns < hole.end_ns:
                stream, last = hole.stream, newest(hole.stream)
                new = Span(hole.start_ns, hole.end_ns, hole.cause, last is not None and last >= hole.start_ns)
                changed[stream] = opened(changed.get(stream, self._spans.get(stream, ())), new)
        return changed

    def _fill(self, holes: Sequence[Hole], change: HolesChange) -> list[tuple[str, str, int, int]]:
        """Fill *holes* in *change*; return those of which the table ``late`` may have rows."""
        done = []
        for hole in holes:
            stream, start, end = hole.stream, hole.start_ns, hole.end_ns
            before = change.spans.get(stream, self._spans.get(stream, ()))
            after = filled(before, start, end) if start < end else before
            if after != before:
                change.spans[stream] = after
                ever = change.filled.get(stream, self._filled.get(stream, _NEVER))
                change.filled[stream] = min(ever[0], start), max(ever[1], end)
                if stream in self._with_late:
                    done.append((*stream, start, end))
        return done

    def _inside(self, observations: Observations, changed: Mapping[Stream, tuple[Span, ...]]) -> _Inside:
        """Return the rows that lie where something is open, with the spans *changed*, or was filled before."""
        rows = np.flatnonzero(
            observations.source_time < self._last_ends(observations.streams, changed)[observations.stream]
        )
        streams, time = observations.stream[rows].astype(np.intp), observations.source_time[rows]
        occurring = [(i, observations.streams[i]) for i in np.unique(streams).tolist()]
        table = SpanTable.of([(i, changed.get(s, self._spans.get(s, ()))) for i, s in occurring])
        place = table.place(streams, time)
        is_open = place >= 0
        unknown = was_filled = self._were_filled(occurring, streams, time, len(observations.streams))
        if is_open.any():
            unknown = np.where(is_open, table.unknown[place], was_filled)
        kept = is_open | was_filled
        return _Inside(rows=rows[kept], is_open=is_open[kept], unknown=unknown[kept])

    def _were_filled(
        self, occurring: Sequence[tuple[int, Stream]], streams: Indices, time: Int64Array, count: int
    ) -> BoolArray:
        """Return which rows lie where their stream was ever filled, or between two such places."""
        if not self._filled:
            return np.zeros(len(time), np.bool_)
        ever = np.full((2, count), np.array(_NEVER)[:, None], np.int64)
        for i, stream in occurring:
            ever[:, i] = self._filled.get(stream, _NEVER)
        of_rows = ever[:, streams]
        return np.asarray((time >= of_rows[0]) & (time < of_rows[1]), np.bool_)

    def _last_ends(self, streams: tuple[Stream, ...], changed: Mapping[Stream, tuple[Span, ...]]) -> Int64Array:
        """Return from where on nothing is or was missing of each stream, shape ``(len(streams),)``."""
        if not changed and self._ends is not None and self._ends[0] is streams:  # a source hands down the same table
            return self._ends[1]
        ends = np.full(len(streams), _NEVER[1], np.int64)
        if self._spans or changed or self._filled:
            for i, stream in enumerate(streams):
                spans = changed.get(stream) or self._spans.get(stream)
                end = self._filled.get(stream, _NEVER)[1]
                ends[i] = max(end, spans[-1].end) if spans else end
        if not changed:
            self._ends = streams, ends
        return ends

    def _stored_keys(
        self, observations: Observations, inside: _Inside, stored: Lookup, numbers: dict[Stream, int]
    ) -> Int64Array:
        """Return the keys of what is stored where the rows *inside* lie, shape ``(5, n)``."""
        parts = [np.empty((5, 0), np.int64)]
        unknown = inside.rows[inside.unknown]
        if len(unknown):
            time = observations.source_time[unknown]
            streams = {observations.streams[i] for i in np.unique(observations.stream[unknown]).tolist()}
            found = stored(streams, int(time.min()), int(time.max()))
            parts.append(_keys(found, np.arange(len(found)), numbers))
        if self._with_late:
            streams_of, time = observations.stream[inside.rows], observations.source_time[inside.rows]
            for i in np.unique(streams_of).tolist():
                if (stream := observations.streams[i]) in self._with_late:
                    of_stream = time[streams_of == i]
                    parts.append(self._late_keys(numbers[stream], stream, int(of_stream.min()), int(of_stream.max())))
        return np.concatenate(parts, axis=1)

    def _late_keys(self, number: int, stream: Stream, start: int, end: int) -> Int64Array:
        found = self._connection.execute(
            "SELECT source_time, value, status, waveform FROM late "
            "WHERE asset_id = ? AND channel = ? AND source_time BETWEEN ? AND ?",
            (*stream, start, end),
        ).fetchall()
        columns = np.array(found, np.int64).reshape(-1, 4).T
        return np.concatenate([np.full((1, len(found)), number, np.int64), columns])


def _keys(observations: Observations, rows: Indices, numbers: dict[Stream, int]) -> Int64Array:
    """Return what makes one of *rows* equal another, shape ``(5, n)``; streams get *numbers*."""
    chosen = observations if len(rows) == len(observations) else observations.take(rows)
    number = np.zeros(len(observations.streams), np.int64)
    for i in np.unique(chosen.stream).tolist():
        number[i] = numbers.setdefault(observations.streams[i], len(numbers))
    return np.stack([number[chosen.stream], *Rows.of(chosen).columns()])


def _repeats(known: Int64Array, keys: Int64Array) -> BoolArray:
    """Return which columns of *keys* are among *known* or among those before them, shape ``(n,)``."""
    every = np.concatenate([known, keys], axis=1)
    order = np.lexsort(every)
    repeated = np.zeros(every.shape[1], np.bool_)
    repeated[order[1:]] = (every[:, order[1:]] == every[:, order[:-1]]).all(axis=0)
    return repeated[known.shape[1] :]
