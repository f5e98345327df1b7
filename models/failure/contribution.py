"""Which channels a failure mode's probability is made of.

A gateway has no trees to ask. It weighs how far each input lies from the middle of its reference band by the share that
the input has in that mode's probability at all; the cloud asks the trees themselves, see
``cloud_service.training.failure``. Both are then told by channel, by the same lines.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from models.failure.modes import FailureModes
from models.features.names import columns, input_names
from models.features.specification import FeatureSpecification
from models.records import ChannelShare, Float32Array, FloatArray, Int64Array

CYCLES = "cycles"
DEVIATION = "\N{GREEK SMALL LETTER SIGMA}"
_HOURS_SINCE = "hours_since:"
# An input that is further out than so many halves of its band weighs no more.
_FARTHEST = 6.0


def reference_contributions(modes: FailureModes, inputs: Float32Array, mode: Int64Array) -> FloatArray:
    """Return how much each input speaks for a mode, shape ``(n, inputs)``, not negative; 0 where it is not known.

    An input counts with its share in the mode's probability, times the square of its distance from the middle of the
    reference band in halves of the band's width.

    Args:
        modes: Shares and bands.
        inputs: Shape ``(n, inputs)``.
        mode: Which of ``modes.names`` each row is asked about, shape ``(n,)``.
    """
    low, high = modes.band
    half = np.maximum((high - low) / 2.0, 1e-9)
    away = np.abs(np.asarray(inputs, np.float64) - (low + high) / 2.0) / half
    squares = np.minimum(np.nan_to_num(away, nan=0.0, posinf=_FARTHEST), _FARTHEST) ** 2
    return np.asarray(squares * modes.weights[mode])


@lru_cache(maxsize=64)
def input_channels(spec: FeatureSpecification) -> tuple[str, ...]:
    """Return the channel each input is of: its feature's, the events it counts, or ``cycles``."""
    of_feature = {column.name: spec.channels[column.channel].name for column in columns(spec)}
    events = {f"{_HOURS_SINCE}{name}": name for name in spec.history.events}
    return tuple(
        (of_feature | events).get(name) or of_feature.get(name.rpartition(":")[0], CYCLES) for name in input_names(spec)
    )


def by_channel(spec: FeatureSpecification, contributions: FloatArray) -> tuple[tuple[str, ...], FloatArray]:
    """Return the channels, and the share each has in what speaks for the mode, shape ``(n, channels)``.

    Contributions of one channel are added up, those against the mode too; a channel that on the whole speaks against
    it has no share. The shares of a row add up to 1, or are all 0 where nothing speaks for it.

    Args:
        spec: Says which input is of which channel.
        contributions: Shape ``(n, inputs)``.
    """
    of_input = input_channels(spec)
    names = tuple(dict.fromkeys(of_input))
    member = np.array([[float(own == name) for name in names] for own in of_input])
    total = np.maximum(contributions @ member, 0.0)
    whole = total.sum(axis=1, keepdims=True)
    return names, np.divide(total, whole, out=np.zeros_like(total), where=whole > 0.0)


def top_channels_of(
    modes: FailureModes,
    spec: FeatureSpecification,
    inputs_row: Float32Array,
    contributions_row: FloatArray,
    k: int = 3,
) -> tuple[ChannelShare, ...]:
    """Return up to *k* channels that speak most for a failure mode, the largest first.

    Each is told by the input of it that speaks most, with the reference band of healthy windows against now: deviations
    in multiples of how the class scatters (sigma), hours since events and cycles as they are.

    Args:
        modes: The reference bands.
        spec: Of the inputs.
        inputs_row: Shape ``(inputs,)``.
        contributions_row: Shape ``(inputs,)``; see `reference_contributions`, or the trees' own.
        k: How many.
    """
    names, shares = by_channel(spec, contributions_row[None, :])
    of_input = np.array(input_channels(spec))
    given = input_names(spec)
    chosen = sorted((place for place in range(len(names)) if shares[0, place] > 0.0), key=lambda p: -shares[0, p])
    told = []
    for place in chosen[:k]:
        own = np.flatnonzero(of_input == names[place])
        leading = int(own[contributions_row[own].argmax()])
        told.append(
            ChannelShare(
                channel=names[place],
                share=float(shares[0, place]),
                feature=given[leading].removeprefix(f"{names[place]}."),
                now=float(inputs_row[leading]),
                normal_low=float(modes.band_low[leading]),
                normal_high=float(modes.band_high[leading]),
                unit=_unit(given[leading]),
            )
        )
    return tuple(told)


def _unit(name: str) -> str:
    if name.startswith(_HOURS_SINCE):
        return "h"
    return "1" if name == CYCLES else DEVIATION
