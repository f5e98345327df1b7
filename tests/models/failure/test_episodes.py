"""Alarms are raised and go as a gateway's do."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.failure.episodes import episodes_of


def spans(flags: str, *, on: int, off: int, assets: str = "") -> list[tuple[int, int]]:
    """Return the alarms of *flags*, ``x`` is flagged."""
    flagged = np.array([flag == "x" for flag in flags])
    asset = np.array([ord(letter) for letter in assets or "a" * len(flags)])
    found = episodes_of(flagged, asset, on_delay=on, off_delay=off)
    return list(zip(found.raised.tolist(), found.gone.tolist(), strict=True))


def test_an_alarm_comes_after_its_delay_and_goes_after_its_own() -> None:
    """A short quiet does not end it; a long one does."""
    assert spans(".xx.x...x", on=2, off=2) == [(2, 4)]
    assert spans("xx..xx", on=2, off=2) == [(1, 1), (5, 5)]
    assert spans("xx.x..", on=1, off=3) == [(0, 3)]


def test_too_few_in_a_row_raise_nothing() -> None:
    """Windows are counted in a row, not together."""
    assert spans("x.x.x.xx.", on=3, off=2) == []


def test_an_alarm_ends_with_its_asset() -> None:
    """What is flagged at the end of one asset raises nothing at the next."""
    assert spans("xxxx", on=2, off=2, assets="aaab") == [(1, 2)]
    assert spans("x.xx", on=1, off=9, assets="aabb") == [(0, 0), (2, 3)]


def test_no_windows_no_alarms() -> None:
    """Nothing gives nothing."""
    assert spans("", on=1, off=1) == []


@given(st.text("x.", max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_it_is_what_a_window_by_window_count_gives(flags: str, on: int, off: int) -> None:
    """Control: the same by a loop that holds a state."""
    told: list[list[int]] = []
    standing, run = False, 0
    for place, flag in enumerate(flags):
        wanted = flag == ("." if standing else "x")
        run = run + 1 if wanted else 0
        if standing and flag == "x":
            told[-1][1] = place
        if wanted and run == (off if standing else on):
            standing, run = not standing, 0
            if standing:
                told.append([place, place])
    assert spans(flags, on=on, off=off) == [tuple(one) for one in told]
