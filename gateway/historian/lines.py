"""Pages as InfluxDB line protocol.

Measurements have the names of the ISO 13374 blocks; each point is placed so that the same page always gives the same
points, which is why writing it twice changes nothing.

=============  =======================================  =============================================  ==============
measurement    tags (besides ``gateway_id``)            fields                                         time
=============  =======================================  =============================================  ==============
observation    asset_id, channel                        status; value, or bad_value with Bad status;   source time
                                                        rms and sample_count for a waveform
state          asset_id, asset_class                    zone, score, good_share, reason,               window's end
                                                        model_version
health         asset_id                                 index, grade, failure_mode, confidence,        window's end
                                                        model_version
prognosis      asset_id                                 p10_s, p50_s, p90_s, model_version             window's end
advisory       asset_id, asset_class, advisory_id       state, failure_mode, confidence, reason,       updated at
                                                        recommended_action, revision, data_trust,
                                                        life_p10_s, life_p50_s, life_p90_s
gateway_event  kind                                     message, detail (JSON)                         gateway's time
gap            asset_id, channel                        cause, to_time (ns), duration_s                gap's start
heartbeat      asset_id, channel                        value, status, source_time (ns)                gateway's time
=============  =======================================  =============================================  ==============

Line protocol knows neither NaN nor infinity: such a value has no ``value`` field and reads back as NaN. Samples of
waveforms are not written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote, unquote

import msgspec
import numpy as np

from models.records import Observations, Page, Results, Stream, to_ns

Field = float | int | str | None

# Characters that a tag cannot hold safely travel as %XX: the backslash, which escapes what follows it, line ends and
# all that is not printable. "%" alone stands for the empty name, which a tag cannot be.
_UNSAFE = frozenset("\\%\ufffd")
_TAG = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})


def tag_name(name: str) -> str:
    """Return *name* as it is stored in a tag."""
    return "".join(quote(c, safe="") if c in _UNSAFE or not c.isprintable() else c for c in name) or "%"


def name_of_tag(tag: str) -> str:
    """Return the name that `tag_name` made *tag* of."""
    return "" if tag == "%" else unquote(tag)


def lines(page: Page) -> Iterator[bytes]:
    """Yield the points of *page*, a line each, without line ends between them."""
    if isinstance(page.content, Observations):
        yield from _observation_lines(page.content, page.gateway_id)
    else:
        yield from _result_lines(page.content, page.gateway_id)


def _observation_lines(rows: Observations, gateway_id: str) -> Iterator[bytes]:
    heads = [_observation_head(stream, gateway_id) for stream in rows.streams]
    bad = (rows.status >> np.uint32(31)) == 1
    finite = np.isfinite(rows.value)
    form = np.where(rows.sample_count > 0, 3, np.where(finite, np.where(bad, 2, 1), 0))
    rms = _rms(rows)
    columns = (form, rows.stream, rows.status, rows.value, rows.source_time, rms, rows.sample_count)
    for kind, stream, status, value, time, level, count in zip(*(c.tolist() for c in columns), strict=True):
        if kind == 1:
            yield b"%b status=%di,value=%a %d" % (heads[stream], status, value, time)
        elif kind == 2:
            yield b"%b status=%di,bad_value=%a %d" % (heads[stream], status, value, time)
        elif kind == 3 and math.isfinite(level):
            yield b"%b status=%di,sample_count=%di,rms=%a %d" % (heads[stream], status, count, level, time)
        elif kind == 3:
            yield b"%b status=%di,sample_count=%di %d" % (heads[stream], status, count, time)
        else:
            yield b"%b status=%di %d" % (heads[stream], status, time)


@lru_cache(maxsize=100_000)
def _observation_head(stream: Stream, gateway_id: str) -> bytes:
    return _head("observation", {"asset_id": stream.asset_id, "channel": stream.channel, "gateway_id": gateway_id})


def _rms(rows: Observations) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the root mean square of each row's waveform, NaN where there is none."""
    level = np.full(len(rows), np.nan)
    waves = np.flatnonzero(rows.sample_count)
    if waves.size:
        starts = np.cumsum(rows.sample_count, dtype=np.int64)[waves] - rows.sample_count[waves]
        squares = np.add.reduceat(np.square(rows.samples, dtype=np.float64), starts)
        level[waves] = np.sqrt(squares / rows.sample_count[waves])
    return level


def _result_lines(results: Results, gateway_id: str) -> Iterator[bytes]:
    gateway = {"gateway_id": gateway_id}
    for state in results.states:
        tags = {"asset_id": state.asset_id, "asset_class": state.asset_class, **gateway}
        yield _line("state", tags, _fields(state, _STATE), state.window_end)
    for health in results.health:
        tags = {"asset_id": health.asset_id, **gateway}
        named = {"failure_mode": health.failure_mode or ""}
        yield _line("health", tags, {**_fields(health, _HEALTH), **named}, health.window_end)
    for prognosis in results.prognoses:
        tags = {"asset_id": prognosis.asset_id, **gateway}
        yield _line("prognosis", tags, _fields(prognosis, _PROGNOSIS), prognosis.window_end)
    for advisory in results.advisories:
        identity = ("asset_id", "asset_class", "advisory_id")
        tags = {**{name: getattr(advisory, name) for name in identity}, **gateway}
        yield _line("advisory", tags, _fields(advisory, _ADVISORY), advisory.updated_at)
    for gap in results.gaps:
        tags = {"asset_id": gap.asset_id, "channel": gap.channel, **gateway}
        length = (gap.to_time - gap.from_time).total_seconds()
        fields: dict[str, Field] = {"cause": gap.cause, "to_time": to_ns(gap.to_time), "duration_s": length}
        yield _line("gap", tags, fields, gap.from_time)
    for beat in results.heartbeats:
        tags = {"asset_id": beat.asset_id, "channel": beat.channel, **gateway}
        fields = {"value": beat.value, "status": beat.status, "source_time": to_ns(beat.source_time)}
        yield _line("heartbeat", tags, fields, beat.gateway_time)
    for place, event in enumerate(results.events):
        tags = {"kind": event.kind, **gateway}
        fields = {"message": event.message, "detail": msgspec.json.encode(event.detail).decode()}
        # Times are exact to the microsecond: the nanoseconds tell events of one commit apart.
        yield _line("gateway_event", tags, fields, event.gateway_time, place % 1000)


_STATE = ("zone", "score", "good_share", "reason", "model_version")
_HEALTH = ("index", "grade", "confidence", "model_version")
_PROGNOSIS = ("p10_s", "p50_s", "p90_s", "model_version")
_ADVISORY = (
    *("state", "failure_mode", "confidence", "reason", "recommended_action", "revision", "data_trust"),
    *("life_p10_s", "life_p50_s", "life_p90_s", "model_version"),
)


def _fields(record: object, names: tuple[str, ...]) -> dict[str, Field]:
    return {name: getattr(record, name) for name in names}


def _head(measurement: str, tags: Mapping[str, str]) -> bytes:
    pairs = (f"{key}={tag_name(value).translate(_TAG)}" for key, value in tags.items())
    return ",".join((measurement, *pairs)).encode()


def _line(measurement: str, tags: Mapping[str, str], fields: Mapping[str, Field], time: datetime, ns: int = 0) -> bytes:
    pairs = (f"{key}={written}" for key, value in fields.items() if (written := _field(value)) is not None)
    return b"%b %b %d" % (_head(measurement, tags), ",".join(pairs).encode(), to_ns(time) + ns)


def _field(value: Field) -> str | None:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value}i" if isinstance(value, int) else repr(value)
