"""Condition monitoring over pages once more: what comes out, beside what the log says came out then.

It reads the journal and stores nothing. What windows need of the time before the first page is read from the pages
before it, as the gateway does, so that the first window is a whole one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from gateway.condition_monitoring.blocks import Blocks, by_zone
from gateway.condition_monitoring.monitor import BATCH_ROWS
from gateway.journal_commands.reading import Lost, Stretch, read_pages
from gateway.journal_commands.view import JournalView
from gateway.progress import Progress, silent
from models.records import Advisory, Observations, Page, Results, State, Stream, Zone

Window = tuple[str, datetime]
Raised = tuple[str, str, datetime]
Emit = Callable[[int, Results], None]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A window that lies in another zone than it did."""

    asset_id: str
    window_end: datetime
    stored: Zone
    replayed: Zone
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What a replay gave, beside what is stored.

    Attributes:
        first_seq: Of the first page with observations that was replayed; 0 when there was none.
        last_seq: Of the last.
        observations: Replayed.
        zones: Replayed windows by zone.
        stored_zones: Stored windows by zone, of the same machines and the same time.
        same: Windows in the zone they were in.
        different: The others of which both sides know, by time.
        only_replayed: Windows of which nothing is stored.
        only_stored: Windows that did not come out again.
        advisories: Raised in the replay: machine, failure mode, when.
        stored_advisories: Raised then, in the same time.
        lost: Pages that could not be read.
    """

    first_seq: int
    last_seq: int
    observations: int
    zones: dict[str, int]
    stored_zones: dict[str, int]
    same: int
    different: tuple[Difference, ...]
    only_replayed: int
    only_stored: int
    advisories: tuple[Raised, ...]
    stored_advisories: tuple[Raised, ...]
    lost: tuple[Lost, ...]


@dataclass(kw_only=True)
class _Found:
    """States and advisories of one side, by what they are of."""

    states: dict[Window, State] = field(default_factory=dict)
    advisories: dict[Raised, None] = field(default_factory=dict)

    def add(self, results: Results) -> None:
        """Take up *results*; of several of one window the last counts."""
        for state in results.states:
            self.states[state.asset_id, state.window_end] = state
        for advisory in results.advisories:
            self.advisories[_raised(advisory)] = None


def replay(
    view: JournalView,
    stretch: Stretch,
    blocks: Blocks,
    emit: Emit = lambda _seq, _results: None,
    progress: Progress = silent,
) -> Replayed:
    """Run *blocks*, which are new, over the pages of *stretch*; *emit* gets what comes out and after which page.

    What is stored is looked for up to the end of the log, since a window's results come after its rows.
    """
    seqs: list[int] = []
    observations = 0
    replayed, stored, lost = _Found(), _Found(), list[Lost]()
    blocks.follow_bundles()
    for batch in _batches(view, stretch, lost, progress):
        contents = [page.content for page in batch]
        rows = Observations.concatenate([content for content in contents if isinstance(content, Observations)])
        if len(rows):
            if not seqs:
                _prime(view, blocks, batch[0].seq, int(rows.source_time.min()))
            seqs = [seqs[0] if seqs else batch[0].seq, batch[-1].seq]
        observations += len(rows)
        results = blocks.results(contents)
        replayed.add(results)
        emit(batch[-1].seq, results)
    if seqs:
        _look_up(view, seqs[0], stored)
    return _compared(replayed, stored, seqs or [0, 0], observations, lost)


def _batches(view: JournalView, stretch: Stretch, lost: list[Lost], progress: Progress) -> Iterator[list[Page]]:
    """Yield the pages of *stretch*, many together; those that cannot be read are noted in *lost*."""
    last = min(view.last_seq(), stretch.last_seq if stretch.last_seq is not None else 2**62)
    waiting: list[Page] = []
    rows = 0
    for part in read_pages(view, stretch, results=False):
        if isinstance(part, Lost):
            lost.append(part)
            continue
        for page in part:
            waiting.append(page)
            rows += len(page.content) if isinstance(page.content, Observations) else 0
            if rows >= BATCH_ROWS:
                yield waiting
                progress(page.seq, last)
                waiting, rows = [], 0
    if waiting:
        yield waiting


def _prime(view: JournalView, blocks: Blocks, first_seq: int, start_ns: int) -> None:
    """Give windows what is in the pages before *first_seq*, as far back as each wants to know."""
    wanted = blocks.windows_begun_anew()
    length_ns = max((length for _, length in wanted), default=0)
    if not length_ns or first_seq <= 1:
        return
    streams = {stream for table, _ in wanted for stream in table}
    before = Stretch(last_seq=first_seq - 1, start_ns=start_ns - length_ns)
    pages = [page for part in read_pages(view, before, results=False) if not isinstance(part, Lost) for page in part]
    blocks.prime(_of(pages, streams))


def _of(pages: list[Page], streams: set[Stream]) -> Observations:
    rows = Observations.concatenate([page.content for page in pages if isinstance(page.content, Observations)])
    wanted = np.array([stream in streams for stream in rows.streams], np.bool_)
    return rows.take(wanted[rows.stream])


def _look_up(view: JournalView, first_seq: int, stored: _Found) -> None:
    for part in read_pages(view, Stretch(first_seq=first_seq)):
        for page in part if not isinstance(part, Lost) else ():
            if isinstance(page.content, Results):
                stored.add(page.content)


def _compared(replayed: _Found, stored: _Found, seqs: list[int], observations: int, lost: list[Lost]) -> Replayed:
    """Hold both sides against each other, between the first and the last window that came out again."""
    ends = [end for _, end in replayed.states]
    span = (min(ends), max(ends)) if ends else None
    assets = {asset_id for asset_id, _ in replayed.states}
    then = {
        window: state
        for window, state in stored.states.items()
        if span is not None and span[0] <= window[1] <= span[1] and window[0] in assets
    }
    both = sorted(replayed.states.keys() & then.keys(), key=lambda window: (window[1], window[0]))
    different = [
        Difference(
            asset_id=window[0],
            window_end=window[1],
            stored=then[window].zone,
            replayed=replayed.states[window].zone,
            score=replayed.states[window].score,
        )
        for window in both
        if then[window].zone != replayed.states[window].zone
    ]
    return Replayed(
        first_seq=seqs[0],
        last_seq=seqs[1],
        observations=observations,
        zones=_zones(replayed.states),
        stored_zones=_zones(then),
        same=len(both) - len(different),
        different=tuple(different),
        only_replayed=len(replayed.states) - len(both),
        only_stored=len(then) - len(both),
        advisories=tuple(replayed.advisories),
        stored_advisories=tuple(
            raised for raised in stored.advisories if span is not None and span[0] <= raised[2] <= span[1]
        ),
        lost=tuple(lost),
    )


def _zones(states: Mapping[Window, State]) -> dict[str, int]:
    return by_zone(Counter(str(state.zone) for state in states.values()))


def _raised(advisory: Advisory) -> Raised:
    return advisory.asset_id, advisory.failure_mode, advisory.raised_at
