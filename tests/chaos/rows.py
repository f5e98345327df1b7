"""Rows as numbers: what makes two observations the same one, whatever wrote, moved or read them.

The oracle has a hash of its own. If it used the product's, a fault there would hide itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.records import Int64Array, Observations, Stream

UInt64Array = NDArray[np.uint64]


def mixed(values: UInt64Array) -> UInt64Array:
    """Return *values* with their bits spread (the finaliser of MurmurHash3, after adding an odd constant)."""
    values = values + np.uint64(0xD1B54A32D192ED03)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def row_hashes(observations: Observations) -> UInt64Array:
    """Return a number for each row, shape ``(n,)``: of stream, source time, value bit by bit, status and samples.

    Every NaN counts as the same: a value that is none has no bits to keep.
    """
    value = observations.value.copy()
    value[np.isnan(value)] = np.nan
    names = np.array([_name_hash(stream) for stream in observations.streams], np.uint64)
    hashes = mixed(names[observations.stream] if len(names) else np.zeros(0, np.uint64))
    hashes = mixed(hashes ^ observations.source_time.view(np.uint64))
    hashes = mixed(hashes ^ value.view(np.uint64))
    return mixed(hashes ^ observations.status.astype(np.uint64) ^ _sample_hashes(observations))


def _sample_hashes(observations: Observations) -> UInt64Array:
    counts = observations.sample_count.astype(np.int64)
    hashes = np.zeros(len(counts), np.uint64)
    if observations.samples.size:
        ends = np.cumsum(counts)
        row = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(observations.samples.size) - (ends - counts)[row]
        bits = np.ascontiguousarray(observations.samples, np.float32).view(np.uint32).astype(np.uint64)
        np.add.at(hashes, row, mixed(bits ^ (place.astype(np.uint64) << np.uint64(32))))
    return hashes


def _name_hash(stream: Stream) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(stream).encode(), digest_size=8).digest(), "little")


@dataclass
class Ledger:
    """How many rows there are of each stream, and the sum of their hashes modulo 2**64: equal ledgers, equal rows."""

    counts: dict[Stream, int]
    sums: dict[Stream, int]

    @classmethod
    def of(cls, observations: Observations) -> Ledger:
        """Return the ledger of *observations*."""
        ledger = cls({}, {})
        ledger.add(observations)
        return ledger

    def add(self, observations: Observations) -> None:
        """Enter *observations*."""
        size = len(observations.streams)
        counts = np.bincount(observations.stream, minlength=size)
        sums = np.zeros(size, np.uint64)
        np.add.at(sums, observations.stream, row_hashes(observations))
        for place in np.flatnonzero(counts).tolist():
            stream = observations.streams[place]
            self.counts[stream] = self.counts.get(stream, 0) + int(counts[place])
            self.sums[stream] = (self.sums.get(stream, 0) + int(sums[place])) % 2**64

    def differing(self, other: Ledger) -> set[Stream]:
        """Return the streams whose rows are not the same."""
        return {
            stream
            for stream in self.counts.keys() | other.counts.keys()
            if (self.counts.get(stream, 0), self.sums.get(stream, 0))
            != (other.counts.get(stream, 0), other.sums.get(stream, 0))
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How rows that were found differ from rows that were made; each a row of the one or the other.

    Attributes:
        missing: Of what was made: rows that were not found, nor an altered one in their place.
        twice: Of what was found: rows beyond the first of their kind.
        altered: Of what was found: rows that have stream and time of one that was made, and are not it.
        foreign: Of what was found: all others that were never made.
    """

    missing: Observations
    twice: Observations
    altered: Observations
    foreign: Observations

    def __bool__(self) -> bool:
        return any(len(rows) for rows in (self.missing, self.twice, self.altered, self.foreign))


def difference(made: Observations, found: Observations) -> Difference:
    """Return how *found* differs from *made*, in which nothing may be twice. Streams whose ledgers agree cost no more.

    An altered row is not missing as well: it is one fault, not two.
    """
    suspects = Ledger.of(made).differing(Ledger.of(found))
    if not suspects:
        none = Observations.empty()
        return Difference(missing=none, twice=none, altered=none, foreign=none)
    made, found = _of_streams(made, suspects), _of_streams(found, suspects)
    made_hashes, found_hashes = row_hashes(made), row_hashes(found)
    order = np.argsort(found_hashes, kind="stable")
    again = np.zeros(len(found), np.bool_)
    again[order[1:]] = found_hashes[order[1:]] == found_hashes[order[:-1]]
    is_missing = ~np.isin(made_hashes, found_hashes)
    is_unknown = ~np.isin(found_hashes, made_hashes)
    missing, unknown = made.take(is_missing), found.take(is_unknown & ~again)
    missing_places, unknown_places = _places(missing), _places(unknown)
    is_altered = np.isin(unknown_places, missing_places)
    return Difference(
        missing=missing.take(~np.isin(missing_places, unknown_places)),
        twice=found.take(again),
        altered=unknown.take(is_altered),
        foreign=unknown.take(~is_altered),
    )


def _of_streams(observations: Observations, streams: set[Stream]) -> Observations:
    wanted = np.array([stream in streams for stream in observations.streams], np.bool_)
    return observations.take(wanted[observations.stream] if len(wanted) else np.zeros(0, np.bool_))


def _places(observations: Observations) -> UInt64Array:
    """Return a number for stream and time of each row."""
    names = np.array([_name_hash(stream) for stream in observations.streams], np.uint64)
    hashes = mixed(names[observations.stream] if len(names) else np.zeros(0, np.uint64))
    return mixed(hashes ^ observations.source_time.view(np.uint64))


def told(observations: Observations, row: int) -> str:
    """Return row *row* for people: stream, source time in ns, value, status, samples."""
    stream = observations.streams[observations.stream[row]]
    text = f"{stream.asset_id}/{stream.channel} at {observations.source_time[row]}: {observations.value[row]:g}"
    status, samples = int(observations.status[row]), int(observations.sample_count[row])
    return text + (f" status {status:#x}" if status else "") + (f" {samples} samples" if samples else "")


def times_of(observations: Observations, stream: Stream) -> Int64Array:
    """Return the source times of *stream*, sorted."""
    places = [place for place, name in enumerate(observations.streams) if name == stream]
    return np.sort(observations.source_time[np.isin(observations.stream, places)])
