import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.sequence import encoding
from models.sequence.encoding import decode_heads, decode_statistics, encode_heads, encode_statistics
from models.sequence.heads import HeadError, HeadStatistics
from tests.models.sequence.conftest import Learned, make_learned

_GOOD = make_learned(40, seed=3, columns=6)
STATISTICS = encode_statistics({"life": HeadStatistics.of(_GOOD.features, _GOOD.targets)})
HEADS = encode_heads({"life": HeadStatistics.of(_GOOD.features, _GOOD.targets).solve(1.0)})


def test_heads_come_back_bit_by_bit(learned: Learned) -> None:
    sums = HeadStatistics.of(learned.features, learned.targets)
    given = {"life_cut": sums.solve(1.0), "life": sums.solve(2.0)}

    found = decode_heads(encode_heads(given))

    assert sorted(found) == ["life", "life_cut"]
    np.testing.assert_array_equal(found["life"].weights, given["life"].weights)
    np.testing.assert_array_equal(found["life"].bias, given["life"].bias)
    assert {name: head.ridge for name, head in found.items()} == {"life": 2.0, "life_cut": 1.0}
    assert encode_heads(found) == encode_heads(given)


def test_statistics_come_back_bit_by_bit_at_half_the_size(learned: Learned) -> None:
    sums = HeadStatistics.of(learned.features, learned.targets, learned.weights)

    data = encode_statistics({"life": sums})
    found = decode_statistics(data)["life"]

    np.testing.assert_array_equal(found.gram, sums.gram)
    np.testing.assert_array_equal(found.moment, sums.moment)
    np.testing.assert_array_equal(found.square, sums.square)
    assert found.rows == sums.rows
    assert len(data) < 8 * (31 * 32 / 2 + 31 * 2 + 2) + 100


def test_statistics_of_windows_are_never_refused() -> None:
    """The check of what windows can have leaves room for rounding."""
    for seed in range(20):
        some = make_learned(1 + seed * 7, seed=seed, columns=12)
        one_dimensional = np.tile(some.features[:, :1], (1, 12)) * 1e5
        for features in (some.features, one_dimensional):
            decode_statistics(encode_statistics({"life": HeadStatistics.of(features, some.targets, some.weights)}))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for decode in (decode_heads, decode_statistics):
        with pytest.raises(HeadError):
            decode(data)


@given(place=st.integers(0, len(STATISTICS) - 1), value=st.integers(0, 255), length=st.integers(0, len(STATISTICS)))
def test_a_changed_byte_is_refused_or_makes_possible_statistics(place: int, value: int, length: int) -> None:
    """Nothing else than a `HeadError` comes of it, and what passes has finite numbers of the right shape."""
    changed = bytearray(STATISTICS)
    changed[place] = value
    try:
        found = decode_statistics(bytes(changed if length % 2 else changed[:length]))
    except HeadError:
        return
    for sums in found.values():
        assert np.isfinite(sums.gram).all()
        np.testing.assert_array_equal(sums.gram, sums.gram.T)


@given(place=st.integers(0, len(HEADS) - 1), value=st.integers(0, 255))
def test_a_changed_byte_of_heads_is_refused_or_makes_a_finite_head(place: int, value: int) -> None:
    changed = bytearray(HEADS)
    changed[place] = value
    try:
        found = decode_heads(bytes(changed))
    except HeadError:
        return
    assert all(np.isfinite(head.weights).all() for head in found.values())


def _with(number: int, value: Any, *, file: bytes = STATISTICS, key: str = "statistics") -> bytes:
    """Return *file* with one field of its only entry replaced."""
    content = msgspec.msgpack.decode(file)
    content[key]["life"][number] = value
    return msgspec.msgpack.encode(content)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_with(0, 10**9), "out of range"),
        (_with(0, -1), "out of range"),
        (_with(1, 0), "out of range"),
        (_with(2, 2**50), "out of range"),
        (_with(2, 0), "of no window"),
        (_with(0, 7), "numbers are due"),
        (_with(3, np.full(28, np.nan).tobytes()), "not finite"),
        (_with(3, np.full(28, -1.0).tobytes()), "negative"),
        (_with(5, np.full(2, -1.0).tobytes()), "negative"),
        (_with(4, np.full(14, 1e9).tobytes()), "larger than their squares"),
        (msgspec.msgpack.encode({"schema": 2, "statistics": {}}), "schema 2"),
        (msgspec.msgpack.encode({"schema": 1, "statistics": {}, "more": 1}), "do not decode"),
    ],
)
def test_statistics_that_no_windows_have_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(HeadError, match=why):
        decode_statistics(data)


@pytest.mark.parametrize("ridge", [-1.0, math.nan, math.inf])
def test_a_ridge_that_is_none_is_refused(ridge: float) -> None:
    """Nobody could solve such a head anew."""
    head = replace(decode_heads(HEADS)["life"], ridge=ridge)

    with pytest.raises(HeadError, match="a ridge of"):
        decode_heads(encode_heads({"life": head}))


def test_endless_nesting_is_refused() -> None:
    for decode in (decode_heads, decode_statistics):
        with pytest.raises(HeadError, match="do not decode"):
            decode(b"\x81\xa1x" * 100_000)


def test_names_are_plain_and_few() -> None:
    head = decode_heads(HEADS)["life"]
    with pytest.raises(HeadError, match="plain names"):
        decode_heads(encode_heads({"../life": head}))
    with pytest.raises(HeadError, match="plain names"):
        decode_heads(encode_heads({f"life{number}": head for number in range(17)}))


def test_too_many_bytes_are_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_STATISTICS_BYTES", len(STATISTICS) - 1)
    monkeypatch.setattr(encoding, "MAX_HEADS_BYTES", len(HEADS) - 1)

    with pytest.raises(HeadError, match="are more than"):
        decode_statistics(STATISTICS)
    with pytest.raises(HeadError, match="are more than"):
        decode_heads(HEADS)
