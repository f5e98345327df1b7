"""The ledger of holes: what is missing is known, and each row that comes for it is stored once."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal import CommitFailed, Hole, Journal, compact_once
from gateway.journal import pages as tables
from models.records import Observations, Stream
from tests.gateway.journal.stored import stored_observations
from tests.strategies import NOON_NS, SECOND_NS, make_event, make_observations, make_waveform

SPEED, LOAD = Stream("pump-01", "speed_rpm"), Stream("pump-01", "load_pct")
Row = tuple[Stream, int, float, int]


def rows_of(*rows: Row) -> Observations:
    """Return *rows* (stream, seconds after noon, value, status) as columns."""
    return Observations.of_values(
        (SPEED, LOAD),
        np.array([(SPEED, LOAD).index(row[0]) for row in rows], np.uint32),
        NOON_NS + np.array([row[1] for row in rows], np.int64) * SECOND_NS,
        np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.uint32),
    )


def speed(*seconds: int) -> Observations:
    return rows_of(*((SPEED, second, float(second), 0) for second in seconds))


def hole(start: int, end: int, stream: Stream = SPEED, cause: str = "link down") -> Hole:
    return Hole(stream=stream, start_ns=NOON_NS + start * SECOND_NS, end_ns=NOON_NS + end * SECOND_NS, cause=cause)


async def stored(journal: Journal) -> Counter[Row]:
    """Return how often each row is stored."""
    o = await stored_observations(journal)
    return Counter(
        (o.streams[o.stream[i]], (int(o.source_time[i]) - NOON_NS) // SECOND_NS, float(o.value[i]), int(o.status[i]))
        for i in range(len(o))
    )


async def speed_seconds(journal: Journal) -> list[int]:
    return sorted(row[1] for row in (await stored(journal)).elements())


async def test_rows_results_and_holes_are_one_commit(journal: Journal, tmp_path: Path) -> None:
    """Opened with the first row after it, filled with what was fetched; there after a restart."""
    await journal.append(speed(1))
    assert await journal.append(speed(9), results=make_event("back"), opened=[hole(2, 9)]) == 3
    assert journal.holes() == journal.holes([SPEED]) == (hole(2, 9),)
    assert journal.holes([LOAD]) == ()
    assert await journal.append(speed(6, 7), filled=[hole(5, 9)]) == 4
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    assert again.holes() == (hole(2, 5),)
    assert await again.append(Observations.empty(), filled=[hole(2, 5)]) is None
    assert again.holes() == ()
    assert await speed_seconds(again) == [1, 6, 7, 9]
    await again.close()


async def test_a_failed_commit_opens_and_fills_nothing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, results and holes are all as before."""
    await journal.append(speed(9), opened=[hole(2, 9)])
    monkeypatch.setattr(tables, "MAX_PAGE_BYTES", 10)
    for change in ({"filled": [hole(2, 9)]}, {"opened": [hole(20, 30)]}):
        with pytest.raises(CommitFailed):
            await journal.append(speed(5), results=make_event("x"), **change)
    assert journal.holes() == (hole(2, 9),)
    monkeypatch.undo()
    assert await journal.append(speed(5), filled=[hole(2, 9)]) == 2
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM hole").fetchone() == (0,)


async def test_what_live_brought_into_a_hole_is_not_stored_again(journal: Journal, tmp_path: Path) -> None:
    """Late live rows, before and after a restart, then history with the same and others."""
    await journal.append(speed(9), opened=[hole(2, 9)])
    await journal.append(speed(4, 5, 4))
    await journal.close()
    again = await Journal.open(tmp_path, "gw-1")
    await again.append(speed(5, 10))
    await again.append(speed(3, 4, 5, 6), filled=[hole(3, 9)])
    assert await speed_seconds(again) == [3, 4, 5, 6, 9, 10]
    assert again.counters.repeats_dropped == 4
    await again.close()


async def test_without_the_ledger_they_would_be(journal: Journal) -> None:
    """The control: no hole was opened, so late rows are stored as often as they come."""
    await journal.append(speed(9))
    await journal.append(speed(4, 5))
    await journal.append(speed(3, 4, 5, 6))
    assert await speed_seconds(journal) == [3, 4, 4, 5, 5, 6, 9]


async def test_what_comes_late_for_a_filled_hole_is_looked_up(journal: Journal) -> None:
    """In segments and in pages; a row that history did not have is stored."""
    await journal.append(speed(9), opened=[hole(2, 9)])
    await journal.append(speed(6, 7), filled=[hole(5, 9)])
    await compact_once(journal, max_pages=10)
    await journal.append(speed(3), filled=[hole(2, 5)])
    await journal.append(speed(3, 6, 8))
    await journal.append(speed(3, 6, 8))
    assert await speed_seconds(journal) == [3, 6, 7, 8, 9]


async def test_a_hole_over_stored_rows_is_filled_around_them(journal: Journal) -> None:
    """Rows that were stored before the hole was opened are not stored again, with their value and status."""
    await journal.append(speed(1, 2, 3, 4))
    await journal.append(Observations.empty(), opened=[hole(2, 4)])
    await journal.append(rows_of((SPEED, 2, 2.0, 0), (SPEED, 3, 3.5, 0), (SPEED, 3, 3.0, 1)), filled=[hole(2, 4)])
    assert await speed_seconds(journal) == [1, 2, 3, 3, 3, 4]


async def test_waveforms_in_holes_are_told_apart_by_their_samples(journal: Journal) -> None:
    stream = make_waveform([1.0]).streams[0]
    await journal.append(make_waveform([0.0], time_ns=NOON_NS + SECOND_NS), opened=[hole(0, 1, stream)])
    for samples in ([1.0, 2.0], [1.0, 3.0], [1.0, 2.0]):
        await journal.append(make_waveform(samples))
    await journal.append(make_waveform([1.0, 3.0]), filled=[hole(0, 1, stream)])
    await journal.append(make_waveform([1.0, 2.0]))
    held = await stored_observations(journal)
    assert sorted(samples.tolist() for samples in held.waveforms()) == [[0.0], [1.0, 2.0], [1.0, 3.0]]


async def test_a_hole_opened_twice_keeps_its_cause(journal: Journal) -> None:
    await journal.append(speed(9), opened=[hole(2, 9)])
    await journal.append(speed(12), opened=[hole(5, 12, cause="again")])
    assert journal.holes() == (hole(2, 9), hole(9, 12, cause="again"))


async def test_a_journal_of_schema_1_is_taken_over(tmp_path: Path) -> None:
    """Made by the program before this one: pages, segments, positions and newest rows stay; holes can be opened."""
    old = Path(__file__).parent / "data" / "schema-1"
    (tmp_path / "segments").mkdir()
    for segment in (old / "segments").iterdir():
        (tmp_path / "segments" / segment.name).write_bytes(segment.read_bytes())
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.executescript((old / "journal.sql").read_text())
    connection.close()
    for _ in range(2):
        journal = await Journal.open(tmp_path, "gw-1")
        assert (journal.counters.appended, journal.last_seq, journal.holes()) == (25, 4, ())
        assert (await journal.reader("monitor")).state == b"window"
        assert await journal.append(make_observations(streams=1, rows=1, start_ns=NOON_NS + 63 * SECOND_NS,
                                                      first_value=9.0)) is None  # fmt: skip
        await journal.close()
    journal = await Journal.open(tmp_path, "gw-1")
    await journal.append(make_observations(start_ns=NOON_NS), opened=[hole(0, 60, Stream("pump-01", "channel_0"))])
    assert journal.counters.appended == 25 + 8  # the other two channels are late, and stored
    await journal.close()


@st.composite
def days(draw: st.DrawFn) -> list[tuple[str, int, int, Stream]]:
    """Return what happens at a gateway: the kind, a start and a length, and the stream."""
    kinds = st.sampled_from(["live", "live", "outage", "late", "late", "slice", "slice", "again", "restart", "compact"])
    step = st.tuples(kinds, st.integers(0, 60), st.integers(1, 8), st.sampled_from([SPEED, LOAD]))
    return draw(st.lists(step, min_size=5, max_size=40))


class Day:
    """A plant that measures each stream once or twice a second, and a gateway that misses some of it."""

    def __init__(self) -> None:
        self.now = {SPEED: 0, LOAD: 0}
        self.seen: set[Row] = set()
        self.due: set[Row] = set()
        self.last: tuple[Observations, Hole] | None = None
        self.missed: list[Hole] = []

    def measured(self, stream: Stream, start: int, end: int) -> list[Row]:
        """Return all that *stream* measured from *start* to *end*: of every third second two values."""
        seconds = range(start, min(end, self.now[stream]))
        rows = [(stream, second, float(second), 0) for second in seconds]
        return [twice for row in rows for twice in ([row, (*row[:2], -1.0, 0x80)] if row[1] % 3 == 0 else [row])]

    async def happen(self, journal: Journal, kind: str, start: int, length: int, stream: Stream) -> None:
        """Have one thing happen."""
        if kind in ("live", "outage"):
            before = self.now[stream]
            missed = hole(before, before + length, stream) if kind == "outage" else None
            self.now[stream] += (length if missed else 0) + 2
            rows = self.measured(stream, self.now[stream] - 2, self.now[stream])
            self.missed += [missed] if missed else []
            self.due |= set(self.measured(stream, before, self.now[stream]))
            await journal.append(rows_of(*rows), opened=[missed] if missed else [])
        elif kind == "late" and self.missed:
            of = self.missed[start % len(self.missed)]
            first = (of.start_ns - NOON_NS) // SECOND_NS
            size = (of.end_ns - of.start_ns) // SECOND_NS
            rows = self.measured(of.stream, first + start % size, min(first + start % size + length, first + size))
            await journal.append(rows_of(*rows))
        elif kind == "slice" and (holes := journal.holes()):
            of = holes[start % len(holes)]
            first, end = ((t - NOON_NS) // SECOND_NS for t in (of.start_ns, of.end_ns))
            at = first + start % (end - first)
            part = hole(at, min(at + length, end), of.stream)
            rows = self.measured(of.stream, at, min(at + length, end))
            self.last = rows_of(*rows), part
            await journal.append(self.last[0], filled=[part])
        elif kind == "again" and self.last:
            await journal.append(self.last[0], filled=[self.last[1]])
        elif kind == "compact":
            await compact_once(journal, max_pages=5)


async def live_through(folder: Path, steps: list[tuple[str, int, int, Stream]]) -> None:
    """Have *steps* happen, fill what is left, and hold that each row is stored once."""
    day = Day()
    journal = await Journal.open(folder, "gw-1")
    for kind, start, length, stream in steps:
        if kind == "restart":
            await journal.close()
            journal = await Journal.open(folder, "gw-1")
        await day.happen(journal, kind, start, length, stream)
    while journal.holes():
        await day.happen(journal, "slice", 0, 5, SPEED)
    assert await stored(journal) == Counter(dict.fromkeys(day.due, 1))
    await journal.close()


@settings(max_examples=40, deadline=None)
@given(days())
def test_every_row_is_stored_once(steps: list[tuple[str, int, int, Stream]]) -> None:
    """Live rows, late ones into holes, slices in any order, repeats of each and restarts, as they may come."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live_through(Path(folder), steps))
