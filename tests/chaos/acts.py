"""What an act of the chaos is: a promise, and trials that try to break it, each from a seed.

An act runs in series. A series follows from its seed alone, so that a trial that failed is met again by running its
series with the seed that was printed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Dose(StrEnum):
    """How much of it."""

    QUICK = "quick"
    STANDARD = "standard"
    NIGHTLY = "nightly"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One attempt to break the promise.

    Attributes:
        what: What was done, in a few words.
        wrong: What was broken by it; empty when nothing was.
    """

    what: str
    wrong: tuple[str, ...] = ()


Series = Callable[[Path, int, int], AsyncIterator[Trial]]


@dataclass(frozen=True, kw_only=True)
class Act:
    """An act.

    Attributes:
        name: Under which it is chosen.
        promise: What must hold; of a control: what its trials must break, or the act it belongs to proves nothing.
        series: Run the series of a seed, with so many trials, in an empty folder.
        trials: How many there are in all, by dose.
        per_series: How many trials one series has.
        is_control: Whether it has to fail, at least once.
        stage: Acts of one stage follow each other; stages run side by side.
        at_once: How many series run side by side: more than one where they wait more than they work.
    """

    name: str
    promise: str
    series: Series
    trials: Mapping[Dose, int]
    per_series: int
    is_control: bool = False
    stage: str = "disk"
    at_once: int = 1
