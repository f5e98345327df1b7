"""How a journal is, in one look: what it holds, where its readers are, what is aside, how near its limits."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.config import JournalConfig
from gateway.journal.errors import PageDamaged
from gateway.journal_commands.reading import content_of
from gateway.journal_commands.view import JournalView, Quarantined, Totals
from models.records import Observations

_LAST_PAGES = 64
_MIB = 2**20
_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class ReaderPlace:
    """Where a reader is, and how many pages it has before it; below 0 it is where the log is not."""

    reader: str
    seq: int
    behind: int


@dataclass(frozen=True, kw_only=True)
class OnShelf:
    """A segment that the cloud will not take, and why."""

    first_seq: int
    last_seq: int
    observations: int
    size: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A limit of the configuration: ``share`` is how much of it is used, above 1 when it is passed."""

    key: str
    limit: float
    now: float
    share: float


@dataclass(frozen=True, kw_only=True)
class OpenHole:
    """What history is still read for; times are ns since 1970."""

    asset_id: str
    channel: str
    start_ns: int
    end_ns: int
    cause: str


@dataclass(frozen=True, kw_only=True)
class JournalStatus:
    """How a journal is; ``adds_up`` says whether ``stored = delivered + withheld + pending + expired``."""

    path: Path
    gateway_id: str
    epoch: str
    observations_stored: int
    observations_delivered: int
    observations_withheld: int
    observations_pending: int
    observations_expired: dict[str, int]
    adds_up: bool
    repeats_dropped: int
    first_seq: int
    last_seq: int
    pages_in_rows: int
    pages_purged: int
    segments: int
    segments_pending: int
    segment_bytes: int
    database_bytes: int
    oldest_ns: int | None
    newest_ns: int | None
    age_s: float
    readers: tuple[ReaderPlace, ...]
    shelf: tuple[OnShelf, ...]
    quarantine: tuple[Quarantined, ...]
    holes: tuple[OpenHole, ...]
    limits: tuple[Limit, ...]


def status_of(view: JournalView, config: JournalConfig | None) -> JournalStatus:
    """Return how the journal behind *view* is, with the limits of *config* where there is one."""
    totals = view.totals()
    counters = totals.counters
    expired = dict(counters.expired)
    oldest, newest = _source_times(view, totals)
    in_database = sum(
        path.stat().st_size
        for suffix in ("", "-wal", "-shm")
        if (path := view.path.with_name(view.path.name + suffix)).exists()
    )
    positions = {**view.positions(), "compactor": counters.compacted_pages}
    return JournalStatus(
        path=view.path,
        gateway_id=view.gateway_id,
        epoch=view.epoch,
        observations_stored=counters.appended,
        observations_delivered=counters.delivered,
        observations_withheld=counters.withheld,
        observations_pending=counters.pending,
        observations_expired=expired,
        adds_up=not totals.tally.missing_observations,
        repeats_dropped=counters.repeats_dropped,
        first_seq=totals.first_seq,
        last_seq=counters.pages,
        pages_in_rows=totals.page_rows,
        pages_purged=totals.purged_pages,
        segments=totals.segments,
        segments_pending=counters.segments_pending,
        segment_bytes=totals.segment_bytes,
        database_bytes=in_database,
        oldest_ns=oldest,
        newest_ns=newest,
        age_s=totals.age_s,
        readers=tuple(
            ReaderPlace(reader=reader, seq=seq, behind=counters.pages - seq)
            for reader, seq in sorted(positions.items())
        ),
        shelf=_shelf(view),
        quarantine=tuple(view.quarantined()),
        holes=tuple(
            OpenHole(
                asset_id=hole.stream.asset_id,
                channel=hole.stream.channel,
                start_ns=hole.start_ns,
                end_ns=hole.end_ns,
                cause=hole.cause,
            )
            for hole in view.holes()
        ),
        limits=_limits(view, totals, in_database, config) if config is not None else (),
    )


def _shelf(view: JournalView) -> tuple[OnShelf, ...]:
    return tuple(
        OnShelf(
            first_seq=entry.first_seq,
            last_seq=entry.last_seq,
            observations=entry.observations - entry.expired,
            size=entry.size,
            reason=entry.refused,
        )
        for entry in view.segments("delivered_time IS NULL AND refused IS NOT NULL")
    )


def _source_times(view: JournalView, totals: Totals) -> tuple[int | None, int | None]:
    """Return the oldest and the newest source time in segments and in the newest pages that are in none."""
    last, compacted = totals.counters.pages, totals.counters.compacted_pages
    times = [time for time in (totals.oldest_ns, totals.newest_ns) if time is not None]
    rows = view.page_rows(max(compacted, last - _LAST_PAGES), last, limit=_LAST_PAGES, max_bytes=_MIB)
    rows += view.page_rows(compacted, last, limit=1, max_bytes=_MIB) if not times else []
    for row in rows:
        try:
            content = content_of(view, row)
        except PageDamaged:
            continue
        if isinstance(content, Observations) and len(content):
            times += [int(np.min(content.source_time)), int(np.max(content.source_time))]
    return min(times, default=None), max(times, default=None)


def _limits(view: JournalView, totals: Totals, in_database: int, config: JournalConfig) -> tuple[Limit, ...]:
    """Return the limits that are set, and the free space of the disk beside what is to stay free of it."""
    found = []
    if config.max_size_mib:
        size = (totals.segment_bytes + in_database) / _MIB
        found.append(_limit("max_size_mib", config.max_size_mib, size))
    if config.max_age_days:
        oldest = view.segments(limit=1)
        age_s = totals.age_s - oldest[0].closed_age_s if oldest else 0.0
        found.append(_limit("max_age_days", config.max_age_days, age_s / _DAY_S))
    free = shutil.disk_usage(view.path.parent).free / _MIB
    share = config.min_free_mib / free if free else 1.0
    return (*found, Limit(key="min_free_mib", limit=config.min_free_mib, now=round(free, 1), share=round(share, 4)))


def _limit(key: str, limit: float, now: float) -> Limit:
    return Limit(key=key, limit=limit, now=round(now, 3), share=round(now / limit, 4))
