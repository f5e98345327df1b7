"""``heads.msgpack`` and ``statistics.msgpack`` of a bundle: heads by name, and what they were solved from.

Numbers are float64, little-endian, row by row; of the symmetric gram matrix the upper triangle is stored, which halves
it. What is read was signed by somebody, or came from another site: every size is checked before anything is made of it,
and statistics that no windows can have are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec
import numpy as np

from models.records import UNDECODABLE, FloatArray
from models.sequence.heads import MAX_COLUMNS, MAX_OUTPUTS, Head, HeadError, HeadStatistics

MAX_HEADS = 16
MAX_HEADS_BYTES = 16 * 2**20
MAX_STATISTICS_BYTES = 160 * 2**20
MAX_ROWS = 2**48
_SCHEMA = 1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ROUNDING = 1e-9


class _StoredHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    columns: int
    outputs: int
    weights: bytes
    bias: bytes
    ridge: float = 0.0


class _StoredStatistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    columns: int
    outputs: int
    rows: int
    gram: bytes
    moment: bytes
    square: bytes


class _StoredHeads(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    heads: dict[str, _StoredHead]


class _StoredSums(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    statistics: dict[str, _StoredStatistics]


def encode_heads(heads: Mapping[str, Head]) -> bytes:
    """Return ``heads.msgpack``; the same heads give the same bytes."""
    return msgspec.msgpack.encode(
        _StoredHeads(
            schema=_SCHEMA,
            heads={
                name: _StoredHead(
                    columns=len(head.weights),
                    outputs=len(head.bias),
                    weights=_stored(head.weights),
                    bias=_stored(head.bias),
                    ridge=head.ridge,
                )
                for name, head in sorted(heads.items())
            },
        )
    )


def decode_heads(data: bytes) -> dict[str, Head]:
    """Return the heads in *data*.

    Raises:
        HeadError: If it is too large, malformed, or holds a number that is not finite.
    """
    try:
        _check_size(data, MAX_HEADS_BYTES)
        stored = msgspec.msgpack.decode(data, type=_StoredHeads)
    except UNDECODABLE as error:
        raise HeadError(f"heads do not decode ({error})") from error
    _check_names(stored.schema, list(stored.heads))
    heads = {}
    for name, one in stored.heads.items():
        _check_shape(name, one.columns, one.outputs)
        if not 0.0 <= one.ridge < math.inf:
            raise HeadError(f"{name}: a ridge of {one.ridge} is none")
        heads[name] = Head(
            weights=_numbers(name, one.weights, (one.columns, one.outputs)),
            bias=_numbers(name, one.bias, (one.outputs,)),
            ridge=one.ridge,
        )
    return heads


def encode_statistics(statistics: Mapping[str, HeadStatistics]) -> bytes:
    """Return ``statistics.msgpack``; the same statistics give the same bytes."""
    return msgspec.msgpack.encode(
        _StoredSums(
            schema=_SCHEMA,
            statistics={
                name: _StoredStatistics(
                    columns=sums.columns,
                    outputs=sums.outputs,
                    rows=sums.rows,
                    gram=_stored(sums.gram[np.triu_indices(len(sums.gram))]),
                    moment=_stored(sums.moment),
                    square=_stored(sums.square),
                )
                for name, sums in sorted(statistics.items())
            },
        )
    )


def decode_statistics(data: bytes) -> dict[str, HeadStatistics]:
    """Return the statistics in *data*.

    Raises:
        HeadError: If it is too large, malformed, or no windows can have such sums.
    """
    try:
        _check_size(data, MAX_STATISTICS_BYTES)
        stored = msgspec.msgpack.decode(data, type=_StoredSums)
    except UNDECODABLE as error:
        raise HeadError(f"statistics do not decode ({error})") from error
    _check_names(stored.schema, list(stored.statistics))
    return {name: _statistics(name, one) for name, one in stored.statistics.items()}


def _statistics(name: str, stored: _StoredStatistics) -> HeadStatistics:
    _check_shape(name, stored.columns, stored.outputs)
    if not 0 <= stored.rows <= MAX_ROWS:
        raise HeadError(f"{name}: {stored.rows} windows are out of range")
    side = stored.columns + 1
    upper = _numbers(name, stored.gram, (side * (side + 1) // 2,))
    gram = np.empty((side, side))
    rows, columns = np.triu_indices(side)
    gram[rows, columns] = upper
    gram[columns, rows] = upper
    sums = HeadStatistics(
        gram=gram,
        moment=_numbers(name, stored.moment, (side, stored.outputs)),
        square=_numbers(name, stored.square, (stored.outputs,)),
        rows=stored.rows,
    )
    _check_possible(name, sums)
    return sums


def _check_possible(name: str, sums: HeadStatistics) -> None:
    """Refuse sums that break Cauchy's inequality: no windows have such."""
    own = np.diagonal(sums.gram)
    if (own < 0.0).any() or (sums.square < 0.0).any() or (sums.rows == 0 and own.any()):
        raise HeadError(f"{name}: sums of squares are negative, or of no window; no windows have such statistics")
    size, wide = np.sqrt(own) * (1.0 + _ROUNDING), np.sqrt(sums.square) * (1.0 + _ROUNDING)
    if (np.abs(sums.gram) > np.outer(size, size)).any() or (np.abs(sums.moment) > np.outer(size, wide)).any():
        raise HeadError(f"{name}: products are larger than their squares; no windows have such statistics")


def _check_size(data: bytes, limit: int) -> None:
    if len(data) > limit:
        raise HeadError(f"{len(data)} bytes are more than the {limit} that are read")


def _check_names(schema: int, names: list[str]) -> None:
    if schema != _SCHEMA:
        raise HeadError(f"heads of schema {schema}, this software reads {_SCHEMA}")
    if len(names) > MAX_HEADS or not all(_NAME.fullmatch(name) for name in names):
        raise HeadError(f"heads need plain names, {MAX_HEADS} at most")


def _check_shape(name: str, columns: int, outputs: int) -> None:
    if not (1 <= columns <= MAX_COLUMNS and 1 <= outputs <= MAX_OUTPUTS):
        raise HeadError(f"{name}: {columns} kernels and {outputs} outputs are out of range")


def _stored(values: FloatArray) -> bytes:
    return np.ascontiguousarray(values, "<f8").tobytes()


def _numbers(name: str, data: bytes, shape: tuple[int, ...]) -> FloatArray:
    count = int(np.prod(shape))
    if len(data) != 8 * count:
        raise HeadError(f"{name}: {len(data)} bytes where {count} numbers are due")
    values = np.frombuffer(data, "<f8").astype(np.float64).reshape(shape)
    if not np.isfinite(values).all():
        raise HeadError(f"{name}: holds a number that is not finite")
    return values
