"""What can go wrong with the journal, each a leaf of `gateway.errors.JournalError`.

```
JournalError
├── JournalLocked    another process has it open; the gateway does not start
├── JournalMismatch  it is another gateway's, or its tables do not fit together; the gateway does not start
├── PageDamaged      a page is not what was written; it is put aside, and whoever read it reads again
├── SegmentDamaged   a segment's file is gone or changed; it is made anew, or a tombstone takes its place
└── CommitFailed     nothing of the commit is stored; the source is not acknowledged and sends again
    └── Unwritable   the disk is full or fails; the commit is kept and tried again until it succeeds
```
"""

from __future__ import annotations

from gateway.errors import JournalError


class JournalLocked(JournalError):
    """Another process has the journal open."""


class JournalMismatch(JournalError):
    """The journal in this folder is not the one it should be."""


class PageDamaged(JournalError):
    """A page is not what was written.

    Attributes:
        seq: Which page.
        reason: What is wrong with it.
    """

    def __init__(self, message: str, *, seq: int, reason: str) -> None:
        super().__init__(message)
        self.seq = seq
        self.reason = reason


class SegmentDamaged(JournalError):
    """The file of a segment is gone, or is not what was written.

    Attributes:
        first_seq: Which segment.
    """

    def __init__(self, message: str, *, first_seq: int) -> None:
        super().__init__(message)
        self.first_seq = first_seq


class CommitFailed(JournalError):
    """A commit did not become durable; nothing of it is stored."""


class Unwritable(CommitFailed):
    """The disk under the journal is full or fails now; what was to be stored can be tried again."""
