"""Records as Hypothesis draws them, and plain ones for tests that need any."""

from __future__ import annotations

import string

import numpy as np
from hypothesis import strategies as st

from models.records import (
    Advisory,
    AdvisoryState,
    AssetDescription,
    Channel,
    ChannelShare,
    Gap,
    GatewayEvent,
    Health,
    Heartbeat,
    Observations,
    Prognosis,
    Results,
    State,
    Stream,
    Zone,
    from_ns,
)

BAD = 0x80000000
SECOND_NS = 1_000_000_000
NOON_NS = 1_772_452_800 * SECOND_NS


def make_observations(
    *, streams: int = 3, rows: int = 4, start_ns: int = NOON_NS, first_value: float = 0.0, asset_id: str = "pump-01"
) -> Observations:
    """Return *rows* good values of each of *streams* streams, one a second from *start_ns*, all values different."""
    count = streams * rows
    return Observations.of_values(
        tuple(Stream(asset_id, f"channel_{place}") for place in range(streams)),
        np.tile(np.arange(streams, dtype=np.uint32), rows),
        start_ns + np.repeat(np.arange(rows, dtype=np.int64), streams) * SECOND_NS,
        first_value + np.arange(count, dtype=np.float64),
        np.zeros(count, np.uint32),
    )


def make_waveform(samples: list[float], *, time_ns: int = NOON_NS, asset_id: str = "pump-01") -> Observations:
    """Return one waveform observation."""
    return Observations(
        streams=(Stream(asset_id, "vibration_waveform_m_s2"),),
        stream=np.zeros(1, np.uint32),
        source_time=np.array([time_ns]),
        value=np.array([np.nan]),
        status=np.zeros(1, np.uint32),
        sample_count=np.array([len(samples)], np.uint32),
        samples=np.array(samples, np.float32),
    )


def make_event(message: str) -> Results:
    """Return results that hold one event."""
    return Results(events=(GatewayEvent(kind="test", gateway_time=from_ns(NOON_NS), message=message),))


def make_results() -> Results:
    """Return results with one record of every kind."""
    moment, later = from_ns(NOON_NS), from_ns(NOON_NS + 7200 * SECOND_NS)
    share = ChannelShare(
        channel="flow_m3_h", share=0.7, feature="mean", now=1.0, normal_low=2.0, normal_high=3.0, unit="m3/h"
    )
    return Results(
        assets=(
            AssetDescription(
                asset_id="pump-01",
                asset_class="centrifugal_pump",
                channels=(Channel(name="flow_m3_h", unit="m3/h", low=0.0, high=100.0),),
            ),
        ),
        states=(
            State(
                asset_id="pump-01",
                asset_class="centrifugal_pump",
                window_start=moment,
                window_end=later,
                zone=Zone.ALARM,
                score=1.5,
                good_share=0.9,
                reason="flow_m3_h below its band",
                model_version=1,
                top_channels=(share,),
            ),
        ),
        health=(
            Health(
                asset_id="pump-01",
                window_end=later,
                index=40.0,
                grade="C",
                failure_mode="cavitation",
                confidence=0.8,
                probabilities={"normal": 0.2, "cavitation": 0.8},
                model_version=1,
            ),
        ),
        prognoses=(Prognosis(asset_id="pump-01", window_end=later, p10_s=9e4, p50_s=2e5, p90_s=4e5, model_version=1),),
        advisories=(
            Advisory(
                advisory_id="a-1",
                revision=1,
                asset_id="pump-01",
                asset_class="centrifugal_pump",
                failure_mode="cavitation",
                state=AdvisoryState.ACTIVE,
                raised_at=later,
                updated_at=later,
                evidence_start=moment,
                evidence_end=later,
                top_channels=(share,),
                confidence=0.8,
                life_p10_s=None,
                life_p50_s=None,
                life_p90_s=None,
                act_by=None,
                model_version=1,
                data_trust=0.9,
                reason="flow below its band",
                recommended_action="Check suction pressure.",
            ),
        ),
        gaps=(Gap(asset_id="pump-01", channel="flow_m3_h", from_time=moment, to_time=later, cause="server away"),),
        events=(GatewayEvent(kind="started", gateway_time=moment, message="gateway started", detail={"pid": "1"}),),
        heartbeats=(
            Heartbeat(
                asset_id="pump-01", channel="flow_m3_h", gateway_time=later, source_time=moment, value=1.5, status=0
            ),
        ),
    )


names = st.text(string.ascii_letters + string.digits + '-_ ,=\\"\n\tµ', max_size=8)
streams = st.builds(Stream, names, names)
statuses = st.sampled_from([0, 0x00000480, 0x40920000, BAD, 0x80320000, 2**32 - 1])
times = st.integers(-(2**63), 2**63 - 1) | st.integers(NOON_NS, NOON_NS + 3)
values = st.floats(width=64)


@st.composite
def observations(draw: st.DrawFn, max_rows: int = 12) -> Observations:
    """Draw any observations: hostile names, any time and float, waveforms, none at all, streams that do not occur."""
    table = tuple(draw(st.lists(streams, unique=True, max_size=4)))
    row = st.tuples(
        st.integers(0, max(len(table) - 1, 0)),
        times,
        values,
        statuses,
        st.just([]) | st.lists(st.floats(width=32), max_size=5),
    )
    rows = draw(st.lists(row, max_size=max_rows)) if table else []
    columns = list(zip(*rows, strict=True)) or [()] * 5
    samples = [sample for waveform in columns[4] for sample in waveform]
    return Observations(
        streams=table,
        stream=np.array(columns[0], np.uint32),
        source_time=np.array(columns[1], np.int64),
        value=np.array(columns[2], np.float64),
        status=np.array(columns[3], np.uint32),
        sample_count=np.array([len(waveform) for waveform in columns[4]], np.uint32),
        samples=np.array(samples, np.float32),
    )


results = st.builds(
    Results,
    events=st.lists(
        st.builds(
            GatewayEvent,
            kind=names,
            gateway_time=st.integers(0, 2**61).map(from_ns),
            message=st.text(max_size=20),
            detail=st.dictionaries(names, names, max_size=2),
        ),
        max_size=3,
    ).map(tuple),
) | st.just(make_results())


def same(left: Observations, right: Observations) -> bool:
    """Return whether both hold the same rows in the same order, bit by bit, over tables that may differ."""

    def rows(these: Observations) -> list[object]:
        return [
            (these.streams[stream], time, value, status, waveform.tobytes())
            for stream, time, value, status, waveform in zip(
                these.stream,
                these.source_time.tolist(),
                these.value.view(np.int64).tolist(),
                these.status.tolist(),
                these.waveforms(),
                strict=True,
            )
        ]

    return rows(left) == rows(right)
