"""How pages are carried into a historian: gathered, in order, and again where the historian lost them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.errors import HistorianError, JournalError
from gateway.historian import HistorianCondition, keep_history
from gateway.historian.historian import by_stream_and_time
from gateway.journal import Journal
from models.records import Observations, Page, Stream
from tests.strategies import NOON_NS, SECOND_NS, make_observations


class MemoryHistorian:
    """Keeps pages in memory, and loses them when a test says so."""

    retention_s = 0.0

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.stored: dict[int, Observations] = {}
        self.can_be_read = True

    async def write(self, *pages: Page) -> None:
        """Store *pages*."""
        self.batches.append([page.seq for page in pages])
        self.stored |= {page.seq: page.content for page in pages if isinstance(page.content, Observations)}

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return what is left."""
        if not self.can_be_read:
            raise HistorianError("a token that may only write")
        parts = [r.take((r.source_time >= start_ns) & (r.source_time < end_ns)) for r in self.stored.values()]
        return by_stream_and_time(parts, streams)

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:
        """Return how much is left."""
        return len(await self.read(streams, start_ns, end_ns))

    async def close(self) -> None:
        """Do nothing."""


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    """The journal of gateway gw-1."""
    journal = await Journal.open(tmp_path, "gw-1")
    yield journal
    await journal.close()


async def put(journal: Journal, pages: int) -> None:
    """Commit so many pages."""
    for _ in range(pages):
        await journal.append(make_observations(start_ns=NOON_NS + journal.last_seq * 100 * SECOND_NS))


async def keep(journal: Journal, historian: MemoryHistorian, condition: HistorianCondition | None = None) -> None:
    """Carry what there is, and end when all of it was carried."""
    reader = await journal.reader("historian")
    keeping = asyncio.create_task(keep_history(reader, historian, condition, gather_s=0.05, examine_s=0.0))
    async with asyncio.timeout(30):
        while reader.position < journal.last_seq and not keeping.done():  # noqa: ASYNC110 - a position has no event
            await asyncio.sleep(0.01)
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping


async def test_small_pages_go_together(journal: Journal) -> None:
    """One write for what there is, in order, and nothing left out or twice."""
    historian = MemoryHistorian()
    await put(journal, 30)
    await keep(journal, historian)
    assert [seq for batch in historian.batches for seq in batch] == list(range(1, 31))
    assert len(historian.batches) < 5


async def test_what_was_lost_is_written_again(journal: Journal) -> None:
    """From the mark before the loss on; the page that came meanwhile too."""
    historian, condition = MemoryHistorian(), HistorianCondition()
    for _ in range(6):
        await put(journal, 1)
        await keep(journal, historian)
    for seq in (4, 5, 6):
        del historian.stored[seq]
    await put(journal, 1)
    await keep(journal, historian, condition)
    assert sorted(historian.stored) == list(range(1, 8))
    assert condition.went_back == 1
    assert [seq for batch in historian.batches[7:] for seq in batch] == [4, 5, 6, 7]


async def test_a_historian_that_cannot_be_read_is_still_written(journal: Journal) -> None:
    """Looking for losses is an extra: it keeps no page back."""
    historian = MemoryHistorian()
    historian.can_be_read = False
    for _ in range(3):
        await put(journal, 1)
        await keep(journal, historian)
    assert historian.batches == [[1], [2], [3]]


async def test_a_reader_goes_back_and_never_ahead(journal: Journal) -> None:
    await put(journal, 3)
    reader = await journal.reader("historian")
    await reader.commit(3)
    await reader.go_back(1, state=b"s")
    assert [(await anext(reader.pages())).seq, reader.position, reader.state] == [2, 1, b"s"]
    again = await journal.reader("historian")
    assert (again.position, again.state) == (1, b"s")
    with pytest.raises(JournalError, match="cannot go back"):
        await reader.go_back(2, state=b"")
