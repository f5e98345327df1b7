"""OPC UA binary values into columns, without a Python object per value.

A notification or a page of history is a row of DataValues. Those that follow one another with the same mask and the
same scalar type form a fixed-stride array, which NumPy reads at once: a run. Where mask or type changes, a new run
begins, so a Bad value among good ones costs one run more and nothing else. Arrays (waveforms) are read one by one;
what is neither number nor array of numbers is stepped over with asyncua's decoder.

Source: OPC 10000-6, 5.2.2.16 (Variant) and 5.2.2.17 (DataValue).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import variant_from_binary
from numpy.typing import NDArray

from models.records import Float32Array, FloatArray, Int64Array, UInt32Array

BAD_TYPE_MISMATCH = 0x80740000
BAD_WAITING_FOR_INITIAL_DATA = 0x80320000
_PROBE = 32  # items looked at before a run is taken for long
_UNIX_EPOCH_TICKS = 116_444_736_000_000_000  # 1970 in OPC UA's count of 100 ns since 1601
_LAST_TICKS = _UNIX_EPOCH_TICKS + (2**63 - 1) // 100
_ARRAY, _DIMENSIONS = 0x80, 0x40
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
        source_time: ns since 1970 UTC, shape ``(n,)``.
        value: The number; NaN for a waveform, no value, or what is not a number, shape ``(n,)``.
        status: OPC UA status code, shape ``(n,)``.
        sample_count: Samples of a waveform, 0 for a plain value, shape ``(n,)``.
        samples: All waveforms one after the other, shape ``(sum(sample_count),)``.
    """

    handle: UInt32Array
    source_time: Int64Array
    value: FloatArray
    status: UInt32Array
    sample_count: UInt32Array
    samples: Float32Array

    @classmethod
    def concatenate(cls, parts: list[Columns]) -> Columns:
        """Return the values of *parts* one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            handle=np.concatenate([p.handle for p in parts] or [np.empty(0, np.uint32)]),
            source_time=np.concatenate([p.source_time for p in parts] or [np.empty(0, np.int64)]),
            value=np.concatenate([p.value for p in parts] or [np.empty(0, np.float64)]),
            status=np.concatenate([p.status for p in parts] or [np.empty(0, np.uint32)]),
            sample_count=np.concatenate([p.sample_count for p in parts] or [np.empty(0, np.uint32)]),
            samples=np.concatenate([p.samples for p in parts] or [np.empty(0, np.float32)]),
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
        MalformedMessage: If the bytes end early, or are not values.
    """
    parts = []
    while count > 0:
        part, position = _read_run(body, position, count, 4 if handles else 0, no_time)
        parts.append(part)
        count -= len(part.handle)
    return Columns.concatenate(parts), position


def _read_run(body: bytes, position: int, count: int, prefix: int, no_time: int) -> tuple[Columns, int]:
    try:
        mask = body[position + prefix]
        kind = body[position + prefix + 1] if mask & 0x01 else 0
    except IndexError as error:
        raise MalformedMessage(f"values end after {position} bytes") from error
    if mask & 0xC0:
        raise MalformedMessage(f"DataValue with reserved bits (mask {mask:#x}) at byte {position}")
    layout = _layout(mask, kind, prefix) if kind in _SCALARS else None
    if layout is None:
        return _read_one(body, position, prefix, no_time)
    length = _run_length(body, position, count, prefix, mask, kind, layout.itemsize)
    rows = np.frombuffer(body, layout, length, position)
    return _columns(rows, no_time), position + length * layout.itemsize


def _run_length(body: bytes, position: int, count: int, prefix: int, mask: int, kind: int, stride: int) -> int:
    """Return how many values from *position* on share mask and type; each proves where the next one begins."""
    available = min(count, (len(body) - position) // stride)
    if available == 0:
        raise MalformedMessage(f"values end inside the one at byte {position}")
    for window in (min(_PROBE, available), available):
        table = np.frombuffer(body, np.uint8, window * stride, position).reshape(window, stride)
        same = table[:, prefix] == mask
        if mask & 0x01:
            same &= table[:, prefix + 1] == kind
        if not same.all():
            return int(same.argmin())
    return available


@cache
def _layout(mask: int, kind: int, prefix: int) -> np.dtype[np.void]:
    fields: list[tuple[str, str]] = [("handle", "<u4")] if prefix else []
    fields.append(("mask", "u1"))
    if mask & 0x01:
        fields.append(("kind", "u1"))
        if (scalar := _SCALARS[kind]) is not None:
            fields.append(("value", scalar))
    fields += [(name, code) for bit, name, code in _FIELDS if mask & bit]
    return np.dtype(fields)


def _columns(rows: NDArray[np.void], no_time: int) -> Columns:
    names, n = rows.dtype.names or (), len(rows)
    return Columns(
        handle=rows["handle"].astype(np.uint32) if "handle" in names else np.zeros(n, np.uint32),
        source_time=_times(rows, names, no_time),
        value=rows["value"].astype(np.float64) if "value" in names else np.full(n, np.nan),
        status=rows["status"].astype(np.uint32) if "status" in names else np.zeros(n, np.uint32),
        sample_count=np.zeros(n, np.uint32),
        samples=np.empty(0, np.float32),
    )


def _times(rows: NDArray[np.void], names: tuple[str, ...], no_time: int) -> Int64Array:
    """Return the source time of each row; the server's where there is none, *no_time* where there is neither."""
    times = np.full(len(rows), no_time, np.int64)
    for name in ("server", "source"):
        if name in names:
            ticks = rows[name]
            known = (ticks >= _UNIX_EPOCH_TICKS) & (ticks < _LAST_TICKS)
            nanoseconds: Int64Array = (np.where(known, ticks, _UNIX_EPOCH_TICKS) - _UNIX_EPOCH_TICKS) * 100
            if f"{name}_pico" in names:  # in units of 10 ps
                nanoseconds = nanoseconds + np.minimum(rows[f"{name}_pico"], 9999) // 100
            times = np.where(known, nanoseconds, times)
    return times


def _read_one(body: bytes, position: int, prefix: int, no_time: int) -> tuple[Columns, int]:
    """Read one value that is an array, or not a number: its variant, then the rest of it as a run of one."""
    mask, kind = body[position + prefix], body[position + prefix + 1]
    samples, after = _read_samples(body, position + prefix + 1, kind)
    head = body[position : position + prefix] + bytes([mask & ~0x01])
    layout = _layout(mask & ~0x01, 0, prefix)
    rest = layout.itemsize - len(head)
    if after + rest > len(body):
        raise MalformedMessage(f"values end inside the one at byte {position}")
    rows = np.frombuffer(head + body[after : after + rest], layout, 1)
    found = _columns(rows, no_time)
    if samples is None and found.status[0] >> 30 != 2:
        found.status[0] = BAD_TYPE_MISMATCH
    samples = np.empty(0, np.float32) if samples is None else samples
    columns = Columns(
        handle=found.handle,
        source_time=found.source_time,
        value=found.value,
        status=found.status,
        sample_count=np.array([len(samples)], np.uint32),
        samples=samples,
    )
    return columns, after + rest


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
    with np.errstate(over="ignore"):  # a number beyond single precision becomes infinite
        return numbers.astype(np.float32), after


def _step_over(body: bytes, position: int) -> int:
    buffer = Buffer(body, position)
    try:
        variant_from_binary(buffer)
    except Exception as error:
        raise MalformedMessage(f"variant at byte {position} cannot be read ({error!r})") from error
    return int(buffer.cur_pos)
