"""Repairing a journal that no gateway has open: what `verify` finds is put right, and what is lost is counted.

Each step is one transaction, or writes files that no row names before it. Before tables are changed the database is
copied to ``before-repair/``; damaged pages and segments are kept aside. A repair that is cut off is simply run again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from gateway.errors import JournalError
from gateway.journal.database import JournalDatabase, take_lock
from gateway.journal.entries import decoded_segment
from gateway.journal.errors import SegmentDamaged
from gateway.journal.journal import Journal
from gateway.journal.mending import mend
from gateway.journal.pages import check
from gateway.journal.recovery import salvage
from gateway.journal.segments import SegmentStore
from gateway.journal.witness import Witness
from gateway.journal_commands.new_epoch import NewEpoch, begin, planned
from gateway.journal_commands.recounting import recount
from gateway.journal_commands.verify import Finding, Level, verify
from gateway.journal_commands.view import JournalView
from gateway.progress import Progress, silent
from models.records import GatewayEvent, Results
from models.segment import SegmentError, decode_segment

_SLICE_BYTES = 16 * 2**20
_OF_TABLES = frozenset(
    {"segment_differs", "segment_lost", "segment_gap", "page_missing", "page_vanished", "position_ahead", "sums_differ"}
)
_ACTIONS = {
    "file_damaged": "what can be read of the database goes into a new one",
    "page_damaged": "it is put aside; a tombstone takes its place, unless a segment has it",
    "page_missing": "a tombstone takes its place",
    "page_vanished": "tombstones take their place",
    "segment_lost": "it is made anew from its pages while these are in the database, else a tombstone takes its place",
    "segment_differs": "the row takes over what the file says",
    "segment_gap": "the file is recorded again, or a tombstone takes its place",
    "sums_differ": "what is not found counts as expired (damaged)",
    "position_ahead": "the reader goes back to the last page",
}


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What a repair did, or would do.

    Attributes:
        dry_run: Whether nothing was done.
        actions: What was done, or is to be, one sentence each.
        offered: Refused segments that are sent again.
        new_epoch: What became of the pages under a new epoch, when one was begun.
        copy: The database as it was before, when its tables were changed.
        left: Problems that are still there.
    """

    dry_run: bool
    actions: tuple[str, ...]
    offered: int = 0
    new_epoch: NewEpoch | None = None
    copy: Path | None = None
    left: tuple[Finding, ...] = ()


def repair(
    state_dir: Path,
    gateway_id: str | None,
    *,
    dry_run: bool = False,
    offer_refused: bool = False,
    new_epoch: bool = False,
    progress: Progress = silent,
) -> Repaired:
    """Repair the journal in *state_dir*.

    Args:
        state_dir: Its folder.
        gateway_id: Whose it has to be; None takes what it says.
        dry_run: Only say what would be done.
        offer_refused: Take everything off the refused shelf, so that it is sent again.
        new_epoch: Begin a new epoch: see `gateway.journal_commands.new_epoch`.
        progress: Is told how much of the verification is done.

    Raises:
        JournalLocked: If a gateway has it open.
        JournalError: If it cannot be repaired.
        OSError: If the disk does not take what is needed.
    """
    if not dry_run and state_dir.is_dir():
        take_lock(state_dir / "journal.lock", state_dir / "journal.sqlite").close()  # said at once, not minutes later
    found = verify(state_dir, progress=progress)
    problems = [finding for finding in found.findings if finding.level is Level.PROBLEM]
    refused = sum(finding.kind == "refused" for finding in found.findings) * offer_refused
    if dry_run:
        plan = _planned(state_dir) if new_epoch and not problems else None
        told = tuple(f"{f.subject}: {_ACTIONS[f.kind]}" for f in problems if f.kind in _ACTIONS)
        return Repaired(dry_run=True, actions=told, offered=refused, new_epoch=plan, left=_hopeless(problems))
    identity = gateway_id or found.gateway_id or _gateway_of(state_dir)
    try:
        done = _repaired(found.path, identity, problems, offer_refused=offer_refused)
        begun = _begin(state_dir, identity) if new_epoch else None
    except sqlite3.Error as error:
        raise JournalError(f"{found.path}: cannot be repaired ({error}); what was not changed yet stays") from error
    left = verify(state_dir).findings
    return replace(done, new_epoch=begun, left=tuple(finding for finding in left if finding.level is Level.PROBLEM))


def _repaired(path: Path, gateway_id: str, problems: Sequence[Finding], *, offer_refused: bool) -> Repaired:
    with closing(take_lock(path.with_name("journal.lock"), path)):
        copy, actions = _put_tables_right(path, gateway_id, problems)
    done = asyncio.run(_mend(path.parent, gateway_id, actions, problems, offer_refused=offer_refused))
    return replace(done, copy=copy)


def _hopeless(problems: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(finding for finding in problems if finding.kind not in _ACTIONS)


def _put_tables_right(path: Path, gateway_id: str, problems: Sequence[Finding]) -> tuple[Path | None, list[str]]:
    """Salvage a damaged file, or make the tables fit together; return the copy of what was, and what was done."""
    kinds = {finding.kind for finding in problems}
    if "file_damaged" in kinds:
        return None, [salvage(path, gateway_id)]
    if not kinds & _OF_TABLES:
        return None, []
    copy = path.parent / "before-repair" / f"journal-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.sqlite"
    copy.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, closing(sqlite3.connect(copy)) as target:
        connection.backup(target)
    differing, lost = (
        [finding.seq for finding in problems if finding.kind == kind] for kind in ("segment_differs", "segment_lost")
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        actions = recount(connection, path.parent / "segments", differing, lost)
        connection.execute("COMMIT")
    return copy, actions


async def _mend(
    state_dir: Path, gateway_id: str, actions: list[str], problems: Sequence[Finding], *, offer_refused: bool
) -> Repaired:
    """Put damaged pages aside, mend damaged segments, offer what was refused, and log it."""
    journal = await Journal.open(state_dir, gateway_id)
    try:
        actions += await journal.read(lambda database: [*database.told])  # what opening it has put right
        if any(f.kind == "segment_gap" for f in problems) and not any("tombstone" in action for action in actions):
            actions.append("segments whose rows were gone are recorded again, their files are whole")
        before = journal.counters
        after: int | None = 0
        while after is not None:
            after = await journal.read(partial(_check, after=after, last=journal.last_seq))
        if aside := journal.counters.quarantined_pages - before.quarantined_pages:
            actions.append(f"damaged pages put aside: {aside}")
        for finding in problems:
            if finding.kind == "segment_lost" and finding.seq:
                actions += await _mend_segment(journal, finding)
        offered = await SegmentStore(journal).offer_again() if offer_refused else 0
        if actions or offered:
            await journal.append_results(_event(actions, offered))
        return Repaired(dry_run=False, actions=tuple(actions), offered=offered)
    finally:
        await journal.close()


async def _mend_segment(journal: Journal, finding: Finding) -> list[str]:
    """Mend the segment of *finding*, unless its row was at fault and is put right; return what was done."""
    found = await journal.read(lambda database: database.segments.select("first_seq = ?", (finding.seq,)))
    for entry in found:
        try:
            decoded_segment(entry)
        except SegmentDamaged:
            now = await mend(journal, finding.seq)
            gone = now is not None and now.is_tombstone
            return [f"{finding.subject}: {'a tombstone takes its place' if gone else 'made anew'}"]
    return []


def _check(database: JournalDatabase, *, after: int, last: int) -> int | None:
    return check(database.reader, database.path, after=after, last=last, max_bytes=_SLICE_BYTES)


def _event(actions: Sequence[str], offered: int) -> Results:
    told = "; ".join(actions[:10]) + (f"; and {len(actions) - 10} more" if len(actions) > 10 else "")
    event = GatewayEvent(
        kind="journal_repaired",
        gateway_time=datetime.now(UTC),
        message=f"journal repaired: {told}" if actions else f"{offered} refused segments are offered again",
        detail={"actions": str(len(actions)), "offered": str(offered)},
    )
    return Results(events=(event,))


def _begin(state_dir: Path, gateway_id: str) -> NewEpoch:
    database = JournalDatabase(state_dir, gateway_id)
    try:
        return begin(database)
    finally:
        database.close()


def _planned(state_dir: Path) -> NewEpoch:
    with JournalView(state_dir) as view:
        return planned(view)


def _gateway_of(state_dir: Path) -> str:
    """Return whose journal it is when its own tables cannot say."""
    head = Witness(state_dir / "journal.last").head
    if head is not None:
        return head.gateway_id
    for file in sorted((state_dir / "segments").glob("*.wseg"), reverse=True):
        with suppress(OSError, SegmentError):
            return decode_segment(file.read_bytes()).gateway_id
    raise JournalError(f"{state_dir}: not even whose journal it is can be read; name the configuration with --config")
