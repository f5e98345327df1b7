"""Columns of a segment as bytes: integers as one number, as runs or through pcodec, floats through pcodec.

A column does not say how long it is: whoever decodes one knows that already and gives the room, so that no column can
make memory grow. Columns that streams have in common (the times of the channels of one machine) are written once, see
`pack_by_stream`.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pcodec import ChunkConfig, DeltaSpec, standalone

from models.records import FloatArray, Int64Array

_CONSTANT, _PCODEC, _RUNS = b"c", b"p", b"r"
_RUNS_WORTH = 8  # rows for each run: with fewer, runs are never smaller
_BLOCK_ROWS = 64
_CONFIG: Final = ChunkConfig()
_NO_DELTA: Final = ChunkConfig(delta_spec=DeltaSpec.no_op())
_OWN, _SAME, _NEAR = 0, 1, 2

Integers = NDArray[Any]


def pack_integers(column: Integers, config: ChunkConfig = _CONFIG) -> bytes:
    """Return the bytes of an integer column of any of NumPy's 32 and 64 bit types; none for an empty column."""
    if not column.size:
        return b""
    starts = np.flatnonzero(np.concatenate(([True], column[1:] != column[:-1])))
    if len(starts) == 1:
        return _CONSTANT + column[:1].tobytes()
    packed = _PCODEC + pack_numbers(column, config)
    if len(starts) * _RUNS_WORTH > len(column):
        return packed
    values, lengths = pack_numbers(column[starts]), pack_numbers(np.diff(starts, append=len(column)))
    runs = _RUNS + len(starts).to_bytes(4, "little") + len(values).to_bytes(4, "little") + values + lengths
    return min(packed, runs, key=len)


def unpack_integers(data: bytes, count: int, dtype: DTypeLike) -> Integers:
    """Return the *count* integers that *data* holds.

    Raises:
        ValueError: If it holds another number of them.
    """
    kind = np.dtype(dtype)
    if count == 0 and not data:
        return np.empty(0, kind)
    if data[:1] == _CONSTANT and len(data) == 1 + kind.itemsize:
        return np.full(count, np.frombuffer(data, kind, 1, 1)[0])
    if data[:1] == _PCODEC:
        return unpack_numbers(data[1:], count, kind)
    if data[:1] == _RUNS and len(data) > 9:
        return _unpack_runs(data, count, kind)
    raise ValueError("a column of integers starts with no known kind")


def _unpack_runs(data: bytes, count: int, kind: np.dtype[Any]) -> Integers:
    runs, middle = int.from_bytes(data[1:5], "little"), 9 + int.from_bytes(data[5:9], "little")
    if not 0 < runs <= count:
        raise ValueError(f"a column of {count} rows says it has {runs} runs")
    values = unpack_numbers(data[9:middle], runs, kind)
    lengths = unpack_numbers(data[middle:], runs, np.int64)
    if int(lengths.min()) < 1 or int(lengths.max()) > count or int(lengths.sum()) != count:
        raise ValueError("the runs of a column do not add up to its rows")
    return np.repeat(values, lengths)


def pack_numbers(column: NDArray[Any], config: ChunkConfig = _CONFIG) -> bytes:
    """Return *column* through pcodec."""
    data: bytes = standalone.simple_compress(np.ascontiguousarray(column), config)
    return data


def unpack_numbers(data: bytes, count: int, dtype: DTypeLike) -> NDArray[Any]:
    """Decode exactly *count* numbers: the room is ours, so a lying column cannot make it grow.

    Raises:
        ValueError: If it holds another number of them.
    """
    column = np.empty(count, dtype)
    if count or data:
        unpack_into(data, column)
    return column


def unpack_into(data: bytes, room: NDArray[Any]) -> None:
    """Decode exactly as many numbers as there is *room* for.

    Raises:
        ValueError: If *data* holds another number of them.
    """
    progress = standalone.simple_decompress_into(data, room)
    if progress.n_processed != len(room) or not progress.finished:
        raise ValueError(f"a column does not hold the {len(room)} numbers its head says")


def pack_values(value: FloatArray, counts: Int64Array) -> tuple[bytes, ...]:
    """Return *value* in blocks of neighbouring streams; a stream of 64 rows and more has a block of its own."""
    ends = [0, *_block_ends(counts)]
    return tuple(pack_numbers(value[start:end]) for start, end in pairwise(ends))


def unpack_values(lengths: bytes, blocks: bytes, counts: Int64Array) -> FloatArray:
    """Return what `pack_values` was given.

    Args:
        lengths: Bytes of each block, as a column of integers.
        blocks: The blocks one after the other.
        counts: Rows of each stream.

    Raises:
        ValueError: If they do not fit together.
    """
    ends = [0, *_block_ends(counts)]
    sizes = unpack_integers(lengths, len(ends) - 1, np.uint32).tolist()
    if sum(sizes) != len(blocks):
        raise ValueError("the blocks of values do not add up")
    column = np.empty(ends[-1], np.float64)
    for (start, end), (first, last) in zip(pairwise(ends), pairwise(accumulate(sizes, initial=0)), strict=True):
        unpack_into(blocks[first:last], column[start:end])
    return column


def _block_ends(counts: Int64Array) -> list[int]:
    """Return where blocks of values end: where a stream ends, as soon as a block has enough rows."""
    ends, start = [], 0
    boundaries = np.cumsum(counts).tolist()
    for end in boundaries:
        if end - start >= _BLOCK_ROWS or (end == boundaries[-1] and end > start):
            ends.append(end)
            start = end
    return ends


def pack_by_stream(column: Integers, counts: Int64Array, *, near: bool = False) -> tuple[bytes, bytes, bytes]:
    """Return a column that lies stream after stream, what streams have in common written once.

    Each stream's part is its own, or the same as that of the stream before it, or (with *near*) written as the
    differences from that, when they are the smaller numbers: clocks that are read one after the other.

    Args:
        column: Shape ``(sum(counts),)``.
        counts: Rows of each stream.
        near: Whether differences are worth looking for.

    Returns:
        How each stream's part is written, the parts that are their own, and the differences.
    """
    modes = np.zeros(len(counts), np.uint32)
    ends = np.cumsum(counts)
    for first, last in _alike(counts):
        rows, start = int(counts[first]), int(ends[first] - counts[first])
        table = column[start : start + rows * (last - first)].reshape(last - first, rows)
        modes[first + 1 : last] = _modes(table, near=near)
    of_row = np.repeat(modes, counts)
    before = np.flatnonzero(of_row == _NEAR)
    differences = column[before].astype(np.int64) - column[before - np.repeat(counts, counts)[before]]
    return pack_integers(modes), pack_integers(column[of_row == _OWN]), pack_integers(differences, _NO_DELTA)


def _alike(counts: Int64Array) -> list[tuple[int, int]]:
    """Return where neighbouring streams have equally many rows, as first and one after the last."""
    edges = np.concatenate(([0], np.flatnonzero(np.diff(counts)) + 1, [len(counts)])).tolist()
    return [(first, last) for first, last in pairwise(edges) if last - first > 1 and counts[first]]


def _modes(table: Integers, *, near: bool) -> NDArray[np.uint32]:
    """Return how each row of *table* but the first is written."""
    modes = np.where((table[1:] == table[:-1]).all(axis=1), _SAME, _OWN).astype(np.uint32)
    if near and table.shape[1] > 1:
        differences = _bits(table[1:] - table[:-1])
        steps = np.diff(table[1:], axis=1)
        own = np.minimum(_bits(steps), _bits(np.diff(steps, axis=1)) if steps.shape[1] > 1 else np.inf)
        modes[(modes == _OWN) & (differences < own)] = _NEAR
    return modes


def _bits(table: Int64Array) -> FloatArray:
    """Return about how many bits one number of each row takes: by its distance from the row's first."""
    with np.errstate(over="ignore"):
        distance = np.abs((table - table[:, :1]).astype(np.float64))
    return np.asarray(np.log2(1.0 + distance).mean(axis=1), np.float64)


def unpack_by_stream(data: tuple[bytes, bytes, bytes], counts: Int64Array, dtype: DTypeLike) -> Integers:
    """Return the column that `pack_by_stream` was given.

    Raises:
        ValueError: If it does not fit *counts*.
    """
    modes = unpack_integers(data[0], len(counts), np.uint32)
    if len(modes) and (int(modes.max()) > _NEAR or modes[0] != _OWN):
        raise ValueError("a column of streams is written in no known way")
    if (counts[1:] != counts[:-1])[modes[1:] != _OWN].any():
        raise ValueError("streams of unlike length share a column")
    own = unpack_integers(data[1], int(counts[modes == _OWN].sum()), dtype)
    near = unpack_integers(data[2], int(counts[modes == _NEAR].sum()), np.int64)
    column = np.empty(int(counts.sum()), dtype)
    of_row = np.repeat(modes, counts)
    column[of_row == _OWN] = own
    column[of_row == _SAME] = 0
    column[of_row == _NEAR] = near.astype(dtype)
    ends = np.cumsum(counts)
    for first, last in _alike(counts):
        rows, start = int(counts[first]), int(ends[first] - counts[first])
        is_own = modes[first:last] == _OWN
        if not is_own.all():
            table = column[start : start + rows * (last - first)].reshape(last - first, rows)
            table[:] = _summed_from_own(table, is_own)
    return column


def _summed_from_own(table: Integers, is_own: NDArray[np.bool_]) -> Integers:
    """Return *table* with each row added up from the last one before it that *is_own*; the first one is."""
    sums = np.cumsum(table, axis=0, dtype=table.dtype)  # wraps around, which comes out again below
    last_own = np.maximum.accumulate(np.where(is_own, np.arange(len(table)), 0))
    return np.asarray(sums - (sums - table)[last_own], table.dtype)
