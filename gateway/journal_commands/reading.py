"""A stretch of a journal, page by page, for who looks into it: what is gone or damaged is told and passed over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from gateway.errors import JournalError
from gateway.journal.entries import SegmentEntry
from gateway.journal.errors import PageDamaged
from gateway.journal.pages import PageRow, checked_content
from gateway.journal.replay import pages_of
from gateway.journal_commands.view import JournalView
from models.records import Observations, Page, Results, to_ns

_LIMIT, _MAX_BYTES = 256, 8 * 2**20
_TIME_OF = {
    "states": "window_end",
    "health": "window_end",
    "prognoses": "window_end",
    "advisories": "updated_at",
    "gaps": "from_time",
    "events": "gateway_time",
    "heartbeats": "gateway_time",
    "features": "window_end",
}


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Which part of a journal is meant: by seq, both included, or by source time, ``start_ns <= t < end_ns``.

    None is no limit. Where a limit is a time, rows and results outside of it are left out of their pages.
    """

    first_seq: int | None = None
    last_seq: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None

    @property
    def by_time(self) -> bool:
        """Whether a source time limits it."""
        return self.start_ns is not None or self.end_ns is not None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Pages that cannot be read, and why."""

    first_seq: int
    last_seq: int
    reason: str


def read_pages(view: JournalView, stretch: Stretch, *, results: bool = True) -> Iterator[list[Page] | Lost]:
    """Yield the pages of *stretch* in order, a few or those of one segment at a time; nothing beyond what is there now.

    Pages that come from a segment have their rows sorted by stream. A page of which nothing is within the limits of
    time is left out. Where *results* do not matter, a segment that has no row between them is not even opened; else
    everything is looked through, since results have times of their own and stand anywhere after their rows.
    """
    last = min(view.last_seq(), stretch.last_seq if stretch.last_seq is not None else 2**62)
    after = _first(view, stretch, results=results) - 1
    while after < last:
        rows = _run(view.page_rows(after, last, limit=_LIMIT, max_bytes=_MAX_BYTES), after)
        if rows:
            yield from _of_rows(view, stretch, rows)
            after = rows[-1].seq
            continue
        found = view.segments("last_seq > ?", (after,), limit=1)
        following = found[0].first_seq if found else last + 1
        if following > after + 1:
            gone = Lost(
                first_seq=after + 1, last_seq=min(following - 1, last), reason="purged, or nowhere in the journal"
            )
            yield gone
            after = gone.last_seq
            continue
        if results or _reaches_into(found[0], stretch):
            yield from _of_segment(view, stretch, found[0], after, last)
        after = found[0].last_seq


def content_of(view: JournalView, row: PageRow) -> Observations | Results:
    """Return what the page in *row* holds.

    Raises:
        PageDamaged: If it is not what was written.
    """
    content = checked_content(view.path, row.seq, row.payload, row.checksum)
    found = len(content) if isinstance(content, Observations) else 0
    if found != row.observations:
        reason = f"it holds {found} observations, {row.observations} were written"
        raise PageDamaged(f"{view.path}: page {row.seq} is damaged ({reason})", seq=row.seq, reason=reason)
    return content


def _first(view: JournalView, stretch: Stretch, *, results: bool) -> int:
    """Return the first page that may be in *stretch*."""
    first = stretch.first_seq if stretch.first_seq is not None else view.totals().first_seq
    if stretch.start_ns is None or results:
        return first
    reaching = view.segments("end_time >= ? AND last_seq >= ?", (stretch.start_ns, first), limit=1)
    compacted = view.totals().counters.compacted_pages
    return max(first, reaching[0].first_seq if reaching else compacted + 1)


def _reaches_into(entry: SegmentEntry, stretch: Stretch) -> bool:
    """Return whether rows of *entry* may be within the limits of time."""
    if entry.start_ns is None or entry.end_ns is None:
        return False
    too_old = stretch.start_ns is not None and entry.end_ns < stretch.start_ns
    too_new = stretch.end_ns is not None and entry.start_ns >= stretch.end_ns
    return not (too_old or too_new)


def _run(rows: list[PageRow], after: int) -> list[PageRow]:
    """Return those of *rows* that follow *after* without a hole."""
    return [row for place, row in enumerate(rows, after + 1) if row.seq == place]


def _of_rows(view: JournalView, stretch: Stretch, rows: list[PageRow]) -> Iterator[list[Page] | Lost]:
    pages: list[Page] = []
    for row in rows:
        try:
            content = content_of(view, row)
        except PageDamaged as error:
            yield pages
            pages = []
            yield Lost(first_seq=row.seq, last_seq=row.seq, reason=f"page is damaged: {error.reason}")
            continue
        page = Page(
            gateway_id=view.gateway_id,
            epoch=view.epoch,
            seq=row.seq,
            committed_time=row.committed_time,
            content=content,
        )
        pages += _within(page, stretch)
    yield pages


def _of_segment(
    view: JournalView, stretch: Stretch, entry: SegmentEntry, after: int, last: int
) -> Iterator[list[Page] | Lost]:
    try:
        pages = pages_of(entry, after)
    except JournalError as error:
        still_there = view.segments("first_seq = ?", (entry.first_seq,))
        reason = str(error) if still_there else "purged while it was looked at"
        yield Lost(first_seq=max(entry.first_seq, after + 1), last_seq=min(entry.last_seq, last), reason=reason)
        return
    yield [part for page in pages if page.seq <= last for part in _within(page, stretch)]


def _within(page: Page, stretch: Stretch) -> list[Page]:
    """Return *page* with what is within the limits of time, or nothing."""
    if not stretch.by_time:
        return [page]
    start = stretch.start_ns if stretch.start_ns is not None else -(2**63)
    end = stretch.end_ns if stretch.end_ns is not None else 2**63 - 1
    content = page.content
    if isinstance(content, Observations):
        rows = (content.source_time >= start) & (content.source_time < end)
        return [replace(page, content=content.take(rows))] if rows.any() else []
    kept = _results_within(content, start, end)
    return [replace(page, content=kept)] if kept else []


def _results_within(results: Results, start_ns: int, end_ns: int) -> Results:
    chosen = {}
    for one in fields(Results):
        records, name = getattr(results, one.name), _TIME_OF.get(one.name)
        # What an asset was found to be has no time of its own; it holds for all that follows.
        chosen[one.name] = tuple(
            record for record in records if name is None or start_ns <= to_ns(getattr(record, name)) < end_ns
        )
    return Results(**chosen)
