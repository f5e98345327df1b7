"""Segments as version 1 wrote them: one msgpack body, no chain, nothing left out. They are read, never written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from models.records import UNDECODABLE, Int64Array, Observations, Results, Stream
from models.segment_columns import unpack_numbers
from models.segment_content import (
    MAX_PAGES,
    MAX_ROWS,
    MAX_SAMPLES,
    MAX_STREAMS,
    Segment,
    SegmentError,
    segment_digest,
)

MAGIC: Final = b"WSEG\x01\x00"
_BODY: Final = len(MAGIC) + hashlib.sha256().digest_size
_FREE_ROWS = 65_536
_ROWS_PER_BYTE = 256  # no column of version 1 that was ever written was smaller


@dataclass(frozen=True, kw_only=True)
class _Body:
    gateway_id: str
    epoch: str
    first_seq: int
    last_seq: int
    streams: Annotated[tuple[tuple[str, str], ...], Meta(max_length=MAX_STREAMS)]
    rows_per_stream: Annotated[tuple[int, ...], Meta(max_length=MAX_STREAMS)]
    samples: int
    seq: bytes
    source_time: bytes
    status: bytes
    sample_count: bytes
    values: Annotated[tuple[tuple[int, bytes], ...], Meta(max_length=MAX_STREAMS)]
    waveforms: bytes
    results: Annotated[tuple[tuple[int, Results], ...], Meta(max_length=MAX_PAGES)]


_decoder = msgspec.msgpack.Decoder(_Body)


def unpack(data: bytes) -> Segment:
    """Return the segment that *data*, which starts with `MAGIC`, holds.

    Raises:
        SegmentError: If it is damaged, claims more than its bytes can hold, or does not fit together.
    """
    if hashlib.sha256(memoryview(data)[_BODY:]).digest() != data[len(MAGIC) : _BODY]:
        raise SegmentError("segment does not match its own digest: it was cut or changed; it is refused")
    try:
        return _unpack(_decoder.decode(memoryview(data)[_BODY:]), data)
    except (*UNDECODABLE, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise SegmentError(f"segment does not decode ({error}); it is refused") from error


def _unpack(body: _Body, data: bytes) -> Segment:
    counts = np.array(body.rows_per_stream, np.int64)
    _check_limits(body, counts, len(data))
    rows = int(counts.sum())
    seq = unpack_numbers(body.seq, rows, np.int64)
    observations = Observations(
        streams=tuple(Stream(*names) for names in body.streams),
        stream=np.repeat(np.arange(len(counts), dtype=np.uint32), counts),
        source_time=unpack_numbers(body.source_time, rows, np.int64),
        value=np.concatenate([np.empty(0), *(unpack_numbers(block, n, np.float64) for n, block in body.values)]),
        status=unpack_numbers(body.status, rows, np.uint32),
        sample_count=unpack_numbers(body.sample_count, rows, np.uint32) if body.samples else np.zeros(rows, np.uint32),
        samples=unpack_numbers(body.waveforms, body.samples, np.float32),
    )
    if int(observations.sample_count.sum(dtype=np.int64)) != body.samples:
        raise ValueError("the waveforms' lengths do not add up to the samples")
    pages = np.concatenate([seq, np.array([page for page, _ in body.results], np.int64)])
    if pages.size and not body.first_seq <= int(pages.min()) <= int(pages.max()) <= body.last_seq:
        raise ValueError("a row is of a page outside the segment's range")
    return Segment(
        gateway_id=body.gateway_id,
        epoch=body.epoch,
        first_seq=body.first_seq,
        last_seq=body.last_seq,
        observations=observations,
        seq=seq,
        results=body.results,
        chain_digest=segment_digest(data),
        remainders=np.zeros(body.last_seq - body.first_seq + 1, np.uint64),
    )


def _check_limits(body: _Body, counts: Int64Array, size: int) -> None:
    """Refuse sizes before anything is allocated by them."""
    rows, most = sum(body.rows_per_stream), _FREE_ROWS + _ROWS_PER_BYTE * size
    if not 0 <= body.last_seq - body.first_seq < min(MAX_PAGES, most) or body.first_seq < 1:
        raise ValueError(f"range {body.first_seq} to {body.last_seq} is not a range of pages")
    if len(counts) != len(body.streams) or (counts < 0).any():
        raise ValueError("streams and their row counts do not fit together")
    if rows > min(MAX_ROWS, most) or not 0 <= body.samples <= min(MAX_SAMPLES, most):
        raise ValueError(f"{rows} rows with {body.samples} samples are above the limit")
    if any(n < 0 for n, _ in body.values) or sum(n for n, _ in body.values) != rows:
        raise ValueError("the value blocks do not add up to the rows")
