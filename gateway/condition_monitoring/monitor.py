"""The reader of the journal that turns observations into advisories."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import fields

import structlog

from gateway.condition_monitoring.blocks import Blocks, joined
from gateway.errors import GatewayError
from gateway.historian.past import Past
from gateway.journal import JournalReader
from models.records import Observations, Page, Results

log = structlog.get_logger()

BATCH_ROWS = 20_000
GATHER_S = 0.1  # pages that come within this time share one commit
BUNDLE_CHECK_S = 1.0
# What is saved with the position holds the open windows, maybe megabytes: saving may take this share of the time.
SAVING_SHARE = 0.05
LONGEST_WAIT_S = 120.0
MOST_RECORDS = 4_000  # some MB: they become one page, and a page has to fit into a segment


async def monitor(reader: JournalReader, blocks: Blocks, past: Past | None = None) -> None:
    """Turn observations into advisories, from where the reader last stopped.

    Results, position and what the blocks remember are committed in one transaction: after any interruption the same
    pages are read again by blocks that know what they knew then, so no state is lost and none comes twice. Windows that
    begin anew, because a bundle came that cuts others, begin with what *past* has of the time before.
    """
    blocks.restore(reader.state)
    now = asyncio.get_running_loop().time
    pace, waiting, seq, is_saved = Pace(), [], reader.position, True
    async for pages in batches(reader.pages()):
        activated = await asyncio.to_thread(blocks.follow_bundles)
        if past is not None:
            await _prime(blocks, past, seq)
        found = await asyncio.to_thread(blocks.results, [page.content for page in pages])
        waiting += [results for results in (activated, found) if results]
        seq = pages[-1].seq if pages else seq
        is_saved = is_saved and not waiting and not any(isinstance(page.content, Observations) for page in pages)
        if is_saved:
            if seq > reader.position:  # results alone, mostly its own: they move the position and nothing else
                await reader.commit(seq)
        elif activated or pace.is_due(now()) or _records(waiting) >= MOST_RECORDS:
            begin = now()
            state = await asyncio.to_thread(blocks.state)
            await reader.commit(seq, results=joined(waiting), state=state)
            pace.saved(begin, now())
            waiting, is_saved = [], True


def _records(parts: Sequence[Results]) -> int:
    return sum(len(getattr(part, one.name)) for part in parts for one in fields(Results))


async def _prime(blocks: Blocks, past: Past, until_seq: int) -> None:
    """Give windows that have just begun anew what was stored up to page *until_seq*; some assets at a time."""
    for streams, length_ns in past.together(blocks.windows_begun_anew()):
        try:
            rows = await past.read(streams, length_ns, until_seq)
        except GatewayError as error:
            asset_ids = sorted({stream.asset_id for stream in streams})
            log.warning("windows begin without their past", asset_ids=asset_ids, reason=str(error))
            continue
        await asyncio.to_thread(blocks.prime, rows)


class Pace:
    """Says when to save next: at once while that is cheap, and the rarer the dearer it is."""

    def __init__(self) -> None:
        self._due = -math.inf

    def is_due(self, now: float) -> bool:
        """Return whether it is time, at *now* in seconds."""
        return now >= self._due

    def saved(self, begin: float, end: float) -> None:
        """Take note that saving took from *begin* to *end*."""
        self._due = end + min((end - begin) / SAVING_SHARE, LONGEST_WAIT_S)


async def batches(pages: AsyncIterator[Page]) -> AsyncGenerator[list[Page], None]:
    """Yield pages as they come, many together when many wait, and an empty list when none came for a while."""
    now = asyncio.get_running_loop().time
    upcoming = asyncio.create_task(_next(pages))
    try:
        while True:
            batch: list[Page] = []
            rows = 0
            await asyncio.wait((upcoming,), timeout=BUNDLE_CHECK_S)
            deadline = now() + GATHER_S
            while upcoming.done() and rows < BATCH_ROWS:
                page = upcoming.result()
                if page is None:
                    if batch:
                        yield batch
                    return
                batch.append(page)
                rows += len(page.content) if isinstance(page.content, Observations) else 0
                upcoming = asyncio.create_task(_next(pages))
                await asyncio.wait((upcoming,), timeout=max(deadline - now(), 0.0))
            yield batch
    finally:
        upcoming.cancel()


async def _next(pages: AsyncIterator[Page]) -> Page | None:
    return await anext(pages, None)
