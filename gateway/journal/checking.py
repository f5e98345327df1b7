"""A look, in the background, at every page that was there at the start: damage is found before the page is needed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from gateway.errors import JournalError
from gateway.journal.pages import check

if TYPE_CHECKING:
    from gateway.journal.database import JournalDatabase
    from gateway.journal.journal import Journal

# About 40 MB/s: a start with much behind it stays quick, and reading it all takes minutes, not hours.
_SLICE_BYTES = 4 * 2**20
_REST_S = 0.1


async def check_pages(journal: Journal, last: int) -> None:
    """Look at the checksum of every page up to *last*; those that are damaged are put aside."""
    after: int | None = 0
    with suppress(JournalError):  # closed meanwhile
        while after is not None:
            after = await journal.read(partial(_check, after=after, last=last))
            await asyncio.sleep(_REST_S)


def _check(database: JournalDatabase, *, after: int, last: int) -> int | None:
    return check(database.reader, database.path, after=after, last=last, max_bytes=_SLICE_BYTES)
