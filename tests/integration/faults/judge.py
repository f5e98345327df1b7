"""Did the gateway keep its promise: every value once in the journal, or inside a gap record that says why."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from gateway.journal import Journal
from gateway.journal.database import JournalDatabase
from gateway.journal.replay import pages_after
from models.records import Gap, GatewayEvent, Observations, Page, Results, Stream, to_ns
from tests.chaos.oracle import Verdict, judge_rows
from tests.integration.peers.server import Measured

Book = Mapping[Stream, Sequence[Measured]]
OVERFLOW = 0x480  # the server adds it to the status of a value before which its queue dropped others


@dataclass(kw_only=True)
class Stored:
    """What a journal holds: each stream's rows as they were committed, gap records, events."""

    rows: dict[Stream, list[Measured]] = field(default_factory=dict)
    gaps: dict[Stream, list[Gap]] = field(default_factory=dict)
    events: list[GatewayEvent] = field(default_factory=list)

    def add(self, content: Observations | Results) -> None:
        """Take note of a page's *content*."""
        if isinstance(content, Results):
            self.events += content.events
            for gap in content.gaps:
                self.gaps.setdefault(Stream(gap.asset_id, gap.channel), []).append(gap)
            return
        for i, samples in enumerate(content.waveforms()):
            numbers = samples.tolist() if content.sample_count[i] else [float(content.value[i])]
            row = Measured(int(content.source_time[i]), int(content.status[i]), tuple(numbers))
            self.rows.setdefault(content.streams[content.stream[i]], []).append(row)


async def read_journal(state_dir: Path, gateway_id: str) -> Stored:
    """Return what the journal of a gateway that has ended holds."""
    stored = Stored()
    for page in await pages_of_journal(state_dir, gateway_id):
        stored.add(page.content)
    return stored


async def pages_of_journal(state_dir: Path, gateway_id: str) -> list[Page]:
    """Return all pages of the journal of a gateway that has ended, from the table or from segments."""

    def some(database: JournalDatabase) -> list[Page]:
        return pages_after(database, pages[-1].seq if pages else 0, limit=1000, max_bytes=2**28)

    pages: list[Page] = []
    journal = await Journal.open(state_dir, gateway_id)
    try:
        while found := await journal.read(some):
            pages += found
    finally:
        await journal.close()
    return pages


def judge(book: Book, stored: Stored, *, since: Mapping[Stream, int], until: int) -> Verdict:
    """Hold what was *stored* against the *book*.

    Args:
        book: All that was made.
        stored: What the journal holds, and its gap records.
        since: Which streams it is about, and the source time, ns, from which each value of them must be stored or told.
            Earlier ones may be stored.
        until: The source time, ns, up to and with which.
    """
    made = columns_of({stream: book.get(stream, ()) for stream in since})
    first = np.array([since[stream] for stream in made.streams], np.int64)
    must_be = (made.source_time <= until) & (made.source_time >= first[made.stream])
    found = columns_of({stream: [*map(_plain, stored.rows.get(stream, ()))] for stream in since})
    gaps = [gap for stream in since for gap in stored.gaps.get(stream, ())]
    verdict = judge_rows(made.take(must_be), found, gaps, may_be=made.take(~must_be))
    return verdict if verdict.made else replace(verdict, wrong=(*verdict.wrong, "nothing was made; nothing is shown"))


def columns_of(rows: Mapping[Stream, Sequence[Measured]]) -> Observations:
    """Return *rows* of streams in columns."""
    flat = [row for some in rows.values() for row in some]
    samples = [row.numbers if len(row.numbers) > 1 else () for row in flat]
    return Observations(
        streams=tuple(rows),
        stream=np.repeat(np.arange(len(rows), dtype=np.uint32), [len(some) for some in rows.values()]),
        source_time=np.array([row.source_time for row in flat], np.int64),
        value=np.array([row.numbers[0] if len(row.numbers) == 1 else np.nan for row in flat], np.float64),
        status=np.array([row.status for row in flat], np.uint32),
        sample_count=np.array([len(some) for some in samples], np.uint32),
        samples=np.array([number for some in samples for number in some], np.float32),
    )


def judge_ticks(pages: Sequence[Page], *, streams: int, last: int) -> Verdict:
    """Judge a load: of so many *streams* the values are the ticks 1, 2, 3 and so on, one each, up to *last*.

    The first tick that is stored of a stream is where its part begins.
    """
    ticks: dict[Stream, list[tuple[np.ndarray, np.ndarray]]] = {}
    gaps: dict[Stream, list[Gap]] = {}
    for page in pages:
        content = page.content
        if isinstance(content, Observations):
            for index in np.unique(content.stream).tolist():
                mine = content.stream == index
                ticks.setdefault(content.streams[index], []).append((content.value[mine], content.source_time[mine]))
        else:
            for gap in content.gaps:
                gaps.setdefault(Stream(gap.asset_id, gap.channel), []).append(gap)
    made = kept = in_gaps = 0
    missing = [f"{streams - len(ticks)} streams are missing"] if len(ticks) < streams else []
    twice: list[str] = []
    for stream, parts in ticks.items():
        values, times = (np.concatenate(column) for column in zip(*parts, strict=True))
        numbers, first_rows, counts = np.unique(values.astype(np.int64), return_index=True, return_counts=True)
        made += last - int(numbers[0]) + 1
        kept += len(numbers)
        twice += [f"{stream}: tick {tick} is there twice" for tick in numbers[counts > 1].tolist()]
        spans = [(to_ns(gap.from_time), to_ns(gap.to_time)) for gap in gaps.get(stream, ())]
        when = times[first_rows]
        for at in np.flatnonzero(np.diff(numbers) > 1).tolist():
            before, after = int(numbers[at]), int(numbers[at + 1])
            if any(start <= int(when[at]) + 1000 and int(when[at + 1]) - 1000 <= end for start, end in spans):
                in_gaps += after - before - 1
            else:
                missing.append(f"{stream}: ticks {before + 1} to {after - 1} are missing")
        if int(numbers[-1]) < last:
            missing.append(f"{stream}: ticks {int(numbers[-1]) + 1} to {last} are missing")
    return Verdict(
        made=made,
        stored=kept,
        in_gaps=in_gaps,
        missing=made - kept - in_gaps,
        twice=len(twice),
        causes=Counter(gap.cause for found in gaps.values() for gap in found),
        wrong=(*missing, *twice),
    )


def longest_silence_s(rows: Sequence[Measured], since: int, until: int) -> float:
    """Return the longest time without a stored value of a stream between two source times, in seconds."""
    times = sorted(row.source_time for row in rows)
    inside = times[bisect.bisect_left(times, since) : bisect.bisect_right(times, until)]
    return max((after - before for before, after in pairwise([since, *inside, until])), default=0) / 1e9


def _plain(row: Measured) -> Measured:
    return Measured(row.source_time, row.status & ~OVERFLOW, row.numbers)
