"""Spans: never overlapping, and nothing open forgotten."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.spans import Span, SpanTable, filled, opened

stretches = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda drawn: (drawn[0], drawn[0] + drawn[1]))
steps = st.lists(st.tuples(st.booleans(), stretches), max_size=25)


def run(drawn: list[tuple[bool, tuple[int, int]]]) -> tuple[tuple[Span, ...], set[int]]:
    """Return the spans after the *drawn* steps, and what is open by a plain set."""
    spans: tuple[Span, ...] = ()
    is_open: set[int] = set()
    for opens, (start, end) in drawn:
        spans = opened(spans, Span(start, end, "why")) if opens else filled(spans, start, end)
        is_open = is_open | set(range(start, end)) if opens else is_open - set(range(start, end))
    return spans, is_open


@given(steps)
def test_spans_say_what_sets_say(drawn: list[tuple[bool, tuple[int, int]]]) -> None:
    """In order, without overlap, none empty: open is what was opened and not filled."""
    spans, is_open = run(drawn)
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))
    assert [moment for span in spans for moment in range(span.start, span.end)] == sorted(is_open)
    assert all(span.start < span.end for span in spans)


@given(steps, st.lists(st.integers(-1, 45)))
def test_a_time_is_found_in_its_span(drawn: list[tuple[bool, tuple[int, int]]], times: list[int]) -> None:
    """Among the spans of several streams, as looking at each span would find it."""
    spans, _ = run(drawn)
    table = SpanTable.of([(3, spans), (5, (Span(0, 50),)), (8, spans)])
    for stream in (3, 4, 8):
        places = table.place(np.full(len(times), stream), np.array(times, np.int64))
        for time, place in zip(times, places.tolist(), strict=True):
            expected = [(s.start, stream) for s in spans if s.start <= time < s.end and stream != 4]
            assert [(int(table.start[p]), int(table.stream[p])) for p in (place,) if p >= 0] == expected
