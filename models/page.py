"""The bytes of one page: what the journal commits and reads back.

A page holds observations or results. Observations are written as they are in memory: a small msgpack head with the
table of streams, then the columns, little-endian, one after the other. Writing and reading are copies, so that a
commit costs what the disk costs. Compression waits until pages become a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.records import Observations, Results, Stream

_OBSERVATIONS, _RESULTS = b"O", b"R"
_WAVELESS: tuple[tuple[str, str], ...] = (
    ("stream", "<u4"),
    ("source_time", "<i8"),
    ("value", "<f8"),
    ("status", "<u4"),
)
_COLUMNS = (*_WAVELESS, ("sample_count", "<u4"), ("samples", "<f4"))


class PageError(ValueError):
    """The bytes are not a page; the journal they come from is damaged."""


@dataclass(frozen=True, kw_only=True)
class _Head:
    streams: tuple[tuple[str, str], ...]
    rows: int
    samples: int


_head_decoder = msgspec.msgpack.Decoder(_Head)
_results_decoder = msgspec.msgpack.Decoder(Results)


def encode_content(content: Observations | Results) -> bytes:
    """Return the bytes of a page that holds *content*."""
    if isinstance(content, Results):
        return _RESULTS + msgspec.msgpack.encode(content)
    head = msgspec.msgpack.encode(_Head(streams=content.streams, rows=len(content), samples=content.samples.size))
    columns = _COLUMNS if content.samples.size else _WAVELESS
    blocks = [np.ascontiguousarray(getattr(content, name), dtype).tobytes() for name, dtype in columns]
    return b"".join((_OBSERVATIONS, len(head).to_bytes(4, "little"), head, *blocks))


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
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise PageError(f"page of {len(data)} bytes does not decode ({error}); it is left as it is") from error
    raise PageError(f"page of {len(data)} bytes starts with {data[:1]!r}, not with a known kind; it is left as it is")


def _decode_observations(data: bytes) -> Observations:
    body = 5 + int.from_bytes(data[1:5], "little")
    head = _head_decoder.decode(data[5:body])
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype in _COLUMNS if head.samples else _WAVELESS:
        count = head.samples if name == "samples" else head.rows
        arrays[name] = np.frombuffer(data, dtype, count, body)
        body += arrays[name].nbytes
    if body != len(data):
        raise ValueError(f"{len(data) - body} bytes are left over")
    if head.rows and int(arrays["stream"].max()) >= len(head.streams):
        raise ValueError("a row names a stream that is not in the table")
    streams = tuple(Stream(*names) for names in head.streams)
    if not head.samples:
        return Observations.of_values(streams, **arrays)
    if int(arrays["sample_count"].sum(dtype=np.int64)) != head.samples:
        raise ValueError("the waveforms' lengths do not add up to the samples")
    return Observations(streams=streams, **arrays)
