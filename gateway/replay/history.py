"""Pages once more into the historian. Points are placed by identity, so writing them twice changes nothing.

How far it came stands in a file beside the journal, which the journal's own reader does not know: a replay that was
cut off goes on where it was when it is asked for the same again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from gateway.config import HistorianConfig
from gateway.historian import InfluxHistorian
from gateway.journal_commands.export import whole_file
from gateway.journal_commands.reading import Lost, Stretch, read_pages
from gateway.journal_commands.view import JournalView
from gateway.progress import Progress, silent
from models.records import UNDECODABLE, Observations, Page

_BATCH_ROWS = 20_000
_BATCH_PAGES = 1000
_SAVE_S = 1.0
_LOOK_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be written where; two that are equal are the same task."""

    epoch: str
    first_seq: int | None
    last_seq: int | None
    start_ns: int | None
    end_ns: int | None
    url: str
    org: str
    bucket: str

    @property
    def stretch(self) -> Stretch:
        """The pages it is about."""
        return Stretch(first_seq=self.first_seq, last_seq=self.last_seq, start_ns=self.start_ns, end_ns=self.end_ns)


@dataclass(frozen=True, kw_only=True)
class Place:
    """How far a task came: page *done*, of those up to *last*."""

    task: Task
    done: int
    last: int


@dataclass(kw_only=True)
class Written:
    """What came of it; points are counted as `HistorianCondition` does."""

    resumed_after: int = 0
    pages: int = 0
    points: int = 0
    last_seq: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)


def task_of(view: JournalView, stretch: Stretch, config: HistorianConfig) -> Task:
    """Return the task of writing *stretch* where *config* says."""
    return Task(
        epoch=view.epoch,
        first_seq=stretch.first_seq,
        last_seq=stretch.last_seq,
        start_ns=stretch.start_ns,
        end_ns=stretch.end_ns,
        url=config.influxdb_url,
        org=config.influxdb_org,
        bucket=config.influxdb_bucket,
    )


async def write_again(
    view: JournalView,
    task: Task,
    historian: InfluxHistorian,
    place_file: Path,
    progress: Progress = silent,
    trouble: Callable[[str], None] = lambda _text: None,
) -> Written:
    """Write the pages of *task*; where it was cut off before, as *place_file* says, go on there.

    Args:
        view: The journal.
        task: What is written.
        historian: Where to; it waits for a server that is away.
        place_file: Keeps how far it came; removed at the end.
        progress: Is told pages done, and of how many.
        trouble: Is told what keeps the server from taking pages, and an empty text when it does again.
    """
    before = _read_place(place_file, task)
    last = before.last if before is not None else min(view.last_seq(), task.last_seq or 2**62)
    written = Written(resumed_after=before.done if before is not None else 0, last_seq=last)
    stretch = replace(task.stretch, last_seq=last)
    if before is not None:
        stretch = replace(stretch, first_seq=before.done + 1)
    first = task.first_seq or view.totals().first_seq
    saved_s = time.monotonic()
    watching = asyncio.create_task(_watch(historian, trouble))
    place = before
    try:
        for pages in _batches(view, stretch, written):
            await historian.write(*pages)
            written.pages += len(pages)
            progress(pages[-1].seq - first + 1, last - first + 1)
            place = Place(task=task, done=pages[-1].seq, last=last)
            if time.monotonic() - saved_s >= _SAVE_S:
                _save_place(place_file, place)
                saved_s = time.monotonic()
        place = None
    finally:
        watching.cancel()
        _save_place(place_file, place)
        written.points, written.refused = historian.condition.written, dict(historian.condition.refused)
    return written


def _batches(view: JournalView, stretch: Stretch, written: Written) -> Iterator[list[Page]]:
    """Yield pages, many together; those that cannot be read are noted in *written*."""
    waiting: list[Page] = []
    rows = 0
    for part in read_pages(view, stretch):
        if isinstance(part, Lost):
            written.lost.append(part)
            continue
        for page in part:
            waiting.append(page)
            rows += len(page.content) if isinstance(page.content, Observations) else 0
            if rows >= _BATCH_ROWS or len(waiting) >= _BATCH_PAGES:
                yield waiting
                waiting, rows = [], 0
    if waiting:
        yield waiting


async def _watch(historian: InfluxHistorian, trouble: Callable[[str], None]) -> None:
    told = historian.condition.trouble
    while True:
        await asyncio.sleep(_LOOK_S)
        if (now := historian.condition.trouble) != told:
            trouble(now)
            told = now


def _read_place(path: Path, task: Task) -> Place | None:
    """Return how far *task* came, None when *path* tells nothing of it."""
    with suppress(OSError, *UNDECODABLE):
        place = msgspec.json.decode(path.read_bytes(), type=Place)
        if place.task == task:
            return place
    return None


def _save_place(path: Path, place: Place | None) -> None:
    if place is None:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as file:
        file.write(msgspec.json.encode(place))
