"""The records that flow through Wearsight, named by the six blocks of ISO 13374.

Observations travel as columns, never as one object a value. What the blocks find out
(states, health, prognoses, advisories) is rare beside them and travels as one record each.
Times in columns are nanoseconds since 1970 UTC; times in records are aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Int64Array = NDArray[np.int64]
UInt32Array = NDArray[np.uint32]
BoolArray = NDArray[np.bool_]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises at hostile bytes: other text than UTF-8, and deep nesting, have errors of their own."""


def to_ns(moment: datetime) -> int:
    """Return *moment*, which must be aware, in nanoseconds since 1970 UTC, exact to its microsecond."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def from_ns(time_ns: int) -> datetime:
    """Return the aware UTC time of *time_ns*, nanoseconds since 1970, cut to microseconds."""
    return EPOCH + timedelta(microseconds=time_ns // 1000)


def is_good(status: UInt32Array) -> BoolArray:
    """Return which *status* codes, shape ``(n,)``, carry severity Good (the two highest bits are 00)."""
    return np.asarray((status >> np.uint32(30)) == 0, np.bool_)


class Stream(NamedTuple):
    """One channel of one asset."""

    asset_id: str
    channel: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Observations:
    """Columns of observations; row ``i`` is one source time, value and status of one stream.

    A waveform is one observation too: its row has ``sample_count`` above 0 and NaN as ``value``,
    and its samples stand in ``samples``, all waveforms one after the other in row order.

    Attributes:
        streams: The streams that ``stream`` points into; at least those that occur.
        stream: Index into ``streams``, shape ``(n,)``.
        source_time: When the value was measured, ns since 1970 UTC, shape ``(n,)``.
        value: The value in the channel's unit, shape ``(n,)``; NaN for a waveform.
        status: OPC UA status code, shape ``(n,)``.
        sample_count: Number of samples of a waveform, 0 for a plain value, shape ``(n,)``.
        samples: The waveforms' samples in the channel's unit, shape ``(sum(sample_count),)``.
    """

    streams: tuple[Stream, ...]
    stream: UInt32Array
    source_time: Int64Array
    value: FloatArray
    status: UInt32Array
    sample_count: UInt32Array
    samples: Float32Array

    def __len__(self) -> int:
        return len(self.stream)

    @classmethod
    def of_values(
        cls,
        streams: tuple[Stream, ...],
        stream: UInt32Array,
        source_time: Int64Array,
        value: FloatArray,
        status: UInt32Array,
    ) -> Observations:
        """Return observations that hold no waveform."""
        return cls(
            streams=streams,
            stream=stream,
            source_time=source_time,
            value=value,
            status=status,
            sample_count=np.zeros(len(stream), np.uint32),
            samples=np.empty(0, np.float32),
        )

    @classmethod
    def empty(cls) -> Observations:
        """Return no observations."""
        return cls.of_values(
            (), np.empty(0, np.uint32), np.empty(0, np.int64), np.empty(0, np.float64), np.empty(0, np.uint32)
        )

    def take(self, rows: BoolArray | NDArray[np.intp]) -> Observations:
        """Return the given *rows* (a mask or indices), in the order given; ``streams`` stays as it is."""
        indices = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        counts = self.sample_count[indices]
        ends = np.cumsum(self.sample_count, dtype=np.int64)
        starts = (ends - self.sample_count)[indices]
        # One index per kept sample: each waveform's start, repeated, plus a running number inside it.
        total = int(counts.sum(dtype=np.int64))
        inside = np.arange(total) - np.repeat(np.cumsum(counts, dtype=np.int64) - counts, counts)
        return Observations(
            streams=self.streams,
            stream=self.stream[indices],
            source_time=self.source_time[indices],
            value=self.value[indices],
            status=self.status[indices],
            sample_count=counts,
            samples=self.samples[np.repeat(starts, counts) + inside],
        )

    def waveforms(self) -> list[Float32Array]:
        """Return each row's samples, an empty array for plain values."""
        return np.split(self.samples, np.cumsum(self.sample_count, dtype=np.int64)[:-1]) if len(self) else []

    @classmethod
    def concatenate(cls, parts: Sequence[Observations]) -> Observations:
        """Return the rows of *parts* one after the other over one joint table of streams."""
        if not parts:
            return cls.empty()
        index: dict[Stream, int] = {}
        places: dict[int, UInt32Array] = {}  # pages of one source share their table
        for part in parts:
            if id(part.streams) not in places:
                found = [index.setdefault(stream, len(index)) for stream in part.streams]
                places[id(part.streams)] = np.array(found, np.uint32)
        columns = [places[id(part.streams)][part.stream] for part in parts if len(part)]
        filled = [part for part in parts if len(part)]
        if not filled:
            return cls.empty()
        return cls(
            streams=tuple(index),
            stream=np.concatenate(columns),
            source_time=np.concatenate([p.source_time for p in filled]),
            value=np.concatenate([p.value for p in filled]),
            status=np.concatenate([p.status for p in filled]),
            sample_count=np.concatenate([p.sample_count for p in filled]),
            samples=np.concatenate([p.samples for p in filled]),
        )


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A measured quantity of an asset class.

    ``low`` and ``high`` are the instrument range in ``unit`` (OPC UA EURange). ``sample_rate_hz`` is 0 for
    plain values, and the rate inside one waveform for waveform channels.
    """

    name: str
    unit: str
    low: float
    high: float
    sample_rate_hz: float = 0.0


@dataclass(frozen=True, kw_only=True)
class AssetDescription:
    """What a gateway found an asset to be when it connected to its server."""

    asset_id: str
    asset_class: str
    channels: tuple[Channel, ...]


class Zone(StrEnum):
    """In which zone a window lies. ``unknown`` always has a reason; it is never taken for normal."""

    NORMAL = "normal"
    WARNING = "warning"
    ALARM = "alarm"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class ChannelShare:
    """How much one channel adds to a deviation, and its normal band against now.

    ``share`` is 0 to 1 over all channels of the window. ``feature`` names the feature of the channel that
    deviates most; ``now``, ``normal_low`` and ``normal_high`` are of that feature, in ``unit``.
    """

    channel: str
    share: float
    feature: str
    now: float
    normal_low: float
    normal_high: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class State:
    """State detection of one window. ``score`` grows with the deviation; 1 is the warning threshold."""

    asset_id: str
    asset_class: str
    window_start: datetime
    window_end: datetime
    zone: Zone
    score: float | None
    good_share: float
    reason: str
    model_version: int | None
    top_channels: tuple[ChannelShare, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Health:
    """Health assessment of one window: ``index`` from 100 (as new) to 0 (failed), its grade A to D (U: unknown).

    ``failure_mode`` is the likeliest one, or None while the asset looks healthy. ``probabilities`` has each mode's own,
    as modes do not exclude each other, and ``normal``: that none comes. ``top_channels`` are what speaks for the
    failure mode, the most telling first.
    """

    asset_id: str
    window_end: datetime
    index: float | None
    grade: str
    failure_mode: str | None
    confidence: float
    probabilities: dict[str, float]
    model_version: int | None
    top_channels: tuple[ChannelShare, ...] = ()


class Basis(StrEnum):
    """What a prognosis rests on: the asset's whole life since commissioning or repair, its last windows, or too few."""

    WHOLE_HISTORY = "whole_history"
    CUT_HISTORY = "cut_history"
    NOT_ENOUGH_DATA = "not_enough_data"


@dataclass(frozen=True, kw_only=True)
class Prognosis:
    """Remaining useful life in seconds of operation, as quantiles (P10: nine of ten live longer).

    ``basis`` says what it rests on; with not enough data the quantiles are None. None as basis: an older gateway did
    not say.
    """

    asset_id: str
    window_end: datetime
    p10_s: float | None
    p50_s: float | None
    p90_s: float | None
    model_version: int
    basis: Basis | None = None


class AdvisoryState(StrEnum):
    """Life cycle of an advisory, after the alarm states of ISA-18.2."""

    ACTIVE = "active"
    ACKNOWLEDGED = "acknowledged"
    RETURNED = "returned"
    SHELVED = "shelved"
    SUPPRESSED = "suppressed"
    OUT_OF_SERVICE = "out_of_service"
    CLOSED = "closed"


OPEN_STATES = frozenset(
    {AdvisoryState.ACTIVE, AdvisoryState.ACKNOWLEDGED, AdvisoryState.SHELVED, AdvisoryState.SUPPRESSED}
)


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """One maintenance problem of one asset, from first sign to closed.

    Identity is ``advisory_id``; each change is a new record with a higher ``revision``. Life and ``act_by`` are
    None while the bundle cannot tell them.
    """

    advisory_id: str
    revision: int
    asset_id: str
    asset_class: str
    failure_mode: str
    state: AdvisoryState
    raised_at: datetime
    updated_at: datetime
    evidence_start: datetime
    evidence_end: datetime
    top_channels: tuple[ChannelShare, ...]
    confidence: float
    life_p10_s: float | None
    life_p50_s: float | None
    life_p90_s: float | None
    act_by: datetime | None
    model_version: int
    data_trust: float
    reason: str
    recommended_action: str


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Observations of one stream that the gateway could not get, and why."""

    asset_id: str
    channel: str
    from_time: datetime
    to_time: datetime
    cause: str


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The last known value of a channel that does not change, told again: its server still says the same.

    It is no observation. ``gateway_time`` is when it was looked at, ``source_time`` when the value was measured.
    """

    asset_id: str
    channel: str
    gateway_time: datetime
    source_time: datetime
    value: float
    status: int


@dataclass(frozen=True, kw_only=True)
class WindowFeatures:
    """The features of one window: what a gateway sends of channels whose raw values stay with it.

    ``values`` stand in the order of the feature specification that has ``feature_hash``; NaN where a channel was
    missing. ``good_share`` is the share of good observations in the window.
    """

    asset_id: str
    asset_class: str
    window_start: datetime
    window_end: datetime
    feature_hash: str
    model_version: int
    good_share: float
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GatewayEvent:
    """Something the gateway did or met: ``kind`` for programs, ``message`` for people, by the gateway's clock."""

    kind: str
    gateway_time: datetime
    message: str
    detail: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """What one commit adds to the log besides observations."""

    assets: tuple[AssetDescription, ...] = ()
    states: tuple[State, ...] = ()
    health: tuple[Health, ...] = ()
    prognoses: tuple[Prognosis, ...] = ()
    advisories: tuple[Advisory, ...] = ()
    gaps: tuple[Gap, ...] = ()
    events: tuple[GatewayEvent, ...] = ()
    heartbeats: tuple[Heartbeat, ...] = ()
    features: tuple[WindowFeatures, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One committed batch of the journal: observations or results, never both.

    ``(gateway_id, epoch, seq)`` is its identity; ``committed_time`` (ns, gateway clock) identifies nothing.
    """

    gateway_id: str
    epoch: str
    seq: int
    committed_time: int
    content: Observations | Results
