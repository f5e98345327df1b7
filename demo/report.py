"""The demo's report as one self-contained page: health and advisories over time against the plant's truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from demo.outcome import InjectedFault, Outcome, open_spans
from models.records import Advisory, Health

_WIDTH, _HEIGHT, _LANE, _LABEL, _TICK = 920.0, 96.0, 14.0, 130.0, 40.0


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A span of time drawn as a bar; numbers in the picture's units."""

    x: float
    y: float
    width: float
    label: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One asset's picture: the truth behind, health before it, advisories below."""

    asset_id: str
    caption: str
    severity: str
    health: str
    faults: tuple[Bar, ...]
    advisories: tuple[Bar, ...]
    height: float


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A day on the time axis."""

    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The simulated span that all charts share."""

    start: datetime
    end: datetime

    def x(self, moment: datetime) -> float:
        """Return where *moment* stands, 0 to the pictures' width."""
        share = (moment - self.start) / (self.end - self.start)
        return round(min(max(share, 0.0), 1.0) * _WIDTH, 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Return a tick every second day, on a longer axis so many days apart that labels have room."""
        days = (self.end - self.start) / timedelta(days=1)
        apart = max(2, ceil(days * _TICK / _WIDTH))
        shown = range(0, ceil(days * (1.0 - _TICK / _WIDTH)), apart)
        return tuple(Tick(x=self.x(self.start + timedelta(days=day)), label=f"day {day}") for day in shown)


def write_report(
    path: Path,
    outcome: Outcome,
    *,
    timeline: Timeline,
    faults: Sequence[InjectedFault],
    severity: Mapping[str, Sequence[tuple[datetime, float]]],
    health: Sequence[Health],
    advisories: Sequence[Advisory],
    bad_versions: frozenset[tuple[str, int]],
    account: Sequence[str],
) -> None:
    """Write the page to *path*.

    Args:
        path: Where the page goes.
        outcome: What the demo reports; its tables are drawn from it.
        timeline: First and last simulated time to draw.
        faults: The plant's truth.
        severity: By asset, its true severity 0 to 1 over time.
        health: Every health record that arrived in the lake.
        advisories: Every revision of every advisory that arrived in the lake.
        bad_versions: Releases (asset class, version) that were bad on purpose; their advisories are marked.
        account: The lines told while the demo ran.
    """
    charts = [
        _chart(asset_id, timeline, faults, curve, health, advisories, bad_versions)
        for asset_id, curve in sorted(severity.items())
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=select_autoescape(["html"])
    )
    page = environment.get_template("report.html").render(
        outcome=outcome,
        broken=outcome.broken_promises(),
        charts=charts,
        ticks=timeline.ticks(),
        width=_WIDTH,
        curve_height=_HEIGHT,
        account=account,
    )
    path.write_text(page)


def _chart(
    asset_id: str,
    timeline: Timeline,
    faults: Sequence[InjectedFault],
    severity: Sequence[tuple[datetime, float]],
    health: Sequence[Health],
    advisories: Sequence[Advisory],
    bad_versions: frozenset[tuple[str, int]],
) -> Chart:
    mine = [f for f in faults if f.asset_id == asset_id]
    scored = sorted((h for h in health if h.asset_id == asset_id and h.index is not None), key=lambda h: h.window_end)
    bars = _advisory_bars(timeline, [a for a in advisories if a.asset_id == asset_id], bad_versions)
    return Chart(
        asset_id=asset_id,
        caption=", ".join(f.mode.replace("_", " ") for f in mine) or "no fault injected",
        severity=_curve(timeline, [(moment, value * 100.0) for moment, value in severity], closed=True),
        health=_curve(timeline, [(h.window_end, h.index) for h in scored if h.index is not None]),
        faults=tuple(
            Bar(
                x=timeline.x(f.onset),
                y=0.0,
                width=timeline.x(f.failure) - timeline.x(f.onset),
                label=f.mode.replace("_", " "),
                title=f"{f.mode}: onset {f.onset:%d %b %H:%M}, failure {f.failure:%d %b %H:%M}",
            )
            for f in mine
        ),
        advisories=bars,
        height=_HEIGHT + 8.0 + max(1, len({bar.y for bar in bars})) * _LANE,
    )


def _advisory_bars(
    timeline: Timeline, advisories: Sequence[Advisory], bad_versions: frozenset[tuple[str, int]]
) -> tuple[Bar, ...]:
    """Lay advisories out in lanes, the first free one from the top."""
    bars: list[Bar] = []
    lanes: list[float] = []
    for advisory, raised, ended in sorted(open_spans(advisories), key=lambda span: span[1]):
        x = timeline.x(raised)
        width = max(timeline.x(ended) - x, 3.0)
        # A label stands behind its bar, and before it where there is no room behind.
        before = x + width > _WIDTH - _LABEL
        lane = next((i for i, end in enumerate(lanes) if end < x - before * _LABEL), len(lanes))
        lanes[lane : lane + 1] = [x + width + (not before) * _LABEL]
        bad = (advisory.asset_class, advisory.model_version) in bad_versions
        name = "the bad bundle's" if bad else advisory.failure_mode.replace("_", " ")
        title = f"{name} ({advisory.state}), raised {raised:%d %b %H:%M}, confidence {advisory.confidence:.0%}: "
        bars.append(Bar(x=x, y=_HEIGHT + 6.0 + lane * _LANE, width=width, label=name, title=title + advisory.reason))
    return tuple(bars)


def _curve(timeline: Timeline, points: Sequence[tuple[datetime, float]], *, closed: bool = False) -> str:
    """Return *points* (time, 0 to 100) as an SVG path, closed to the ground if asked."""
    if not points:
        return ""
    steps = [f"{timeline.x(moment)},{round(_HEIGHT * (1.0 - value / 100.0), 1)}" for moment, value in points]
    path = "M" + "L".join(steps)
    if closed:
        path += f"L{timeline.x(points[-1][0])},{_HEIGHT}L{timeline.x(points[0][0])},{_HEIGHT}Z"
    return path
