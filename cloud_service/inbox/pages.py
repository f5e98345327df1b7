"""The inbox pages: open advisories as people read them.

Everything on them comes from gateways and is escaped; there is no script, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from cloud_service.fleet.assets import FleetAdvisory
from models.records import Advisory, ChannelShare

TOP_CHANNELS = 3
_STYLE = resources.files("cloud_service.inbox").joinpath("templates/style.css").read_text("utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
# Widths of bars stand in SVG attributes, not in style attributes, so that this one style sheet is all that is allowed.
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_environment = Environment(
    loader=PackageLoader("cloud_service.inbox"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A channel of an advisory as it is drawn; positions are percent of the width."""

    channel: str
    feature: str
    unit: str
    share: float
    now: str
    low: str
    high: str
    band_start: float
    band_width: float
    mark: float | None


@dataclass(frozen=True, kw_only=True)
class Card:
    """An advisory in the words of the page."""

    advisory: Advisory
    gateway_id: str
    mode: str
    urgency: str
    bars: tuple[Bar, ...]


def render_inbox(advisories: Sequence[FleetAdvisory], now: datetime) -> str:
    """Return the page of open *advisories*, the most urgent first."""
    cards = sorted((_card(found, now) for found in advisories), key=_by_urgency)
    counts = {urgency: sum(card.urgency == urgency for card in cards) for urgency in _URGENCIES}
    return _environment.get_template("inbox.html").render(cards=cards, counts=counts, now=now, style=_STYLE)


def render_advisory(revisions: Sequence[Advisory], now: datetime) -> str:
    """Return the page of one advisory, given its *revisions*, newest first; a page that says so when there is none."""
    card = _card(FleetAdvisory(gateway_id="", advisory=revisions[0]), now) if revisions else None
    return _environment.get_template("advisory.html").render(card=card, revisions=revisions, now=now, style=_STYLE)


_DURATIONS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0))
_UNITS = (
    "_m_s2",
    "_mm_s",
    "_m3_h",
    "_l_min",
    "_rpm",
    "_pct",
    "_bar",
    "_celsius",
    "_hz",
    "_nm",
    "_kw",
    "_c",
    "_a",
    "_v",
)
# How soon someone has to act, by what the advisory says of the life that is left.
_URGENCIES = ("now", "soon", "planned", "watch")


def _card(found: FleetAdvisory, now: datetime) -> Card:
    advisory = found.advisory
    shares = sorted(advisory.top_channels, key=lambda share: -_finite(share.share))[:TOP_CHANNELS]
    return Card(
        advisory=advisory,
        gateway_id=found.gateway_id,
        mode=_words(advisory.failure_mode),
        urgency=_urgency(advisory, now),
        bars=tuple(_bar(share) for share in shares),
    )


def _urgency(advisory: Advisory, now: datetime) -> str:
    if advisory.act_by is None:
        return "watch"
    left = advisory.act_by - now
    return "now" if left < timedelta(days=1) else "soon" if left < timedelta(days=7) else "planned"


def _by_urgency(card: Card) -> tuple[int, float, str]:
    act_by = card.advisory.act_by
    return _URGENCIES.index(card.urgency), act_by.timestamp() if act_by else math.inf, card.advisory.asset_id


def _bar(share: ChannelShare) -> Bar:
    """Lay the normal band and the value of now on one axis, with some room at both ends."""
    low, high, now = (_finite(value) for value in (share.normal_low, share.normal_high, share.now))
    start, end = min(low, now), max(high, now)
    room = 0.12 * (end - start) or 1.0
    scale = 100.0 / (end - start + 2 * room)
    return Bar(
        channel=_words(_without_unit(share.channel)),
        feature=_words(share.feature),
        unit=share.unit,
        share=100.0 * min(max(_finite(share.share), 0.0), 1.0),
        now=_number(share.now),
        low=_number(share.normal_low),
        high=_number(share.normal_high),
        band_start=(low - start + room) * scale,
        band_width=max((high - low) * scale, 1.0),
        mark=(now - start + room) * scale if math.isfinite(share.now) else None,
    )


def _without_unit(channel: str) -> str:
    """Return a channel's name without the unit at its end, which stands beside the value."""
    for suffix in _UNITS:
        if channel.endswith(suffix):
            return channel.removesuffix(suffix)
    return channel


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _number(value: float | None) -> str:
    """Return *value* with three digits that count, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"  # noqa: RUF001 - a dash, as people read it
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %" if math.isfinite(value) else "–"  # noqa: RUF001 - a dash, as people read it


def _duration(*quantiles: float | None) -> str:
    """Return *quantiles*, seconds, as people say them: all in the unit that fits the middle one."""
    seconds = [value for value in quantiles if value is not None and math.isfinite(value)]
    if len(seconds) < len(quantiles):
        return "–"  # noqa: RUF001 - a dash, as people read it
    middle = abs(seconds[len(seconds) // 2])
    unit, size = next((pair for pair in _DURATIONS if middle >= 2 * pair[1]), _DURATIONS[-1])
    return f"{' – '.join(f'{value / size:.0f}' for value in seconds)} {unit}"  # noqa: RUF001 - the same


def _moment(moment: datetime | None) -> str:
    return f"{moment:%d %b %Y, %H:%M} UTC" if moment else "–"  # noqa: RUF001 - a dash, as people read it


def _words(name: str) -> str:
    return name.replace("_", " ")


_environment.filters.update(
    moment=_moment, duration=_duration, percent=_percent, number=_number, words=_words, finite=_finite
)
