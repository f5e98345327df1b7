"""How a segment becomes bytes, and comes back from bytes that nobody vouches for.

Layout: ``WSEG``, version, SHA-256 of the body, body. The body is the length of a head, the head (msgpack), blocks whose
lengths stand in the head, and zeros where there are any.

A segment compresses well, so its bytes alone do not say how much memory it takes. They have to pay for it: what it
unpacks to is at most 1 MiB and 1024 times its size, which is checked before anything is allocated. One that compresses
better, long runs of one value, is filled up with zeros until it may be unpacked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise, repeat
from typing import Final

import msgspec
import numpy as np
import zstandard

from models.records import UNDECODABLE, Int64Array, Observations, Results, Stream, UInt32Array
from models.segment_columns import (
    pack_by_stream,
    pack_integers,
    pack_numbers,
    pack_values,
    unpack_by_stream,
    unpack_integers,
    unpack_numbers,
    unpack_values,
)
from models.segment_content import (
    MAX_PAGES,
    MAX_RESULTS_BYTES,
    MAX_ROWS,
    MAX_SAMPLES,
    MAX_SEGMENT_BYTES,
    MAX_STREAMS,
    Expired,
    Segment,
    SegmentError,
    SegmentKind,
    SegmentSize,
    SegmentTooLarge,
    Withheld,
    segment_digest,
)

MAGIC: Final = b"WSEG\x02\x00"
FREE_GROWTH: Final = 2**20
MAX_GROWTH: Final = 1024

_BODY: Final = len(MAGIC) + hashlib.sha256().digest_size
_MAX_HEAD_BYTES = 4096
_MAX_NAMES_BYTES = 16 * 2**20
_ROW_BYTES, _STREAM_BYTES, _PAGE_BYTES, _SAMPLE_BYTES = 48, 256, 16, 4  # what each takes unpacked
_RESULTS_GROWTH = 32  # what a byte of results takes as objects, at the worst: a small number becomes a float
_ZSTD_LEVEL = 9
_DIGEST_SIZE = hashlib.sha256().digest_size


class _Head(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    kind: SegmentKind
    gateway_id: str
    epoch: str
    first_seq: int
    last_seq: int
    previous: bytes
    stands_for: bytes
    expired: tuple[str, int] | None
    streams: int
    withheld: int
    rows: int
    samples: int
    result_pages: int
    names_bytes: int
    results_bytes: int
    lengths: tuple[int, ...]


_BLOCKS: Final = (
    *("names", "results", "result_pages", "rows_per_stream"),
    *(name for name in ("seq", "source_time", "status", "sample_count") for _ in range(3)),
    *("samples", "value_lengths", "value", "withheld", "withheld", "withheld", "remainders"),
)

_head_decoder = msgspec.msgpack.Decoder(_Head)
_names_decoder = msgspec.msgpack.Decoder(tuple[tuple[str, str], ...])
_results_decoder = msgspec.msgpack.Decoder(tuple[Results, ...])


def pack(segment: Segment) -> bytes:
    """Return the bytes of *segment*, whose rows need not be sorted.

    Its `Segment.chain_digest` counts unless it is ``full``: then it is the digest of the bytes themselves.

    Raises:
        SegmentTooLarge: If it holds more than a segment may.
    """
    rows, seq, counts = _by_stream(segment.observations, segment.seq)
    streams = (*rows.streams, *(part.stream for part in segment.withheld))
    names = msgspec.msgpack.encode(streams)
    results = msgspec.msgpack.encode(tuple(content for _, content in segment.results))
    if len(rows) > MAX_ROWS or rows.samples.size > MAX_SAMPLES or len(results) > MAX_RESULTS_BYTES:
        raise SegmentTooLarge(_too_large(segment, f"{len(rows)} rows and {len(results)} bytes of results"))
    if len(streams) > MAX_STREAMS or len(names) > _MAX_NAMES_BYTES:
        raise SegmentTooLarge(_too_large(segment, f"{len(streams)} streams"))
    values = pack_values(rows.value, counts)
    blocks = (
        _compressed(names, checked=True) if streams else b"",
        _compressed(results) if segment.results else b"",
        pack_integers(np.array([page for page, _ in segment.results], np.int64)),
        pack_integers(counts),
        *pack_by_stream(seq, counts),
        *pack_by_stream(rows.source_time, counts, near=True),
        *pack_by_stream(rows.status, counts),
        *(pack_by_stream(rows.sample_count, counts) if rows.samples.size else (b"", b"", b"")),
        pack_numbers(rows.samples) if rows.samples.size else b"",
        pack_integers(np.array([len(block) for block in values], np.uint32)),
        b"".join(values),
        *_pack_withheld(segment.withheld),
        pack_integers(segment.remainders) if segment.remainders.any() else b"",
    )
    stands_for = "" if segment.kind in (SegmentKind.FULL, SegmentKind.EXPRESS) else segment.chain_digest
    head = _Head(
        kind=segment.kind,
        gateway_id=segment.gateway_id,
        epoch=segment.epoch,
        first_seq=segment.first_seq,
        last_seq=segment.last_seq,
        previous=bytes.fromhex(segment.previous),
        stands_for=bytes.fromhex(stands_for),
        expired=None if segment.expired is None else (segment.expired.reason, segment.expired.observations),
        streams=len(streams),
        withheld=len(segment.withheld),
        rows=len(rows),
        samples=rows.samples.size,
        result_pages=len(segment.results),
        names_bytes=len(names),
        results_bytes=len(results),
        lengths=tuple(map(len, blocks)),
    )
    return _sealed(head, blocks)


def _by_stream(rows: Observations, seq: Int64Array) -> tuple[Observations, Int64Array, Int64Array]:
    """Return rows and pages sorted by stream, and the rows of each stream.

    The streams that occur come in an order that brings those together which may have columns in common: equally many
    rows, that begin on the same page at the same time.
    """
    occurring, firsts, stream, counts = np.unique(
        rows.stream, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.lexsort((rows.source_time[firsts], seq[firsts], counts))
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    by_rank = np.argsort(rank[stream], kind="stable")
    taken = rows.take(by_rank)
    sorted_rows = Observations(
        streams=tuple(rows.streams[place] for place in occurring[order].tolist()),
        stream=np.repeat(np.arange(len(order), dtype=np.uint32), counts[order]),
        source_time=taken.source_time,
        value=taken.value,
        status=taken.status,
        sample_count=taken.sample_count,
        samples=taken.samples,
    )
    return sorted_rows, seq[by_rank], counts[order].astype(np.int64)


def _pack_withheld(withheld: Sequence[Withheld]) -> Iterator[bytes]:
    for name in ("observations", "start_ns", "end_ns"):
        yield pack_integers(np.array([getattr(part, name) for part in withheld], np.int64))


def _compressed(data: bytes, *, checked: bool = False) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=checked).compress(data)


def _sealed(head: _Head, blocks: Sequence[bytes]) -> bytes:
    """Put the parts together, filled up until they pay for what they unpack to."""
    packed = msgspec.msgpack.encode(head)
    if len(packed) > _MAX_HEAD_BYTES:
        raise SegmentError(f"gateway {head.gateway_id[:64]!r}: its name is too long for a segment; none is made")
    body = b"".join((len(packed).to_bytes(2, "little"), packed, *blocks))
    body += bytes(max(0, -(-(_growth(head) - FREE_GROWTH) // MAX_GROWTH) - len(body)))
    data = MAGIC + hashlib.sha256(body).digest() + body
    if len(data) > MAX_SEGMENT_BYTES:
        raise SegmentTooLarge(_too_large(head, f"{len(data)} bytes"))
    return data


def _too_large(pages: Segment | _Head, what: str) -> str:
    return f"pages {pages.first_seq} to {pages.last_seq} come to {what}; make a shorter segment"


def _growth(head: _Head) -> int:
    """Return about how many bytes a segment takes unpacked."""
    pages = head.last_seq - head.first_seq + 1
    return (
        _ROW_BYTES * head.rows
        + _SAMPLE_BYTES * head.samples
        + _STREAM_BYTES * (head.streams + head.withheld)
        + _PAGE_BYTES * (pages + head.result_pages)
        + head.names_bytes
        + head.results_bytes * _RESULTS_GROWTH
    )


def unpack(data: bytes) -> Segment:
    """Return the segment that *data*, which starts with `MAGIC`, holds.

    Raises:
        SegmentError: If it is damaged, claims more than its bytes can hold, or does not fit together.
    """
    if hashlib.sha256(memoryview(data)[_BODY:]).digest() != data[len(MAGIC) : _BODY]:
        raise SegmentError("segment does not match its own digest: it was cut or changed; it is refused")
    blocks = _Blocks()
    try:
        head = _opened(data, blocks)
        return _unpack(head, blocks, data)
    except SegmentError:
        raise
    except StopIteration as error:
        raise SegmentError("segment does not decode (it has too few blocks); it is refused", "lengths") from error
    except (*UNDECODABLE, zstandard.ZstdError, ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise SegmentError(f"segment does not decode ({error}); it is refused", blocks.field) from error


class _Blocks(Iterator[bytes]):
    """The blocks one after the other; ``field`` says which one was taken last, "head" before the first."""

    def __init__(self) -> None:
        self.field = "head"
        self.left: Iterator[tuple[str, bytes]] = iter(())

    def __next__(self) -> bytes:
        self.field, block = next(self.left)
        return block


def unpack_streams(start: bytes) -> tuple[Stream, ...]:
    """Return the streams of the segment whose first bytes are *start*, also of one that is damaged further behind.

    Raises:
        SegmentError: If *start* is too short to have them, or damaged.
    """
    try:
        head, end = _head_of(start)
        _check_limits(head, MAX_SEGMENT_BYTES)
        return _names(head, start[end : end + head.lengths[0]])  # the block has a checksum of its own
    except (*UNDECODABLE, zstandard.ZstdError, ValueError, IndexError) as error:
        raise SegmentError(f"the streams of a segment do not decode ({error})") from error


def unpack_size(start: bytes) -> SegmentSize:
    """Return what the segment whose first bytes are *start* says it holds.

    Raises:
        SegmentError: If it has no head, or one that claims more than a segment may hold.
    """
    try:
        head, _ = _head_of(start)
        _check_limits(head, MAX_SEGMENT_BYTES)
    except (*UNDECODABLE, ValueError) as error:
        raise SegmentError(f"the head of a segment does not decode ({error})", "head") from error
    return SegmentSize(
        rows=head.rows,
        samples=head.samples,
        streams=head.streams,
        pages=head.last_seq - head.first_seq + 1,
        results_bytes=head.results_bytes,
    )


def _head_of(data: bytes) -> tuple[_Head, int]:
    """Return the head, and where it ends."""
    start = _BODY + 2
    end = start + int.from_bytes(data[_BODY:start], "little")
    if end - start > _MAX_HEAD_BYTES:
        raise ValueError(f"a head of {end - start} bytes")
    return _head_decoder.decode(data[start:end]), end


def _opened(data: bytes, blocks: _Blocks) -> _Head:
    """Return the head of *data* and fill *blocks*."""
    head, end = _head_of(data)
    _check_limits(head, len(data) - _BODY)
    if not head.lengths or min(head.lengths) < 0 or end + sum(head.lengths) > len(data):
        raise ValueError("the blocks are longer than the segment")
    edges = list(accumulate(head.lengths, initial=end))
    if any(data[edges[-1] :]):
        raise ValueError("something is left over behind the blocks")
    names = chain(_BLOCKS, repeat("lengths"))
    blocks.left = zip(names, (data[first:last] for first, last in pairwise(edges)), strict=False)
    return head


def _check_limits(head: _Head, size: int) -> None:
    """Refuse sizes before anything is allocated by them."""
    if not 0 <= head.last_seq - head.first_seq < MAX_PAGES or head.first_seq < 1 or head.last_seq >= 2**62:
        raise ValueError(f"range {head.first_seq} to {head.last_seq} is not a range of pages")
    limits = (
        ("rows", head.rows, MAX_ROWS),
        ("samples", head.samples, MAX_SAMPLES),
        ("streams", head.streams, MAX_STREAMS),
        ("withheld", head.withheld, head.streams),
        ("result_pages", head.result_pages, head.last_seq - head.first_seq + 1),
        ("names_bytes", head.names_bytes, _MAX_NAMES_BYTES),
        ("results_bytes", head.results_bytes, MAX_RESULTS_BYTES),
    )
    for name, claimed, most in limits:
        if not 0 <= claimed <= most:
            raise SegmentError(f"segment does not decode ({name} says {claimed}, not 0 to {most}); it is refused", name)
    if _growth(head) > FREE_GROWTH + MAX_GROWTH * size:
        raise ValueError(f"{size} bytes say that they unpack to {_growth(head)}")
    _check_kind(head)


def _check_kind(head: _Head) -> None:
    """Refuse a head that says what its kind cannot say."""
    replaces = head.kind in (SegmentKind.CUT, SegmentKind.TOMBSTONE)
    if len(head.previous) not in (0, _DIGEST_SIZE) or len(head.stands_for) != _DIGEST_SIZE * replaces:
        raise ValueError(f"a {head.kind} segment with these links in the chain")
    if head.kind is SegmentKind.EXPRESS and (head.previous or head.rows or head.first_seq != head.last_seq):
        raise ValueError("an express segment is one page of results, outside of the chain")
    if (head.withheld > 0) > (head.kind is SegmentKind.CUT):
        raise ValueError(f"a {head.kind} segment that leaves something out")
    if (head.expired is not None) != (head.kind is SegmentKind.TOMBSTONE) or (head.expired and head.rows):
        raise ValueError(f"a {head.kind} segment with {head.rows} rows, expired: {head.expired}")


def _unpack(head: _Head, blocks: _Blocks, data: bytes) -> Segment:
    names = _names(head, next(blocks))
    results = _results(head, next(blocks), unpack_integers(next(blocks), head.result_pages, np.int64))
    stored = head.streams - head.withheld
    counts = unpack_integers(next(blocks), stored, np.int64)
    if (stored and (int(counts.min()) < 1 or int(counts.max()) > head.rows)) or int(counts.sum()) != head.rows:
        raise ValueError("the streams' rows do not add up")
    seq = unpack_by_stream(_three(blocks), counts, np.int64)
    if head.rows and not head.first_seq <= int(seq.min()) <= int(seq.max()) <= head.last_seq:
        raise ValueError("a row is of a page outside the segment's range")
    observations = Observations(
        streams=names[:stored],
        stream=np.repeat(np.arange(stored, dtype=np.uint32), counts),
        source_time=unpack_by_stream(_three(blocks), counts, np.int64),
        status=unpack_by_stream(_three(blocks), counts, np.uint32),
        sample_count=_sample_counts(_three(blocks), counts, head.samples),
        samples=unpack_numbers(next(blocks), head.samples, np.float32),
        value=unpack_values(next(blocks), next(blocks), counts),
    )
    withheld = _withheld(names[stored:], _three(blocks))
    remainders = next(blocks)
    pages = head.last_seq - head.first_seq + 1
    if next(blocks, None) is not None:
        raise ValueError("there are more blocks than a segment has")
    full = head.kind is SegmentKind.FULL
    return Segment(
        gateway_id=head.gateway_id,
        epoch=head.epoch,
        first_seq=head.first_seq,
        last_seq=head.last_seq,
        observations=observations,
        seq=seq,
        results=results,
        kind=head.kind,
        previous=head.previous.hex(),
        chain_digest=segment_digest(data) if full else head.stands_for.hex(),
        withheld=withheld,
        remainders=unpack_integers(remainders, pages, np.uint64) if remainders else np.zeros(pages, np.uint64),
        expired=None if head.expired is None else Expired(reason=head.expired[0], observations=head.expired[1]),
    )


def _three(blocks: Iterator[bytes]) -> tuple[bytes, bytes, bytes]:
    return next(blocks), next(blocks), next(blocks)


def _names(head: _Head, block: bytes) -> tuple[Stream, ...]:
    if not head.streams:
        return ()
    names = _names_decoder.decode(_decompressed(block, head.names_bytes, head.streams))
    return tuple(Stream(*pair) for pair in names)


def _results(head: _Head, block: bytes, pages: Int64Array) -> tuple[tuple[int, Results], ...]:
    if not head.result_pages:
        return ()
    contents = _results_decoder.decode(_decompressed(block, head.results_bytes, head.result_pages))
    if (np.diff(pages) < 1).any() or not head.first_seq <= int(pages[0]) <= int(pages[-1]) <= head.last_seq:
        raise ValueError("the pages of results are out of order or outside the segment's range")
    return tuple(zip(pages.tolist(), contents, strict=True))


def _decompressed(block: bytes, size: int, items: int) -> bytes:
    """Return the *size* bytes that *block* unpacks to, an array of *items*; both are looked at before it is made.

    zstandard allocates what the frame says and looks at no limit, so the frame is asked first.
    """
    if zstandard.frame_content_size(block) != size:
        raise ValueError(f"a block does not unpack to the {size} bytes its head says")
    data = zstandard.ZstdDecompressor().decompress(block, max_output_size=size, allow_extra_data=False)
    if not data.startswith(_array_head(items)):
        raise ValueError(f"a block does not hold the {items} items its head says")
    return data


def _array_head(items: int) -> bytes:
    """Return how msgpack begins an array."""
    if items < 16:
        return bytes([0x90 | items])
    return b"\xdc" + items.to_bytes(2, "big") if items < 2**16 else b"\xdd" + items.to_bytes(4, "big")


def _sample_counts(data: tuple[bytes, bytes, bytes], counts: Int64Array, samples: int) -> UInt32Array:
    if not samples:
        return np.zeros(int(counts.sum()), np.uint32)
    column: UInt32Array = unpack_by_stream(data, counts, np.uint32)
    if int(column.sum(dtype=np.int64)) != samples:
        raise ValueError("the waveforms' lengths do not add up to the samples")
    return column


def _withheld(streams: tuple[Stream, ...], data: tuple[bytes, bytes, bytes]) -> tuple[Withheld, ...]:
    observations, start, end = (unpack_integers(block, len(streams), np.int64) for block in data)
    if len(streams) and (int(observations.min()) < 1 or int(observations.max()) > MAX_ROWS or (start > end).any()):
        raise ValueError("what was left out of a stream is no number of rows between two times")
    return tuple(
        Withheld(stream=stream, observations=count, start_ns=first, end_ns=last)
        for stream, count, first, last in zip(streams, observations.tolist(), start.tolist(), end.tolist(), strict=True)
    )
