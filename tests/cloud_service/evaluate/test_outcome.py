"""What an evaluation gives, before anything is drawn or printed."""

from __future__ import annotations

import numpy as np

from cloud_service.evaluate.outcome import MOST_PLOTS, LeadTimes, named_plots

FIGURE = LeadTimes(lead_h=np.empty(0), mode=(), horizon_h=1.0)


def test_plots_of_whatever_series_have_names_of_files() -> None:
    """A series is named by a stranger's file or column; no link breaks, nothing leaves the folder, none is lost."""
    names = ["valve1/0", "a b", "a-b", "../../etc/passwd", "x" * 300, "[1](http://x)\n"]
    plots = list(named_plots("score", [(name, FIGURE) for name in names]))
    assert plots == [
        "score-valve1-0",
        "score-a-b",
        "score-a-b-2",
        "score-etc-passwd",
        f"score-{'x' * 80}",
        "score-1-http-x",
    ]


def test_of_very_many_series_the_first_are_drawn() -> None:
    assert len(named_plots("series", ((str(number), FIGURE) for number in range(1000)))) == MOST_PLOTS
