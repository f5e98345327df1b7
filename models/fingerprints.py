"""A number per page that tells whether two pages with the same seq hold the same content.

A gateway whose disk was cloned or restored sends other pages under numbers that are taken. Its segments may be cut
elsewhere than the first ones were, so that comparing whole segments would miss them; pages are what is compared.
The number is a sum over the page's rows, so that an upload that leaves rows out can still say it: it carries the sum
of what it left out. It guards against that accident, not against an attacker, whom the client certificate keeps out.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.records import Observations, Results, Stream

if TYPE_CHECKING:
    from models.segment import Segment

UInt64Array = NDArray[np.uint64]


def page_fingerprints(segment: Segment) -> UInt64Array:
    """Return one number per page of *segment*, shape ``(n_pages,)``, whatever the order of its rows.

    A segment that was cut by policy gives the numbers of the whole one. A tombstone has none to give: its numbers
    say nothing about the pages it stands for.
    """
    pages = segment.remainders + row_sums(
        segment.observations, segment.seq - segment.first_seq, len(segment.remainders)
    )
    for seq, results in segment.results:
        pages[seq - segment.first_seq] += _results_hash(results)
    return pages


def row_sums(observations: Observations, place: NDArray[np.int64], pages: int) -> UInt64Array:
    """Return for each of *pages* pages the sum of the fingerprints of the rows whose *place* it is, modulo 2**64."""
    sums = np.zeros(pages, np.uint64)
    np.add.at(sums, place, _row_hashes(observations))
    return sums


def _row_hashes(observations: Observations) -> UInt64Array:
    streams = np.array([_stream_hash(stream) for stream in observations.streams], np.uint64)
    hashes = np.zeros(len(observations), np.uint64)
    hashes[:] = observations.status
    hashes = _mixed(hashes ^ (_sample_hashes(observations) << np.uint64(32)))
    hashes = _mixed(hashes ^ observations.value.view(np.uint64))
    hashes = _mixed(hashes ^ observations.source_time.view(np.uint64))
    return _mixed(hashes ^ streams[observations.stream])


def _sample_hashes(observations: Observations) -> UInt64Array:
    hashes = np.zeros(len(observations), np.uint64)
    ends = np.cumsum(observations.sample_count, dtype=np.int64)
    for row in np.flatnonzero(observations.sample_count):
        samples = observations.samples[ends[row] - observations.sample_count[row] : ends[row]]
        hashes[row] = zlib.crc32(np.ascontiguousarray(samples).tobytes())
    return hashes


def _mixed(values: UInt64Array) -> UInt64Array:
    """Return *values* with their bits spread (the finaliser of SplitMix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _stream_hash(stream: Stream) -> int:
    return _digest_number(f"{stream.asset_id}\0{stream.channel}".encode())


def _results_hash(results: Results) -> np.uint64:
    return results_fingerprint({name: getattr(results, name) for name in results.__dataclass_fields__})


def results_fingerprint(fields: Mapping[str, Sequence[object]]) -> np.uint64:
    """Return the number of the page of results that has *fields*: records, or what they are as JSON, by field."""
    told = dict(fields)
    # What came later is left out where it says nothing: the numbers of pages from before stay what they were.
    if not told["features"]:
        del told["features"]
    for name, later in _LATER.items():
        if told[name]:
            told[name] = [_without_empty(record, later) for record in told[name]]
    return np.uint64(_digest_number(msgspec.json.encode(told, order="sorted")))


_LATER = {"health": "top_channels", "prognoses": "basis"}


def _without_empty(record: object, later: str) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(record)
    if not told.get(later):
        told.pop(later, None)
    return told


def _digest_number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
