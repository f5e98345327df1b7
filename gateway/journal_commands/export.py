"""Rows and results of a journal for other programs: CSV, JSON lines, Parquet; or the segments as they are.

Pages are read a few at a time, so what is exported may be larger than the memory. A file is there under its name when
it is whole, and not before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from gateway.errors import JournalError
from gateway.journal.entries import read_segment
from gateway.journal_commands.reading import Lost, Stretch, read_pages
from gateway.journal_commands.sinks import JsonLinesSink, Sink
from gateway.journal_commands.view import JournalView
from gateway.progress import Progress, silent
from models.records import Observations, Page, Results, Stream

_CHUNK_ROWS = 50_000
_CHUNK_SAMPLES = 500_000  # as text they take some twenty bytes each


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is exported.

    Attributes:
        stretch: From where to where.
        assets: Of these; all when empty.
        channels: Of these; all when empty. Results are of assets, not of channels.
    """

    stretch: Stretch
    assets: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()

    def is_wanted(self, stream: Stream) -> bool:
        """Return whether the rows of *stream* are exported."""
        return (not self.assets or stream.asset_id in self.assets) and (
            not self.channels or stream.channel in self.channels
        )


@dataclass(kw_only=True)
class Exported:
    """What came of it.

    Attributes:
        written: Rows or records.
        lost: Pages that should be in it and cannot be read.
    """

    written: int = 0
    lost: list[Lost] = field(default_factory=list)


def export_observations(view: JournalView, wanted: Wanted, sink: Sink, progress: Progress = silent) -> Exported:
    """Write the observations that are *wanted* of *view* into *sink*, in the order of the log."""
    exported = Exported()
    for pages in _pages(view, wanted, exported, progress, results=False):
        exported.written += _write_rows(pages, wanted, sink)
    sink.end()
    return exported


def export_results(view: JournalView, wanted: Wanted, sink: JsonLinesSink, progress: Progress = silent) -> Exported:
    """Write the states, health, advisories, gaps, events and so on that are *wanted*, in the order of the log."""
    exported = Exported()
    for pages in _pages(view, wanted, exported, progress, results=True):
        exported.written += sum(_write_records(page.seq, page.content, wanted, sink) for page in pages)
    return exported


def _pages(
    view: JournalView, wanted: Wanted, exported: Exported, progress: Progress, *, results: bool
) -> Iterator[list[Page]]:
    """Yield the pages; what is lost is noted in *exported*."""
    first, last = wanted.stretch.first_seq or view.totals().first_seq, view.last_seq()
    for part in read_pages(view, wanted.stretch, results=results):
        if isinstance(part, Lost):
            exported.lost.append(part)
        elif part:
            yield part
            progress(part[-1].seq - first + 1, last - first + 1)


def _write_rows(pages: list[Page], wanted: Wanted, sink: Sink) -> int:
    contents = [(page.seq, page.content) for page in pages if isinstance(page.content, Observations)]
    rows = Observations.concatenate([content for _, content in contents])
    seq = np.repeat(np.array([seq for seq, _ in contents], np.int64), [len(content) for _, content in contents])
    chosen = np.array([wanted.is_wanted(stream) for stream in rows.streams], np.bool_)[rows.stream]
    places = np.flatnonzero(chosen)
    samples = np.cumsum(rows.sample_count[places], dtype=np.int64)
    start = 0
    while start < len(places):
        before = int(samples[start - 1]) if start else 0
        fits = int(np.searchsorted(samples, before + _CHUNK_SAMPLES, "right"))
        end = min(max(fits, start + 1), start + _CHUNK_ROWS)
        sink.rows(seq[places[start:end]], rows.take(places[start:end]))
        start = end
    return len(places)


def _write_records(seq: int, content: Observations | Results, wanted: Wanted, sink: JsonLinesSink) -> int:
    if not isinstance(content, Results):
        return 0
    written = 0
    for one in fields(Results):
        records = getattr(content, one.name)
        chosen = [r for r in records if not wanted.assets or getattr(r, "asset_id", None) in wanted.assets]
        sink.records(seq, one.name, chosen)
        written += len(chosen)
    return written


def copy_segments(
    view: JournalView, stretch: Stretch, folder: Path, progress: Progress = silent
) -> tuple[Exported, int]:
    """Copy the segment files of *stretch* into *folder*, checked, with a ``manifest.json``.

    Returns:
        What was copied and what is lost; and how many pages of the stretch are in no segment yet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exported, listed = Exported(), []
    last = min(view.last_seq(), stretch.last_seq if stretch.last_seq is not None else 2**62)
    entries = [entry for entry in view.segments() if _overlaps(entry.first_seq, entry.last_seq, stretch)]
    if stretch.by_time:
        start, end = stretch.start_ns or -(2**63), stretch.end_ns if stretch.end_ns is not None else 2**63 - 1
        entries = [e for e in entries if e.start_ns is not None and e.start_ns < end and (e.end_ns or 0) >= start]
    for entry in entries:
        try:
            data = read_segment(entry)
        except JournalError as error:
            exported.lost.append(Lost(first_seq=entry.first_seq, last_seq=entry.last_seq, reason=str(error)))
            continue
        with whole_file(folder / entry.path.name) as file:
            file.write(data)
        listed.append(msgspec.to_builtins(replace(entry, path=Path(entry.path.name)), enc_hook=str))
        exported.written += 1
        progress(exported.written, len(entries))
    manifest = {"gateway_id": view.gateway_id, "epoch": view.epoch, "segments": listed}
    with whole_file(folder / "manifest.json") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
    compacted = view.totals().counters.compacted_pages
    return exported, 0 if stretch.by_time else max(last - max(compacted, (stretch.first_seq or 1) - 1), 0)


def _overlaps(first: int, last: int, stretch: Stretch) -> bool:
    return last >= (stretch.first_seq or 1) and (stretch.last_seq is None or first <= stretch.last_seq)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write to that gets the name *path*, durably, when all of it is written; else there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
