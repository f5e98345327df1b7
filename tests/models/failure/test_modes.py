"""What a bundle tells of its failure modes travels whole, and is refused where it cannot be meant."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from models.failure.modes import (
    FailureError,
    FailureModes,
    decode_failure_modes,
    encode_failure_modes,
    foretold,
)
from models.features.specification import FeatureSpecification, History
from models.records import Channel

SPEC = FeatureSpecification(
    asset_class="press",
    channels=tuple(Channel(name=name, unit="bar", low=0.0, high=10.0) for name in ("oil", "water")),
    window_s=60.0,
    step_s=60.0,
    late_s=60.0,
    statistics=("mean",),
    history=History(cycles=True),
)
MODES = FailureModes(
    names=("leak", "wear"),
    horizon_h=24.0,
    thresholds=(0.4, math.inf),
    importance=((0.25, 0.5, 0.25), (0.0, 0.0, 0.0)),
    band_low=(-1.0, -2.0, math.nan),
    band_high=(1.0, 2.0, math.nan),
)


def test_it_travels_whole() -> None:
    """A threshold that is never reached, and a band that is not known, come back as they were."""
    back = decode_failure_modes(encode_failure_modes(MODES), SPEC)
    assert replace(back, band_low=(), band_high=()) == replace(MODES, band_low=(), band_high=())
    np.testing.assert_array_equal(back.band, MODES.band)


def test_a_mode_is_foretold_from_its_own_threshold_on() -> None:
    """Normal has no threshold, and a mode whose threshold is infinite is never foretold."""
    told = foretold(MODES, np.array([[0.6, 0.4, 0.0], [0.0, 0.39, 1.0]]))
    np.testing.assert_array_equal(told, [[True, False], [False, False]])


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("names", ["leak"], "threshold"),
        ("names", ["leak", "leak"], "name each"),
        ("names", ["normal", "wear"], "no mode can have"),
        ("horizon_h", -1.0, "no horizon"),
        ("thresholds", [0.0, 0.5], "above 0"),
        ("importance", [[0.5, 0.5], [0.5, 0.5]], "each of 3 inputs"),
        ("importance", [[0.5, 0.5, 0.5], [0.0, 0.0, 0.0]], "add up"),
        ("importance", [[1.5, -0.5, 0.0], [0.0, 0.0, 0.0]], "0 to 1"),
        ("band_low", [0.0, 0.0], "band for each"),
        ("band_low", [2.0, 0.0, None], "band that is none"),
        ("band_low", [0.0, None, None], "band that is none"),
    ],
)
def test_what_cannot_be_meant_is_refused(part: str, value: Any, said: str) -> None:
    """The message names the class and what is wrong."""
    told = msgspec.json.decode(encode_failure_modes(MODES)) | {part: value}
    with pytest.raises(FailureError, match=f"press: failure modes .*{said}"):
        decode_failure_modes(msgspec.json.encode(told), SPEC)


def test_what_does_not_decode_is_refused() -> None:
    """Bytes of anything else, and too many of them."""
    with pytest.raises(FailureError, match="do not decode"):
        decode_failure_modes(b"{}", SPEC)
    with pytest.raises(FailureError, match="more than"):
        decode_failure_modes(b" " * (16 * 2**20 + 1), SPEC)
