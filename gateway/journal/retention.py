"""How much the journal keeps: by size, by what is left free on its disk, by days of running.

What goes first: copies (pages that are in a segment too), then what the cloud has, oldest first, then, only where the
configuration says so, what it has not, oldest first: a tombstone takes its place, which is uploaded like any segment,
so that the cloud knows what is gone and waits for nothing. The newest segment stays: the next one is chained to it.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import structlog

from gateway.config import JournalConfig
from gateway.errors import JournalError
from gateway.journal.database import JournalDatabase
from gateway.journal.entries import SegmentEntry, decoded_segment
from gateway.journal.errors import SegmentDamaged
from gateway.journal.journal import Journal
from gateway.journal.mending import bury, gap, streams_of
from gateway.journal.merging import merge_small
from gateway.journal.room import reserve
from models.records import Gap, Stream, to_ns
from models.segment import MAX_PAGES

SIZE_LIMIT, AGE_LIMIT = "size_limit", "age_limit"
_MIB = 2**20
_DAY_S = 86_400.0
_INTERVAL_S = 5.0
_LOT = 64  # segments in one transaction
_TIGHT_BYTES = 8 * _MIB  # with less than this free not even a transaction is sure to fit
_COPIES = 2_000  # pages in one transaction
_SAVE_AGE_S = 60.0
_VACUUM_PAGES = 2_000
_VACUUM_FROM = 2_000  # pages that are free are used again, so a few of them cost nothing
_LOG_FROM = _MIB  # a log that is smaller would only grow again
_SHRINKS = 50  # in one round: others want to write too

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the journal takes of its disk, in bytes.

    Attributes:
        size: The database's pages that are in use, its write-ahead log, and the segments' files.
        free: Left on the disk.
        total: What the disk has.
    """

    size: int
    free: int
    total: int

    def excess(self, config: JournalConfig) -> int:
        """Return how many bytes too many there are; 0 or below when nothing has to go."""
        over = self.size - config.max_size_mib * _MIB if config.max_size_mib else 0
        return max(over, self.least_free(config) - self.free)

    def least_free(self, config: JournalConfig) -> int:
        """Return how many bytes are to stay free: at least as many as values need to be stored at all."""
        return max(config.min_free_mib * _MIB, 2 * reserve(self.total))


async def keep_within_limits(journal: Journal, config: JournalConfig) -> None:
    """Purge what the limits in *config* leave no room for, until the journal is closed.

    What may not be purged stays, however full the disk gets; then `Journal.crowded` says so.
    """
    try:
        while not journal.closed:
            try:
                await enforce(journal, config)
                await merge_small(journal)
            except OSError as error:
                log.error("limits of the journal not looked after; tried again", error=str(error))  # noqa: TRY400 - the message says all
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL_S):
                    await journal.wait_until(lambda _: False)
    except JournalError:
        if not journal.closed:
            raise


async def enforce(journal: Journal, config: JournalConfig) -> None:
    """Purge what the limits in *config* leave no room for now."""
    await journal.write(_save_age)
    await _purge_old(journal, config)
    for _ in range(_SHRINKS):
        if not await journal.write(_shrink):
            break
    while True:
        used = await usage(journal)
        excess = used.excess(config)
        if excess <= 0 or not await _make_room(journal, config, excess, tight=used.free < _TIGHT_BYTES):
            break
    crowded = ""
    if excess > 0:
        crowded = (
            f"{journal.state_dir}: {excess // _MIB + 1} MiB more than max_size_mib and min_free_mib allow, and nothing "
            "of it may be purged; it is kept. Bring the uplink back, make room or see docs/how-to/limit-what-is-kept.md"
        )
        if not journal.crowded:
            log.error(crowded, size_mib=used.size // _MIB, free_mib=used.free // _MIB)
    journal.crowded = crowded


async def usage(journal: Journal) -> Usage:
    """Return what *journal* takes of its disk."""
    in_use = await journal.read(_database_bytes)
    disk = await asyncio.to_thread(shutil.disk_usage, journal.state_dir)
    return Usage(size=in_use, free=disk.free, total=disk.total)


def _database_bytes(database: JournalDatabase) -> int:
    pages, unused, page_size = (
        database.reader.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    log_file = database.path.with_name(database.path.name + "-wal")
    aside = database.path.parent / "segments" / "damaged"
    kept_aside = sum(file.stat().st_size for file in aside.iterdir()) if aside.is_dir() else 0
    written = log_file.stat().st_size if log_file.exists() else 0
    return int((pages - unused) * page_size + written + database.segments.size + kept_aside)


def _save_age(database: JournalDatabase) -> None:
    if database.segments.age.unsaved_s >= _SAVE_AGE_S:
        with database.transaction():
            database.segments.age.save()


async def _make_room(journal: Journal, config: JournalConfig, excess: int, *, tight: bool) -> bool:
    """Let what comes first go, up to *excess* bytes in one step; return False when nothing may go any more."""
    for give_back in (_empty_log,) if tight else (_drop_copies, _shrink, _empty_log):
        if await journal.write(give_back):
            return True
    for where in (_PASSED, _DELIVERED):
        entries = await journal.read(partial(_select, where=where))
        if await _purge(journal, _enough(entries, excess), SIZE_LIMIT, tight=tight):
            return True
    if not config.purge_unsent:
        return False
    run = _run(await journal.read(partial(_select, where=_UNSENT)), excess)
    return bool(run) and await _give_up(journal, run, SIZE_LIMIT, tight=tight)


async def _purge_old(journal: Journal, config: JournalConfig) -> None:
    """Let go what is older than the age limit and was read by every reader."""
    if not config.max_age_days:
        return
    while True:
        entries = await journal.read(partial(_select, where=_PASSED, older_than_s=config.max_age_days * _DAY_S))
        if not await _purge(journal, entries, AGE_LIMIT):
            break
    while config.purge_unsent:
        unsent = await journal.read(partial(_select, where=_UNSENT, older_than_s=config.max_age_days * _DAY_S))
        run = _run(unsent)
        if not run or not await _give_up(journal, run, AGE_LIMIT):
            break


# In the order in which they go. The newest segment, to which the next is chained, is never purged.
_DELIVERED = "delivered_time IS NOT NULL AND last_seq < :last"
_PASSED = f"{_DELIVERED} AND last_seq <= :passed"
_UNSENT = "delivered_time IS NULL AND NOT (stands_for <> '' AND start_time IS NULL)"


def _select(database: JournalDatabase, *, where: str, older_than_s: float | None = None) -> list[SegmentEntry]:
    """Return the oldest segments that *where* selects."""
    limits = {
        "last": database.counters.compacted_pages,
        "passed": min(database.positions().values(), default=database.counters.compacted_pages),
        "age": database.segments.age.now_s - (older_than_s or 0.0),
    }
    aged = " AND closed_age_s < :age" if older_than_s is not None else ""
    return database.segments.select(where + aged, limits, _LOT)


def _enough(entries: Iterable[SegmentEntry], size: int) -> list[SegmentEntry]:
    """Return the first of *entries* that are *size* bytes together."""
    chosen = []
    for entry in entries:
        if size <= 0:
            break
        chosen.append(entry)
        size -= entry.size
    return chosen


def _run(entries: Sequence[SegmentEntry], size: int = 2**62) -> list[SegmentEntry]:
    """Return the first of *entries* that are *size* bytes together and follow each other without a hole."""
    run = _enough(entries, size)
    ends = (place for place, (one, two) in enumerate(pairwise(run), 1) if one.last_seq + 1 != two.first_seq)
    return run[: next(ends, len(run))]


def _drop_copies(database: JournalDatabase) -> bool:
    """Delete pages that are in a segment too, though not every reader has passed: it reads them from there."""
    oldest = database.writer.execute("SELECT min(seq) FROM page").fetchone()[0]
    if oldest is None or oldest > database.counters.compacted_pages:
        return False
    return bool(database.trim(up_to=min(database.counters.compacted_pages, oldest + _COPIES)))


def _shrink(database: JournalDatabase) -> bool:
    """Give pages of the database that are not in use back to the disk; in a journal of an older version they stay."""
    before = database.writer.execute("PRAGMA freelist_count").fetchone()[0]
    if before < _VACUUM_FROM:
        return False
    database.writer.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
    return bool(database.writer.execute("PRAGMA freelist_count").fetchone()[0] < before)


def _empty_log(database: JournalDatabase) -> bool:
    """Carry the write-ahead log over into the database and give its file back, unless somebody reads in it now."""
    log_file = database.path.with_name(database.path.name + "-wal")
    before = log_file.stat().st_size
    if before < _LOG_FROM:
        return False
    (patience_ms,) = database.writer.execute("PRAGMA busy_timeout").fetchone()
    try:
        database.writer.execute("PRAGMA busy_timeout = 0")
        database.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:  # no room in the database for all of it
        log.info("write-ahead log not emptied", error=str(error))
    finally:
        database.writer.execute(f"PRAGMA busy_timeout = {patience_ms}")
    return log_file.stat().st_size < before


async def _purge(journal: Journal, entries: Sequence[SegmentEntry], reason: str, *, tight: bool = False) -> bool:
    """Forget delivered *entries*; return False when there is none."""
    if not entries:
        return False
    if tight:  # the disk has no room to write down what is deleted: a crash now leaves damaged segments, to be mended
        await asyncio.to_thread(_unlink, entries)
    purged = await journal.write(lambda database: database.segments.purge(entries, reason))
    await asyncio.to_thread(_unlink, purged)
    log.info("delivered segments purged", reason=reason, **_told(purged))
    return bool(purged)


async def _give_up(journal: Journal, run: list[SegmentEntry], reason: str, *, tight: bool = False) -> bool:
    """Let a tombstone take the place of *run*, undelivered segments that follow each other."""
    before = await journal.read(partial(_tombstone_before, first_seq=run[0].first_seq))
    whole, gaps = await asyncio.to_thread(_merged, before, run, reason)
    if tight:
        await asyncio.to_thread(_unlink, run)
    gone = await asyncio.to_thread(bury, journal.gateway_id, journal.epoch, whole, gaps, reason)
    done = await journal.write(lambda database: database.segments.replace(whole, gone, reason))
    await asyncio.to_thread(_unlink, whole if done else [gone])
    log.error("segments purged that were not delivered", reason=reason, **_told(run))
    return done


def _tombstone_before(database: JournalDatabase, *, first_seq: int) -> SegmentEntry | None:
    where = "last_seq = ? AND delivered_time IS NULL AND stands_for <> '' AND start_time IS NULL"
    return next(iter(database.segments.select(where, (first_seq - 1,))), None)


def _merged(before: SegmentEntry | None, run: list[SegmentEntry], reason: str) -> tuple[list[SegmentEntry], list[Gap]]:
    """Return the segments that become one tombstone, that *before* among them if it can be, and their gaps."""
    spans: dict[Stream, tuple[int, int]] = {}
    for entry in run:
        for stream, start, end in _spans(entry):
            known = spans.get(stream, (start, end))
            spans[stream] = (min(start, known[0]), max(end, known[1]))
    earlier = _earlier_gaps(before, reason) if before is not None else None
    if before is not None and earlier is not None and run[-1].last_seq - before.first_seq < MAX_PAGES:
        run = [before, *run]
        for found in earlier:
            stream, start, end = Stream(found.asset_id, found.channel), to_ns(found.from_time), to_ns(found.to_time)
            known = spans.get(stream, (start, end))
            spans[stream] = (min(start, known[0]), max(end, known[1]))
    return run, [gap(stream, start, end, reason) for stream, (start, end) in spans.items()]


def _spans(entry: SegmentEntry) -> Iterator[tuple[Stream, int, int]]:
    """Yield the streams of a segment, and from when to when they reach in it."""
    try:
        segment = decoded_segment(entry)
    except SegmentDamaged:
        if entry.start_ns is not None and entry.end_ns is not None:
            yield from ((stream, entry.start_ns, entry.end_ns) for stream in streams_of(entry))
        return
    rows = segment.observations
    streams, starts = np.unique(rows.stream, return_index=True)
    if len(starts):
        oldest, newest = (f.reduceat(rows.source_time, starts).tolist() for f in (np.minimum, np.maximum))
        yield from zip((rows.streams[place] for place in streams.tolist()), oldest, newest, strict=True)


def _earlier_gaps(tombstone: SegmentEntry, reason: str) -> tuple[Gap, ...] | None:
    """Return the gaps of a tombstone, None when it is there for another reason."""
    try:
        segment = decoded_segment(tombstone)
    except SegmentDamaged:
        return None
    if segment.expired is None or segment.expired.reason != reason:
        return None
    return tuple(found for _, results in segment.results for found in results.gaps)


def _unlink(entries: Iterable[SegmentEntry]) -> None:
    for entry in entries:
        entry.path.unlink(missing_ok=True)


def _told(entries: Sequence[SegmentEntry]) -> dict[str, int]:
    return {
        "segments": len(entries),
        "first_seq": min((entry.first_seq for entry in entries), default=0),
        "last_seq": max((entry.last_seq for entry in entries), default=0),
        "observations": sum(entry.observations for entry in entries),
    }
