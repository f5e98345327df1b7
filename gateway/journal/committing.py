"""Group commit: what comes together is stored together.

A disk flush costs the same for one batch as for ten. So a commit waits for company, but only for those who came within
the last interval and may come again: whoever is alone is stored at once, and as soon as everybody is there, or much is
gathered, nobody waits for the clock.

A disk that is full or fails holds a commit up; it is tried again until it succeeds or the journal is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from gateway.journal.errors import CommitFailed
from gateway.journal.holes import Hole
from models.records import Observations, Results

_FULL_ROWS = 100_000
_FULL_BYTES = 8 * 2**20
_ROW_BYTES = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Append:
    """Observations to be stored, and what goes with them."""

    observations: Observations = field(default_factory=Observations.empty)
    results: Results | None = None
    opened: Sequence[Hole] = ()
    filled: Sequence[Hole] = ()

    @property
    def is_alone(self) -> bool:
        """Whether it makes a commit of its own: rows and holes change together."""
        return bool(self.opened or self.filled)

    @property
    def size(self) -> tuple[int, int]:
        """Rows, and about how many bytes."""
        rows = len(self.observations)
        return rows, rows * _ROW_BYTES + self.observations.samples.nbytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Advance:
    """A reader's step: its position, what it found out, and what it remembers."""

    reader: str
    seq: int
    results: Results | None = None
    state: bytes | None = None

    @property
    def is_alone(self) -> bool:
        """Whether it makes a commit of its own."""
        return False

    @property
    def size(self) -> tuple[int, int]:
        """Rows, and about how many bytes."""
        return 0, len(self.state or b"")


Work = Append | Advance


@dataclass(frozen=True, kw_only=True, eq=False)
class _Member:
    work: Work
    owner: asyncio.Task[object] | None
    stored: asyncio.Future[int | None]


class Committer:
    """Gathers work and has it stored in groups, in the order it came.

    Args:
        store: Stores some work in one transaction and returns the seq of the last page of each, None for work that
            needed no page. It takes as long as the disk needs, and fails for what can never be stored.
        interval_s: How long work may wait for company.
    """

    def __init__(self, store: Callable[[Sequence[Work]], Awaitable[Sequence[int | None]]], interval_s: float) -> None:
        self._store = store
        self._interval_s = interval_s
        self._gathered: deque[_Member] = deque()
        self._sizes = [0, 0]
        self._lately: dict[asyncio.Task[object], float] = {}
        self._last_begin = float("-inf")
        self._changed = asyncio.Event()
        self._is_closing = False
        self._task = asyncio.create_task(self._run(), name="journal commits")

    async def submit(self, work: Work) -> int | None:
        """Store *work*; return the seq of its last page, None when it needed none. It is stored even if nobody waits.

        Raises:
            CommitFailed: If it can never be stored.
        """
        if self._is_closing or self._task.done():
            raise CommitFailed("the journal is closed; nothing of it is stored")
        owner = asyncio.current_task()
        member = _Member(work=work, owner=owner, stored=asyncio.get_running_loop().create_future())
        self._gathered.append(member)
        self._count(work, 1)
        self._changed.set()
        return await member.stored

    async def close(self) -> None:
        """Store what is gathered, and take nothing more."""
        self._is_closing = True
        self._changed.set()
        await self._task

    async def _run(self) -> None:
        while True:
            while not self._gathered:
                if self._is_closing:
                    return
                self._changed.clear()
                await self._changed.wait()
            await asyncio.sleep(0)  # what comes in the same turn of the loop comes along
            await self._company()
            await self._commit(self._take())

    async def _company(self) -> None:
        """Wait until there is no use in waiting."""
        now = asyncio.get_running_loop().time
        while not self._is_complete() and (left := self._last_begin + self._interval_s - now()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        self._last_begin = now()
        self._lately = {task: at for task, at in self._lately.items() if at > self._last_begin - self._interval_s}

    def _is_complete(self) -> bool:
        if self._is_closing or self._sizes[0] >= _FULL_ROWS or self._sizes[1] >= _FULL_BYTES:
            return True
        here = {member.owner for member in self._gathered}
        return all(task in here or task.done() for task in self._lately)

    def _take(self) -> list[_Member]:
        """Take what the next commit stores: all, or as much as is enough."""
        taken: list[_Member] = []
        rows = size = 0
        while self._gathered and rows < _FULL_ROWS and size < _FULL_BYTES:
            member = self._gathered.popleft()
            self._count(member.work, -1)
            rows, size = rows + member.work.size[0], size + member.work.size[1]
            if member.owner is not None:
                self._lately[member.owner] = self._last_begin
            taken.append(member)
        return taken

    def _count(self, work: Work, sign: int) -> None:
        for place, size in enumerate(work.size):
            self._sizes[place] += sign * size

    async def _commit(self, members: Sequence[_Member]) -> None:
        together = [member for member in members if not member.work.is_alone]
        if together:
            await self._commit_one(together)
        for member in members:
            if member.work.is_alone:
                await self._commit_one([member])

    async def _commit_one(self, members: Sequence[_Member]) -> None:
        """Store *members* in one transaction; when that fails, each in its own, so that none takes others down."""
        try:
            outcomes = await self._store([member.work for member in members])
        except Exception as error:  # noqa: BLE001 - whoever submitted it gets it
            if len(members) == 1:
                if not members[0].stored.done():
                    members[0].stored.set_exception(error)
                return
            for member in members:
                await self._commit_one([member])
            return
        for member, outcome in zip(members, outcomes, strict=True):
            if not member.stored.done():
                member.stored.set_result(outcome)
