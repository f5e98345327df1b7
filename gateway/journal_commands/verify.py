"""Does a journal hold what it says: every page, every segment file, the chain, and the sums. It only reads.

A gateway may run meanwhile: what it purges or trims while it is looked at is no fault.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gateway.errors import JournalError
from gateway.journal.entries import SegmentEntry, read_segment
from gateway.journal.errors import JournalMismatch, PageDamaged
from gateway.journal.witness import Witness
from gateway.journal_commands.reading import content_of
from gateway.journal_commands.view import JournalView, Totals
from gateway.progress import Progress, silent
from models.segment import Segment, decode_segment

_ROWS, _MAX_BYTES = 512, 16 * 2**20
_PAGE_BYTES = 4096  # how much of a segment takes as long as a page
_MOST_TOLD = 100  # findings of one kind; a disk that died would fill the screen


class Level(StrEnum):
    """Whether something has to be done."""

    PROBLEM = "problem"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is not as it should be, or worth knowing.

    Attributes:
        level: A problem is to be repaired, a note is for the record.
        kind: For programs.
        subject: Which page, segment, reader or sum.
        message: What is wrong with it.
        meaning: What that means for the data.
        next_step: What to do; empty when nothing.
        seq: Which page, or the first page of which segment; 0 where it is neither.
    """

    level: Level
    kind: str
    subject: str
    message: str
    meaning: str
    next_step: str
    seq: int = 0


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was looked at, and what was found.

    Attributes:
        path: The journal's file.
        fast: Whether segment files were left out.
        pages: Rows of pages that were read.
        segments: Segment files that were read, or of which at least the size was.
        observations: In the pages and segments that were read and are whole.
        findings: Problems first.
    """

    path: Path
    gateway_id: str
    epoch: str
    fast: bool
    pages: int
    segments: int
    observations: int
    findings: tuple[Finding, ...]

    @property
    def is_fine(self) -> bool:
        """Whether there is no problem."""
        return not any(finding.level is Level.PROBLEM for finding in self.findings)


_REPAIR = "stop the gateway, then: wearsight-gateway journal repair"
_KINDS: dict[str, tuple[Level, str, str]] = {
    "file_damaged": (Level.PROBLEM, "the database itself is damaged; rows may be lost, others still read", _REPAIR),
    "page_damaged": (Level.PROBLEM, "its observations cannot be had back; the other pages are not touched", _REPAIR),
    "page_missing": (Level.PROBLEM, "the log has a hole; readers stop before it", _REPAIR),
    "page_vanished": (
        Level.PROBLEM, "the end of the log is lost, or an older copy was put back; no seq is used again",
        "start the gateway, or: wearsight-gateway journal repair; for a copy from a backup: repair --new-epoch",
    ),
    "segment_lost": (Level.PROBLEM, "this stretch cannot be uploaded or read as history", _REPAIR),
    "segment_differs": (Level.PROBLEM, "table and file do not agree; the cloud would refuse it", _REPAIR),
    "segment_gap": (Level.PROBLEM, "pages are in no segment and cannot be uploaded", _REPAIR),
    "chain_broken": (
        Level.PROBLEM, "a segment was exchanged, or one between was taken out; the cloud refuses what follows",
        "stop the gateway, then: wearsight-gateway journal repair --new-epoch begins a new chain",
    ),
    "sums_differ": (Level.PROBLEM, "observations are counted twice or not at all; no gateway starts", _REPAIR),
    "position_ahead": (
        Level.PROBLEM, "the reader would pass over what comes next; the file is of another or an older journal",
        f"{_REPAIR}; of a journal that came from a backup: repair --new-epoch",
    ),
    "quarantined": (Level.NOTE, "its observations count as expired (damaged), as a gap tells", ""),
    "refused": (
        Level.NOTE, "the cloud will not take it; it stays here, the rest goes on",
        "when the reason is dealt with: wearsight-gateway journal repair --offer-refused",
    ),
    "unrecorded": (Level.NOTE, "a crash left it, or it is just being written; nothing is lost", ""),
}  # fmt: skip


def verify(state_dir: Path, *, fast: bool = False, progress: Progress = silent) -> Verified:
    """Return whether the journal in *state_dir* holds what it says; *fast* leaves out what is in segment files.

    Raises:
        JournalError: If there is no journal.
        JournalMismatch: If it is of another schema.
    """
    path = state_dir / "journal.sqlite"
    try:
        view = JournalView(state_dir)
    except JournalMismatch:
        raise
    except JournalError as error:
        if not path.is_file():
            raise
        found = (_finding("file_damaged", path.name, str(error)),)
        return Verified(
            path=path, gateway_id="", epoch="", fast=fast, pages=0, segments=0, observations=0, findings=found
        )
    with view:
        look = _Look(view=view, fast=fast, progress=progress)
        findings = list(_findings(look))
        progress(look.of, look.of)
        return Verified(
            path=view.path,
            gateway_id=view.gateway_id,
            epoch=view.epoch,
            fast=fast,
            pages=look.pages,
            segments=look.segments,
            observations=look.observations,
            findings=tuple(sorted(findings, key=lambda finding: finding.level is Level.NOTE)),
        )


@dataclass(kw_only=True)
class _Look:
    view: JournalView
    fast: bool
    progress: Progress
    pages: int = 0
    segments: int = 0
    observations: int = 0
    done: int = 0
    of: int = 1

    def begins(self, totals: Totals) -> None:
        """Tell how much there is, all segments taken for so many pages."""
        self.of = max(totals.page_rows + totals.segment_bytes // _PAGE_BYTES, 1)

    def has_done(self, pages: int) -> None:
        """Tell that so many pages more are done."""
        self.done = min(self.done + pages, self.of)
        self.progress(self.done, self.of)


def _findings(look: _Look) -> Iterator[Finding]:
    """Yield what is found, the first few of each kind; a check that meets a damaged database ends, the others go on."""
    told: dict[str, int] = {}
    for check in (_check_file, _check_sums, _check_pages, _check_segments, _check_aside):
        try:
            for finding in check(look):
                told[finding.kind] = told.get(finding.kind, 0) + 1
                if told[finding.kind] <= _MOST_TOLD:
                    yield finding
        except JournalError as error:
            yield _finding("file_damaged", look.view.path.name, str(error))
    for kind, count in told.items():
        if count > _MOST_TOLD:
            yield _finding(kind, f"{count - _MOST_TOLD} more", "the same")


def _check_file(look: _Look) -> Iterator[Finding]:
    with look.view.moment() as connection:
        lines = [row[0] for row in connection.execute("PRAGMA quick_check(20)")]
    for line in lines:
        if line != "ok":
            yield _finding("file_damaged", look.view.path.name, str(line))


def _check_sums(look: _Look) -> Iterator[Finding]:
    witness = Witness(look.view.path.with_name("journal.last"))  # before the journal: it is never ahead of it
    totals = look.view.totals()
    look.begins(totals)
    counters = totals.counters
    newest = witness.last
    if witness.head is not None and witness.head.epoch == look.view.epoch and newest and newest.seq > counters.pages:
        message = "were committed, the journal ends before them"
        yield _finding("page_vanished", f"pages {counters.pages + 1}-{newest.seq}", message)
    if totals.tally.missing_observations:
        yield _finding("sums_differ", "observations", str(totals.tally))
    for reader, position in look.view.positions().items():
        if position > counters.pages:
            yield _finding(
                "position_ahead", f"reader {reader}", f"is at page {position:,}, the last is {counters.pages:,}"
            )
    yield from _gaps(look.view, totals)


def _gaps(view: JournalView, totals: Totals) -> Iterator[Finding]:
    """Yield where segments, and the pages after them, do not follow one another."""
    upcoming = totals.purged_pages + 1
    for entry in view.segments():
        if entry.first_seq != upcoming:
            yield _finding(
                "segment_gap", f"segment {entry.first_seq}-{entry.last_seq}", f"page {upcoming:,} should be its first"
            )
        upcoming = entry.last_seq + 1
    with view.moment() as connection:
        for first, last in _holes_among_pages(connection, upcoming - 1):
            yield _finding("page_missing", f"pages {first}-{last}", "are in no segment and have no row")


def _holes_among_pages(connection: sqlite3.Connection, after: int) -> list[tuple[int, int]]:
    found = connection.execute(
        "SELECT before + 1, seq - 1 FROM (SELECT seq, lag(seq, 1, ?) OVER (ORDER BY seq) AS before FROM page "
        "WHERE seq > ?) WHERE seq <> before + 1",
        (after, after),
    )
    return [(first, last) for first, last in found]


def _check_pages(look: _Look) -> Iterator[Finding]:
    totals = look.view.totals()
    last, compacted = totals.counters.pages, totals.counters.compacted_pages
    after = 0
    while rows := look.view.page_rows(after, last, limit=_ROWS, max_bytes=_MAX_BYTES):
        for row in rows:
            try:
                content_of(look.view, row)
            except PageDamaged as error:
                yield _finding("page_damaged", f"page {row.seq}", error.reason, row.seq)
            else:
                look.observations += row.observations if row.seq > compacted else 0
        look.pages += len(rows)
        after = rows[-1].seq
        look.has_done(len(rows))


def _check_segments(look: _Look) -> Iterator[Finding]:
    entries = look.view.segments()
    before: SegmentEntry | None = None
    for entry in entries:
        yield from _check_link(before, entry)
        for finding in _check_segment(look, entry):
            now = look.view.segments("first_seq = ?", (entry.first_seq,))
            if now and now[0].digest == entry.digest:
                yield finding  # else it was purged, or exchanged, while it was looked at
        before = entry
        look.segments += 1
        look.has_done(entry.size // _PAGE_BYTES)


def _check_link(before: SegmentEntry | None, entry: SegmentEntry) -> Iterator[Finding]:
    """Yield when *entry* does not carry the digest of the one *before*; older versions wrote no link."""
    if before is not None and entry.previous and entry.previous != before.chain_digest:
        yield _finding(
            "chain_broken",
            _name(entry),
            f"says {entry.previous[:12]}… came before it, but {_name(before)} is {before.chain_digest[:12]}…",
        )


def _check_segment(look: _Look, entry: SegmentEntry) -> Iterator[Finding]:
    try:
        size = entry.path.stat().st_size
        if size != entry.size:
            yield _finding(
                "segment_lost", _name(entry), f"{entry.path.name} has {size:,} bytes of {entry.size:,}", entry.first_seq
            )
            return
        if look.fast:
            return
        segment = decode_segment(read_segment(entry))
    except (OSError, ValueError, JournalError) as error:  # ValueError: no segment, or no path
        yield _finding("segment_lost", _name(entry), str(error).removesuffix("; it is left out"), entry.first_seq)
        return
    if differences := _differences(look.view, entry, segment):
        yield _finding("segment_differs", _name(entry), "; ".join(differences), entry.first_seq)
    else:
        look.observations += len(segment.observations)


def _differences(view: JournalView, entry: SegmentEntry, segment: Segment) -> list[str]:
    """Return in what the file of *entry* is not as its row says."""
    time = segment.observations.source_time
    told: list[tuple[str, object, object]] = [
        ("gateway", segment.gateway_id, view.gateway_id),
        ("epoch", segment.epoch, view.epoch),
        ("range", (segment.first_seq, segment.last_seq), (entry.first_seq, entry.last_seq)),
        ("the one before", segment.previous, entry.previous),
        ("place in the chain", segment.chain_digest, entry.chain_digest),
    ]
    if not entry.is_tombstone:
        told.append(("observations", len(segment.observations), entry.observations))
        if len(time):
            told.append(("source times", (int(time.min()), int(time.max())), (entry.start_ns, entry.end_ns)))
    return [f"{what}: {there} in the file, {noted} in the table" for what, there, noted in told if there != noted]


def _check_aside(look: _Look) -> Iterator[Finding]:
    for page in look.view.quarantined():
        yield _finding("quarantined", f"page {page.seq}", f"held {page.observations:,} observations; {page.reason}")
    files = sorted(look.view.segments_dir.glob("*.wseg*"))
    entries = look.view.segments()
    for entry in entries:
        if entry.refused and not entry.delivered:
            yield _finding("refused", _name(entry), entry.refused)
    recorded = {entry.path.name for entry in entries}
    for path in files:
        if path.name not in recorded and path.exists():
            yield _finding("unrecorded", path.name, "no row of the table names this file")


def _name(entry: SegmentEntry) -> str:
    return f"segment {entry.first_seq}-{entry.last_seq}"


def _finding(kind: str, subject: str, message: str, seq: int = 0) -> Finding:
    level, meaning, step = _KINDS[kind]
    return Finding(level=level, kind=kind, subject=subject, message=message, meaning=meaning, next_step=step, seq=seq)
