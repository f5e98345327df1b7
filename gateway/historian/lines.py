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
prognosis      asset_id                                 p10_s, p50_s, p90_s, model_version, basis      window's end
advisory       asset_id, asset_class, advisory_id       state, failure_mode, confidence, reason,       updated at
                                                        recommended_action, revision, data_trust,
                                                        life_p10_s, life_p50_s, life_p90_s
gateway_event  kind                                     message, detail (JSON)                         gateway's time
gap            asset_id, channel                        cause, to_time (ns), duration_s                gap's start
heartbeat      asset_id, channel                        value, status, source_time (ns)                gateway's time
=============  =======================================  =============================================  ==============

The status of an observation is the OPC UA status code plus ``2**32`` times its `Form`. Line protocol knows neither NaN
nor infinity, and a field once written cannot be taken back: the form tells such a value, and a waveform, even where
another value stood at the same time. Samples of waveforms are not written.

All of it keeps to what InfluxDB 3 asks of its v2 write endpoint: no name is a tag and a field in one measurement, a
field has one type for ever, the tags of a measurement are always the same, and none is called ``time``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import lru_cache
from urllib.parse import quote, unquote

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.records import FloatArray, Observations, Page, Results, Stream, to_ns

Field = float | int | str | None

# Characters that a tag cannot hold safely travel as %XX: the backslash, which escapes what follows it, line ends and
# all that is not printable. "%" alone stands for the empty name, which a tag cannot be.
_UNSAFE = frozenset("\\%\ufffd")
_TAG = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})
_CHUNK_ROWS = 5000


class Form(IntEnum):
    """What an observation is, beside its status."""

    VALUE = 0
    NAN = 1
    INFINITE = 2
    MINUS_INFINITE = 3
    WAVEFORM = 4


@dataclass(frozen=True, slots=True)
class Points:
    """Points in line protocol, *count* lines with line ends between them and none at the end.

    Where there are several, none holds a line end in itself, so that they can be told apart again.
    """

    body: bytes
    count: int

    def split(self, at: int) -> tuple[Points, Points]:
        """Return the first *at* points and the others; *at* is above 0 and below the count."""
        place = -1
        for _ in range(at):
            place = self.body.index(b"\n", place + 1)
        return Points(self.body[:place], at), Points(self.body[place + 1 :], self.count - at)

    def each(self) -> Iterator[Points]:
        """Yield each point by itself."""
        if self.count == 1:
            yield self
        else:
            yield from (Points(line, 1) for line in self.body.split(b"\n"))


def tag_name(name: str) -> str:
    """Return *name* as it is stored in a tag."""
    return "".join(quote(c, safe="") if c in _UNSAFE or not c.isprintable() else c for c in name) or "%"


def name_of_tag(tag: str) -> str:
    """Return the name that `tag_name` made *tag* of."""
    return "" if tag == "%" else unquote(tag)


def points(page: Page) -> Iterator[Points]:
    """Yield the points of *page*, in order."""
    if isinstance(page.content, Observations):
        rows = page.content
        for start in range(0, len(rows), _CHUNK_ROWS):
            whole = len(rows) <= _CHUNK_ROWS
            yield _observations(
                rows if whole else rows.take(np.arange(start, min(start + _CHUNK_ROWS, len(rows)), dtype=np.intp)),
                page.gateway_id,
            )
    else:
        yield from (Points(line, 1) for line in _result_lines(page.content, page.gateway_id))


def lines(page: Page) -> Iterator[bytes]:
    """Yield the points of *page*, a line each, without line ends between them."""
    for some in points(page):
        yield from (point.body for point in some.each())


def _observations(rows: Observations, gateway_id: str) -> Points:
    """Return *rows* as lines: what comes before the value, the value, the time; put together by column."""
    form = _forms(rows)
    values = msgspec.json.encode(rows.value.tolist())[1:-1].split(b",")
    for row in np.flatnonzero(form).tolist():
        values[row] = b""
    if rows.samples.size:
        level = _rms(rows)
        for row in np.flatnonzero(rows.sample_count).tolist():
            rms = b",rms=%a" % float(level[row]) if math.isfinite(level[row]) else b""
            values[row] = b",sample_count=%di%b" % (rows.sample_count[row], rms)
    pieces = [b""] * (3 * len(rows))
    pieces[0::3] = _befores(rows, form, gateway_id)
    pieces[1::3] = values
    times = msgspec.json.encode(rows.source_time.tolist())[1:-1]
    pieces[2::3] = (b" " + times.replace(b",", b"\n, ")).split(b",")
    return Points(b"".join(pieces), len(rows))


def _forms(rows: Observations) -> NDArray[np.int64]:
    form = np.zeros(len(rows), np.int64)
    if not (finite := np.isfinite(rows.value)).all():
        odd = rows.value[~finite]
        infinite = np.where(odd > 0, Form.INFINITE, Form.MINUS_INFINITE)
        form[~finite] = np.where(np.isnan(odd), Form.NAN, infinite)
    form[rows.sample_count > 0] = Form.WAVEFORM
    return form


def _befores(rows: Observations, form: NDArray[np.int64], gateway_id: str) -> list[bytes]:
    """Return what comes before the value, or before the time where there is none, for each row."""
    if not form.any() and not rows.status.any():
        heads = np.array([_good_head(stream, gateway_id) for stream in rows.streams], np.object_)
        return heads[rows.stream].tolist()  # type: ignore[no-any-return]  # of an array of objects
    keys = (rows.stream.astype(np.int64) << 35) | (form << 32) | rows.status
    kinds, which = np.unique(keys, return_inverse=True)
    befores = [_before(rows.streams[key >> 35], key & (2**35 - 1), gateway_id) for key in kinds.tolist()]
    return np.array(befores, np.object_)[which].tolist()  # type: ignore[no-any-return]  # the same


@lru_cache(maxsize=100_000)
def _good_head(stream: Stream, gateway_id: str) -> bytes:
    return _before(stream, 0, gateway_id)


def _before(stream: Stream, status: int, gateway_id: str) -> bytes:
    name = b"" if status >> 32 else b",bad_value=" if status >> 31 else b",value="
    return b"%b status=%di%b" % (_observation_head(stream, gateway_id), status, name)


@lru_cache(maxsize=100_000)
def _observation_head(stream: Stream, gateway_id: str) -> bytes:
    return _head("observation", {"asset_id": stream.asset_id, "channel": stream.channel, "gateway_id": gateway_id})


def _rms(rows: Observations) -> FloatArray:
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


_INTEGERS = frozenset({"model_version", "revision", "status", "to_time", "source_time"})
_STATE = ("zone", "score", "good_share", "reason", "model_version")
_HEALTH = ("index", "grade", "confidence", "model_version")
_PROGNOSIS = ("p10_s", "p50_s", "p90_s", "model_version", "basis")
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
    pairs = (f"{key}={written}" for key, value in fields.items() if (written := _field(key, value)) is not None)
    return b"%b %b %d" % (_head(measurement, tags), ",".join(pairs).encode(), to_ns(time) + ns)


def _field(name: str, value: Field) -> str | None:
    """Return *value* in the type that the field *name* always has, or None where there is nothing to write."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str):
        return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{int(value)}i" if name in _INTEGERS else repr(float(value))
