"""What every historian does, and how one is fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gateway.journal import JournalReader
from models.records import Observations, Page, Stream


class Historian(Protocol):
    """Keeps pages and gives their observations back by stream and source time.

    Of several observations of one stream with one source time, the one stored last counts. A page that is written
    again changes nothing.
    """

    async def write(self, page: Page) -> None:
        """Store *page*; on return it is stored, however long that took."""

    async def read(self, streams: Sequence[Stream], start_ns: int, end_ns: int) -> Observations:
        """Return the observations of *streams* with ``start_ns <= source_time < end_ns``, by stream, then time.

        The streams of what is returned are *streams*, in their order.
        """

    async def close(self) -> None:
        """Let go of what it holds open."""


async def keep_history(reader: JournalReader, historian: Historian) -> None:
    """Carry every page into *historian*, from where *reader* last stopped, until the journal is closed.

    The position moves after the page is stored: after a crash a page may be written again, never left out.
    """
    async for page in reader.pages():
        await historian.write(page)
        await reader.commit(page.seq)


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
