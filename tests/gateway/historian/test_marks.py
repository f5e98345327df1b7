"""What is remembered of what was stored, so that a later loss is noticed."""

from __future__ import annotations

import time

from gateway.historian.marks import Marks
from models.records import Observations, Page, Results
from tests.strategies import NOON_NS, SECOND_NS, make_observations, make_results, make_waveform


def page(seq: int, content: Observations | Results | None = None) -> Page:
    """Return page *seq*, a second after the one before."""
    rows = make_observations(streams=1, rows=1, start_ns=NOON_NS + seq * SECOND_NS) if content is None else content
    return Page(gateway_id="gw-1", epoch="e0", seq=seq, committed_time=0, content=rows)


def filled(pages: int) -> Marks:
    """Return the marks of so many pages, one stored after the other."""
    marks = Marks()
    for seq in range(1, pages + 1):
        marks.add([page(seq)])
    return marks


def test_marks_come_back_from_the_reader_s_state() -> None:
    """And what is no state of ours is none."""
    marks = filled(3)
    assert Marks.from_bytes(marks.to_bytes()).current(0.0) == marks.current(0.0)
    assert Marks.from_bytes(None).current(0.0) == Marks.from_bytes(b"rubbish").current(0.0) == []


def test_old_marks_get_fewer() -> None:
    """However many pages there are: dense at the end, and the first one stays."""
    seqs = [mark.seq for mark in filled(1000).current(0.0)]
    assert len(seqs) <= 32
    assert seqs[-8:] == list(range(993, 1001))
    assert seqs[0] == 1


def test_it_goes_back_to_the_mark_before_the_loss() -> None:
    """And forgets the loss; to the very beginning where there is none."""
    marks = filled(5)
    assert marks.cut(marks.current(0.0)[3]) == 3
    assert [mark.seq for mark in marks.current(0.0)] == [1, 2, 3]
    assert marks.cut(marks.current(0.0)[0]) == 0


def test_what_may_be_gone_by_right_is_not_asked_for() -> None:
    """Values that the retention has overtaken, or soon will."""
    marks = Marks()
    now = time.time_ns()
    for seq, age_s in enumerate([100, 95, 10], 1):
        marks.add([page(seq, make_observations(streams=1, rows=1, start_ns=now - age_s * SECOND_NS))])
    assert [mark.seq for mark in marks.current(100.0)] == [3]
    assert len(marks.current(0.0)) == 3


def test_only_plain_values_make_marks() -> None:
    """The newest of all pages that were stored at once."""
    marks = Marks()
    marks.add([page(1, make_results()), page(2, make_waveform([1.0]))])
    assert marks.current(0.0) == []
    late = Observations.concatenate([make_observations(), make_waveform([1.0], time_ns=NOON_NS + 10**15)])
    marks.add([page(3, late), page(4, make_results())])
    (mark,) = marks.current(0.0)
    assert (mark.seq, mark.time_ns) == (4, NOON_NS + 3 * SECOND_NS)
