"""How life models' answers become one life with quantiles, and the file that says so."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.prognosis.prognoses import (
    MAX_BYTES,
    Member,
    Offsets,
    Prognoses,
    PrognosisError,
    Variant,
    blend,
    decode_prognoses,
    encode_prognoses,
    quantiles,
)
from models.records import FloatArray

OFFSETS = Offsets(life_h=(10.0, 50.0, 90.0), p10_h=(-2.0, -20.0, -5.0), p50_h=(0.0, 1.0, 0.0), p90_h=(3.0, 20.0, 30.0))
WHOLE = Variant(weights={"trees": 0.6, "kernels": 0.4}, offsets=OFFSETS, least_windows=5)
CUT = Variant(weights={"trees": 1.0}, offsets=OFFSETS, least_windows=10, known_windows=(10, 30), spread=(2.0, 1.0))
PROGNOSES = Prognoses(cap_h=100.0, whole=WHOLE, cut=CUT)


def test_members_count_by_their_weights_up_to_the_cap() -> None:
    """A blend is a weighted sum, never below 0 and never above the longest life that is told."""
    answers: dict[Member, FloatArray] = {
        "trees": np.array([50.0, -10.0, 300.0]),
        "kernels": np.array([40.0, 0.0, 10.0]),
    }

    assert blend(PROGNOSES, WHOLE, answers) == pytest.approx([46.0, 0.0, 100.0])


def test_a_member_without_weight_need_not_answer() -> None:
    """What does not count is not asked for."""
    variant = replace(WHOLE, weights={"trees": 1.0, "gru": 0.0})

    assert blend(PROGNOSES, variant, {"trees": np.array([7.0])}) == pytest.approx([7.0])
    assert PROGNOSES.members == {"whole": {"trees", "kernels"}, "cut": {"trees"}}


def test_offsets_lie_on_lines_between_the_knots() -> None:
    """Between knots they are interpolated, beyond them they stay, and nothing leaves 0 to the cap."""
    told = quantiles(PROGNOSES, WHOLE, np.array([0.0, 30.0, 95.0]), np.array([9, 9, 9]))

    assert told == pytest.approx(np.array([[0.0, 0.0, 3.0], [19.0, 30.5, 41.5], [90.0, 95.0, 100.0]]))


def test_quantiles_narrow_as_more_is_known() -> None:
    """The spread multiplies the offsets, and is interpolated over known windows."""
    told = quantiles(PROGNOSES, CUT, np.full(3, 50.0), np.array([10, 20, 400]))

    assert told[:, 0] == pytest.approx([10.0, 20.0, 30.0])
    assert told[:, 2] == pytest.approx([90.0, 80.0, 70.0])


@given(st.lists(st.floats(-10.0, 1000.0), min_size=1, max_size=20), st.integers(1, 500))
def test_quantiles_ascend_whatever_is_told(lives: list[float], known: int) -> None:
    """P10 is never above P50, nor P50 above P90."""
    told = quantiles(PROGNOSES, CUT, np.clip(np.array(lives), 0.0, 100.0), np.full(len(lives), known))

    assert (np.diff(told, axis=1) >= 0.0).all()
    assert told.min() >= 0.0
    assert told.max() <= 100.0


def test_what_is_written_is_read() -> None:
    """The file holds all of it, and the same prognoses give the same bytes."""
    told = replace(PROGNOSES, largest_rise=0.5)

    assert decode_prognoses(encode_prognoses(told)) == told
    assert encode_prognoses(told) == encode_prognoses(replace(told))


WRONG = {
    "no variant": lambda: Prognoses(cap_h=10.0),
    "a cap of nothing": lambda: Prognoses(cap_h=0.0, whole=WHOLE),
    "a rise that is none": lambda: replace(PROGNOSES, largest_rise=float("nan")),
    "no member": lambda: replace(WHOLE, weights={}),
    "no weight above 0": lambda: replace(WHOLE, weights={"trees": 0.0, "kernels": 0.0}),
    "a negative weight": lambda: replace(WHOLE, weights={"trees": -0.1}),
    "no window at least": lambda: replace(WHOLE, least_windows=0),
    "a spread too many": lambda: replace(WHOLE, spread=(1.0, 1.0)),
    "known windows that fall": lambda: replace(CUT, known_windows=(30, 10)),
    "a spread that is none": lambda: replace(CUT, spread=(float("nan"), 1.0)),
    "knots that fall": lambda: replace(OFFSETS, life_h=(10.0, 9.0, 90.0)),
    "an offset too few": lambda: replace(OFFSETS, p90_h=(1.0, 1.0)),
    "offsets that cross": lambda: replace(OFFSETS, p10_h=(4.0, -20.0, -5.0)),
    "an offset without end": lambda: replace(OFFSETS, p90_h=(3.0, 20.0, float("inf"))),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_used_is_refused(wrong: object) -> None:
    """Each number that would tell nonsense is named when it is read."""
    with pytest.raises(PrognosisError):
        wrong()  # type: ignore[operator]


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b'{"cap_h": 1e999}', encode_prognoses(PROGNOSES).replace(b'"cap_h":100.0', b'"cap_h":-1.0')],
)
def test_a_hostile_file_is_refused(data: bytes) -> None:
    """What does not decode, or decodes to nonsense, is refused with the one error that bundles know."""
    with pytest.raises(PrognosisError):
        decode_prognoses(data)


def test_a_file_that_is_too_long_is_not_read() -> None:
    """The limit is on the bytes, before anything is made of them; just below it the file is read."""
    plain = msgspec.json.encode(PROGNOSES)
    padded = plain + b" " * (MAX_BYTES - len(plain))

    assert decode_prognoses(padded) == PROGNOSES
    with pytest.raises(PrognosisError, match="bytes are more"):
        decode_prognoses(padded + b" ")
