"""The reader of the journal that turns observations into advisories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from gateway.condition_monitoring.blocks import Blocks
from gateway.journal import JournalReader
from models.records import Observations, Page

BATCH_ROWS = 20_000
GATHER_S = 0.1  # pages that come within this time share one commit
BUNDLE_CHECK_S = 1.0


async def monitor(reader: JournalReader, blocks: Blocks) -> None:
    """Turn observations into advisories, from where the reader last stopped.

    Results, position and what the blocks remember are committed in one transaction: after any interruption the same
    pages are read again by blocks that know what they knew then, so no state is lost and none comes twice.
    """
    blocks.restore(reader.state)
    async for pages in batches(reader.pages()):
        if activated := await asyncio.to_thread(blocks.follow_bundles):
            await reader.commit(reader.position, results=activated, state=blocks.state())
        observations = [page.content for page in pages if isinstance(page.content, Observations)]
        if observations:
            results, state = await asyncio.to_thread(blocks.advance, Observations.concatenate(observations))
            await reader.commit(pages[-1].seq, results=results, state=state)
        elif pages:  # results alone, mostly its own: they move the position and nothing else
            await reader.commit(pages[-1].seq)


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
