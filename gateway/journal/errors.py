"""What can go wrong with the journal, each a leaf of `gateway.errors.JournalError`.

```
JournalError
├── JournalLocked    another process has it open; the gateway does not start
├── JournalMismatch  it is another gateway's, or its tables do not fit together; the gateway does not start
└── CommitFailed     nothing of the commit is stored; the source is not acknowledged and sends again
```
"""

from __future__ import annotations

from gateway.errors import JournalError


class JournalLocked(JournalError):
    """Another process has the journal open."""


class JournalMismatch(JournalError):
    """The journal in this folder is not the one it should be."""


class CommitFailed(JournalError):
    """A commit did not become durable; nothing of it is stored."""
