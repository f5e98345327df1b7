"""A gateway names the channel that lies outside of its band and counts for the mode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.failure.contribution import by_channel, input_channels, reference_contributions, top_channels_of
from models.failure.modes import FailureModes
from models.features.names import input_names
from models.features.specification import Derived, FeatureSpecification, History
from models.records import Channel

SPEC = FeatureSpecification(
    asset_class="press",
    channels=(
        Channel(name="oil:hot", unit="bar", low=0.0, high=10.0),
        Channel(name="water", unit="bar", low=0.0, high=10.0),
        Channel(name="service", unit="1", low=0.0, high=10.0),
    ),
    window_s=60.0,
    step_s=60.0,
    late_s=60.0,
    statistics=("mean",),
    derived=(Derived(name="drop", unit="bar", kind="difference", first="water", second="oil:hot"),),
    history=History(rolling=(3,), statistics=("mean",), of=("oil:hot.mean",), cycles=True, events=("service",)),
)
INPUTS = len(input_names(SPEC))
EVEN = FailureModes(
    names=("leak",),
    horizon_h=24.0,
    thresholds=(0.5,),
    importance=((1.0 / INPUTS,) * INPUTS,),
    band_low=(-1.0,) * INPUTS,
    band_high=(1.0,) * INPUTS,
)


def test_every_input_is_of_a_channel() -> None:
    """Also rolling means, derived quantities, hours since events, and the number of cycles."""
    assert dict(zip(input_names(SPEC), input_channels(SPEC), strict=True)) == {
        "oil:hot.mean": "oil:hot",
        "water.mean": "water",
        "service.mean": "service",
        "drop.value": "water",
        "oil:hot.mean:mean3": "oil:hot",
        "cycles": "cycles",
        "hours_since:service": "service",
    }


def test_what_lies_farthest_out_speaks_most() -> None:
    """With even importance, by the square of the distance; what is not known says nothing."""
    inputs = np.zeros((1, INPUTS), np.float32)
    inputs[0, 1], inputs[0, 0], inputs[0, 2] = 4.0, 2.0, np.nan
    names, shares = by_channel(SPEC, reference_contributions(EVEN, inputs, np.array([0])))
    assert dict(zip(names, shares[0], strict=True)) == pytest.approx(
        {"oil:hot": 0.2, "water": 0.8, "service": 0.0, "cycles": 0.0}
    )


def test_what_does_not_count_for_the_mode_says_nothing() -> None:
    """Control: without importance nothing has a share, however far out it lies."""
    silent = replace(EVEN, importance=((0.0,) * INPUTS,))
    inputs = np.full((1, INPUTS), 9.0, np.float32)
    assert not by_channel(SPEC, reference_contributions(silent, inputs, np.array([0])))[1].any()
    assert top_channels_of(silent, SPEC, inputs[0], np.zeros(INPUTS)) == ()


def test_what_speaks_against_the_mode_has_no_share() -> None:
    """A channel's inputs are added up before, so that they may cancel out."""
    told = np.array([[3.0, 1.0, -5.0, 0.0, -4.0, 0.0, 0.0]])
    names, shares = by_channel(SPEC, told)
    assert dict(zip(names, shares[0], strict=True)) == {"oil:hot": 0.0, "water": 1.0, "service": 0.0, "cycles": 0.0}


def test_top_channels_tell_now_and_the_band() -> None:
    """Each by the input that speaks most, in multiples of how the class scatters."""
    inputs = np.zeros(INPUTS, np.float32)
    inputs[4] = 5.0
    first, second = top_channels_of(EVEN, SPEC, inputs, np.array([0.0, 1.0, 0.0, 0.0, 3.0, 0.0, 0.0]), k=2)
    assert (first.channel, first.feature, first.share) == ("oil:hot", "mean:mean3", 0.75)
    assert (first.now, first.normal_low, first.normal_high, first.unit) == (
        5.0,
        -1.0,
        1.0,
        "\N{GREEK SMALL LETTER SIGMA}",
    )
    assert second.channel == "water"
