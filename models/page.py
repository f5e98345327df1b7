"""The bytes of one page: what the journal commits and reads back.

A page holds observations or results. Observations are written in columns, each in as few bytes as hold it without
loss and without a loop: a status that all rows share is written once, times count from the oldest in steps of 1 ms,
100 ns or 1 ns, values that single precision holds take four bytes. The table of streams, the same in page after page,
is packed once and unpacked once. So a commit costs what the disk costs; compression waits until pages become a segment.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.records import UNDECODABLE, FloatArray, Observations, Results, Stream

_OBSERVATIONS, _RESULTS, _PLAIN_OBSERVATIONS = b"P", b"R", b"O"
_MAX_TABLE_BYTES = 64 * 2**20
_FEW = 4  # with more streams than this for each row, a page names only those that occur
_TABLES_KEPT = 8
_STEPS_NS = (1_000_000, 100, 1)
_NARROW = {"<u1": 2**8 - 1, "<u2": 2**16 - 1, "<u4": 2**32 - 1}


class PageError(ValueError):
    """The bytes are not a page; the journal they come from is damaged."""


@dataclass(frozen=True, kw_only=True)
class _Integers:
    """How a column of integers is written: row ``i`` is ``start + step * written[i]``; without dtype all are start."""

    dtype: str
    start: int
    step: int


@dataclass(frozen=True, kw_only=True)
class _Head:
    table_bytes: int
    rows: int
    samples: int
    value: str
    stream: _Integers
    source_time: _Integers
    status: _Integers
    sample_count: _Integers


@dataclass(frozen=True, kw_only=True)
class _PlainHead:
    streams: tuple[tuple[str, str], ...]
    rows: int
    samples: int


_head_decoder = msgspec.msgpack.Decoder(_Head)
_plain_head_decoder = msgspec.msgpack.Decoder(_PlainHead)
_table_decoder = msgspec.msgpack.Decoder(tuple[tuple[str, str], ...])
_results_decoder = msgspec.msgpack.Decoder(Results)


def encode_content(content: Observations | Results) -> bytes:
    """Return the bytes of a page that holds *content*."""
    if isinstance(content, Results):
        return _RESULTS + msgspec.msgpack.encode(content)
    table, stream = _table_of(content)
    integers = {
        "stream": _encode_integers(stream),
        "source_time": _encode_integers(content.source_time, _STEPS_NS),
        "status": _encode_integers(content.status),
        "sample_count": _encode_integers(content.sample_count),
    }
    value = _encode_values(content.value)
    head = msgspec.msgpack.encode(
        _Head(
            table_bytes=len(table),
            rows=len(content),
            samples=content.samples.size,
            value=value.dtype.str,
            **{name: coding for name, (coding, _) in integers.items()},
        )
    )
    samples = np.ascontiguousarray(content.samples, "<f4")
    blocks = [value.tobytes(), *(written for _, written in integers.values()), samples.tobytes()]
    return b"".join((_OBSERVATIONS, len(head).to_bytes(4, "little"), head, table, *blocks))


def decode_content(data: bytes) -> Observations | Results:
    """Return what *data*, made by `encode_content`, holds.

    Raises:
        PageError: If the bytes are cut, too long, or point outside their table of streams.
    """
    try:
        if data[:1] == _RESULTS:
            return _results_decoder.decode(memoryview(data)[1:])
        if data[:1] == _OBSERVATIONS:
            return _decode_observations(data)
        if data[:1] == _PLAIN_OBSERVATIONS:
            return _decode_plain_observations(data)
    except (*UNDECODABLE, zlib.error, ValueError, OverflowError) as error:
        raise PageError(f"page of {len(data)} bytes does not decode ({error}); it is left as it is") from error
    raise PageError(f"page of {len(data)} bytes starts with {data[:1]!r}, not with a known kind; it is left as it is")


def _encode_values(value: FloatArray) -> NDArray[Any]:
    value = np.ascontiguousarray(value, "<f8")
    with np.errstate(over="ignore", invalid="ignore"):
        single = value.astype("<f4")
        return single if np.array_equal(single.astype("<f8").view("<i8"), value.view("<i8")) else value


def _encode_integers(column: NDArray[Any], steps: tuple[int, ...] = (1,)) -> tuple[_Integers, bytes]:
    """Return how the integers of *column* are written, counted in the longest of *steps* that fits, and the bytes."""
    if not len(column):
        return _Integers(dtype="", start=0, step=0), b""
    low, high = int(column.min()), int(column.max())
    if low == high:
        return _Integers(dtype="", start=low, step=0), b""
    for step in steps:
        places = (high - low) // step
        dtype = next((code for code, most in _NARROW.items() if places <= most), None)
        if dtype is not None and (high - low) % step == 0:
            above = column - column.dtype.type(low)
            counts = above // step if step > 1 else above
            if step == 1 or np.array_equal(counts * step, above):
                return _Integers(dtype=dtype, start=low, step=step), counts.astype(dtype).tobytes()
    return _Integers(dtype="<i8", start=0, step=1), column.astype("<i8").tobytes()


def _table_of(content: Observations) -> tuple[bytes, NDArray[Any]]:
    """Return the table of streams, as bytes, and the column that points into it."""
    if len(content.streams) <= _FEW * len(content):
        return _encoded_tables.of(content.streams), content.stream
    occurring, stream = np.unique(content.stream, return_inverse=True)
    return _encode_table(tuple(content.streams[place] for place in occurring.tolist())), stream


def _encode_table(streams: tuple[Stream, ...]) -> bytes:
    return zlib.compress(msgspec.msgpack.encode(streams), 1)


class _EncodedTables:
    """The bytes of the last few tables of streams: a source hands down the same table with every batch."""

    def __init__(self) -> None:
        self._tables: dict[int, tuple[tuple[Stream, ...], bytes]] = {}

    def of(self, streams: tuple[Stream, ...]) -> bytes:
        known = self._tables.get(id(streams))
        if known is not None and known[0] is streams:
            return known[1]
        table = _encode_table(streams)
        if len(self._tables) >= _TABLES_KEPT:
            self._tables.clear()
        self._tables[id(streams)] = streams, table
        return table


_encoded_tables = _EncodedTables()


@lru_cache(_TABLES_KEPT)
def _decode_table(data: bytes) -> tuple[Stream, ...]:
    unpacking = zlib.decompressobj()
    table = unpacking.decompress(data, _MAX_TABLE_BYTES)
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("the table of streams is cut or too long")
    return tuple(Stream(*names) for names in _table_decoder.decode(table))


def _decode_observations(data: bytes) -> Observations:
    start = 5 + int.from_bytes(data[1:5], "little")
    head = _head_decoder.decode(data[5:start])
    if min(head.table_bytes, head.rows, head.samples) < 0 or head.value not in ("<f4", "<f8"):
        raise ValueError("its head is not one of a page")
    body = start + head.table_bytes
    streams = _decode_table(data[start:body])
    # The values come first: they prove that there are as many rows as the head says, before anything is made of it.
    value = np.frombuffer(data, head.value, head.rows, body).astype(np.float64)
    body += head.rows * np.dtype(head.value).itemsize
    stream, body = _decode_integers(data, body, head.rows, head.stream, np.uint32)
    source_time, body = _decode_integers(data, body, head.rows, head.source_time, np.int64)
    status, body = _decode_integers(data, body, head.rows, head.status, np.uint32)
    sample_count, body = _decode_integers(data, body, head.rows, head.sample_count, np.uint32)
    samples = np.frombuffer(data, "<f4", head.samples, body).astype(np.float32)
    _check(streams, stream, sample_count, samples, len(data) - body - samples.nbytes)
    return Observations(
        streams=streams,
        stream=stream,
        source_time=source_time,
        value=value,
        status=status,
        sample_count=sample_count,
        samples=samples,
    )


def _decode_integers(
    data: bytes, position: int, count: int, coding: _Integers, kind: type[np.integer[Any]]
) -> tuple[NDArray[Any], int]:
    if coding.dtype == "":
        return np.full(count, kind(coding.start)), position
    if coding.dtype not in (*_NARROW, "<i8") or coding.step not in _STEPS_NS:
        raise ValueError(f"integers written as {coding}")
    written = np.frombuffer(data, coding.dtype, count, position)
    integers = written.astype(kind)  # what a damaged page makes of it is wrong, but an integer
    if coding.step != 1:
        integers *= kind(coding.step)
    return integers + kind(coding.start), position + written.nbytes


def _check(
    streams: tuple[Stream, ...], stream: NDArray[Any], sample_count: NDArray[Any], samples: NDArray[Any], left: int
) -> None:
    if left:
        raise ValueError(f"{left} bytes are left over")
    if len(stream) and int(stream.max()) >= len(streams):
        raise ValueError("a row names a stream that is not in the table")
    if int(sample_count.sum(dtype=np.int64)) != samples.size:
        raise ValueError("the waveforms' lengths do not add up to the samples")


def _decode_plain_observations(data: bytes) -> Observations:
    """Read a page as earlier versions wrote it: columns as they are in memory, the table of streams unpacked."""
    body = 5 + int.from_bytes(data[1:5], "little")
    head = _plain_head_decoder.decode(data[5:body])
    columns = {"stream": "<u4", "source_time": "<i8", "value": "<f8", "status": "<u4"}
    if head.samples:
        columns |= {"sample_count": "<u4", "samples": "<f4"}
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype in columns.items():
        arrays[name] = np.frombuffer(data, dtype, head.samples if name == "samples" else head.rows, body)
        body += arrays[name].nbytes
    arrays.setdefault("sample_count", np.zeros(head.rows, np.uint32))
    arrays.setdefault("samples", np.empty(0, np.float32))
    streams = tuple(Stream(*names) for names in head.streams)
    _check(streams, arrays["stream"], arrays["sample_count"], arrays["samples"], len(data) - body)
    return Observations(streams=streams, **arrays)
