"""What a segment that decodes may still not hold: names and times that no gateway of ours writes, or pages twice.

Whatever passes here can be stored: times fit the lake's nanoseconds, numbers fit the database.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sized
from datetime import UTC, datetime

from cloud_service.errors import SegmentRejected
from models.records import Results, to_ns
from models.segment import Segment

# Names become columns, labels and table keys; a longer one is nobody's machine.
NAME_LIMIT = 200
REVISION_LIMIT = 2**31
EXPIRED_LIMIT = 2**40
EXPIRED_REASONS = frozenset({"damaged", "size_limit", "age_limit"})  # each is a label of a metric
# Of one segment, each: far more than a gateway has, and no more than can be entered while others wait.
ASSETS_LIMIT = ADVISORIES_LIMIT = 20_000
# Control characters, half pairs, ends of lines; and what turns the direction of writing around.
_NO_NAME = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# What 64 bits of nanoseconds can tell, less a year at both ends.
_EARLIEST, _LATEST = datetime(1679, 1, 1, tzinfo=UTC), datetime(2261, 1, 1, tzinfo=UTC)
_EARLIEST_NS, _LATEST_NS = to_ns(_EARLIEST), to_ns(_LATEST)


def check_content(segment: Segment) -> None:
    """Raise SegmentRejected unless all of *segment* can be stored."""
    for stream in segment.observations.streams:
        for name in stream:
            _check_name(name, "streams")
    for part in segment.withheld:
        for name in part.stream:
            _check_name(name, "withheld")
    times = segment.observations.source_time
    if times.size and not _EARLIEST_NS <= int(times.min()) <= int(times.max()) <= _LATEST_NS:
        raise SegmentRejected("a source time is before 1679 or after 2260; the segment is not stored", "source_time")
    _check_said(segment)
    pages = [seq for seq, _ in segment.results]
    if any(later <= earlier for earlier, later in itertools.pairwise(pages)):
        raise SegmentRejected("pages of results are there twice or out of order; the segment is not stored", "results")
    for _, results in segment.results:
        _check_results(results)
    _check_count({one.asset_id for _, results in segment.results for one in results.assets}, ASSETS_LIMIT, "assets")
    revisions = {(one.advisory_id, one.revision) for _, results in segment.results for one in results.advisories}
    _check_count(revisions, ADVISORIES_LIMIT, "advisories")


def _check_said(segment: Segment) -> None:
    """Check what the segment says of observations that are not in it."""
    for part in segment.withheld:
        for name in part.stream:
            _check_name(name, "withheld")
        if not _EARLIEST_NS <= part.start_ns <= part.end_ns <= _LATEST_NS:
            message = "a time of what was withheld is before 1679 or after 2260; the segment is not stored"
            raise SegmentRejected(message, "withheld")
    if segment.expired is not None:
        if segment.expired.reason not in EXPIRED_REASONS:
            message = f"expired for {segment.expired.reason[:80]!r}, which is no reason; the segment is not stored"
            raise SegmentRejected(message, "expired")
        if not 0 <= segment.expired.observations <= EXPIRED_LIMIT:
            message = (
                f"{segment.expired.observations} expired observations are out of bounds; the segment is not stored"
            )
            raise SegmentRejected(message, "expired")


def _check_results(results: Results) -> None:
    for description in results.assets:
        _check_name(description.asset_id, "asset_id")
        _check_name(description.asset_class, "asset_class")
    for advisory in results.advisories:
        _check_name(advisory.advisory_id, "advisory_id")
        _check_name(advisory.asset_id, "asset_id")
        if not 0 <= advisory.revision <= REVISION_LIMIT:
            message = f"revision {advisory.revision} of an advisory is out of bounds; the segment is not stored"
            raise SegmentRejected(message, "revision")
    for field, moment in _times(results):
        if moment.tzinfo is None:
            raise SegmentRejected(f"a {field} has no zone; the segment is not stored", field)
        if not _EARLIEST <= moment <= _LATEST:
            raise SegmentRejected(f"a {field} is before 1679 or after 2260; the segment is not stored", field)


def _times(results: Results) -> Iterator[tuple[str, datetime]]:
    """Yield name and value of every time in every record."""
    for kind in results.__dataclass_fields__:
        for record in getattr(results, kind):
            for field in record.__dataclass_fields__:
                value = getattr(record, field)
                if isinstance(value, datetime):
                    yield field, value


def _check_count(things: Sized, limit: int, field: str) -> None:
    if len(things) > limit:
        message = f"{len(things)} {field} in one segment, above the limit of {limit}; it is not stored"
        raise SegmentRejected(message, field)


def _check_name(name: str, field: str) -> None:
    if not 0 < len(name) <= NAME_LIMIT:
        message = f"a name is empty or longer than {NAME_LIMIT} characters; the segment is not stored"
        raise SegmentRejected(message, field)
    if not name.isprintable() and any(c in _TURNS or unicodedata.category(c) in _NO_NAME for c in name):
        message = f"the name {name[:80]!r} has a control character; the segment is not stored"
        raise SegmentRejected(message, field)
