"""The points a page becomes: every record of every block, escaped so that nothing of it can become another point."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.historian.lines import lines, name_of_tag, points, tag_name
from models.records import Observations, Page, Results
from tests import strategies
from tests.strategies import NOON_NS, make_event, make_results, make_waveform

LATER_NS = NOON_NS + 7200 * 10**9


def written(content: Observations | Results) -> list[str]:
    """Return the points of a page that holds *content*."""
    page = Page(gateway_id="gw-1", epoch="e0", seq=1, committed_time=0, content=content)
    return [line.decode() for line in lines(page)]


def test_every_block_has_its_measurement() -> None:
    """Names, tags, fields and times as the table in `gateway.historian.lines` says."""
    assert written(make_results()) == [
        (
            "state,asset_id=pump-01,asset_class=centrifugal_pump,gateway_id=gw-1 "
            f'zone="alarm",score=1.5,good_share=0.9,reason="flow_m3_h below its band",model_version=1i {LATER_NS}'
        ),
        (
            "health,asset_id=pump-01,gateway_id=gw-1 "
            f'index=40.0,grade="C",confidence=0.8,model_version=1i,failure_mode="cavitation" {LATER_NS}'
        ),
        (
            "prognosis,asset_id=pump-01,gateway_id=gw-1 "
            f"p10_s=90000.0,p50_s=200000.0,p90_s=400000.0,model_version=1i {LATER_NS}"
        ),
        (
            "advisory,asset_id=pump-01,asset_class=centrifugal_pump,advisory_id=a-1,gateway_id=gw-1 "
            'state="active",failure_mode="cavitation",confidence=0.8,reason="flow below its band",'
            f'recommended_action="Check suction pressure.",revision=1i,data_trust=0.9,model_version=1i {LATER_NS}'
        ),
        (
            "gap,asset_id=pump-01,channel=flow_m3_h,gateway_id=gw-1 "
            f'cause="server away",to_time={LATER_NS}i,duration_s=7200.0 {NOON_NS}'
        ),
        (
            "heartbeat,asset_id=pump-01,channel=flow_m3_h,gateway_id=gw-1 "
            f"value=1.5,status=0i,source_time={NOON_NS}i {LATER_NS}"
        ),
        (
            "gateway_event,kind=started,gateway_id=gw-1 "
            f'message="gateway started",detail="{{\\"pid\\":\\"1\\"}}" {NOON_NS}'
        ),
    ]


def test_a_bad_value_is_stored_under_another_name() -> None:
    """So that no dashboard and no mean takes it for a measurement."""
    rows = strategies.make_observations(streams=1, rows=2)
    bad = Observations.of_values(
        rows.streams, rows.stream, rows.source_time, rows.value, np.array([0, strategies.BAD], np.uint32)
    )
    head = "observation,asset_id=pump-01,channel=channel_0,gateway_id=gw-1"
    assert written(bad) == [
        f"{head} status=0i,value=0.0 {NOON_NS}",
        f"{head} status=2147483648i,bad_value=1.0 {NOON_NS + 10**9}",
    ]


def test_of_a_waveform_the_rms_is_written() -> None:
    waves = [make_waveform([3.0, 4.0, 0.0, 0.0]), make_waveform([float("inf")]), make_waveform([-1.0])]
    fields = [line.split(" ")[1] for line in written(Observations.concatenate(waves))]
    assert fields == [
        f"status={4 << 32}i,sample_count=4i,rms=2.5",
        f"status={4 << 32}i,sample_count=1i",
        f"status={4 << 32}i,sample_count=1i,rms=1.0",
    ]


def test_events_of_one_moment_stay_apart() -> None:
    events = make_event("one").events + make_event("two").events
    assert [int(line.split(" ")[-1]) - NOON_NS for line in written(Results(events=events))] == [0, 1]


def test_text_cannot_leave_its_field() -> None:
    (line,) = written(make_event('x",stolen=1 2\nstate,a=b "\\'))
    assert re.fullmatch(r'[^ ]+ message="(?:[^"\\]|\\["\\])*",detail="{}" \d+', line, re.DOTALL)


@given(name=strategies.names)
def test_names_come_back_from_tags(name: str) -> None:
    tag = tag_name(name)
    assert name_of_tag(tag) == name
    assert tag
    assert tag.isprintable()
    assert "\\" not in tag


@given(rows=strategies.observations())
def test_every_observation_is_one_line(rows: Observations) -> None:
    """Whatever the names and values are."""
    points = written(rows)
    assert len(points) == len(rows)
    assert all("\n" not in point and re.search(r" status=\d+i[^ ]* -?\d+$", point) for point in points)


MANY: list[Observations | Results] = [
    make_results(),
    make_event('a "b" \\ \n'),
    strategies.make_observations(streams=2, rows=2),
    make_waveform([3.0, 4.0]),
    make_waveform([float("nan")]),
]


def parsed(line: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return measurement, tags, and fields with the type of each."""
    head, fields, _ = re.fullmatch(r"((?:\\.|[^ \\])+) (.*) (-?\d+)", line, re.DOTALL).groups()  # type: ignore[union-attr]  # one line
    measurement, *tags = re.split(r"(?<!\\),", head)
    pairs = re.findall(r'([a-z0-9_]+)=("(?:[^"\\]|\\.)*"|[^,]+)', fields, re.DOTALL)
    kinds = {name: "text" if text[0] == '"' else "integer" if text[-1] == "i" else "float" for name, text in pairs}
    return measurement, dict(tag.split("=", 1) for tag in tags), kinds


@given(rows=st.lists(strategies.observations(), max_size=4))
def test_what_is_written_keeps_to_the_rules_of_influxdb_3(rows: list[Observations]) -> None:
    """Its v2 write endpoint wants: no name for a tag and a field, one type a field, the same tags, none named time."""
    tags: dict[str, set[tuple[str, ...]]] = {}
    fields: dict[str, dict[str, str]] = {}
    for line in (line for content in [*MANY, *rows] for line in written(content)):
        measurement, of_tags, of_fields = parsed(line)
        tags.setdefault(measurement, set()).add(tuple(of_tags))
        assert all(of_tags.values())
        assert of_fields
        known = fields.setdefault(measurement, {})
        for name, kind in of_fields.items():
            assert known.setdefault(name, kind) == kind
    for measurement, sets in tags.items():
        assert len(sets) == 1
        names = {*next(iter(sets)), *fields[measurement]}
        assert len(names) == len(next(iter(sets))) + len(fields[measurement])
        assert "time" not in names
        assert not any(name.startswith("_") for name in names)


def test_a_number_that_python_made_whole_keeps_its_type() -> None:
    """An index of 40 without a fraction is still a float to the server."""
    results = make_results()
    health = replace(results.health[0], index=40)
    assert "index=40.0," in written(replace(results, health=(health,)))[1]


def test_points_are_told_apart_again() -> None:
    """Cut anywhere, the lines are the same."""
    page = Page(gateway_id="g", epoch="e0", seq=1, committed_time=0, content=strategies.make_observations())
    (whole,) = points(page)
    first, rest = whole.split(5)
    assert (first.count, rest.count) == (5, whole.count - 5)
    assert first.body + b"\n" + rest.body == whole.body
    assert [point.body for point in whole.each()] == list(lines(page))
