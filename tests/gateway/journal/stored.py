"""What a journal holds, wherever it holds it."""

from __future__ import annotations

from gateway.journal import Journal, SegmentStore
from models.records import Observations
from models.segment import decode_segment


async def stored_observations(journal: Journal) -> Observations:
    """Return every row that is stored, in segments and in pages that are in none."""
    store = SegmentStore(journal)
    parts = [decode_segment(await store.read(entry)).observations for entry in await store.segments()]
    after = journal.counters.compacted_pages
    pages = await journal.read(lambda database: database.decoded_pages(after, limit=10**6, max_bytes=10**9))
    return Observations.concatenate(
        [*parts, *(page.content for page in pages if isinstance(page.content, Observations))]
    )
