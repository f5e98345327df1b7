"""What the journal's tables add up to."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.journal.counters import JournalCounters


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The journal counted anew, and what is said about it beside what is found.

    Attributes:
        counters: What it holds, when it adds up.
        pages_found: Pages that are in the table or in a segment, or were until they were purged.
        oldest_page: The oldest page after the segments that is in the table; 0 when there is none.
    """

    counters: JournalCounters
    pages_found: int
    oldest_page: int

    @property
    def missing_observations(self) -> int:
        """How many observations were stored and are not found; below 0, how many too many are found."""
        now = self.counters
        return now.appended - now.pending - now.delivered - now.withheld - sum(now.expired.values())

    @property
    def missing_pages(self) -> int:
        """How many pages up to the last are nowhere; below 0, how many are in two places."""
        return self.counters.pages - self.pages_found

    def __str__(self) -> str:
        now = self.counters
        return (
            f"{now.appended} observations were stored, but {now.pending} pending, {now.delivered} delivered, "
            f"{now.withheld} withheld and {sum(now.expired.values())} expired are found, "
            f"in {self.pages_found} of {now.pages} pages"
        )


def tally(connection: sqlite3.Connection) -> Tally:
    """Count everything anew; a covering index counts pages without reading them."""
    one = connection.execute
    appended, repeats, purged_pages, purged_delivered = one(
        "SELECT appended, repeats_dropped, purged_pages, purged_delivered FROM journal"
    ).fetchone()
    expired: Mapping[str, int] = dict(one("SELECT reason, observations FROM expired").fetchall())
    last_segment, segments, pending, delivered, withheld, waiting, refused = one(
        "SELECT coalesce(max(last_seq), 0), coalesce(sum(last_seq - first_seq + 1), 0), "
        "coalesce(sum(observations - expired) FILTER (WHERE delivered_time IS NULL), 0), "
        "coalesce(sum(observations - expired - withheld) FILTER (WHERE delivered_time IS NOT NULL), 0), "
        "coalesce(sum(withheld) FILTER (WHERE delivered_time IS NOT NULL), 0), "
        "count(*) FILTER (WHERE delivered_time IS NULL), "
        "count(*) FILTER (WHERE delivered_time IS NULL AND refused IS NOT NULL) FROM segment"
    ).fetchone()
    compacted = max(last_segment, purged_pages)
    pages, oldest, last, behind = one(
        "SELECT count(*), coalesce(min(seq), 0), coalesce(max(seq), 0), coalesce(sum(observations), 0) "
        "FROM page INDEXED BY page_count WHERE seq > ?",
        (compacted,),
    ).fetchone()
    counters = JournalCounters(
        appended=appended,
        delivered=delivered + purged_delivered,
        withheld=withheld,
        pending=pending + behind,
        expired=expired,
        repeats_dropped=repeats,
        pages=max(last, compacted),
        compacted_pages=compacted,
        segments_pending=waiting,
        segments_refused=refused,
        quarantined_pages=one("SELECT count(*) FROM quarantine").fetchone()[0],
    )
    return Tally(counters=counters, pages_found=segments + purged_pages + pages, oldest_page=oldest)
