"""The journal as the gateway sees it: awaitable, one writer at a time, any number of readers at their own positions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from gateway.errors import JournalError
from gateway.journal.counters import JournalCounters
from gateway.journal.database import JournalDatabase
from gateway.journal.holes import Hole
from gateway.journal.replay import pages_after
from models.records import Observations, Page, Results, Stream

_PREFETCH_PAGES = 64
_PREFETCH_BYTES = 8 * 2**20

T = TypeVar("T")


class Journal:
    """The durable log of one gateway.

    SQLite runs on two threads of its own, one that writes and one that reads, so the event loop never waits for a
    disk. What an awaited method says it stored survives a power cut.
    """

    def __init__(self, database: JournalDatabase, writer: ThreadPoolExecutor, reader: ThreadPoolExecutor) -> None:
        self._database = database
        self._writer = writer
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._advanced = asyncio.Event()
        self._closed = False

    @classmethod
    async def open(cls, state_dir: Path, gateway_id: str) -> Journal:
        """Open the journal in *state_dir*, or create it, for the gateway *gateway_id*.

        Raises:
            JournalLocked: If another process has it open.
            JournalMismatch: If it is another gateway's, of another schema, or does not add up.
            JournalError: If it cannot be opened.
        """
        writer = ThreadPoolExecutor(1, "journal-write")
        reader = ThreadPoolExecutor(1, "journal-read")
        loop = asyncio.get_running_loop()
        try:
            database = await loop.run_in_executor(writer, JournalDatabase, state_dir, gateway_id)
        except BaseException:
            writer.shutdown(wait=False)
            reader.shutdown(wait=False)
            raise
        return cls(database, writer, reader)

    async def close(self) -> None:
        """End every reader's iteration, finish what is being written, and let others open the journal."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        await self._loop.run_in_executor(self._reader, lambda: None)
        await self._loop.run_in_executor(self._writer, self._database.close)
        self._writer.shutdown()
        self._reader.shutdown()

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
            CommitFailed: If it could not be made durable; then nothing of it is stored, no hole opened or filled.
        """
        return await self.write(
            lambda database: database.append(observations, results=results, opened=opened, filled=filled)
        )

    async def append_results(self, results: Results) -> int:
        """Store *results* durably as one page and return its seq.

        Raises:
            CommitFailed: If it could not be made durable.
        """
        return await self.write(lambda database: database.append_results(results))

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
        """Run *job* on the writing thread, after those before it. For the modules of this package."""
        return await self._run(self._writer, lambda: self._and_wake(job))

    async def read(self, job: Callable[[JournalDatabase], T]) -> T:
        """Run *job* on the reading thread. For the modules of this package."""
        return await self._run(self._reader, lambda: job(self._database))

    async def _run(self, thread: ThreadPoolExecutor, job: Callable[[], T]) -> T:
        if self._closed:
            raise JournalError(f"{self._database.path}: is closed; nothing is read or stored")
        return await self._loop.run_in_executor(thread, job)

    def _and_wake(self, job: Callable[[JournalDatabase], T]) -> T:
        before = self._database.counters
        try:
            return job(self._database)
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
            CommitFailed: If it could not be made durable; then position, results and state are all as before.
        """
        if not self.position <= seq <= self.journal.last_seq:
            raise JournalError(
                f"reader {self.name} at {self.position} cannot go to {seq} of {self.journal.last_seq}; it stays"
            )
        await self.journal.write(lambda database: database.commit_reader(self.name, seq, results=results, state=state))
        self.position = seq
        self.state = self.state if state is None else state


def _prefetch(database: JournalDatabase, *, after: int) -> list[Page]:
    return pages_after(database, after, limit=_PREFETCH_PAGES, max_bytes=_PREFETCH_BYTES)
