"""What a bundle says of its detector: decades, how members count together, and the file it travels in."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.detection.detection import (
    MAX_BYTES,
    SEQUENCE,
    AdaptationBounds,
    Detection,
    DetectionError,
    Member,
    change_decades,
    combine,
    decades_of,
    decode_detection,
    encode_detection,
)

LARGEST = Member(name="largest", outputs=(1.0, 2.0, 3.0), decades=(0.0, 0.3, 1.0), slope=2.0)
FOREST = Member(name="forest", outputs=(0.4, 0.5), decades=(0.0, 1.0), slope=20.0)
CHANGE = Member(name="change", role="change", outputs=(0.0, 1.0), decades=(0.0, 1.0), slope=1.0)
DETECTION = Detection(members=(LARGEST, FOREST, CHANGE), change_limit=4.0, stray=(0.5, 2.0))


def test_decades_are_read_off_the_knots_and_go_on_as_a_line() -> None:
    """What was seen is interpolated, what was not lies on the tail; less than the least is as ordinary as can be."""
    outputs = np.array([0.0, 1.0, 1.5, 3.0, 4.5])

    assert decades_of(LARGEST, outputs) == pytest.approx([0.0, 0.0, 0.15, 1.0, 4.0])


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_a_larger_output_is_never_more_ordinary(outputs: list[float]) -> None:
    """Decades grow with the output, whatever it is."""
    told = decades_of(LARGEST, np.sort(np.array(outputs)))

    assert (np.diff(told) >= 0.0).all()
    assert np.isfinite(told).all()


def test_members_count_together_as_the_bundle_says() -> None:
    """Median, mean or maximum of the state members' decades; a member of change has no say in the state."""
    outputs = np.array([[3.0, 0.6, 50.0]])

    assert combine(DETECTION, outputs) == pytest.approx([2.0])
    assert combine(replace(DETECTION, combination="max"), outputs) == pytest.approx([3.0])
    assert change_decades(DETECTION, outputs) == pytest.approx([50.0])


def test_a_member_without_an_answer_does_not_count() -> None:
    """Where a gateway has no sequences yet, the others speak; where nobody answers, nothing is said."""
    outputs = np.array([[3.0, math.nan, 0.0], [math.nan, math.nan, 0.0], [3.0, 0.6, 0.0]])

    assert combine(DETECTION, outputs) == pytest.approx([1.0, math.nan, 2.0], nan_ok=True)


def test_a_detection_travels_unchanged() -> None:
    """What is written is what is read, also where nobody asks for changes."""
    asked = replace(
        DETECTION, members=(LARGEST,), change_limit=math.nan, adaptation=AdaptationBounds(largest_shift=1.0)
    )
    told = decode_detection(encode_detection(asked))

    assert decode_detection(encode_detection(DETECTION)) == DETECTION
    assert math.isnan(told.change_limit)
    assert replace(told, change_limit=0.0) == replace(asked, change_limit=0.0)


@pytest.mark.parametrize(
    "hostile",
    [
        {"members": []},
        {"members": [{"name": "a", "outputs": [2.0, 1.0], "decades": [0.0, 1.0], "slope": 1.0}]},
        {"members": [{"name": "a", "outputs": [1.0], "decades": [0.0], "slope": 0.0}]},
        {"members": [{"name": "a", "outputs": [1.0], "decades": [-1.0], "slope": 1.0}]},
        {"members": [{"name": "a", "outputs": [1.0, 2.0], "decades": [0.0], "slope": 1.0}]},
        {"members": [{"name": "a", "role": "oracle", "outputs": [1.0], "decades": [0.0], "slope": 1.0}]},
        {"combination": "vote"},
        {"usual": 0.0},
        {"forecast_scale": [1.0]},
        {"stray": [1.0, 0.0]},
        {"adaptation": {"largest_shift": 1e9, "largest_factor": 1.5, "least_windows": 48}},
    ],
)
def test_a_hostile_detection_is_refused(hostile: dict[str, object]) -> None:
    """Numbers out of range, members without order and unknown words are refused, with a reason."""
    told = msgspec.json.decode(encode_detection(DETECTION)) | hostile

    with pytest.raises(DetectionError):
        decode_detection(msgspec.json.encode(told))


def test_garbage_and_too_much_of_it_are_refused() -> None:
    """Bytes that are no detection, or more than one can be, end in one kind of error."""
    for data in (b"", b"{", b"null", b" " * (MAX_BYTES + 1)):
        with pytest.raises(DetectionError):
            decode_detection(data)


def test_the_sequence_member_is_the_last_and_brings_its_usual_errors() -> None:
    """It is no column of the graph, so it must stand behind those that are."""
    foreseen = Member(name=SEQUENCE, outputs=(0.0, 1.0), decades=(0.0, 1.0), slope=1.0)
    asked = replace(DETECTION, members=(LARGEST, FOREST, foreseen), forecast_scale=(1.0,))

    assert (asked.columns, asked.has_sequence) == (2, True)
    with pytest.raises(DetectionError, match="not the last"):
        replace(DETECTION, members=(foreseen, LARGEST), forecast_scale=(1.0,))
    with pytest.raises(DetectionError, match="usual errors"):
        replace(DETECTION, members=(LARGEST, foreseen))
