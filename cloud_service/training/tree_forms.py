"""How trees of failure modes grow: a few forms, each for a way in which failures announce themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

THREADS: Final = 1
LEAST_HESSIAN: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class TreeForm:
    """How the trees of a booster grow.

    Attributes:
        name: For reports.
        rounds: Trees of each mode.
        leaves: Of each tree.
        rate: Of learning.
        rows_per_leaf: At least so many rows in a leaf.
        share_per_leaf: A leaf holds at least so much of what all rows of the mode weigh at the start, 0 to 1. A high
            share keeps a leaf from being one event of many alike windows.
        bins: Into which each input is cut at most.
        rows_per_bin: At least so many rows in a bin; 1: every value is told apart.
        inputs_share: Of the inputs that a tree may look at.
        l2: Penalty on leaf values.
        with_slow: Whether inputs that tell groups apart more than windows are looked at; see `FailureLesson.slow`.
    """

    name: str
    rounds: int = 40
    leaves: int = 6
    rate: float = 0.1
    rows_per_leaf: int = 20
    share_per_leaf: float = 0.4
    bins: int = 255
    rows_per_bin: int = 3
    inputs_share: float = 1.0
    l2: float = 1.0
    with_slow: bool = True


BROAD: Final = TreeForm(name="broad")
"""For failures that announce themselves over many windows: no leaf is a single event."""

FINE: Final = replace(BROAD, name="fine", bins=20_000, rows_per_bin=1)
"""For failures where a limit is passed: every value is told apart."""

WIDE: Final = replace(BROAD, name="wide", bins=63, inputs_share=0.3)
"""For hundreds of inputs of which many say the same, as features of windows do."""

MOVING: Final = replace(BROAD, name="moving", with_slow=False)
"""For few assets: their age, make and time since a repair say which of them it is, rather than how it is."""


def tree_parameters(form: TreeForm, seed: int) -> dict[str, Any]:
    """Return LightGBM's parameters of *form*, but for the least of a leaf that depends on the rows."""
    return {
        "objective": "binary",
        "num_leaves": form.leaves,
        "learning_rate": form.rate,
        "min_data_in_leaf": form.rows_per_leaf,
        "min_sum_hessian_in_leaf": LEAST_HESSIAN,
        "max_bin": form.bins,
        "min_data_in_bin": form.rows_per_bin,
        "feature_fraction": form.inputs_share,
        "lambda_l2": form.l2,
        "feature_pre_filter": False,
        "num_threads": THREADS,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
    }
