"""What every historian does, and how one is fed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Protocol

import numpy as np
import structlog

from gateway.errors import HistorianError
from gateway.historian.condition import HistorianCondition
from gateway.historian.marks import Mark, Marks
from gateway.journal import JournalReader
from models.records import Observations, Page, Stream

_BATCH_ROWS = 50_000
_BATCH_PAGES = 1000
_LAG_S = 1.0
_EXAMINE_S = 60.0
_GATHER_S = 1.0  # small pages wait that long for others: one request and one commit a second, not one for each

log = structlog.get_logger()


class Historian(Protocol):
    """Keeps pages and gives their observations back by stream and source time.

    Of several observations of one stream with one source time, the one stored last counts. A page that is written
    again changes nothing.

    Attributes:
        retention_s: How long it is to keep values, by their source time; 0 for ever.
    """

    @property
    def retention_s(self) -> float:
        """As above."""

    async def write(self, *pages: Page) -> None:
        """Store *pages*, in order; on return they are stored, however long that took."""

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the observations of *streams* with ``start_ns <= source_time < end_ns``, by stream, then time.

        The streams of what is returned are *streams*, in their order.
        """

    async def estimate(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> int:
        """Return about how many rows `read` would give, and 0 only where it gives none.

        Eight samples of a waveform are taken for one more row.
        """

    async def close(self) -> None:
        """Let go of what it holds open."""


async def keep_history(
    reader: JournalReader,
    historian: Historian,
    condition: HistorianCondition | None = None,
    *,
    gather_s: float = _GATHER_S,
    examine_s: float = _EXAMINE_S,
) -> None:
    """Carry every page into *historian*, from where *reader* last stopped, until the journal is closed.

    Pages are gathered, those there are and those of the next *gather_s*, and the position moves after all of them are
    stored: after a crash pages may be written again, never left out. At the start, after an outage and every
    *examine_s* it is looked whether the historian still has what it said it stored; from what it lost on, all is
    written again. *condition* is told how far it is behind.
    """
    state = HistorianCondition() if condition is None else condition
    watching = asyncio.create_task(_watch_lag(reader, state))
    try:
        while not reader.journal.closed:
            await _keep(reader, historian, state, gather_s, examine_s)
    finally:
        watching.cancel()


async def _keep(
    reader: JournalReader, historian: Historian, condition: HistorianCondition, gather_s: float, examine_s: float
) -> None:
    """Carry pages until the journal is closed, or something was lost and the reader went back."""
    marks = Marks.from_bytes(reader.state)
    outages, due_s = condition.outages, 0.0
    async with aclosing(_gathered(reader.pages(), gather_s)) as batches:
        async for batch in batches:
            condition.oldest_pending_ns = batch[0].committed_time or None  # 0: out of a segment
            refused = condition.refused.total()
            await historian.write(*batch)
            if condition.outages != outages or time.monotonic() >= due_s:
                lost = await _lost(historian, marks)
                if lost:
                    condition.went_back += 1
                    back = min(marks.cut(lost[0]), reader.position)
                    log.warning("historian lost what it had stored; it is written again", after_seq=back)
                    await reader.go_back(back, state=marks.to_bytes())
                    break
                if lost is not None:
                    outages, due_s = condition.outages, time.monotonic() + examine_s
            if condition.refused.total() == refused:
                marks.add(batch)
            await reader.commit(batch[-1].seq, state=marks.to_bytes())
            condition.oldest_pending_ns = None


async def _lost(historian: Historian, marks: Marks) -> list[Mark] | None:
    """Return those of *marks* that are not in the historian, the oldest first; None when it cannot be read."""
    try:
        return [mark for mark in marks.current(historian.retention_s) if not await _has(historian, mark)]
    except HistorianError as error:
        log.warning("historian not examined for losses; that is tried again", reason=str(error))
        return None


async def _has(historian: Historian, mark: Mark) -> bool:
    return len(await historian.read([mark.stream], mark.time_ns, mark.time_ns + 1)) > 0


async def _watch_lag(reader: JournalReader, condition: HistorianCondition) -> None:
    while not reader.journal.closed:
        condition.pending_pages = reader.journal.last_seq - reader.position
        await asyncio.sleep(_LAG_S)


async def _gathered(pages: AsyncIterator[Page], gather_s: float) -> AsyncGenerator[list[Page], None]:
    """Yield what has come, in order: at least one page, and at most so many that they fit into memory."""
    coming = asyncio.ensure_future(anext(pages, None))
    try:
        while (page := await coming) is not None:
            batch, rows = [page], _rows(page)
            coming = asyncio.ensure_future(anext(pages, None))
            with suppress(TimeoutError):
                async with asyncio.timeout(gather_s):
                    while rows < _BATCH_ROWS and len(batch) < _BATCH_PAGES:
                        if (page := await asyncio.shield(coming)) is None:
                            break
                        batch.append(page)
                        rows += _rows(page)
                        coming = asyncio.ensure_future(anext(pages, None))
            yield batch
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _rows(page: Page) -> int:
    return len(page.content) if isinstance(page.content, Observations) else 1


def by_stream_and_time(parts: Sequence[Observations], streams: Sequence[Stream]) -> Observations:
    """Return the rows of *parts* over the table *streams*, by stream, then time; of equal times the last row alone.

    Rows of other streams are left out.
    """
    rows = Observations.concatenate(parts)
    table = tuple(dict.fromkeys(streams))
    places = {stream: place for place, stream in enumerate(table)}
    stream = np.array([places.get(s, len(table)) for s in rows.streams], np.uint32)[rows.stream]
    order = np.lexsort((rows.source_time, stream))  # a stable sort: rows of one time stay in the order they came
    order = order[stream[order] < len(table)]
    keys = stream[order], rows.source_time[order]
    last = np.ones(len(order), np.bool_)
    last[:-1] = (keys[0][1:] != keys[0][:-1]) | (keys[1][1:] != keys[1][:-1])
    taken = rows.take(order[last])
    return Observations(
        streams=table,
        stream=stream[order[last]],
        source_time=taken.source_time,
        value=taken.value,
        status=taken.status,
        sample_count=taken.sample_count,
        samples=taken.samples,
    )
