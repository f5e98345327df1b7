"""The durable log: what arrives is committed here first, and everything else reads it at its own position."""

from gateway.errors import JournalError
from gateway.journal.counters import JournalCounters
from gateway.journal.entries import SegmentEntry
from gateway.journal.errors import CommitFailed, JournalLocked, JournalMismatch
from gateway.journal.holes import Hole
from gateway.journal.journal import Journal, JournalReader
from gateway.journal.retention import keep_within_limits
from gateway.journal.segments import SegmentStore, compact, compact_once

__all__ = [
    "CommitFailed",
    "Hole",
    "Journal",
    "JournalCounters",
    "JournalError",
    "JournalLocked",
    "JournalMismatch",
    "JournalReader",
    "SegmentEntry",
    "SegmentStore",
    "compact",
    "compact_once",
    "keep_within_limits",
]
