"""Express: pages that people wait for go ahead of their segments, and ahead of all raw data.

These are pages of results with an advisory, an event of the gateway, or a gap. Each is sent as a segment of one page as
soon as it is committed; it comes again inside its segment, of which the cloud then stores only the rest. What is still
to be sent is kept with the position of a reader of the journal, so that a restart neither forgets a page nor sends it
for ever. Beyond a limit the least urgent are forgotten here: they arrive with their segments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, Literal

import msgspec
import structlog

from gateway.errors import JournalError
from gateway.journal import Journal, JournalReader
from gateway.journal.database import JournalDatabase
from gateway.journal.errors import CommitFailed
from gateway.journal.replay import pages_after
from models.page import PageError, decode_content
from models.records import Page, Results

log = structlog.get_logger()

READER = "uplink"
ADVISORY: Final = 0
EVENT: Final = 1
_MOST_WAITING = 1000
_LOOK_PAGES = 256
_COMMIT_PAGES = 256
_RETRY_S = 5.0

_Urgency = Literal[0, 1]


class _State(msgspec.Struct, frozen=True, array_like=True):
    waiting: list[tuple[_Urgency, int]]
    budget_left: float | None = None


class Express:
    """The pages that wait to be sent ahead of their segments, advisories first, then the oldest.

    Attributes:
        budget_left: What is left of the budget for raw values; kept here with the rest.
    """

    def __init__(self, journal: Journal, reader: JournalReader, state: _State) -> None:
        self._journal = journal
        self._reader = reader
        self._looked = reader.position
        self._waiting = dict.fromkeys(sorted((urgency, seq) for urgency, seq in state.waiting))
        self._news = asyncio.Event()
        self.budget_left = state.budget_left

    @classmethod
    async def open(cls, journal: Journal) -> Express:
        """Return what waits in *journal*; a journal that was never sent has nothing urgent before its open pages."""
        reader = await journal.reader(READER)
        if reader.state is None:
            state = _State([])
            before = max(reader.position, journal.counters.compacted_pages)
            await reader.commit(before, state=msgspec.msgpack.encode(state))
        else:
            state = msgspec.msgpack.decode(reader.state, type=_State)
        return cls(journal, reader, state)

    def __len__(self) -> int:
        return len(self._waiting)

    async def watch(self) -> None:
        """Look at every page that is committed, until the journal is closed."""
        while await self._journal.wait_beyond(self._looked):
            try:
                await self._look()
            except CommitFailed as error:  # the disk fails now; what could not be noted is looked at after a restart
                log.warning("what is to be sent ahead is not noted", reason=str(error))
                await asyncio.sleep(_RETRY_S)

    async def _look(self) -> None:
        found, looked = await self._journal.read(partial(_look, after=self._looked))
        self._looked = looked
        if found:
            self._waiting = dict.fromkeys(sorted({*self._waiting, *found})[:_MOST_WAITING])
            self._wake()
        if found or looked - self._reader.position >= _COMMIT_PAGES:
            await self.save()

    async def next(self) -> int:
        """Return the seq of the page that goes next; wait for one."""
        while not self._waiting:
            await self._news.wait()
        return next(iter(self._waiting))[1]

    async def page(self, seq: int) -> Page:
        """Return the page *seq*.

        Raises:
            JournalError: If it cannot be read.
        """
        read = partial(pages_after, after=seq - 1, limit=1, max_bytes=1)
        found = await self._journal.read(lambda database: read(database)[:1])
        if not found or found[0].seq != seq:
            raise JournalError(f"page {seq} is gone; it is not sent ahead")
        return found[0]

    async def done(self, seqs: Sequence[int]) -> None:
        """Forget the pages *seqs*, durably."""
        kept = {key: None for key in self._waiting if key[1] not in seqs}
        if len(kept) != len(self._waiting):
            self._waiting = kept
            await self.save()

    async def save(self) -> None:
        """Make durable what waits, and what is left of the budget."""
        state = msgspec.msgpack.encode(_State(list(self._waiting), self.budget_left))
        await self._reader.commit(max(self._looked, self._reader.position), state=state)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _look(database: JournalDatabase, *, after: int) -> tuple[list[tuple[_Urgency, int]], int]:
    """Return what is urgent among the next pages after *after*, and up to which page that is."""
    last = int(database.reader.execute("SELECT coalesce(max(seq), 0) FROM page").fetchone()[0])
    rows = database.reader.execute(
        "SELECT seq, payload FROM page WHERE seq > ? AND seq <= ? AND observations = 0 ORDER BY seq LIMIT ?",
        (after, last, _LOOK_PAGES),
    ).fetchall()
    looked = rows[-1][0] if len(rows) == _LOOK_PAGES else max(last, after)
    return list(_urgent(rows)), looked


def _urgent(rows: Sequence[tuple[int, bytes]]) -> Iterator[tuple[_Urgency, int]]:
    for seq, payload in rows:
        try:
            content = decode_content(payload)
        except PageError:
            continue  # whoever reads the page puts it aside
        if isinstance(content, Results):
            if content.advisories:
                yield ADVISORY, seq
            elif content.events or content.gaps:
                yield EVENT, seq
