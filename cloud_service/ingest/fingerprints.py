"""A number per page that tells whether two pages with the same seq hold the same content.

A gateway whose disk was cloned or restored sends other pages under numbers that are taken. Its segments may be cut
elsewhere than the first ones were, so that comparing whole segments would miss them; pages are what is compared.
The number guards against that accident, not against an attacker, whom the client certificate keeps out.
"""

from __future__ import annotations

import hashlib
import zlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.records import Observations, Results, Stream
from models.segment import Segment

UInt64Array = NDArray[np.uint64]


def page_fingerprints(segment: Segment) -> UInt64Array:
    """Return one number per page of *segment*, shape ``(n_pages,)``, whatever the order of its rows."""
    pages = np.zeros(segment.last_seq - segment.first_seq + 1, np.uint64)
    np.add.at(pages, segment.seq - segment.first_seq, _row_hashes(segment.observations))
    for seq, results in segment.results:
        pages[seq - segment.first_seq] ^= _results_hash(results)
    return pages


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
    return np.uint64(_digest_number(msgspec.json.encode(results, order="sorted")))


def _digest_number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
