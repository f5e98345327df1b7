"""A place in a journal as people say it: a seq, or a moment of source time."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click
import numpy as np

from gateway.journal.reading import Stretch
from models.records import to_ns

Place = int | datetime
# What nanoseconds since 1970 can say.
_OLDEST, _NEWEST = datetime(1678, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


def place(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Place | None:
    """Return what an option's *value* says: ``1042`` is a seq, ``2026-03-02T08:00`` a source time (UTC)."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    try:
        said = datetime.fromisoformat(value)
        moment = said if said.tzinfo else said.replace(tzinfo=UTC)
    except ValueError:
        moment = None
    if moment is None or not _OLDEST <= moment <= _NEWEST:
        raise click.BadParameter(f"{value!r} is neither a seq, as 1042, nor a time, as 2026-03-02T08:00")
    return moment


def stretch_between(start: Place | None, end: Place | None) -> Stretch:
    """Return the stretch from *start* to *end*; a seq is included, a time is the first that is not."""
    return Stretch(
        first_seq=start if isinstance(start, int) else None,
        last_seq=end if isinstance(end, int) else None,
        start_ns=to_ns(start) if isinstance(start, datetime) else None,
        end_ns=to_ns(end) if isinstance(end, datetime) else None,
    )


def time_text(time_ns: int | None) -> str:
    """Return *time_ns*, ns since 1970, as people read it, in UTC."""
    if time_ns is None:
        return ""
    moment = np.datetime_as_string(np.int64(time_ns).view("datetime64[ns]"), unit="ms")
    return f"{str(moment).replace('T', ' ')}Z"
