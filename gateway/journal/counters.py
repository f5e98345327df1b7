"""What the journal holds, in numbers that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class JournalCounters:
    """What the journal holds, as of the last commit.

    ``appended == delivered + withheld + pending + sum(expired.values())`` at every moment.

    Attributes:
        appended: Observations ever stored.
        delivered: Of these, the ones the cloud has confirmed.
        withheld: The ones that an upload policy left out of a delivered segment; they are kept here.
        pending: The ones in pages and segments the cloud has not confirmed.
        expired: The ones that are gone undelivered, by reason: ``damaged``, ``size_limit``, ``age_limit``.
        repeats_dropped: Observations that came again and were not stored again.
        pages: Pages ever committed, which is also the last seq.
        compacted_pages: Of these, the ones that are, or were until they were purged, in segments.
        segments_pending: Segments the cloud has not confirmed.
        segments_refused: Of these, the ones on the shelf: the cloud will not take them.
        quarantined_pages: Pages that were found damaged and put aside.
    """

    appended: int = 0
    delivered: int = 0
    withheld: int = 0
    pending: int = 0
    expired: Mapping[str, int] = field(default_factory=dict)
    repeats_dropped: int = 0
    pages: int = 0
    compacted_pages: int = 0
    segments_pending: int = 0
    segments_refused: int = 0
    quarantined_pages: int = 0
