"""The plots of an evaluation, as PNG files that are equal for equal figures."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure as Sheet
from PIL import Image

from cloud_service.evaluate.outcome import (
    Calibration,
    Figure,
    LeadTimes,
    LifePoints,
    LifeTraces,
    PrecisionRecall,
    ScoredSeries,
)
from models.records import FloatArray, Int64Array

INK, BLUE, LIGHT, RED, AMBER = "#333333", "#1f5f99", "#a9c7e3", "#c0392b", "#f3c78b"
STYLE: Final[Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # names are a stranger's: $ is no formula
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
DPI: Final = 110
COLORS: Final = 64
MOST_POINTS: Final = 6000  # of one line: more cannot be told apart


def write_plots(folder: Path, figures: Mapping[str, Figure], title: str) -> tuple[str, ...]:
    """Write one PNG a figure into *folder*; return their names, in the order of *figures*."""
    written: list[str] = []
    for name, figure in figures.items():
        file = f"{name}.png"
        with mpl.rc_context():
            mpl.rcdefaults()  # whatever the user's matplotlibrc says
            mpl.rcParams.update(STYLE)
            sheet = draw(figure, f"{title}: {name.replace('-', ' ')}")
            _save(sheet, folder / file)
        written.append(file)
    return tuple(written)


def draw(figure: Figure, title: str) -> Sheet:
    """Return *figure* drawn under *title*."""
    match figure:
        case LifePoints():
            return _life_points(figure, title)
        case LifeTraces():
            return _life_traces(figure, title)
        case Calibration():
            return _calibration(figure, title)
        case PrecisionRecall():
            return _precision_recall(figure, title)
        case LeadTimes():
            return _lead_times(figure, title)
        case ScoredSeries():
            return _scored_series(figure, title)


def _save(sheet: Sheet, file: Path) -> None:
    """Write *sheet* with as few colours as it needs: a third of the bytes, and nobody sees it."""
    sheet.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(sheet)  # untyped
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pixels.quantize(COLORS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)


def _sheet(title: str, rows: int = 1, columns: int = 1, *, size: tuple[float, float]) -> tuple[Sheet, list[Axes]]:
    sheet = Sheet(figsize=size, layout="constrained")
    sheet.suptitle(title, fontsize=10, x=0.01, ha="left", color=INK)
    axes = sheet.subplots(rows, columns, squeeze=False)
    return sheet, list(axes.flat)


def _life_points(figure: LifePoints, title: str) -> Sheet:
    """Predicted against true life, and both by asset from the shortest life to the longest."""
    sheet, (left, right) = _sheet(title, 1, 2, size=(9.0, 4.2))
    most = float(np.nanmax(np.concatenate([[0.0], figure.truth, figure.p90]))) * 1.03 or 1.0
    left.plot([0.0, most], [0.0, most], color=INK, linewidth=0.8)
    left.vlines(figure.truth, figure.p10, figure.p90, color=LIGHT, linewidth=1.0)
    left.plot(figure.truth, figure.p50, ".", color=BLUE, markersize=5)
    left.set(xlim=(0.0, most), ylim=(0.0, most), xlabel=f"true life left, {figure.unit}", aspect="equal")
    left.set_ylabel(f"predicted: P50, and P10 to P90, {figure.unit}")
    order = np.argsort(figure.truth, kind="stable")
    place = np.arange(len(order))
    right.fill_between(place, figure.p10[order], figure.p90[order], color=LIGHT, step="mid", label="P10 to P90")
    right.plot(place, figure.p50[order], ".", color=BLUE, markersize=4, label="P50")
    right.plot(place, figure.truth[order], color=RED, linewidth=1.4, label="truth")
    right.set(xlabel="assets, from the shortest life to the longest", ylim=(0.0, None))
    right.legend(loc="upper left")
    return sheet


def _life_traces(figure: LifeTraces, title: str) -> Sheet:
    """Life as it was told along each asset's records."""
    shown = figure.asset_ids[:6]
    columns = 2 if len(shown) == 4 else min(3, len(shown))
    rows = -(-len(shown) // columns)
    sheet, axes = _sheet(title, rows, columns, size=(3.2 * columns, 2.6 * rows))
    for number, (asset_id, ax) in enumerate(zip(shown, axes, strict=False)):
        of = figure.asset == number
        ax.fill_between(figure.age[of], figure.p10[of], figure.p90[of], color=LIGHT, label="P10 to P90")
        ax.plot(figure.age[of], figure.p50[of], color=BLUE, linewidth=1.2, label="P50")
        ax.plot(figure.age[of], figure.truth[of], color=RED, linewidth=1.2, label="truth")
        ax.set_title(asset_id, fontsize=8)
        ax.set_ylim(bottom=0.0)
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    axes[0].legend(loc="lower left", fontsize=7)
    sheet.supylabel(f"life left, {figure.unit}", fontsize=9, color=INK)
    sheet.supxlabel(f"age, {figure.unit}", fontsize=9, color=INK)
    return sheet


def _calibration(figure: Calibration, title: str) -> Sheet:
    """What was promised against what came true; bars: where nine of ten points lie when promises are kept.

    The bars take rows for independent; rows of one machine are not, so that points stray further.
    """
    sheet, (ax,) = _sheet(title, size=(4.6, 4.8))
    ax.plot([0.0, 1.0], [0.0, 1.0], color=INK, linewidth=0.8)
    chance = 1.645 * np.sqrt(figure.promised * (1.0 - figure.promised) / np.maximum(figure.count, 1))
    low, high = np.clip(figure.promised - chance, 0.0, 1.0), np.clip(figure.promised + chance, 0.0, 1.0)
    ax.vlines(figure.promised, low, high, color=LIGHT, linewidth=5.0, label="chance, were rows independent")
    ax.plot(figure.promised, figure.observed, "o", color=BLUE, markersize=5, label="came true, of so many")
    for x, y, count in zip(figure.promised, figure.observed, figure.count, strict=True):
        ax.annotate(f"{count:,}", (x, y), xytext=(5, -9), textcoords="offset points", fontsize=7, color=INK)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="promised", ylabel="came true", aspect="equal")
    sheet.legend(loc="outside lower center", ncols=2, fontsize=8)
    return sheet


def _precision_recall(figure: PrecisionRecall, title: str) -> Sheet:
    """All thresholds, and the one that was chosen without looking at the judged rows."""
    sheet, (ax,) = _sheet(title, size=(4.6, 4.4))
    ax.step(figure.recall, figure.precision, where="post", color=BLUE, linewidth=1.4)
    ax.plot([figure.chosen_recall], [figure.chosen_precision], "o", color=RED, markersize=7, label="chosen threshold")
    ax.set(xlim=(0.0, 1.02), ylim=(0.0, 1.02), xlabel="recall", ylabel="precision", aspect="equal")
    ax.legend(loc="lower left")
    return sheet


def _lead_times(figure: LeadTimes, title: str) -> Sheet:
    """Which share of the failures was foretold so many hours ahead, or more."""
    sheet, (ax,) = _sheet(title, size=(6.4, 3.8))
    modes = np.array(figure.mode)
    for mode, color in zip(sorted(set(figure.mode)), _shades(len(set(figure.mode))), strict=True):
        hours, share = _share_ahead(figure.lead_h[modes == mode])
        ax.step(hours, share, where="pre", color=color, linewidth=1.1, label=f"{mode} ({(modes == mode).sum()})")
    hours, share = _share_ahead(figure.lead_h)
    ax.step(hours, share, where="pre", color=INK, linewidth=2.0, label=f"all ({len(figure.lead_h)})")
    most = float(np.nanmax(figure.lead_h)) if np.isfinite(figure.lead_h).any() else figure.horizon_h
    ax.axvline(figure.horizon_h, color=RED, linewidth=0.8, linestyle="--", label=f"horizon {figure.horizon_h:g} h")
    ax.set(xlim=(0.0, max(most, figure.horizon_h) * 1.04), ylim=(0.0, 1.05))
    ax.set(xlabel="hours before the failure", ylabel="share foretold by then")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return sheet


def _share_ahead(lead_h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return hours, rising from 0, and the share of all failures foretold at least so long ahead."""
    known = np.sort(lead_h[np.isfinite(lead_h)])
    hours = np.concatenate([[0.0], known, known[-1:]])
    ahead = len(known) - np.concatenate([[0], np.arange(len(hours) - 1)])
    return hours, ahead / max(len(lead_h), 1)


def _shades(count: int) -> list[str]:
    palette = ["#1f5f99", "#2a9d8f", "#e08e0b", "#8e5ea2", "#7f8c8d", "#b5651d", "#d16ba5", "#4c9f38"]
    return [palette[number % len(palette)] for number in range(count)]


def _scored_series(figure: ScoredSeries, title: str) -> Sheet:
    """The signal above, its score below; labelled windows shaded, alarms marked under the score."""
    sheet, (above, below) = _sheet(title, 2, 1, size=(9.0, 4.6))
    below.sharex(above)
    for ax, values in ((above, figure.value), (below, figure.score)):
        kept = _kept_rows(values)
        ax.plot(_moments(figure.time_ns[kept]), values[kept], color=BLUE, linewidth=0.7)
        for start, end in zip(_moments(figure.window_start_ns), _moments(figure.window_end_ns), strict=True):
            ax.axvspan(start, end, color=AMBER, alpha=0.55, linewidth=0)
        first = _moments(figure.time_ns[:1])[0]
        ax.axvspan(first, _moments(np.array([figure.healthy_until_ns]))[0], color="#eeeeee", linewidth=0)
    below.axhline(1.0, color=RED, linewidth=0.9)
    alarms = _moments(figure.time_ns[figure.alarm])
    low, high = below.get_ylim()
    below.plot(alarms, np.full(len(alarms), low), "|", color=RED, markersize=7, clip_on=False)
    below.set_ylim(low, high)
    above.set_title(figure.name, fontsize=8, loc="left", color=INK)
    above.set_ylabel("" if figure.unit == "1" else figure.unit)
    below.set_ylabel("score (1: warning)")
    below.xaxis.set_major_formatter(_dates(below.xaxis.get_major_locator()))
    above.tick_params(labelbottom=False)
    above.set_title("shaded: labelled; grey: learnt from; red ticks: alarms", fontsize=8, loc="right", color=INK)
    return sheet


def _dates(locator: Any) -> Any:
    formatter: Any = ConciseDateFormatter  # untyped
    return formatter(locator)


def _moments(time_ns: Int64Array) -> Any:
    return time_ns.astype("datetime64[ns]")


def _kept_rows(values: FloatArray) -> Int64Array:
    """Return rows that keep each stretch's least and most value, so that a line of fewer points looks the same."""
    if len(values) <= MOST_POINTS:
        return np.arange(len(values))
    filled = np.nan_to_num(values, nan=0.0)
    edges = np.linspace(0, len(values), MOST_POINTS // 2 + 1).astype(np.int64)
    kept = [
        start + extreme
        for start, stop in pairwise(edges.tolist())
        for extreme in (int(np.argmin(filled[start:stop])), int(np.argmax(filled[start:stop])))
    ]
    return np.unique(np.array(kept, np.int64))
