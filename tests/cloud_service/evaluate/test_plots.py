from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from cloud_service.evaluate.outcome import (
    Calibration,
    Figure,
    LeadTimes,
    LifePoints,
    LifeTraces,
    PrecisionRecall,
    ScoredSeries,
)
from cloud_service.evaluate.plots import write_plots

TEN = np.arange(1.0, 11.0)
NONE = np.empty(0, np.int64)
TIMES = np.arange(20_000, dtype=np.int64) * 60_000_000_000
SERIES = ScoredSeries(
    name="flow",
    unit="l/min",
    time_ns=TIMES,
    value=np.sin(np.arange(20_000) / 300.0),
    score=np.full(20_000, 0.5),
    alarm=np.zeros(20_000, np.bool_),
    window_start_ns=TIMES[[100]],
    window_end_ns=TIMES[[300]],
    healthy_until_ns=int(TIMES[50]),
)
FIGURES: dict[str, Figure] = {
    "predicted-against-true-life": LifePoints(
        asset_ids=tuple("abcdefghij"), unit="cycles", truth=TEN, p10=TEN - 1.0, p50=TEN, p90=TEN + 1.0
    ),
    "life-traces": LifeTraces(
        asset_ids=("a", "b"),
        unit="hours",
        asset=np.repeat(np.arange(2), 5),
        age=np.tile(TEN[:5], 2),
        truth=TEN,
        p10=TEN,
        p50=TEN,
        p90=TEN,
    ),
    "calibration": Calibration(promised=TEN / 10.0, observed=TEN / 10.0, count=np.arange(10)),
    "precision-recall": PrecisionRecall(
        precision=TEN[::-1] / 10.0, recall=TEN / 10.0, chosen_precision=0.8, chosen_recall=0.5
    ),
    "lead-times": LeadTimes(lead_h=np.array([3.0, np.nan, 20.0]), mode=("x", "x", "y"), horizon_h=24.0),
    "flow": SERIES,
}


def test_each_kind_of_figure_becomes_a_png_of_the_same_bytes_each_time(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    names = write_plots(tmp_path, FIGURES, "rig")
    with mpl.rc_context({"figure.facecolor": "red", "savefig.dpi": 20}):  # whatever the user's matplotlibrc says
        write_plots(tmp_path / "again", FIGURES, "rig")
    assert names == tuple(f"{name}.png" for name in FIGURES)
    for name in names:
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert content == (tmp_path / "again" / name).read_bytes(), name
        assert len(content) < 200_000


@pytest.mark.parametrize(
    "figure",
    [
        LeadTimes(lead_h=np.array([np.nan, np.nan]), mode=("x", r"$\frac{$"), horizon_h=24.0),
        Calibration(promised=np.empty(0), observed=np.empty(0), count=NONE),
        PrecisionRecall(precision=np.empty(0), recall=np.empty(0), chosen_precision=np.nan, chosen_recall=np.nan),
        ScoredSeries(
            name="v",
            unit="1",
            time_ns=TIMES[:3],
            value=np.array([1.0, np.nan, 2.0]),
            score=np.array([np.nan, np.nan, 0.1]),
            alarm=np.array([False, False, True]),
            window_start_ns=NONE,
            window_end_ns=NONE,
            healthy_until_ns=0,
        ),
        LifePoints(
            asset_ids=("a",),
            unit="h",
            truth=np.ones(1),
            p10=np.full(1, np.nan),
            p50=np.full(1, np.nan),
            p90=np.full(1, np.nan),
        ),
        LifePoints(asset_ids=(), unit="h", truth=np.empty(0), p10=np.empty(0), p50=np.empty(0), p90=np.empty(0)),
    ],
    ids=["nothing foretold", "nothing promised", "nothing found", "gaps", "not enough data", "nothing answered"],
)
def test_a_figure_with_nothing_or_gaps_in_it_is_drawn_all_the_same(tmp_path: Path, figure: Figure) -> None:
    assert write_plots(tmp_path, {"one": figure}, "rig") == ("one.png",)
