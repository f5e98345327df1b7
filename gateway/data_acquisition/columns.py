"""OPC UA binary values into columns, without a Python object per value.

A notification or a page of history is a row of DataValues. Those that follow one another with the same mask and the
same scalar type form a fixed-stride array, which NumPy reads at once: a run. Where masks and types change often, as
they do when a plant's tags are of many types, a loop notes where each value begins, and NumPy reads all of one mask
and type at once. Arrays (waveforms) are read one by one; what is neither number nor array of numbers is stepped over
with asyncua's decoder.

Source: OPC 10000-6, 5.2.2.16 (Variant) and 5.2.2.17 (DataValue).
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import variant_from_binary
from numpy.typing import NDArray

from models.records import BoolArray, Float32Array, FloatArray, Int64Array, UInt32Array

Indices = NDArray[np.intp]

BAD_TYPE_MISMATCH = 0x80740000
BAD_WAITING_FOR_INITIAL_DATA = 0x80320000
_LONG_RUN = 64  # values from which on a run is read by itself, and not together with others like it
_SCANNED_AT_ONCE = 256  # values, before it is seen whether a long run follows
_UNIX_EPOCH_TICKS = 116_444_736_000_000_000  # 1970 in OPC UA's count of 100 ns since 1601
_TICKS_LIMIT = (2**63 - 1) // 100  # ticks after 1970 that can be told in ns
_HAS_VALUE, _RESERVED = 0x01, 0xC0  # in the mask of a DataValue
_ARRAY, _DIMENSIONS = 0x80, 0x40  # in the type of a variant
_BOOLEAN = 1
MOST_VALUES = 5_000_000  # of one message; as many as the smallest sensible ones fill the longest message
LONGEST_WAVEFORM = 4_000_000  # samples; a page of the journal holds no more

# OPC UA built-in type → how NumPy reads it
_SCALARS = {0: None, 1: "u1", 2: "i1", 3: "u1", 4: "<i2", 5: "<u2", 6: "<i4", 7: "<u4", 8: "<i8", 9: "<u8", 10: "<f4",
            11: "<f8"}  # fmt: skip
# DataValue's fields in the order of their bytes: mask bit → name, type
_FIELDS = ((0x02, "status", "<u4"), (0x04, "source", "<i8"), (0x10, "source_pico", "<u2"), (0x08, "server", "<i8"),
           (0x20, "server_pico", "<u2"))  # fmt: skip


class MalformedMessage(ValueError):
    """The bytes are not what OPC UA says they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Values as columns, in the order of the message.

    Attributes:
        handle: Client handle of each value, shape ``(n,)``; zeros where the message has none (history).
        source_time: ns since 1970 UTC, shape ``(n,)``; the server's time where the value has none.
        server_time: When the server had the value, ns since 1970 UTC, shape ``(n,)``; 0 where it does not say.
        value: The number; NaN for a waveform, no value, or what is not a number, shape ``(n,)``.
        status: OPC UA status code, shape ``(n,)``.
        sample_count: Samples of a waveform, 0 for a plain value, shape ``(n,)``.
        samples: All waveforms one after the other, shape ``(sum(sample_count),)``.
    """

    handle: UInt32Array
    source_time: Int64Array
    server_time: Int64Array
    value: FloatArray
    status: UInt32Array
    sample_count: UInt32Array
    samples: Float32Array

    @classmethod
    def blank(cls, count: int) -> Columns:
        """Return *count* rows of zeros."""
        return cls(
            handle=np.zeros(count, np.uint32),
            source_time=np.zeros(count, np.int64),
            server_time=np.zeros(count, np.int64),
            value=np.zeros(count, np.float64),
            status=np.zeros(count, np.uint32),
            sample_count=np.zeros(count, np.uint32),
            samples=np.empty(0, np.float32),
        )

    @classmethod
    def concatenate(cls, parts: list[Columns]) -> Columns:
        """Return the values of *parts* one after the other."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.blank(0)
        return cls(
            handle=np.concatenate([p.handle for p in parts]),
            source_time=np.concatenate([p.source_time for p in parts]),
            server_time=np.concatenate([p.server_time for p in parts]),
            value=np.concatenate([p.value for p in parts]),
            status=np.concatenate([p.status for p in parts]),
            sample_count=np.concatenate([p.sample_count for p in parts]),
            samples=np.concatenate([p.samples for p in parts]),
        )


def observed(values: Columns) -> Columns:
    """Return *values* without those by which a server says that it has none yet: they are no observations.

    A server answers a new monitored item at once, with BadWaitingForInitialData and no source time until its own
    source has spoken.
    """
    kept = (values.status != BAD_WAITING_FOR_INITIAL_DATA) | (values.sample_count > 0)
    if kept.all():
        return values
    return Columns(
        handle=values.handle[kept],
        source_time=values.source_time[kept],
        server_time=values.server_time[kept],
        value=values.value[kept],
        status=values.status[kept],
        sample_count=values.sample_count[kept],
        samples=values.samples,
    )


def read_values(body: bytes, position: int, count: int, *, handles: bool, no_time: int) -> tuple[Columns, int]:
    """Read *count* values from *position* of *body*; return them and the position after them.

    Args:
        body: The message.
        position: Where the first value begins.
        count: How many there are.
        handles: Whether a client handle stands before each (MonitoredItemNotification) or not (DataValue).
        no_time: Source time, in ns, for values that come without one and without a server time; one before 1970 or
            after 2262 is none.

    Raises:
        MalformedMessage: If the bytes end early, are not values, or are more than `MOST_VALUES`.
    """
    if count > MOST_VALUES:
        raise MalformedMessage(f"{count} values in one message, more than {MOST_VALUES}")
    reading = _Reading(body, position, count, 4 if handles else 0, no_time)
    reading.run()
    return reading.columns, reading.position


class _Reading:
    """The reading of one row of values: a place in the message, and the columns as far as they are filled."""

    def __init__(self, body: bytes, position: int, count: int, prefix: int, no_time: int) -> None:
        self.body = body
        self.position = position
        self.columns = Columns.blank(count)
        self._bytes = np.frombuffer(body, np.uint8)
        self._count = count
        self._place = 0
        self._prefix = prefix
        self._no_time = no_time
        self._samples: list[Float32Array] = []
        self._scanned: list[tuple[int, Indices]] = []  # row of the first, where each begins

    def run(self) -> None:
        while self._place < self._count:
            try:
                mask = self.body[self.position + self._prefix]
                kind = self.body[self.position + self._prefix + 1] if mask & _HAS_VALUE else 0
            except IndexError as error:
                raise MalformedMessage(f"values end after {self.position} bytes") from error
            if mask & _RESERVED:
                raise MalformedMessage(f"DataValue with reserved bits (mask {mask:#x}) at byte {self.position}")
            if kind not in _SCALARS:
                self._read_one(mask, kind)
            else:
                length = self._run_length(mask, kind)
                if length >= min(_LONG_RUN, self._count - self._place) or not self._scan():
                    self._read_run(mask, kind, length)
        if self._scanned:
            self._gather()
        if self._samples:
            self.columns = replace(self.columns, samples=np.concatenate(self._samples))

    def _run_length(self, mask: int, kind: int) -> int:
        """Return how many values from here on share mask and type; each proves where the next one begins."""
        stride = _layout(mask, kind, self._prefix).itemsize
        available = min(self._count - self._place, (len(self.body) - self.position) // stride)
        if available == 0:
            raise MalformedMessage(f"values end inside the one at byte {self.position}")
        for window in (min(_LONG_RUN, available), available):
            table = self._bytes[self.position : self.position + window * stride].reshape(window, stride)
            same = table[:, self._prefix] == mask
            if mask & _HAS_VALUE:
                same &= table[:, self._prefix + 1] == kind
            if not same.all():
                return int(same.argmin())
        return available

    def _read_run(self, mask: int, kind: int, length: int) -> None:
        layout = _layout(mask, kind, self._prefix)
        rows = np.frombuffer(self.body, layout, length, self.position)
        _fill(self.columns, slice(self._place, self._place + length), rows, kind, self._no_time)
        self._place += length
        self.position += length * layout.itemsize

    def _scan(self) -> bool:
        """Step over numbers of any masks and types, to be read by `_gather`; False if there are none."""
        body, mask_at, kind_at = self.body, self._prefix, self._prefix + 1
        position, starts = self.position, []
        with suppress(IndexError):
            for _ in range(min(_SCANNED_AT_ONCE, self._count - self._place)):
                stride = _STRIDES[body[position + mask_at]][body[position + kind_at]]
                if not stride:
                    break
                starts.append(position)
                position += stride + mask_at
        if position > len(body):
            raise MalformedMessage(f"values end after {len(body)} bytes")
        self._scanned.append((self._place, np.array(starts, np.intp)))
        self._place += len(starts)
        self.position = position
        return bool(starts)

    def _gather(self) -> None:
        """Read the numbers that `_scan` found: all of one mask and type at once, wherever they stand."""
        starts = np.concatenate([starts for _, starts in self._scanned])
        places = np.concatenate([np.arange(first, first + len(starts)) for first, starts in self._scanned])
        masks, kinds = self._bytes[starts + self._prefix], self._bytes[starts + self._prefix + 1]
        keys = masks | np.where(masks & _HAS_VALUE, kinds, 0).astype(np.uint16) << 8
        for key in np.unique(keys).tolist():
            layout = _layout(key & 0xFF, key >> 8, self._prefix)
            found = np.flatnonzero(keys == key)
            within = starts[found, np.newaxis] + np.arange(layout.itemsize)
            rows = self._bytes[within].view(layout)[:, 0]
            _fill(self.columns, places[found], rows, key >> 8, self._no_time)

    def _read_one(self, mask: int, kind: int) -> None:
        """Read one value that is an array, or not a number: its variant, then the rest of it as a run of one."""
        body, prefix = self.body, self._prefix
        samples, after = _read_samples(body, self.position + prefix + 1, kind)
        head = body[self.position : self.position + prefix] + bytes([mask & ~_HAS_VALUE])
        layout = _layout(mask & ~_HAS_VALUE, 0, prefix)
        rest = layout.itemsize - len(head)
        if after + rest > len(body):
            raise MalformedMessage(f"values end inside the one at byte {self.position}")
        row = slice(self._place, self._place + 1)
        _fill(self.columns, row, np.frombuffer(head + body[after : after + rest], layout, 1), 0, self._no_time)
        if samples is None and self.columns.status[self._place] >> 30 != 2:
            self.columns.status[self._place] = BAD_TYPE_MISMATCH
        if samples is not None:
            self.columns.sample_count[self._place] = len(samples)
            self._samples.append(samples)
        self._place += 1
        self.position = after + rest


@cache
def _layout(mask: int, kind: int, prefix: int) -> np.dtype[np.void]:
    fields: list[tuple[str, str]] = [("handle", "<u4")] if prefix else []
    fields.append(("mask", "u1"))
    if mask & _HAS_VALUE:
        fields.append(("kind", "u1"))
        if (scalar := _SCALARS[kind]) is not None:
            fields.append(("value", scalar))
    fields += [(name, code) for bit, name, code in _FIELDS if mask & bit]
    return np.dtype(fields)


def _strides(mask: int) -> bytes:
    """Return for each type how many bytes its DataValue of *mask* takes without client handle; 0: no number."""
    known = [kind if mask & _HAS_VALUE else 0 for kind in range(256)]
    return bytes(_layout(mask, kind, 0).itemsize if kind in _SCALARS and not mask & _RESERVED else 0 for kind in known)


_STRIDES = [_strides(mask) for mask in range(256)]


def _fill(columns: Columns, where: slice | Indices, rows: NDArray[np.void], kind: int, no_time: int) -> None:
    """Write *rows*, all of one mask and type, into *columns*, which are zero there."""
    names = rows.dtype.names or ()
    if "handle" in names:
        columns.handle[where] = rows["handle"]
    if "status" in names:
        columns.status[where] = rows["status"]
    if "value" not in names:
        columns.value[where] = np.nan
    else:
        columns.value[where] = rows["value"] != 0 if kind == _BOOLEAN else rows["value"]
    times: Int64Array | int = no_time
    if "server" in names:
        server_time, known = _nanoseconds(rows, "server", names)
        columns.server_time[where] = server_time if known is None else np.where(known, server_time, 0)
        times = server_time if known is None else np.where(known, server_time, no_time)
    if "source" in names:
        source_time, known = _nanoseconds(rows, "source", names)
        times = source_time if known is None else np.where(known, source_time, times)
    columns.source_time[where] = times


def _nanoseconds(rows: NDArray[np.void], name: str, names: tuple[str, ...]) -> tuple[Int64Array, BoolArray | None]:
    """Return the times *name* of *rows*, and which of them are times; None for the second when all are."""
    times = rows[name].astype(np.int64)
    times -= _UNIX_EPOCH_TICKS
    known = times.view(np.uint64) < _TICKS_LIMIT
    times *= 100
    pico = f"{name}_pico"
    if pico in names and rows[pico].any():  # in units of 10 ps
        times += np.minimum(rows[pico], 9999) // 100
    return times, None if known.all() else known


def _read_samples(body: bytes, position: int, kind: int) -> tuple[Float32Array | None, int]:
    """Read the variant at *position*: its numbers, or None when it is anything else or too long, and where it ends."""
    scalar = _SCALARS.get(kind & 0x3F)
    if not kind & _ARRAY or scalar is None:
        return None, _step_over(body, position)
    try:
        (length,) = struct.unpack_from("<i", body, position + 1)
        start = position + 5
        numbers: NDArray[Any] = np.frombuffer(body, scalar, max(length, 0), start)
        after = start + numbers.nbytes
        if kind & _DIMENSIONS:
            (dimensions,) = struct.unpack_from("<i", body, after)
            after += 4 + 4 * max(dimensions, 0)
    except (struct.error, ValueError) as error:
        raise MalformedMessage(f"array at byte {position} is longer than the message") from error
    if numbers.size > LONGEST_WAVEFORM:
        return None, after
    if kind & 0x3F == _BOOLEAN:
        numbers = numbers != 0
    with np.errstate(over="ignore"):  # a number beyond single precision becomes infinite
        return numbers.astype(np.float32), after


def _step_over(body: bytes, position: int) -> int:
    buffer = Buffer(body, position)
    try:
        variant_from_binary(buffer)
    except Exception as error:
        raise MalformedMessage(f"variant at byte {position} cannot be read ({error!r})") from error
    if buffer.cur_pos <= position:  # asyncua reads a negative length backwards
        raise MalformedMessage(f"variant at byte {position} ends before it begins")
    return int(buffer.cur_pos)
