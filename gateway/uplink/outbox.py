"""The segments that wait to be sent, and which of them goes next.

What closes goes at once: it is *live*. What could not go then is *backlog*, and goes when nothing live waits. A segment
that is being sent is *taken*; one that the cloud will not take is on the *shelf* and is passed over.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress

from gateway.config import Backlog
from gateway.journal import Journal, SegmentEntry, SegmentStore
from gateway.journal.database import JournalDatabase
from gateway.uplink.client import Range
from gateway.uplink.condition import UplinkCondition

_MOST_LIVE = 8  # when more than so many wait, only the newest is live: an outage is over, or the link is too slow
_TRIES_AS_LIVE = 2
_MOST_TOLD = 1000  # of the shelf


class Outbox:
    """What of *journal* is to be sent; each segment is handed out to one sender at a time.

    Attributes:
        changed: Is set, and replaced, when what can be handed out may have changed. Take it before you look.
    """

    def __init__(self, journal: Journal, condition: UplinkCondition, backlog: Backlog) -> None:
        self._journal = journal
        self._segments = SegmentStore(journal)
        self._condition = condition
        self._newest_first = backlog is Backlog.NEWEST
        self._edge = 0  # what ends after this page is live
        self._taken: set[Range] = set()
        self._failures: Counter[Range] = Counter()
        self.changed = asyncio.Event()
        self._picking = asyncio.Lock()
        self._no_backlog = False

    @property
    def drained(self) -> bool:
        """Whether everything that is closed was handed out."""
        return self._no_backlog and self._edge >= self._journal.counters.compacted_pages

    @property
    def idle(self) -> bool:
        """Whether nothing is being sent."""
        return not self._taken

    async def next_live(self) -> SegmentEntry | None:
        """Return the next segment that closes, or has just closed; None when the journal is closed."""
        while await self._segments.wait_beyond(self._edge):
            closed = self._journal.counters.compacted_pages
            waiting = await self._waiting("last_seq > ?", self._edge, _MOST_LIVE + 1, newest_first=True)
            if waiting:
                entry = waiting[0] if len(waiting) > _MOST_LIVE else waiting[-1]
                self._no_backlog &= entry is waiting[-1]
                self._edge = entry.last_seq
                self._take(entry)
                self.wake()
                return entry
            self._edge = max(self._edge, closed)
            self.wake()
        return None

    async def next_backlog(self) -> SegmentEntry | None:
        """Return the next segment of the backlog, or None when none waits."""
        async with self._picking:  # or two would be shown the same one, and take it for the last
            edge = self._edge
            most = len(self._taken) + len(self._failures) + 1
            waiting = await self._waiting("last_seq <= ?", edge, most, newest_first=self._newest_first)
            if waiting:
                entry = min(waiting, key=lambda entry: self._failures[_range(entry)])  # of equals the first
                self._take(entry)
                return entry
            if edge == self._edge and not self._no_backlog:
                self._no_backlog = True
                self.wake()
            return None

    async def wait(self, since: asyncio.Event, seconds: float) -> None:
        """Wait until something changes, or has changed *since*, but no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await since.wait()

    def wake(self) -> None:
        """Have those who wait look again."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def accepted(self, entry: SegmentEntry) -> None:
        """Note, durably, that the cloud has *entry*."""
        await self._segments.mark_delivered([_range(entry)])
        self._failures.pop(_range(entry), None)

    async def refused(self, entry: SegmentEntry, reason: str) -> None:
        """Put *entry* on the shelf, durably, with the *reason*."""
        await self._journal.write(lambda database: database.segments.refuse(entry.first_seq, reason))
        self._condition.refused[_range(entry)] = reason
        self._failures.pop(_range(entry), None)

    async def offer_again(self) -> None:
        """Take everything off the shelf: whoever starts the gateway anew may have mended what was wrong."""
        await self._journal.write(lambda database: database.segments.offer_again())

    def put_back(self, entry: SegmentEntry, *, live: bool, failed: bool) -> None:
        """Let *entry* be taken again; one that *failed* by the cloud's own word goes after the others."""
        self._taken.discard(_range(entry))
        self._no_backlog = False
        if failed:
            self._failures[_range(entry)] += 1
        if live and self._failures[_range(entry)] < _TRIES_AS_LIVE:
            self._edge = min(self._edge, entry.first_seq - 1)
        self.wake()

    def release(self, entry: SegmentEntry) -> None:
        """Note that *entry* is not being sent any more."""
        self._taken.discard(_range(entry))
        self.wake()

    async def measure(self) -> None:
        """Tell the condition what waits."""
        totals, shelf = await self._journal.read(_measure)
        self._condition.backlog_segments, self._condition.backlog_bytes, oldest_ns = totals
        self._condition.backlog_age_s = 0.0 if oldest_ns is None else max(time.time() - oldest_ns / 1e9, 0.0)
        self._condition.refused = {(first, last): reason for first, last, reason in shelf}

    def _take(self, entry: SegmentEntry) -> None:
        self._taken.add(_range(entry))

    async def _waiting(self, where: str, seq: int, limit: int, *, newest_first: bool) -> list[SegmentEntry]:
        """Return segments that are neither delivered, on the shelf, nor taken."""
        found = await self._journal.read(
            lambda database: database.segments.select(
                f"delivered_time IS NULL AND refused IS NULL AND {where}", (seq,), limit, newest_first=newest_first
            )
        )
        return [entry for entry in found if _range(entry) not in self._taken]


def _range(entry: SegmentEntry) -> Range:
    return entry.first_seq, entry.last_seq


def _measure(database: JournalDatabase) -> tuple[tuple[int, int, int | None], list[tuple[int, int, str]]]:
    """Return segments, bytes and oldest time of what waits, and the first of what is on the shelf."""
    totals = database.reader.execute(
        "SELECT count(*), coalesce(sum(size), 0), min(end_time) FROM segment "
        "WHERE delivered_time IS NULL AND refused IS NULL"
    ).fetchone()
    shelf = database.reader.execute(
        "SELECT first_seq, last_seq, refused FROM segment WHERE delivered_time IS NULL AND refused IS NOT NULL "
        "ORDER BY first_seq LIMIT ?",
        (_MOST_TOLD,),
    ).fetchall()
    return totals, shelf
