"""The oracle: holds what a journal or a lake has against what the plant made, and checks the conservation laws.

The laws are design.md's: each acknowledged observation is stored exactly once and as it was, or it is told as lost
with its count; ``appended == delivered + withheld + pending + expired``; seq counts pages without holes; nothing is
there that nobody made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gateway.journal import Journal, JournalCounters, SegmentStore
from gateway.journal.database import JournalDatabase
from models.records import Gap, GatewayEvent, Int64Array, Observations, Page, Results, Stream, to_ns
from models.segment import decode_segment
from tests.chaos.rows import Difference, difference, row_hashes, told

GATEWAY_ID = "gw-1"
QUARANTINED, EXPIRED, DAMAGED = "page_quarantined", "segment_expired", "damaged"  # kinds of events; a reason
_SHOWN = 3
_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a journal holds, in tables and in segments.

    Attributes:
        epoch: Of which journal.
        rows: All observations.
        seq: The page of each, shape ``(n,)``.
        results: Pages of results, each with its seq.
        ranges: The closed ranges of seq that its pages and segments cover, in order.
        tombstones: Those of the ranges that stand for segments which are gone.
        purged_pages: How many pages were purged; they are the first ones.
        elsewhere: Observations that were delivered and are no longer here.
        counters: What it says of itself.
        positions: By reader: the last page it has done.
    """

    epoch: str
    rows: Observations
    seq: Int64Array
    results: tuple[tuple[int, Results], ...]
    ranges: tuple[tuple[int, int], ...]
    tombstones: tuple[tuple[int, int], ...]
    purged_pages: int
    elsewhere: int
    counters: JournalCounters
    positions: dict[str, int]

    @property
    def gaps(self) -> list[Gap]:
        """All gap records."""
        return [gap for _, results in self.results for gap in results.gaps]

    def events(self, kind: str) -> list[GatewayEvent]:
        """Return the events of *kind*."""
        return [event for _, results in self.results for event in results.events if event.kind == kind]


async def found_in(journal: Journal) -> Found:
    """Return what an open *journal* holds."""
    store = SegmentStore(journal)
    parts: list[Observations] = []
    seqs: list[Int64Array] = []
    results: list[tuple[int, Results]] = []
    ranges: list[tuple[int, int]] = []
    for entry in await store.segments():
        segment = decode_segment(await store.read(entry))  # a damaged one is mended by that, or a tombstone comes
        parts.append(segment.observations)
        seqs.append(segment.seq)
        results += segment.results
        ranges.append((entry.first_seq, entry.last_seq))
    after = journal.counters.compacted_pages
    while pages := await _pages(journal, after):
        for page in pages:
            if isinstance(page.content, Results):
                results.append((page.seq, page.content))
            else:
                parts.append(page.content)
                seqs.append(np.full(len(page.content), page.seq))
            ranges.append((page.seq, page.seq))
        after = pages[-1].seq
    tombstones = [entry for entry in await store.segments() if entry.is_tombstone]
    purged_pages, purged = await journal.read(_purged)
    return Found(
        epoch=journal.epoch,
        rows=Observations.concatenate(parts),
        seq=np.concatenate([np.zeros(0, np.int64), *seqs]),
        results=tuple(results),
        ranges=tuple(ranges),
        tombstones=tuple((entry.first_seq, entry.last_seq) for entry in tombstones),
        purged_pages=purged_pages,
        elsewhere=purged + sum(entry.observations - entry.expired for entry in tombstones if entry.delivered),
        counters=journal.counters,
        positions=await journal.positions(),
    )


async def _pages(journal: Journal, after: int) -> list[Page]:
    def some(database: JournalDatabase) -> list[Page]:
        return database.decoded_pages(after, limit=100_000, max_bytes=_CHUNK_BYTES)

    return await journal.read(some)


def _purged(database: JournalDatabase) -> tuple[int, int]:
    """Return how many pages were purged, and delivered observations with them."""
    pages, observations = database.reader.execute("SELECT purged_pages, purged_delivered FROM journal").fetchone()
    return int(pages), int(observations)


async def found_at(state_dir: Path, gateway_id: str = GATEWAY_ID) -> Found:
    """Return what the journal of a gateway that has ended holds; opening it is what a restart does."""
    journal = await Journal.open(state_dir, gateway_id)
    try:
        return await found_in(journal)
    finally:
        await journal.close()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of the rows a plant made.

    Attributes:
        made: How many rows had to be there.
        stored: How many of them were found.
        in_gaps: How many were not, but lie inside a gap record.
        expired: How many the journal says are gone.
        missing: How many were not found, and neither gap nor count tells it.
        twice: How many were found again.
        altered: How many were found changed.
        foreign: How many were found that nobody made.
        causes: Gap records by cause.
        wrong: Each broken law, as text; empty when all are kept.
    """

    made: int
    stored: int
    in_gaps: int = 0
    expired: int = 0
    missing: int = 0
    twice: int = 0
    altered: int = 0
    foreign: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    wrong: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether every law holds."""
        return not self.wrong

    def __str__(self) -> str:
        summary = f"{self.made} made, {self.stored} stored, {self.in_gaps} in gaps, {self.expired} expired"
        causes = [f"{count} x {cause!r}" for cause, count in self.causes.items()]
        return "\n  ".join([summary, *self.wrong, *causes])


def judge(made: Observations, found: Found) -> Verdict:
    """Hold what a journal has against all that it has acknowledged, *made*, in which nothing is twice.

    So many rows as the journal counts as expired have to be missing, exactly.
    """
    expired = sum(found.counters.expired.values())
    apart = difference(made, found.rows)
    verdict = _verdict(made, apart, found.gaps)
    wrong = list(verdict.wrong)
    if len(apart.missing) != expired + found.elsewhere:
        told_gone = f"{len(apart.missing)} missing, {expired} told as gone"
        told_gone += f", {found.elsewhere} delivered and no longer here" if found.elsewhere else ""
        wrong.insert(0, f"{told_gone}: {_first(apart.missing)}")
    purged = expired - found.counters.expired.get(DAMAGED, 0)
    if not found.purged_pages and not _has_damage(found) and verdict.in_gaps < purged:  # else records are gone as well
        wrong.append(f"{purged} were purged, {verdict.in_gaps} of them lie in gap records")
    return replace(
        verdict,
        expired=expired,
        missing=max(len(apart.missing) - expired - found.elsewhere, 0),
        wrong=(*wrong, *_counted(found), *_seq_whole(found), *_quarantine_told(found)),
    )


def judge_rows(
    made: Observations, found: Observations, gaps: Sequence[Gap] = (), *, may_be: Observations | None = None
) -> Verdict:
    """Hold *found* rows, of a journal, a historian or the lake, against *made*.

    A row that is missing has to lie inside a gap record of its stream.

    Args:
        made: What must be there; nothing twice.
        found: What is there.
        gaps: What is told as missing.
        may_be: What was made beside that, and may be there, once.
    """
    if may_be is None or not len(may_be):
        apart = difference(made, found)
    else:
        apart = difference(Observations.concatenate([made, may_be]), found)
        apart = replace(apart, missing=apart.missing.take(~np.isin(row_hashes(apart.missing), row_hashes(may_be))))
    verdict = _verdict(made, apart, gaps)
    unsaid = apart.missing.take(~_in_gaps(apart.missing, gaps))
    if not len(unsaid):
        return verdict
    told_missing = f"{len(unsaid)} missing: {_first(unsaid)}"
    return replace(verdict, missing=len(unsaid), wrong=(told_missing, *verdict.wrong))


def _verdict(made: Observations, apart: Difference, gaps: Sequence[Gap]) -> Verdict:
    kinds = {"twice": apart.twice, "altered": apart.altered, "foreign": apart.foreign}
    return Verdict(
        made=len(made),
        stored=len(made) - len(apart.missing) - len(apart.altered),
        in_gaps=int(_in_gaps(apart.missing, gaps).sum()),
        twice=len(apart.twice),
        altered=len(apart.altered),
        foreign=len(apart.foreign),
        causes=Counter(gap.cause for gap in gaps),
        wrong=tuple(f"{len(rows)} {kind}: {_first(rows)}" for kind, rows in kinds.items() if len(rows)),
    )


def _first(rows: Observations) -> str:
    return "; ".join(told(rows, row) for row in range(min(len(rows), _SHOWN)))


def _in_gaps(rows: Observations, gaps: Sequence[Gap]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which *rows* lie inside a gap record of their stream; its ends are exact to a microsecond."""
    inside = np.zeros(len(rows), np.bool_)
    places = {stream: place for place, stream in enumerate(rows.streams)}
    for gap in gaps:
        place = places.get(Stream(gap.asset_id, gap.channel))
        if place is not None:
            start, end = to_ns(gap.from_time), to_ns(gap.to_time) + 999
            inside |= (rows.stream == place) & (rows.source_time >= start) & (rows.source_time <= end)
    return inside


def _counted(found: Found) -> list[str]:
    now = found.counters
    expired = sum(now.expired.values())
    wrong = []
    if now.appended != now.delivered + now.withheld + now.pending + expired:
        wrong.append(
            f"{now.appended} appended are not {now.delivered} delivered + {now.withheld} withheld + {now.pending} "
            f"pending + {expired} expired"
        )
    if now.appended != len(found.rows) + expired + found.elsewhere:
        wrong.append(
            f"{now.appended} appended are not {len(found.rows)} found + {expired} expired + {found.elsewhere} "
            "delivered and no longer here"
        )
    return wrong


def _seq_whole(found: Found) -> list[str]:
    wrong, after = [], found.purged_pages
    for first, last in sorted(found.ranges):
        if first != after + 1:
            wrong.append(f"seq {first} follows {after}")
        after = last
    if after != found.counters.pages:
        wrong.append(f"the last seq is {after}, {found.counters.pages} pages are counted")
    pages = [*np.unique(found.seq).tolist(), *(seq for seq, _ in found.results)]
    outside = [seq for seq in pages if not found.purged_pages < seq <= after]
    twice = [seq for seq, count in Counter(pages).items() if count > 1]
    gone = {seq for first, last in found.tombstones for seq in range(first, last + 1)}
    empty = after - found.purged_pages - len(gone | set(pages))
    wrong += [f"pages {outside[:_SHOWN]} are outside of what is counted"] if outside else []
    wrong += [f"pages {twice[:_SHOWN]} hold observations and results"] if twice else []
    wrong += [f"{empty} pages hold nothing"] if empty > 0 else []
    return wrong


def _has_damage(found: Found) -> bool:
    return any(event.detail["reason"] == DAMAGED or "gaps" in event.detail for event in found.events(EXPIRED))


def _quarantine_told(found: Found) -> list[str]:
    """Return whether what is damaged is told by events with just as many observations."""
    told_rows = sum(int(event.detail["observations"]) for event in found.events(QUARANTINED))
    told_rows += sum(
        int(event.detail["observations"]) for event in found.events(EXPIRED) if event.detail["reason"] == DAMAGED
    )
    damaged = found.counters.expired.get(DAMAGED, 0) + found.elsewhere
    return [] if found.purged_pages or told_rows == damaged else [f"{damaged} are damaged, events tell {told_rows}"]
