"""The journal as the gateway sees it: awaitable, one writer at a time, any number of readers at their own positions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import TypeVar

import structlog

from gateway.config import JournalConfig
from gateway.errors import JournalError
from gateway.journal.checking import check_pages
from gateway.journal.committing import Advance, Append, Committer, Work
from gateway.journal.counters import JournalCounters
from gateway.journal.database import JournalDatabase
from gateway.journal.errors import PageDamaged, SegmentDamaged, Unwritable
from gateway.journal.holes import Hole
from gateway.journal.mending import mend
from gateway.journal.replay import pages_after
from gateway.journal.room import lack_of_room
from gateway.journal.segment_files import remove_orphans
from models.records import Observations, Page, Results, Stream

_PREFETCH_PAGES = 64
_PREFETCH_BYTES = 8 * 2**20
_FIRST_PAUSE_S, _DOUBLINGS = 0.05, 6
_ROOM_S = 1.0
_BY_DEFAULT = JournalConfig()

log = structlog.get_logger()
T = TypeVar("T")


class Journal:
    """The durable log of one gateway.

    SQLite runs on two threads of its own, one that writes and one that reads, so the event loop never waits for a
    disk. What an awaited method says it stored survives a power cut. While the disk is full or fails, whoever wants
    to store or read waits; `trouble` says so.

    Attributes:
        crowded: How much more there is than its limits allow and may not be purged; empty while there is room.
    """

    def __init__(
        self, database: JournalDatabase, writer: ThreadPoolExecutor, reader: ThreadPoolExecutor, config: JournalConfig
    ) -> None:
        self._database = database
        self._writer = writer
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._advanced = asyncio.Event()
        self._closed = False
        self._closing = asyncio.Event()
        self.crowded = ""
        self._held_up: dict[object, str] = {}
        self._committer = Committer(self._store, config.commit_interval_ms / 1000)
        self._checking = asyncio.create_task(check_pages(self, self.last_seq), name="journal check")

    @classmethod
    async def open(cls, state_dir: Path, gateway_id: str, config: JournalConfig = _BY_DEFAULT) -> Journal:
        """Open the journal in *state_dir*, or create it, for the gateway *gateway_id*.

        Raises:
            JournalLocked: If another process has it open.
            JournalMismatch: If it is another gateway's, of another schema, or does not add up.
            Unwritable: If the disk is full or fails; later it may open.
            JournalError: If it cannot be opened.
        """
        writer = ThreadPoolExecutor(1, "journal-write")
        reader = ThreadPoolExecutor(1, "journal-read")
        loop = asyncio.get_running_loop()
        try:
            database = await loop.run_in_executor(writer, JournalDatabase, state_dir, gateway_id)
            await loop.run_in_executor(writer, _remove_orphans, database)
        except BaseException:
            writer.shutdown(wait=False)
            reader.shutdown(wait=False)
            raise
        return cls(database, writer, reader, config)

    async def close(self) -> None:
        """End every reader's iteration, finish what is being written, and let others open the journal."""
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        self._wake()
        await self._committer.close()
        self._checking.cancel()
        await asyncio.gather(self._checking, return_exceptions=True)
        await self._loop.run_in_executor(self._reader, lambda: None)
        await self._loop.run_in_executor(self._writer, self._database.close)
        self._writer.shutdown()
        self._reader.shutdown()

    @property
    def trouble(self) -> str:
        """Why something cannot be stored now; empty when nothing waits for the disk, also when little still fits."""
        return next(reversed(self._held_up.values()), "")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went wrong with what is stored and was told, since it was opened, for ``/health``."""
        found = list(self._database.told)
        found += [warning for warning in (self.trouble, self.crowded) if warning]
        return tuple(found)

    @property
    def gateway_id(self) -> str:
        """The gateway it belongs to."""
        return self._database.gateway_id

    @property
    def epoch(self) -> str:
        """Drawn when the journal was created, in hexadecimal."""
        return self._database.epoch

    @property
    def closed(self) -> bool:
        """Whether `close` was called: from then on nothing is read or stored."""
        return self._closed

    @property
    def state_dir(self) -> Path:
        """The folder it lies in."""
        return self._database.path.parent

    @property
    def last_seq(self) -> int:
        """The seq of the newest committed page, 0 when there is none."""
        return self._database.counters.pages

    @property
    def counters(self) -> JournalCounters:
        """What it holds, as of the last commit."""
        return self._database.counters

    def streams(self) -> tuple[Stream, ...]:
        """Return every stream that something was ever stored of."""
        return self._database.newest.streams()

    def newest_source_time(self, stream: Stream) -> int | None:
        """Return the newest stored source time of *stream*, ns since 1970, or None when nothing of it is stored."""
        return self._database.newest.source_time(stream)

    def holes(self, streams: Iterable[Stream] | None = None) -> tuple[Hole, ...]:
        """Return the open holes as of the last commit, of every stream or of *streams*, each stream's oldest first."""
        return self._database.holes.open(streams)

    async def append(
        self,
        observations: Observations,
        *,
        results: Results | None = None,
        opened: Sequence[Hole] = (),
        filled: Sequence[Hole] = (),
    ) -> int | None:
        """Store *observations* durably, except repeats; with *results* and what becomes of holes, all or nothing.

        A row repeats when it equals the newest stored row of its stream. In an open hole, or one that was filled
        lately, it repeats when it equals any stored row there.

        Args:
            observations: The rows.
            results: What the log gets beside them.
            opened: Holes that begin to be open; what of them is open already keeps its cause.
            filled: What of open holes is done: history was asked, its rows are among *observations*.

        Returns:
            The seq of the last page that was written, or None when nothing was left to store.

        Raises:
            CommitFailed: If it can never be made durable, or the journal was closed meanwhile; then nothing of it is
                stored, no hole opened or filled. A disk that is full or fails raises nothing: it takes long.
        """
        work = Append(observations=observations, results=results, opened=opened, filled=filled)
        await self._room_for(work)
        return await self.submit(work)

    async def append_results(self, results: Results) -> int:
        """Store *results* durably as one page and return its seq.

        Raises:
            CommitFailed: If it can never be made durable, or the journal was closed meanwhile.
        """
        seq = await self.submit(Append(results=results))
        assert seq is not None
        return seq

    async def reader(self, name: str) -> JournalReader:
        """Return the reader *name* at its saved position; from now on pages wait for it."""
        position, state = await self.write(lambda database: database.register_reader(name))
        return JournalReader(self, name, position, state)

    async def forget_reader(self, name: str) -> None:
        """Forget the reader *name*, which will not come back: pages no longer wait for it."""
        await self.write(lambda database: database.forget_reader(name))

    async def positions(self) -> dict[str, int]:
        """Return the last seq each known reader has done; ``compactor`` is how far pages are in segments."""
        positions = await self.read(lambda database: database.positions())
        return {**positions, "compactor": self.counters.compacted_pages}

    async def wait_beyond(self, seq: int) -> bool:
        """Wait until there is a page after *seq*; return False when the journal is closed instead."""
        return await self.wait_until(lambda counters: counters.pages > seq)

    async def wait_until(self, reached: Callable[[JournalCounters], bool]) -> bool:
        """Wait until the counters are as *reached* wants them; return False when the journal is closed instead."""
        while not self._closed and not reached(self.counters):
            await self._advanced.wait()
        return not self._closed

    async def write(self, job: Callable[[JournalDatabase], T]) -> T:
        """Run *job* on the writing thread, after those before it. For the modules of this package.

        It runs again while the disk is full or fails, as long as none of its transactions has become durable.
        """
        self._refuse_if_closed()
        return await self._durably(job)

    async def read(self, job: Callable[[JournalDatabase], T]) -> T:
        """Run *job*, which changes nothing, on the reading thread. For the modules of this package.

        Damaged pages it meets are put aside, damaged segments mended, and it runs again.
        """
        with self._telling() as tell:
            for pause_s in _pauses():
                self._refuse_if_closed()
                try:
                    return await self._loop.run_in_executor(self._reader, self._database.look, job)
                except PageDamaged as damaged:
                    await self.write(partial(_put_aside, damaged=damaged))
                except SegmentDamaged as damaged:
                    await self._mend(damaged, pause_s)
                except Unwritable as error:
                    tell(str(error))
                    await self._pause(pause_s)
                    await self.write(lambda database: database.make_sure())
        raise AssertionError

    async def _mend(self, damaged: SegmentDamaged, pause_s: float) -> None:
        log.warning("segment damaged", error=str(damaged))
        try:
            await mend(self, damaged.first_seq)
        except OSError as error:
            log.error("damaged segment cannot be replaced now; it is tried again", error=str(error))  # noqa: TRY400 - the message says all
            await self._pause(pause_s)

    async def _room_for(self, work: Append) -> None:
        """Wait until the disk has room for *work*, and for what makes room; `trouble` says so."""
        with self._telling() as tell:
            while not self._closed and (lacking := lack_of_room(self.state_dir, work.size[1])):
                tell(lacking)
                await self._pause(_ROOM_S)

    async def submit(self, work: Work) -> int | None:
        """Store *work* with what comes at the same time; return the seq of its last page, None when it needed none."""
        self._refuse_if_closed()
        return await self._committer.submit(work)

    async def _store(self, works: Sequence[Work]) -> Sequence[int | None]:
        return await self._durably(lambda database: database.store(works))

    async def _durably(self, job: Callable[[JournalDatabase], T]) -> T:
        """Run *job* on the writing thread until the disk takes it."""
        with self._telling() as tell:
            for pause_s in _pauses():
                try:
                    return await self._loop.run_in_executor(self._writer, self._and_wake, job)
                except Unwritable as error:
                    tell(str(error))
                    await self._pause(pause_s)
                    if self._closed:
                        raise
        raise AssertionError

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._closing.wait()

    @contextmanager
    def _telling(self) -> Iterator[Callable[[str], None]]:
        """Give a function that tells why the work in the block waits; when the block ends, it waits no more.

        Each work has its own trouble: on a full disk a small commit may still fit between two tries of a large one.
        """
        work = object()
        try:
            yield partial(self._tell, work)
        finally:
            if self._held_up.pop(work, "") and not self._held_up:
                log.warning("journal can be written again")

    def _tell(self, work: object, trouble: str) -> None:
        if not self._held_up:
            log.error("journal cannot be written; values wait", reason=trouble)
        self._held_up[work] = trouble

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise JournalError(f"{self._database.path}: is closed; nothing is read or stored")

    def _and_wake(self, job: Callable[[JournalDatabase], T]) -> T:
        before = self._database.counters
        try:
            return self._database.attempt(job)
        finally:
            # From here and not from the caller: whoever appended may have been cancelled, the pages are there.
            if self._database.counters is not before:
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()


@dataclass
class JournalReader:
    """One consumer's place in the journal.

    Attributes:
        name: Under which the place is kept.
        position: Seq of the last page it has done; 0 before the first.
        state: What it saved with the position, or None.
    """

    journal: Journal
    name: str
    position: int
    state: bytes | None

    async def pages(self) -> AsyncIterator[Page]:
        """Yield every page after the position, in order, then each new one as it is committed, until the close.

        Raises:
            JournalError: If a page it has not done is in a segment that is gone or changed.
        """
        after = self.position
        while await self.journal.wait_beyond(after):
            batch = await self.journal.read(partial(_prefetch, after=after))
            for page in batch:
                after = page.seq
                yield page

    async def commit(self, seq: int, *, results: Results | None = None, state: bytes | None = None) -> None:
        """Make *results*, the position *seq* and *state* durable in one transaction; without *state* the old stays.

        Raises:
            JournalError: If *seq* is behind the position or ahead of the journal.
            CommitFailed: If it can never be made durable, or the journal was closed meanwhile; then position, results
                and state are all as before.
        """
        if not self.position <= seq <= self.journal.last_seq:
            raise JournalError(
                f"reader {self.name} at {self.position} cannot go to {seq} of {self.journal.last_seq}; it stays"
            )
        await self.journal.submit(Advance(reader=self.name, seq=seq, results=results, state=state))
        self.position = seq
        self.state = self.state if state is None else state

    async def go_back(self, seq: int, *, state: bytes) -> None:
        """Make *seq*, which it has done already, its position again, with *state*: a new `pages` begins behind it.

        Raises:
            JournalError: If *seq* is ahead of the position.
            CommitFailed: If it could not be made durable; then the position is as before.
        """
        if not 0 <= seq <= self.position:
            raise JournalError(f"reader {self.name} at {self.position} cannot go back to {seq}; it stays")
        await self.journal.submit(Advance(reader=self.name, seq=seq, state=state))
        self.position, self.state = seq, state


def _put_aside(database: JournalDatabase, *, damaged: PageDamaged) -> None:
    database.put_aside(damaged)


def _remove_orphans(database: JournalDatabase) -> None:
    remove_orphans(database.segments.folder, database.epoch, database.segments.names())


def _pauses() -> Iterator[float]:
    """Yield the seconds to wait before the next try, for ever."""
    return chain((_FIRST_PAUSE_S * 2**n for n in range(_DOUBLINGS)), repeat(_FIRST_PAUSE_S * 2**_DOUBLINGS))


def _prefetch(database: JournalDatabase, *, after: int) -> list[Page]:
    return pages_after(database, after, limit=_PREFETCH_PAGES, max_bytes=_PREFETCH_BYTES)
