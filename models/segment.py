"""The bytes of a segment: a closed range of pages, compacted into columns per stream.

A segment is what a gateway uploads and what it keeps as local history. Rows are sorted by stream and keep their order
inside it; each row remembers its page, so that the identity of every observation, ``(gateway_id, epoch, seq)`` and its
place, survives. Columns are compressed by pcodec, values in blocks of neighbouring streams (a block of its own for
a stream of 64 rows and more, since one stream's values are alike and two streams' are not).

Layout: ``WSEG``, version, SHA-256 of the body, body (msgpack). Whoever decodes one has not written it: sizes are
checked against hard limits before anything is allocated, and every column must be as long as the head says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray
from pcodec import ChunkConfig, standalone

from models.records import Int64Array, Observations, Page, Results, Stream

SCHEMA_VERSION = 1
MAX_SEGMENT_BYTES = 64 * 2**20
MAX_ROWS = 4_000_000
MAX_SAMPLES = 32_000_000
MAX_STREAMS = 100_000
MAX_PAGES = 1_000_000

_MAGIC = b"WSEG" + SCHEMA_VERSION.to_bytes(2, "little")
_BODY = len(_MAGIC) + hashlib.sha256().digest_size
_BLOCK_ROWS = 64
_COMPRESSION = ChunkConfig()


class SegmentError(ValueError):
    """The bytes are not a segment that can be trusted; nothing of it is used."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A decoded segment.

    Attributes:
        gateway_id: Who wrote it.
        epoch: Of which journal.
        first_seq: First page, inclusive.
        last_seq: Last page, inclusive.
        observations: All rows, sorted by stream, in their order inside it.
        seq: Page of each row, shape ``(n,)``.
        results: Page and content of each page of results.
    """

    gateway_id: str
    epoch: str
    first_seq: int
    last_seq: int
    observations: Observations
    seq: Int64Array
    results: tuple[tuple[int, Results], ...]


@dataclass(frozen=True, kw_only=True)
class _Body:
    gateway_id: str
    epoch: str
    first_seq: int
    last_seq: int
    streams: tuple[tuple[str, str], ...]
    rows_per_stream: tuple[int, ...]
    samples: int
    seq: bytes
    source_time: bytes
    status: bytes
    sample_count: bytes
    values: tuple[tuple[int, bytes], ...]
    waveforms: bytes
    results: tuple[tuple[int, Results], ...]


_decoder = msgspec.msgpack.Decoder(_Body)


def segment_digest(data: bytes) -> str:
    """Return the SHA-256 of a segment's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def encode_segment(pages: Sequence[Page]) -> bytes:
    """Return the segment of *pages*, which must be of one journal, with seq numbers that follow each other.

    The same pages give the same bytes.

    Raises:
        SegmentError: If there is no page, a hole between them, or more than a segment may hold.
    """
    if not pages:
        raise SegmentError("a segment needs at least one page")
    first, last = pages[0], pages[-1]
    if any(page.seq != first.seq + place or page.epoch != first.epoch for place, page in enumerate(pages)):
        raise SegmentError(f"pages {first.seq} to {last.seq} have a hole or are of two journals; no segment is made")
    parts = [(page.seq, page.content) for page in pages if isinstance(page.content, Observations)]
    observations = Observations.concatenate([content for _, content in parts])
    if len(observations) > MAX_ROWS or observations.samples.size > MAX_SAMPLES:
        raise SegmentError(f"pages {first.seq} to {last.seq} hold more than one segment may; make a shorter one")
    seq = np.repeat(np.array([s for s, _ in parts], np.int64), [len(content) for _, content in parts])
    order = np.argsort(observations.stream, kind="stable")
    rows = observations.take(order)
    counts = np.bincount(rows.stream, minlength=len(rows.streams)).astype(np.int64)
    body = msgspec.msgpack.encode(
        _Body(
            gateway_id=first.gateway_id,
            epoch=first.epoch,
            first_seq=first.seq,
            last_seq=last.seq,
            streams=rows.streams,
            rows_per_stream=tuple(counts.tolist()),
            samples=rows.samples.size,
            seq=_compress(seq[order]),
            source_time=_compress(rows.source_time),
            status=_compress(rows.status),
            sample_count=_compress(rows.sample_count) if rows.samples.size else b"",
            values=_value_blocks(rows.value, counts),
            waveforms=_compress(rows.samples) if rows.samples.size else b"",
            results=tuple((page.seq, page.content) for page in pages if isinstance(page.content, Results)),
        )
    )
    data = _MAGIC + hashlib.sha256(body).digest() + body
    if len(data) > MAX_SEGMENT_BYTES:
        raise SegmentError(f"pages {first.seq} to {last.seq} take {len(data)} bytes; make a shorter segment")
    return data


def decode_segment(data: bytes) -> Segment:
    """Return the segment that *data* holds.

    Raises:
        SegmentError: If it is too large, of another version, damaged, or does not fit together.
    """
    if len(data) > MAX_SEGMENT_BYTES:
        raise SegmentError(f"segment of {len(data)} bytes is above the limit of {MAX_SEGMENT_BYTES}; it is refused")
    if data[: len(_MAGIC)] != _MAGIC:
        raise SegmentError(f"bytes do not start a segment of version {SCHEMA_VERSION}; they are refused")
    if hashlib.sha256(memoryview(data)[_BODY:]).digest() != data[len(_MAGIC) : _BODY]:
        raise SegmentError("segment does not match its own digest: it was cut or changed; it is refused")
    try:
        return _unpack(_decoder.decode(memoryview(data)[_BODY:]))
    except (msgspec.DecodeError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise SegmentError(f"segment does not decode ({error}); it is refused") from error


def _unpack(body: _Body) -> Segment:
    counts = np.array(body.rows_per_stream, np.int64)
    _check_limits(body, counts)
    rows = int(counts.sum())
    seq = _decompress(body.seq, rows, np.int64)
    observations = Observations(
        streams=tuple(Stream(*names) for names in body.streams),
        stream=np.repeat(np.arange(len(counts), dtype=np.uint32), counts),
        source_time=_decompress(body.source_time, rows, np.int64),
        value=np.concatenate([np.empty(0), *(_decompress(block, n, np.float64) for n, block in body.values)]),
        status=_decompress(body.status, rows, np.uint32),
        sample_count=_decompress(body.sample_count, rows, np.uint32) if body.samples else np.zeros(rows, np.uint32),
        samples=_decompress(body.waveforms, body.samples, np.float32),
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
    )


def _check_limits(body: _Body, counts: Int64Array) -> None:
    """Refuse sizes before anything is allocated by them."""
    rows = sum(body.rows_per_stream)
    if not 0 <= body.last_seq - body.first_seq < MAX_PAGES or body.first_seq < 1:
        raise ValueError(f"range {body.first_seq} to {body.last_seq} is not a range of pages")
    if len(counts) != len(body.streams) or len(counts) > MAX_STREAMS or (counts < 0).any():
        raise ValueError("streams and their row counts do not fit together")
    if rows > MAX_ROWS or not 0 <= body.samples <= MAX_SAMPLES:
        raise ValueError(f"{rows} rows with {body.samples} samples are above the limit")
    if any(n < 0 for n, _ in body.values) or sum(n for n, _ in body.values) != rows:
        raise ValueError("the value blocks do not add up to the rows")


def _value_blocks(value: NDArray[np.float64], counts: Int64Array) -> tuple[tuple[int, bytes], ...]:
    """Cut *value* where a stream ends, as soon as a block has enough rows, and compress each block."""
    blocks, start = [], 0
    for end in np.cumsum(counts).tolist():
        if end - start >= _BLOCK_ROWS or (end == len(value) and end > start):
            blocks.append((end - start, _compress(value[start:end])))
            start = end
    return tuple(blocks)


def _compress(column: NDArray[Any]) -> bytes:
    data: bytes = standalone.simple_compress(np.ascontiguousarray(column), _COMPRESSION)
    return data


def _decompress(data: bytes, count: int, dtype: DTypeLike) -> NDArray[Any]:
    """Decode exactly *count* numbers: the room is ours, so a lying column cannot make it grow."""
    column = np.empty(count, dtype)
    if count == 0:
        return column
    progress = standalone.simple_decompress_into(data, column)
    if progress.n_processed != count or not progress.finished:
        raise ValueError(f"a column does not hold the {count} numbers its head says")
    return column
